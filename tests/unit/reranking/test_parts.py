"""Reranking in parts; a part is planned while others are scored."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch

from ssmrank.cli import main
from ssmrank.errors import UserError
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.pairs import pairs_of
from ssmrank.io.trec import read_run, write_run
from ssmrank.models.reranker import Reranker, new_reranker
from ssmrank.prefetch import prefetch
from ssmrank.reranking import engine, pipeline, planner
from ssmrank.reranking.engine import Part, plan_work
from ssmrank.reranking.planner import parts_of
from ssmrank.reranking.scoring import Scored, Scorer
from ssmrank.reranking.state import RerankingState
from ssmrank.tracking.run_metadata import metadata_file

WORDS = "mamba river boat fish snow mountain index engine lucene search scan state space models".split()
DOCUMENTS = {f"d{i}": " ".join(WORDS[(i * 3 + j) % len(WORDS)] for j in range(3 + i)) for i in range(40)}
QUERIES = {f"q{i}": " ".join(WORDS[i : i + 1 + i % 3]) for i in range(10)}
SMALL = "from ssmrank.reranking import planner; planner.FIRST_PART, planner.GROWTH = 600, 2\n"
"""Code that makes several parts of these few documents, also in another process."""


@pytest.fixture
def folder(tmp_path, tiny_model):
    for model_type, kind in (("mamba2", "D"), ("bert", "E")):
        torch.manual_seed(0)
        new_reranker(tiny_model(model_type), kind, 48).save(tmp_path / "checkpoints" / model_type)
    split = tmp_path / "collection" / "splits" / "test"
    split.mkdir(parents=True)
    for path, texts in ((split / "queries.jsonl", QUERIES), (tmp_path / "collection" / "documents.jsonl", DOCUMENTS)):
        write_jsonl(path, ({"id": id, "text": text} for id, text in texts.items()))
    # Queries ask for documents of all lengths, each in its own order.
    run = {
        query: [(f"d{(7 * rank + 3 * number) % 40}", float(-rank)) for rank in range(40)]
        for number, query in enumerate(QUERIES)
    }
    write_run(tmp_path / "first.trec", run, "first")
    return tmp_path


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(planner, "FIRST_PART", 600)
    monkeypatch.setattr(planner, "GROWTH", 2)


def words(folder, output, model="mamba2", **settings):
    settings = {"retriever": "bm25", "depth": 30, "token_budget": 150, "precision": "fp32"} | settings
    return [
        *("rerank", "--settings", json.dumps(settings), "--checkpoint", str(folder / "checkpoints" / model)),
        *("--collection", str(folder / "collection"), "--split", "test"),
        *("--run", str(folder / "first.trec"), "--output", str(folder / output), "--state", str(folder / "state")),
    ]


def ranked(folder, name):
    return {query: dict(ranking) for query, ranking in read_run(folder / name).items()}


def test_parts_are_by_length_and_hold_every_pair_once(small_parts):
    pairs = pairs_of({query: [(id, 0.0) for id in DOCUMENTS] for query in QUERIES}, 40)
    sizes = np.array([len(DOCUMENTS[id]) for id in pairs.documents])
    parts = parts_of(pairs, sizes)
    assert len(parts) == 3
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(pairs)))
    bytes_of = [sizes[pairs.document[places]] for places in parts]
    assert all(longer.min() >= shorter.max() for longer, shorter in pairwise(bytes_of))
    assert all((np.diff(places) > 0).all() for places in parts)
    totals = [sizes[np.unique(pairs.document[places])].sum() for places in parts]
    assert 600 <= totals[0] < 600 + sizes.max() and 1200 <= totals[1] < 1200 + sizes.max()
    assert len(parts_of(pairs, sizes // 100)) == 1
    assert [places.tolist() for places in parts_of(pairs_of({}, 5), np.empty(0, dtype=np.int64))] == [[]]


@pytest.mark.parametrize(
    ("model", "settings"), [("mamba2", {}), ("bert", {}), ("mamba2", {"passages": {"length": 12, "stride": 6}})]
)
def test_several_parts_give_the_run_of_one(folder, request, model, settings, caplog):
    assert main(words(folder, "one.trec", model, **settings)) == 0
    request.getfixturevalue("small_parts")
    with caplog.at_level(logging.INFO):
        assert main(words(folder, "several.trec", model, **settings)) == 0
    assert sum("tokens to compute" in message for message in caplog.messages) == 3
    assert any(message.startswith("300/300 pairs") or settings for message in caplog.messages)
    one, several = ranked(folder, "one.trec"), ranked(folder, "several.trec")
    assert list(one) == list(several)
    for query in one:
        assert several[query] == pytest.approx(one[query], abs=1e-5)
    assert not (folder / "state" / "parts").exists()


@pytest.mark.slow
def test_several_processes_write_the_same_bytes_and_nothing_stays_behind(folder, small_parts, tmp_path, monkeypatch):
    def arguments(output, **settings):
        *command, option, _ = words(folder, output, **settings)
        assert option == "--state"  # by default it is hidden beside the output
        return command

    assert main(arguments("runs/one.trec")) == 0
    # The processes must make the same parts.
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SMALL)
    paths = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    assert main(arguments("runs/two.trec", processes=2)) == 0
    runs = [folder / "runs" / name for name in ("one.trec", "two.trec")]
    assert runs[0].read_bytes() == runs[1].read_bytes()
    assert sorted((folder / "runs").iterdir()) == sorted([*runs, *map(metadata_file, runs)])


@pytest.mark.slow
def test_killed_in_a_later_part_and_started_again_the_run_is_the_same(folder, small_parts, caplog):
    assert main(words(folder, "whole.trec")) == 0
    slow = (
        SMALL + "import sys, time; from ssmrank.models.reranker import Reranker; own = Reranker.scores\n"
        "def scores(self, packed):\n    time.sleep(0.1); return own(self, packed)\n"
        "Reranker.scores = scores\nfrom ssmrank.cli import main; sys.exit(main())"
    )
    command = words(folder, "resumed.trec")
    process = subprocess.Popen([sys.executable, "-c", slow, *command])
    second, deadline = folder / "state" / "parts" / "1" / "0.scores", time.monotonic() + 120
    while not (second.is_file() and second.stat().st_size > 200) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert second.is_file() and not (folder / "resumed.trec").exists()
    with caplog.at_level(logging.INFO):
        assert main(command) == 0
    assert sum("resuming:" in message for message in caplog.messages) >= 2
    assert (folder / "resumed.trec").read_bytes() == (folder / "whole.trec").read_bytes()
    assert not second.exists()


def test_an_error_in_a_later_part_is_one_line_and_no_output(folder, small_parts, capsys, monkeypatch):
    planned, scored = [], []

    def plan(*arguments, **settings):
        planned.append(arguments)
        if len(planned) == 3:
            raise UserError("document d7: damaged")
        return plan_work(*arguments, **settings)

    own = Reranker.scores
    monkeypatch.setattr(pipeline, "plan_work", plan)
    monkeypatch.setattr(Reranker, "scores", lambda self, packed: scored.append(packed) or own(self, packed))
    assert main(words(folder, "out.trec")) == 2
    assert scored
    assert capsys.readouterr().err.strip().splitlines()[-1] == "ssmrank rerank: error: document d7: damaged"
    assert not (folder / "out.trec").exists() and not list(folder.glob(".out.trec.*"))


def test_a_query_that_may_not_be_cut_is_an_error_before_anything_is_scored(folder, capsys, monkeypatch):
    (folder / "first.trec").write_text((folder / "first.trec").read_text() + "long Q0 d0 1 1.0 first\n")
    with (folder / "collection/splits/test/queries.jsonl").open("a") as stream:
        stream.write(json.dumps({"id": "long", "text": "river boat " * 40}) + "\n")
    monkeypatch.setattr(Reranker, "scores", lambda self, packed: 1 / 0)
    assert main(words(folder, "out.trec", long_queries="error")) == 2
    assert "error: query long: its 83 tokens leave no room" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (folder / "out.trec").exists() and not list(folder.glob(".out.trec.*"))


def test_batches_made_ready_by_a_thread_give_the_same_bytes(folder, small_parts, monkeypatch):
    """As on a GPU, where two threads prefetch."""
    assert main(words(folder, "plain.trec")) == 0
    own = Scorer._made_ready
    monkeypatch.setattr(Scorer, "_made_ready", lambda self, batches: prefetch(own(self, batches), 3))
    assert main(words(folder, "prefetched.trec")) == 0
    assert (folder / "prefetched.trec").read_bytes() == (folder / "plain.trec").read_bytes()
    for place, name in ((RerankingState, "add"), (Reranker, "scores")):
        monkeypatch.setattr(place, name, lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(words(folder, "none.trec"))
    assert not any(thread.name == "ssmrank-prefetch" for thread in threading.enumerate())


def test_parts_are_planned_while_batches_of_the_first_one_run(tiny_model):
    torch.manual_seed(0)
    reranker = new_reranker(tiny_model("mamba2"), "D", 48)
    pairs = pairs_of({query: [(id, 0.0) for id in list(DOCUMENTS)[:8]] for query in QUERIES}, 8)
    documents = dict(zip(DOCUMENTS, reranker.template.tokenize_documents(list(DOCUMENTS.values())), strict=True))
    work = plan_work(reranker, pairs, QUERIES, documents, 60, share=False)
    assert len(work.batches) > 4
    first, planned = threading.Event(), threading.Event()

    def parts():
        yield Part(work, np.arange(len(pairs)))
        # The first batch must run meanwhile; otherwise this wait times out.
        assert first.wait(30)
        yield Part(work, np.arange(len(pairs)) + len(pairs))
        planned.set()

    class Handed(Scorer):
        def run(self, batches):
            for number, batch in batches:
                first.set()
                # All parts must be planned before the second batch ends.
                assert number != 1 or planned.wait(30)
                yield Scored(number, batch.alone, np.full(len(batch.alone), number, dtype=np.float32))

    scorer = Handed(reranker, "fp32", torch.device("cpu"))
    arrived = np.zeros(2 * len(pairs), dtype=np.float32)
    found = engine.score_parts(scorer, parts(), 2 * len(pairs), arrived=arrived.__setitem__)
    assert np.isfinite(found.values).all() and found.values[len(pairs) :].min() == len(work.batches)
    assert (arrived == found.values).all()
    assert not any(thread.name == "ssmrank-prefetch" for thread in threading.enumerate())
