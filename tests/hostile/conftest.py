"""Inputs that no sane program writes. Each subcommand refuses them with one line and status 2, and writes nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import settings

from ssmrank.cli import main
from ssmrank.io.jsonl import write_jsonl

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "workflow/lib"))

from places import BEIR, files, place

# Examples are the same each time. There is no deadline, because a busy machine is slow.
settings.register_profile("hostile", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("hostile")


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs a subcommand and returns the one line with which it refuses its input."""

    def run(*arguments: object) -> str:
        before = files(tmp_path)
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        words = takewhile(lambda word: isinstance(word, str) and not word.startswith("-"), arguments)
        begin = f"ssmrank {' '.join(map(str, words))}: error: "
        assert said.err.startswith(begin) and said.err.endswith("\n") and len(said.err.splitlines()) == 1, said.err
        assert len(said.err) < 1500 and said.err[:-1].isprintable()
        assert files(tmp_path) == before
        return said.err.removeprefix(begin)[:-1]

    return run


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A collection in BEIR's layout."""
    for name, content in BEIR.items():
        place(tmp_path / "beir" / name, content)
    return tmp_path / "beir"


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """A collection in canonical form."""
    folder = tmp_path / "tiny"
    write_jsonl(folder / "documents.jsonl", ({"id": f"d{n}", "text": f"text {n}"} for n in range(9)))
    write_jsonl(folder / "splits/test/queries.jsonl", [{"id": "q1", "text": "one"}])
    (folder / "splits/test/qrels.txt").write_text("q1 0 d1 1\nq1 0 d2 0\n")
    return folder
