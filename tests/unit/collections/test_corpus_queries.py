"""Queries drawn from texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssmrank.cli import main
from ssmrank.collections.corpus import fraction, is_held_out
from ssmrank.collections.query_drawing import STOP_WORDS, Shares, draw_queries
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import read_qrels

TITLE = "Deep nets, and how they grow"
TEXT = (
    "We study the growth of deep nets in the wild. Results (see below) are of 3 kinds. "
    "Growth that stops early is harmful to the accuracy of the final model."
)


def drawn(count: int, titles: float, sentences: float, words: float, **changed: object) -> list[str]:
    arguments = {"title": TITLE, "text": TEXT, "max_words": 3, "seed": "7"} | changed
    return draw_queries(count=count, shares=Shares(titles, sentences, words), **arguments)  # type: ignore[arg-type]


def test_each_kind_of_query() -> None:
    assert drawn(3, 1, 0, 0) == [TITLE]  # there is no second title, and no query is drawn twice
    assert set(drawn(3, 0, 1, 0)) == {
        "We study the growth of deep nets in the wild.",
        "Results (see below) are of 3 kinds.",
        "Growth that stops early is harmful to the accuracy of the final model.",
    }
    assert drawn(1, 1, 0, 0, title="")[0] in drawn(3, 0, 1, 0)


def test_a_run_of_words_keeps_within_punctuation_and_its_ends_say_something() -> None:
    runs = [run for seed in range(200) for run in drawn(1, 0, 0, 1, seed=str(seed))]
    assert {"Growth that stops", "deep nets", "wild", "accuracy"} <= set(runs)
    for run in runs:
        words = run.split()
        assert len(words) <= 3
        assert not {words[0].casefold(), words[-1].casefold()} & STOP_WORDS
        assert run in TITLE or run in TEXT
        assert not set(run) & set(".,()")
    assert not any("3" in run.split()[0] for run in runs)


def test_shares_are_those_of_the_queries() -> None:
    queries = [query for seed in range(2000) for query in drawn(1, 0.5, 0.3, 0.2, seed=str(seed))]
    sentences = sum(query.endswith(".") for query in queries)
    assert queries.count(TITLE) / len(queries) == pytest.approx(0.5, abs=0.05)
    assert sentences / len(queries) == pytest.approx(0.3, abs=0.05)


def test_a_text_without_words_has_no_query() -> None:
    assert draw_queries("", "1 2 3", 5, Shares(1, 1, 1), 3, "7") == []


TEXTS = [{"_id": f"id{n}", "title": f"Title {n}", "text": f"{TEXT} Number{n} stands here alone."} for n in range(60)]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    (tmp_path / "0.jsonl").write_text("".join(json.dumps(text) + "\n" for text in TEXTS))
    return json.dumps({"title": "Made up", "path": str(tmp_path), "files": ["0.jsonl"], "held_out": 0.3})


def download(output: Path, *options: str, **source: object) -> int:
    settings = {
        "title": "Drawn",
        "source": {"kind": "corpus-queries", "queries_per_text": 1.5} | source,
        "splits": ["train"],
    }
    arguments = ["--settings", json.dumps(settings), "--archives", str(output.parent), "--output", str(output)]
    return main(["download", "collection", *arguments, *options])


def test_queries_of_a_corpus(corpus: str, tmp_path: Path) -> None:
    assert download(tmp_path / "c", "--corpus", corpus, corpus="made-up") == 0
    used = {text["_id"]: text for text in TEXTS if not is_held_out(text["_id"], 0.3)}
    documents = TextStore(tmp_path / "c/documents.jsonl")
    assert set(documents.ids()) == set(used)
    for id, text in used.items():
        titled = fraction(id, "titled") < 0.5
        assert documents[id] == (f"{text['title']} {text['text']}" if titled else text["text"])
    queries, qrels = (
        read_queries(tmp_path / "c/splits/train/queries.jsonl"),
        read_qrels(tmp_path / "c/splits/train/qrels.txt"),
    )
    assert qrels == {query: {query.partition("#")[0]: 1} for query in queries}
    second = {query.partition("#")[0] for query in queries if query.endswith("#2")}
    assert second == {id for id in used if fraction(id, "queries") < 0.5}
    for query, text in queries.items():
        own = used[query.partition("#")[0]]
        assert text in own["text"] or text in own["title"]


def test_documents_of_a_collection_are_texts_too(corpus: str, tmp_path: Path) -> None:
    assert download(tmp_path / "c", "--corpus", corpus, corpus="made-up") == 0
    assert download(tmp_path / "d", "--texts", str(tmp_path / "c"), collection="c", share=0.5) == 0
    first, second = (TextStore(tmp_path / name / "documents.jsonl") for name in "cd")
    chosen = {id for id in first.ids() if fraction(id, "text") < 0.5}
    assert {id: second[id] for id in second.ids()} == {id: first[id] for id in chosen}
    for query, text in read_queries(tmp_path / "d/splits/train/queries.jsonl").items():
        assert text in first[query.partition("#")[0]]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({}, "source: name either a corpus or a collection"),
        ({"corpus": "a", "collection": "b"}, "source: name either a corpus or a collection"),
        ({"corpus": "a", "titles": 0, "sentences": 0, "words": 0}, "source: titles, sentences and words are all 0"),
    ],
)
def test_what_source_cannot_say(source: dict, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert download(tmp_path / "c", **source) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_no_query_is_an_error(corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert download(tmp_path / "c", "--corpus", corpus, corpus="made-up", queries_per_text=1e-9) == 2
    assert "no query could be made from the texts; raise queries_per_text" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
