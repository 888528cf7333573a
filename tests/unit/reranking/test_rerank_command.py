"""`ssmrank rerank` from files to file, and what is left afterwards."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from ssmrank.cli import main
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.trec import read_run, write_run
from ssmrank.models.reranker import new_reranker

WORDS = "mamba river boat fish snow mountain index engine lucene search scan state space models".split()
DOCUMENTS = {f"d{i}": " ".join(WORDS[(i * 3 + j) % len(WORDS)] for j in range(3 + 5 * i)) for i in range(12)}
QUERIES = {f"q{i}": " ".join(WORDS[i : i + 1 + i % 3]) for i in range(10)}


@pytest.fixture
def arguments(tmp_path, tiny_model):
    """A function that returns the subcommand's arguments for an output."""
    torch.manual_seed(0)
    new_reranker(tiny_model("mamba2"), "D", 48).save(tmp_path / "checkpoints" / "firstp" / "tiny")
    split = tmp_path / "collection" / "splits" / "test"
    split.mkdir(parents=True)
    for path, texts in ((split / "queries.jsonl", QUERIES), (tmp_path / "collection" / "documents.jsonl", DOCUMENTS)):
        write_jsonl(path, ({"id": id, "text": text} for id, text in texts.items()))
    run = {query: [(document, float(-rank)) for rank, document in enumerate(DOCUMENTS)] for query in QUERIES}
    write_run(tmp_path / "first.trec", run, "first")

    def given(output, **settings):
        settings = {"retriever": "bm25", "depth": 9, "token_budget": 150, "precision": "fp32"} | settings
        return [
            "rerank",
            *("--settings", json.dumps(settings), "--checkpoint", str(tmp_path / "checkpoints" / "firstp" / "tiny")),
            *("--collection", str(tmp_path / "collection"), "--split", "test"),
            *("--run", str(tmp_path / "first.trec"), "--output", str(tmp_path / output)),
        ]

    return given


def test_nothing_but_the_run_and_its_description_stays_behind(arguments, tmp_path):
    assert main(arguments("runs/one.trec")) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["one.ir-metadata.yaml", "one.trec"]
    assert len((tmp_path / "runs" / "one.trec").read_text().splitlines()) == 90


def test_the_first_stages_remainder_is_kept_where_asked_for(arguments, tmp_path):
    assert main(arguments("few.trec", depth=4)) == 0
    assert main(arguments("all.trec", depth=4, remainder="kept")) == 0
    few, kept, first = (read_run(tmp_path / name) for name in ("few.trec", "all.trec", "first.trec"))
    for query, ranking in kept.items():
        assert ranking[:4] == few[query]
        assert [document for document, _ in ranking[4:]] == [document for document, _ in first[query][4:]]


def test_a_long_query_is_cut_with_a_count_or_an_error_before_anything_is_scored(arguments, tmp_path, caplog, capsys):
    queries = {query: f"{text} {'river ' * 60}" if query == "q3" else text for query, text in QUERIES.items()}
    path = tmp_path / "collection" / "splits" / "test" / "queries.jsonl"
    write_jsonl(path, ({"id": id, "text": text} for id, text in queries.items()))
    caplog.set_level("INFO")
    assert main(arguments("cut.trec")) == 0
    assert "1 of 10 queries leave no room for a document in max_length 48; they are cut to half of it" in caplog.text
    assert len(read_run(tmp_path / "cut.trec")["q3"]) == 9
    assert main(arguments("error.trec", long_queries="error")) == 2
    assert "query q3: its" in capsys.readouterr().err and not (tmp_path / "error.trec").exists()


def test_passages_reach_behind_the_cut(arguments, tmp_path):
    for name, settings in (("first.trec2", {}), ("best.trec", {"passages": {"length": 12, "stride": 6}})):
        assert main(arguments(name, **settings)) == 0
    first, best = ((tmp_path / name).read_text().splitlines() for name in ("first.trec2", "best.trec"))
    assert len(first) == len(best) and first != best
    assert main(arguments("bad.trec", passages={"length": 12})) == 2
    assert not (tmp_path / "bad.trec").exists()


def verified(arguments, tmp_path, **settings):
    """The arguments of `ssmrank verify` for a run that was made so."""
    words = arguments("run.trec", **settings)
    assert main(words) == 0
    [_, _, given, *rest] = words
    keep = rest[: rest.index("--run")]
    return ["verify", str(tmp_path / "run.trec"), "--settings", given, *keep, "--pairs", "40"]


@pytest.mark.slow
def test_a_run_is_verified_in_other_batches_and_in_several_processes(arguments, tmp_path, capsys):
    words = verified(arguments, tmp_path, deterministic="batch")
    assert main([*words, "--processes", "2"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("45 pairs of 5 queries have the same scores in 20 packings as in the run (SHA-256 ")
    # A run of two processes and of another budget has the same bytes.
    assert main(arguments("other.trec", deterministic="batch", processes=2, token_budget=40)) == 0
    assert (tmp_path / "other.trec").read_bytes() == (tmp_path / "run.trec").read_bytes()


def test_one_score_that_was_changed_is_found(arguments, tmp_path, capsys):
    words = verified(arguments, tmp_path, deterministic="batch")
    path = tmp_path / "run.trec"
    run = read_run(path)
    for ranking in run.values():
        document, value = ranking[0]
        ranking[0] = document, float(np.nextafter(np.float32(value), np.float32(9)))
    write_run(path, run, "changed")
    with pytest.raises(SystemExit) as status:
        main(words)
    assert status.value.code == 1
    assert capsys.readouterr().out.startswith("5 of 45 pairs of 5 queries have other scores in 20 of 20 packings")


def test_differences_are_reported_where_nothing_was_promised(arguments, tmp_path, capsys):
    assert main(verified(arguments, tmp_path)) == 0
    printed = capsys.readouterr()
    assert re.search(r"differences \S+ \(median\), .* \(most\); the top 10 of \d+ queries changes\n", printed.out)
    assert "`deterministic: batch` in the reranking makes them equal" in printed.err
    assert main([*verified(arguments, tmp_path), "--pairs", "0"]) == 2
    assert "--pairs and --processes: give at least 1" in capsys.readouterr().err
