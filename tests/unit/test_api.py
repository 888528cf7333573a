"""Reranking from Python and from a shell, compared with the plain model's scores of each pair alone."""

from __future__ import annotations

import io
import json
import logging
import re
import sys

import numpy as np
import pytest
import torch

from ssmrank import api
from ssmrank.api import PassageWindows, Ranked, Reranker
from ssmrank.cli import main
from ssmrank.errors import UserError
from ssmrank.io.trec import sort_ranking
from ssmrank.models.reranker import load_reranker
from ssmrank.reranking.engine import rerank

QUERY = "how fish breathe"
DOCUMENTS = [
    "Snow falls on the mountain in winter.",
    "Gills take up oxygen from the water.",
    "A search engine ranks documents for a query.",
    "State space models scan a sequence once. " * 30,
    "",
]
QUERIES = {"q1": QUERY, "q2": "state space models", "q3": "snow"}
TEXTS = {f"d{number}": text for number, text in enumerate(DOCUMENTS)}


@pytest.fixture(scope="module")
def folder(root):
    return root / "models/minis/mamba2"


@pytest.fixture(scope="module")
def reranker(folder):
    return Reranker.from_pretrained(folder, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def alone(folder):
    """The model's scores of each pair alone."""
    model = load_reranker(folder)
    return {
        (query, id): model.score(text, [document])[0]
        for query, text in QUERIES.items()
        for id, document in TEXTS.items()
    }


def test_scores_stand_in_the_order_of_the_documents(reranker, alone):
    found = reranker.score(QUERY, DOCUMENTS)
    assert found == pytest.approx([alone["q1", id] for id in TEXTS], abs=1e-4)
    assert reranker.score(QUERY, []) == []


def test_rank(reranker, alone):
    ranking = reranker.rank(QUERY, DOCUMENTS)
    assert [place.index for place in ranking] == sorted(range(5), key=lambda index: -alone["q1", f"d{index}"])
    assert all(place.document is DOCUMENTS[place.index] for place in ranking)
    assert reranker.rank(QUERY, DOCUMENTS, top_k=2) == ranking[:2]
    assert reranker.rank(QUERY, DOCUMENTS, top_k=0) == []
    assert reranker.rank(QUERY, DOCUMENTS, top_k=99) == ranking
    assert isinstance(ranking[0], Ranked)


def test_equal_documents_have_equal_scores_and_keep_their_order(reranker):
    for texts in (["snow", "river", "snow"], ["snow", *DOCUMENTS, "snow", *DOCUMENTS[:2] * 3]):
        scores = reranker.score(QUERY, texts)
        assert len(set(scores)) == len(set(texts))
        ranked = reranker.rank(QUERY, texts)
        assert [place.index for place in ranked if place.document == "snow"] == [
            index for index, text in enumerate(texts) if text == "snow"
        ]


def test_documents_may_be_empty_and_come_from_a_generator(reranker):
    assert reranker.rank(QUERY, []) == []
    assert reranker.rank_many({}, {}, {}) == {}
    assert reranker.rank_many(QUERIES, {"q1": []}, TEXTS) == {"q1": []}
    assert all(np.isfinite(reranker.score("", ["", " ", "\n"])))
    generated = reranker.rank(QUERY, (text for text in DOCUMENTS))
    assert generated == reranker.rank(QUERY, DOCUMENTS) == reranker.rank(QUERY, tuple(DOCUMENTS))
    listed = reranker.rank_many(QUERIES, {"q1": ["d0", "d1"]}, TEXTS)
    assert reranker.rank_many(QUERIES, {"q1": iter(["d0", "d1"])}, TEXTS) == listed
    run = {"q1": iter([("d0", 2.0), ("d1", 1.0)])}
    assert reranker.rerank_run(run, QUERIES, TEXTS) == listed


def test_queries_of_one_call_share_documents_and_score_as_each_alone(reranker, alone):
    candidates = {"q1": ["d0", "d1", "d3"], "q2": ["d3", "d0"], "q3": ["d3"]}
    calls = []
    found = reranker.rank_many(QUERIES, candidates, TEXTS, progress=lambda done, of: calls.append((done, of)))
    for query, ids in candidates.items():
        assert [id for id, _ in found[query]] == sorted(ids, key=lambda id: -alone[query, id])
        assert dict(found[query]) == pytest.approx({id: alone[query, id] for id in ids}, abs=1e-4)
    assert calls[-1] == (6, 6)
    assert calls == sorted(calls)


def test_a_run_is_reranked_as_by_the_engine(reranker, folder):
    run = {query: [(id, -float(rank)) for rank, id in enumerate(TEXTS)] for query in QUERIES}
    exact = rerank(load_reranker(folder), run, QUERIES, TEXTS, 3, 4096, "fp32", torch.device("cpu"))
    found = reranker.rerank_run(run | {"none": []}, QUERIES, TEXTS, depth=3)
    assert found.pop("none") == []
    for query, ranking in exact.items():
        assert [id for id, _ in found[query]] == [id for id, _ in sort_ranking(ranking)]
        assert dict(found[query]) == pytest.approx(dict(ranking), abs=1e-4)


def test_a_long_document_counts_as_its_best_passage(reranker):
    document = "Snow falls. " * 200 + "Gills take up oxygen from the water, so fish breathe. " + "Snow falls. " * 200
    [first] = reranker.score(QUERY, [document])
    [best] = reranker.score(QUERY, [document], passages=PassageWindows(64, 32))
    assert best > first


def test_bf16_differs_by_bf16_s_own_noise(folder, reranker):
    found = Reranker.from_pretrained(folder, device="cpu", precision="bf16").score(QUERY, DOCUMENTS)
    assert np.abs(np.array(found) - reranker.score(QUERY, DOCUMENTS)).max() < 0.2


def test_what_is_saved_is_what_was_read(folder, reranker, tmp_path):
    Reranker.from_pretrained(folder, device="cpu", precision="bf16").save_pretrained(tmp_path / "saved")
    again = Reranker.from_pretrained(tmp_path / "saved", device="cpu", precision="fp32")
    assert again.score(QUERY, DOCUMENTS) == reranker.score(QUERY, DOCUMENTS)


def test_a_first_call_says_that_it_takes_longer_and_how_long_it_took(folder, caplog, monkeypatch, tmp_path):
    caplog.set_level(logging.INFO, "ssmrank")
    own = Reranker.from_pretrained(folder, device="cpu", precision="fp32")
    own.score(QUERY, DOCUMENTS)
    first = [record.getMessage() for record in caplog.records if record.name == "ssmrank"]
    assert first[0].startswith("first call on ") and re.fullmatch(r"first call: done after [0-9.]+ s", first[1])
    caplog.clear()
    own.score(QUERY, DOCUMENTS)
    assert not caplog.records
    knobs = pytest.importorskip("triton.knobs")
    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path / "triton"))
    monkeypatch.setattr(api, "device_name", lambda device: "some GPU")
    api._say_first_call(torch.device("cuda"))
    [record] = caplog.records
    assert record.levelname == "WARNING" and record.getMessage().startswith("compiling kernels for some GPU, once")


def test_repr_says_model_length_device_and_precision(reranker):
    for fact in ("minis/mamba2", "mamba2", "192", "cpu", "fp32"):
        assert fact in repr(reranker)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.score(QUERY, "one text"), "documents: of type str; give a list of texts, also for one text"),
        (lambda r: r.rank(QUERY, {"d1": "a"}), "documents: of type dict; give a list of texts"),
        (lambda r: r.rank(QUERY, None), "documents: None; give a list of texts"),
        (lambda r: r.score(["a"], ["b"]), "query: of type list; give one text, and many queries to rank_many"),
        (lambda r: r.score(QUERY, ["a", None]), "documents[1]: None; give a text"),
        (lambda r: r.score(QUERY, ["a", b"b"]), "documents[1]: of type bytes; give a text"),
        (lambda r: r.score(QUERY, ["é", "b\ud83d"]), "documents[1]: character 1 is half of a pair (a surrogate)"),
        (lambda r: r.rank(QUERY, ["a"], -1), "top_k -1: give a whole number of documents, or None for all"),
        (lambda r: r.rank(QUERY, ["a"], 1.5), "top_k 1.5: give a whole number"),
        (lambda r: r.rerank_run({"q1": [("d0", 1.0)]}, QUERIES, TEXTS, depth=-1), "depth -1: give a whole number"),
        (lambda r: r.rank_many(QUERIES, {"q1": "d0"}, TEXTS), "query q1: its candidates are one text"),
        (lambda r: r.rank_many(QUERIES, {"q1": ["d0"]}, {"d0": None}), "document d0: None; give a text"),
        (lambda r: r.score(QUERY, ["a"], passages=PassageWindows(0, 4)), "passages: length 0, stride 4"),
        (lambda r: Reranker.from_pretrained("models/minis/mamba2", token_budget=0), "token_budget 0"),
        (lambda r: Reranker.from_pretrained("models/minis/mamba2", precision="fp64"), "precision fp64"),
        (lambda r: r.rank_many(QUERIES, {"q9": ["d0"]}, TEXTS), "query q9: no text"),
        (lambda r: r.rank_many(QUERIES, {"q1": ["d9"]}, TEXTS), "document d9: no text"),
        (lambda r: r.rank_many(QUERIES, {"q1": ["d0", "d0"]}, TEXTS), "document d0 is listed twice"),
        (lambda r: Reranker.from_pretrained("/no/such/folder"), "no such folder"),
        (lambda r: Reranker.from_pretrained("models", device="abacus"), "device abacus"),
        (lambda r: Reranker.from_pretrained("tests/data", device="cpu"), "has no head that scores"),
    ],
)
def test_errors_are_one_line(reranker, root, monkeypatch, call, message):
    monkeypatch.chdir(root)
    with pytest.raises(UserError) as caught:
        call(reranker)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def words(folder, *more):
    return ["rank", "--model", str(folder), "--query", QUERY, "--device", "cpu", "--precision", "fp32", *more]


def test_lines_in_a_shell(folder, reranker, tmp_path, capsys, monkeypatch):
    file = tmp_path / "texts.txt"
    file.write_text("\ufeff" + "\n\n".join(DOCUMENTS[:3]) + "\n")
    assert main(words(folder, "--top-k", "2", str(file))) == 0
    printed = capsys.readouterr().out
    expected = [f"{place.score:.4f}\t{place.document}" for place in reranker.rank(QUERY, DOCUMENTS[:3], 2)]
    assert printed.splitlines() == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert main(words(folder, "--top-k", "2", "-")) == 0
    assert capsys.readouterr().out == printed


def test_objects_in_a_shell_keep_their_keys(folder, reranker, tmp_path, capsys):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(DOCUMENTS[:3])))
    assert main(words(folder, str(file))) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(record["id"], record["score"]) for record in found] == [
        (place.index, place.score) for place in reranker.rank(QUERY, DOCUMENTS[:3])
    ]
    file.write_text('{"text": "a"}\n{"body": "b"}\n')
    assert main(words(folder, str(file))) == 2
    assert f'error: {file}:2: has no "text"' in capsys.readouterr().err


@pytest.mark.parametrize("mini", ["mamba1", "mamba2", "llama", "opt"])
def test_kept_states_change_no_score(root, mini):
    plain = Reranker.from_pretrained(root / "models/minis" / mini, precision="fp32")
    keeping = Reranker.from_pretrained(root / "models/minis" / mini, precision="fp32", state_cache="100MB")
    for query in (*QUERIES.values(), "fish " * 300):
        assert keeping.score(query, DOCUMENTS) == pytest.approx(plain.score(query, DOCUMENTS), abs=1e-5)
        assert [ranked.index for ranked in keeping.rank(query, DOCUMENTS)] == [
            ranked.index for ranked in plain.rank(query, DOCUMENTS)
        ]
    # The longest document is cut. It ends elsewhere beside the query that is cut as well.
    stats = keeping.document_states.stats()
    assert (stats.misses, stats.states) == (len(DOCUMENTS) + 1, len(DOCUMENTS) + 1)
    assert stats.hits == 8 * len(DOCUMENTS) - stats.misses
    assert keeping.score(QUERY, []) == []


@pytest.mark.parametrize("windows", [None, PassageWindows(24, 12)])
def test_kept_states_serve_many_queries_and_passages(root, windows):
    folder, progress = root / "models/minis/mamba2", []
    plain = Reranker.from_pretrained(folder, precision="fp32")
    keeping = Reranker.from_pretrained(folder, precision="fp32", state_cache="100MB")
    candidates = {query: list(TEXTS)[place % 2 :] for place, query in enumerate(QUERIES)}
    expected = plain.rank_many(QUERIES, candidates, TEXTS, passages=windows)

    def check(found):
        assert list(found) == list(expected)
        for query, ranking in found.items():
            assert dict(ranking) == pytest.approx(dict(expected[query]), abs=1e-5)

    check(keeping.rank_many(QUERIES, candidates, TEXTS, passages=windows, progress=lambda *call: progress.append(call)))
    pairs = sum(map(len, candidates.values()))
    assert progress[-1] == (pairs, pairs)
    stats = keeping.document_states.stats()
    assert stats.misses == stats.states >= len(TEXTS) and (windows is None or stats.misses > len(TEXTS))
    # What one call computed, all others find.
    check(keeping.rerank_run(expected, QUERIES, TEXTS, passages=windows))
    for text in QUERIES.values():
        found = keeping.score(text, DOCUMENTS, passages=windows)
        assert found == pytest.approx(plain.score(text, DOCUMENTS, passages=windows), abs=1e-5)
    assert keeping.document_states.stats().misses == stats.misses


def test_progress_with_kept_states(root):
    folder, calls = root / "models/minis/mamba2", []
    keeping = Reranker.from_pretrained(folder, precision="fp32", state_cache="100MB", token_budget=64)
    keeping.score(QUERY, DOCUMENTS, progress=lambda *call: calls.append(call))
    assert calls[-1] == (len(DOCUMENTS), len(DOCUMENTS))
    assert len(calls) > 1
    assert calls == sorted(calls)


def test_a_state_cache_that_is_no_size(root):
    with pytest.raises(UserError, match="state_cache 'much': is no size"):
        Reranker.from_pretrained(root / "models/minis/mamba2", state_cache="much")
    with pytest.raises(UserError, match="state_cache 1 KB: has no room for one document's state"):
        Reranker.from_pretrained(root / "models/minis/mamba2", state_cache="1KB")


def test_states_on_disk(root, tmp_path):
    folder, states = root / "models/minis/mamba2", tmp_path / "states"
    (tmp_path / "documents.jsonl").write_text(
        "".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in TEXTS.items())
    )
    command = ["states", "--collection", str(tmp_path), "--model", str(folder), "--state-folder", str(states)]
    assert main([*command, "--precision", "fp32"]) == 0
    options = {"precision": "fp32", "state_cache": "100MB", "state_folder": states}
    loading = Reranker.from_pretrained(folder, **options, state_loading="always")
    expected = Reranker.from_pretrained(folder, precision="fp32").score(QUERY, DOCUMENTS)
    assert loading.score(QUERY, DOCUMENTS) == pytest.approx(expected, abs=1e-5)
    stats = loading.document_states.stats()
    assert (stats.loads, stats.misses) == (len(DOCUMENTS), 0)
    with pytest.raises(UserError, match="state_loading often: give measured, always, never"):
        Reranker.from_pretrained(folder, **options, state_loading="often")
    with pytest.raises(UserError, match="state_folder: needs memory that states are loaded into"):
        Reranker.from_pretrained(folder, state_folder=states)
    with pytest.raises(UserError, match="models/minis/bert keeps no states of documents, so none can be loaded: bert "):
        Reranker.from_pretrained(root / "models/minis/bert", **options)
