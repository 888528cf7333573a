"""Titles of a corpus are queries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssmrank.cli import main
from ssmrank.collections.corpus import is_held_out
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import read_qrels

TEXTS = [{"_id": f"id{n}", "title": f"Title {n}", "text": f"Abstract number {n}"} for n in range(60)]


@pytest.fixture
def corpus(tmp_path: Path) -> dict:
    for part in range(2):
        lines = "".join(json.dumps(text) + "\n" for text in TEXTS[part::2])
        (tmp_path / f"{part}.jsonl").write_text(lines)
    return {"title": "Made up", "path": str(tmp_path), "files": ["0.jsonl", "1.jsonl"], "held_out": 0.3}


def download(corpus: dict, output: Path, part: str, queries: int | None = None) -> int:
    source = {"kind": "titles", "corpus": "made-up", "part": part, "queries": queries}
    settings = {"title": "Titles", "source": source, "splits": ["test"]}
    options = ["--corpus", json.dumps(corpus), "--archives", str(output.parent), "--output", str(output)]
    return main(["download", "collection", "--settings", json.dumps(settings), *options])


def test_each_part_has_its_own_documents_and_titles(corpus: dict, tmp_path: Path) -> None:
    for part, wanted in (("train", False), ("held-out", True)):
        assert download(corpus, tmp_path / part, part) == 0
        expected = {text["_id"]: text for text in TEXTS if is_held_out(text["_id"], 0.3) == wanted}
        documents = TextStore(tmp_path / part / "documents.jsonl")
        assert {id: documents[id] for id in documents.ids()} == {id: text["text"] for id, text in expected.items()}
        split = tmp_path / part / "splits" / "test"
        assert read_queries(split / "queries.jsonl") == {id: text["title"] for id, text in expected.items()}
        assert read_qrels(split / "qrels.txt") == {id: {id: 1} for id in expected}


def test_fewer_titles_against_all_documents(corpus: dict, tmp_path: Path) -> None:
    for queries in (4, 9):
        assert download(corpus, tmp_path / str(queries), "train", queries) == 0
    few, more = (read_queries(tmp_path / name / "splits/test/queries.jsonl") for name in ("4", "9"))
    assert (len(few), len(more)) == (4, 9)
    assert few.keys() < more.keys()
    assert len(TextStore(tmp_path / "4" / "documents.jsonl")) > 30


def test_an_id_that_stands_twice_is_named_with_its_lines(
    corpus: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with (tmp_path / "1.jsonl").open("a") as stream:
        stream.write(json.dumps(next(text for text in TEXTS[::2] if not is_held_out(text["_id"], 0.3))) + "\n")
    assert download(corpus, tmp_path / "out", "train") == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/1.jsonl:31: document id" in error
    assert f"is already used at {tmp_path}/0.jsonl:" in error
