"""Which code a job depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import code as finder

FILES = {
    "__init__.py": "",
    "cli.py": "import ssmrank.a",
    "errors.py": "",
    "a/__init__.py": '"""A package."""\n',
    "a/command.py": (
        "from ssmrank.errors import UserError\n"
        "from ssmrank.a import near\n"
        "def run():\n"
        "    from ssmrank.b.lazy import thing\n"
        '    registry = {"x": "ssmrank.b.named"}\n'
    ),
    "a/near.py": "from . import relative\nfrom ..b import up\nimport numpy\n",
    "a/relative.py": "",
    "a/unused.py": "",
    "a/table.yaml": "x: 1\n",
    "a/notes.txt": "",
    "b/__init__.py": "",
    "b/lazy.py": "import ssmrank.a.command",
    "b/named.py": "",
    "b/up.py": "",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "ssmrank" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(finder, "ROOT", tmp_path)
    return tmp_path / "ssmrank"


def names(lines: list[str]) -> set[str]:
    return {line.split()[0].removeprefix("ssmrank.") for line in lines}


def fresh(module: str) -> list[str]:
    finder._imports.cache_clear()
    finder._digest_module.cache_clear()
    return finder.code(module)


def test_all_that_is_imported_and_no_more(package: Path) -> None:
    assert names(finder.code("ssmrank.a.command")) == {
        "a",
        "a.command",
        "a.near",
        "a.relative",
        "b",
        "b.lazy",
        "b.named",
        "b.up",
        "ssmrank/a/table.yaml",
    }
    assert names(finder.code("ssmrank.b.up")) == {"b", "b.up"}
    assert names(finder.code("ssmrank.a.command", without=["ssmrank.b"])) == {
        "a",
        "a.command",
        "a.near",
        "a.relative",
        "ssmrank/a/table.yaml",
    }


def test_a_module_that_is_not_there(package: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"ssmrank\.c"):
        finder.code("ssmrank.c")


@pytest.mark.parametrize(
    ("path", "text", "same"),
    [
        ("a/near.py", FILES["a/near.py"] + "\n# A comment.\n", True),
        ("a/near.py", FILES["a/near.py"].replace("import numpy", "import numpy  # for numbers"), True),
        ("a/near.py", '"""A docstring."""\n\n' + FILES["a/near.py"], True),
        ("a/near.py", FILES["a/near.py"] + "x = 1\n", False),
        ("a/near.py", FILES["a/near.py"] + "x = '# no comment'\n", False),
        ("a/table.yaml", "x: 2\n", False),
        ("a/unused.py", "x = 1\n", True),
        ("errors.py", "x = 1\n", True),
        ("cli.py", "x = 1\n", True),
    ],
)
def test_what_counts_as_a_change(package: Path, path: str, text: str, same: bool) -> None:
    before = fresh("ssmrank.a.command")
    (package / path).write_text(text)
    assert (fresh("ssmrank.a.command") == before) is same


def test_strip_keeps_what_runs() -> None:
    source = (
        '"""Module."""\n'
        "def f(x):\n"
        '    """Docstring\n\n    of two lines."""\n'
        "\n"
        '    return "# text" + x  # comment\n'
        'def g(): "docstring on the line of its function"\n'
        'TEXT = """\n'
        "# in a text\n"
        '"""\n'
        '"a"; y = 2\n'
    )
    assert finder.strip(source) == (
        "def f(x):\n"
        '    return "# text" + x\n'
        'def g(): "docstring on the line of its function"\n'
        'TEXT = """\n'
        "# in a text\n"
        '"""\n'
        '"a"; y = 2'
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('x = """a\n\nb"""', 'x = """a\nb"""'),
        ('x = """a \nb"""', 'x = """a\nb"""'),
        ('x = f"""{y}\n\nb"""', 'x = f"""{y}\nb"""'),
        ('x = f"""a\n\n{y} # {z}\n\n"""', 'x = f"""a\n\n{y} # {z}\n"""'),
    ],
)
def test_blanks_in_a_text_count(one: str, other: str) -> None:
    stripped = [finder.strip(text) for text in (one, other)]
    assert stripped == [one, other]
