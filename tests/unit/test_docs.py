"""README.md, docs/ and other files for newcomers agree with what they describe."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ssmrank import __version__
from ssmrank.cli import SUBCOMMANDS, main
from ssmrank.config.collections import Collection
from ssmrank.config.models import Model
from ssmrank.config.reading import check

PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md", "examples/README.md", "results/README.md")


def pages(root: Path) -> Iterator[Path]:
    for pattern in PAGES:
        yield from sorted(root.glob(pattern))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_make_targets_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (root / "Makefile").read_text(), re.MULTILINE))
    named = set()
    for page in pages(root):
        text = page.read_text()
        for code in [*blocks(text, "sh"), *re.findall(r"`([^`\n]+)`", text)]:
            named |= set(re.findall(r"(?:^|=\S+ )make (?:[A-Z0-9_]+=[^\s<]+ )*([a-z0-9]+)\b", code, re.MULTILINE))
    assert {"table4", "test", "ui", "docs"} <= named
    assert named <= targets


def test_the_readme_is_short_and_its_two_commands_are_marked(root: Path) -> None:
    readme = (root / "README.md").read_text()
    assert len(readme.splitlines()) <= 150
    commands = dict(re.findall(r"<!-- command: (\w+) -->\n```sh\n(.*?)\n```", readme))
    assert commands == {"run": "make table4", "test": "make test"}


def test_the_readme_s_python_reranks(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [code] = blocks((root / "README.md").read_text(), "python")
    monkeypatch.chdir(root)
    exec(compile(code, "README.md", "exec"), {})
    best, *_ = capsys.readouterr().out.splitlines()
    assert "Mamba" in best


NUMBER = re.compile(r"-?[0-9]+\.[0-9]+")


def same_output(found: str, shown: str) -> bool:
    """Whether two texts are equal, but for the last digits of numbers."""
    numbers, expected = (list(map(float, NUMBER.findall(text))) for text in (found, shown))
    return NUMBER.sub("#", found) == NUMBER.sub("#", shown) and numbers == pytest.approx(expected, abs=0.011)


def test_the_python_page_prints_what_it_shows(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (root / "docs/python.md").read_text()
    parts = re.findall(r"^```(python|sh)\n(.*?)^```\n\n```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert [language for language, *_ in parts].count("python") == len(blocks(page, "python")) and len(parts) > 8
    monkeypatch.chdir(root)
    names: dict[str, object] = {}
    for language, code, shown in parts:
        if language == "python":
            exec(compile(code, "docs/python.md", "exec"), names)
        else:
            assert main(shlex.split(code.replace("\\\n", ""))[1:]) == 0
        assert same_output(capsys.readouterr().out, shown), code


def test_tables_are_those_of_their_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import docs_tables

    shown = [name for page in docs_tables.pages() for _, name, _ in docs_tables.MARKED.findall(page.read_text())]
    assert sorted(shown) == sorted(docs_tables.TABLES)
    for page in docs_tables.pages():
        text = page.read_text()
        assert docs_tables.filled(text) == text, f"{page.name}: run `python benchmarks/docs_tables.py`"


def test_linked_files_exist(root: Path) -> None:
    missing = [
        f"{page.relative_to(root)}: {link}"
        for page in pages(root)
        for link in re.findall(r"\]\((?!https?://)([^)#\s]+)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert missing == []


def test_sections_that_pages_show_are_valid(root: Path) -> None:
    known, seen = {"models": Model, "collections": Collection}, set()
    for page in [root / f"docs/{name}.md" for name in ("add-a-collection", "add-a-model", "export")]:
        for block in blocks(page.read_text(), "yaml"):
            for section, entries in yaml.safe_load(block).items():
                for name, values in entries.items():
                    check(known[section], values, f"{page.name}: {section}.{name}")
                    seen.add(section)
    assert seen == known.keys()


def test_the_picture_of_the_workflow_shows_every_phase(root: Path) -> None:
    picture = (root / "docs" / "dag.svg").read_text()
    rules = ["download_collection", "download_model", "index", "retrieve", "negatives", "train", "rerank", "fuse"]
    for text in ["collections", "models", *rules, "evaluate", "table"]:
        assert f">{text}</text>" in picture


def test_rules_and_pages_call_known_subcommands(root: Path) -> None:
    rules = "".join(path.read_text() for path in (root / "workflow" / "rules").glob("*.smk"))
    words = "ssmrank ([a-z][a-z0-9-]*(?: [a-z][a-z0-9-]*)?)"
    called = set(re.findall(f'"{words}', rules))
    single = {word for word, entry in SUBCOMMANDS.items() if isinstance(entry, str)}
    members = {f"{word} {member}" for word, entry in SUBCOMMANDS.items() if word not in single for member in entry[1]}
    assert {"train", "rerank", "evaluate", "retrieve bm25"} <= called
    assert called <= single | members
    for page in pages(root):
        for shown in re.findall(f"(?:`|^){words}", page.read_text(), re.MULTILINE):
            assert shown in members or shown.split()[0] in single, f"{page.name}: ssmrank {shown}"


def test_a_release_has_one_version(root: Path) -> None:
    assert f"\nversion: {__version__}\n" in (root / "CITATION.cff").read_text()
    releases = re.findall(r"^## ([0-9.]+) - [0-9-]{10}$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == __version__


def test_continuous_integration_runs_what_ci_run_has(root: Path) -> None:
    [job] = yaml.safe_load((root / ".github/workflows/ci.yml").read_text())["jobs"].values()
    assert {".ci/run", "make docs"} <= {step.get("run") for step in job["steps"]}
    assert (root / ".ci/run").stat().st_mode & 0o100
    for form in (root / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"):
        assert {"name", "description", "body"} <= set(yaml.safe_load(form.read_text()))
