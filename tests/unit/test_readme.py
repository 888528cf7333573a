"""README.md, held against what it talks about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ssmrank.cli import SUBCOMMANDS
from ssmrank.config.collections import Collection
from ssmrank.config.models import Model
from ssmrank.config.reading import check


def blocks(root: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (root / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_make_targets_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (root / "Makefile").read_text(), re.MULTILINE))
    shown = "\n".join(blocks(root, "sh"))
    named = set(re.findall(r"\bmake (?:[A-Z]+=\S+ )?([a-z0-9]+)", shown)) | set(
        re.findall(r"`(?:[A-Z_]+=\S+ )?make (?:[A-Z]+=\S+ )?([a-z0-9]+)`", (root / "README.md").read_text())
    )
    assert {"table4", "test", "ui"} <= named
    assert named <= targets


def test_the_two_commands_are_marked(root: Path) -> None:
    readme = (root / "README.md").read_text()
    commands = dict(re.findall(r"<!-- command: (\w+) -->\n```sh\n(.*?)\n```", readme))
    assert commands == {"run": "make table4", "test": "make test"}


def test_the_table_of_minis_is_that_of_its_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    from minis_table import table

    assert f"<!-- minis -->\n{table()}\n<!-- end of minis -->" in (root / "README.md").read_text()


def test_linked_files_exist(root: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", (root / "README.md").read_text())
    assert "docs/dag.svg" in links
    assert [link for link in links if not (root / link).exists()] == []


def test_examples_are_valid_sections(root: Path) -> None:
    seen = set()
    for block in blocks(root, "yaml"):
        for section, entries in yaml.safe_load(block).items():
            for name, values in entries.items():
                check({"models": Model, "collections": Collection}[section], values, f"README.md: {section}.{name}")
                seen.add(section)
    assert seen == {"models", "collections"}


def test_dag_shows_every_phase(root: Path) -> None:
    picture = (root / "docs" / "dag.svg").read_text()
    for rule in ["download_collection", "index", "retrieve", "negatives", "train", "rerank", "evaluate", "table"]:
        assert f">{rule}</text>" in picture


def test_rules_call_known_subcommands(root: Path) -> None:
    rules = "".join(path.read_text() for path in (root / "workflow" / "rules").glob("*.smk"))
    called = set(re.findall(r'"ssmrank ([a-z][a-z0-9-]*(?: [a-z][a-z0-9-]*)?)', rules))
    single = {word for word, entry in SUBCOMMANDS.items() if isinstance(entry, str)}
    members = {f"{word} {member}" for word, entry in SUBCOMMANDS.items() if word not in single for member in entry[1]}
    assert {"train", "rerank", "evaluate", "retrieve bm25"} <= called
    assert called <= single | members
