from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ssmrank import cli
from ssmrank.config.negatives import Negatives
from ssmrank.config.reading import check
from ssmrank.errors import UserError
from ssmrank.io.texts import StoreWriter
from ssmrank.io.trec import Run, write_qrels, write_run
from ssmrank.negatives.sampling import Facts, Group, NoGroup, sample_negatives


def settings(depth: int = 10, count: int = 2, **others: object) -> Negatives:
    return Negatives.model_validate({"retriever": "bm25", "depth": depth, "count": count} | others)


def ranking(*documents: str) -> list[tuple[str, float]]:
    return [(document, float(len(documents) - rank)) for rank, document in enumerate(documents)]


RUN: Run = {
    "q1": ranking("p1", "n1", "n2", "zero", "p2", "n3"),
    "q2": ranking("n1", "n2", "n3", "n4"),
    "unjudged": ranking("n1", "n2"),
}
QRELS = {
    "q2": {"away": 1},
    "q1": {"p2": 1, "zero": 0, "p1": 2, "away": 1},
    "absent": {"p": 1, "r": 2},
    "hopeless": {"n1": 0},
}


def test_all_positives_are_kept_and_none_is_a_negative() -> None:
    sample = sample_negatives(RUN.items(), QRELS, settings(count=4))
    assert [(group.query, group.positive) for group in sample.groups] == [
        ("q1", "away"), ("q1", "p1"), ("q1", "p2"), ("q2", "away"),
    ]  # fmt: skip
    # With as many negatives as candidates, only the order is random.
    assert all(set(group.negatives) == {"n1", "n2", "zero", "n3"} for group in sample.groups if group.query == "q1")
    assert set(sample.groups[-1].negatives) == {"n1", "n2", "n3", "n4"}
    assert all(len(set(group.negatives)) == 4 for group in sample.groups)
    assert (sample.positives, sample.not_retrieved, sample.too_few_candidates) == (6, 4, 2)
    assert (sample.queries_not_in_run, sample.queries_without_positive) == (1, 1)


def test_positives_that_the_collection_lacks_are_left_out() -> None:
    facts = Facts(texts={"p1", "n1", "n2", "n3", "n4", "p2"})
    sample = sample_negatives(RUN.items(), QRELS, settings(count=4), facts)
    assert [(group.query, group.positive) for group in sample.groups] == [("q1", "p1"), ("q1", "p2")]
    assert (sample.positives, sample.without_text, sample.not_retrieved) == (6, 4, 0)
    with pytest.raises(NoGroup, match=r"6 left out that the collection lacks.*give the collection of these qrels"):
        sample_negatives(RUN.items(), QRELS, settings(), Facts(texts=()))


def test_only_retrieved_positives_where_asked_for() -> None:
    sample = sample_negatives(RUN.items(), QRELS, settings(positives="retrieved"))
    assert [(group.query, group.positive) for group in sample.groups] == [("q1", "p1"), ("q1", "p2")]
    assert (sample.not_retrieved, sample.too_few_candidates) == (4, 0)


def test_depth_bounds_candidates_and_retrieved_positives() -> None:
    sample = sample_negatives(RUN.items(), QRELS, settings(depth=4, positives="retrieved"))
    assert [(group.query, group.positive) for group in sample.groups] == [("q1", "p1")]
    assert set(sample.groups[0].negatives) <= {"n1", "n2", "zero"}


def test_groups_with_too_few_candidates_are_left_out_and_counted() -> None:
    # q1 and q2 have four documents to draw from, "absent" has none.
    run = RUN | {"q2": ranking("n1", "n2", "n3")}
    sample = sample_negatives(run.items(), QRELS, settings(count=4))
    assert {group.query for group in sample.groups} == {"q1"}
    assert sample.too_few_candidates == 3


def test_a_group_depends_on_its_own_query_alone() -> None:
    whole = sample_negatives(RUN.items(), QRELS, settings()).groups
    turned = sample_negatives(
        reversed(RUN.items()),
        {query: dict(reversed(judged.items())) for query, judged in reversed(QRELS.items())},
        settings(),
    ).groups
    assert turned == whole
    alone = sample_negatives([("q1", RUN["q1"])], {"q1": {"p2": 1, "p1": 1, "away": 1}}, settings()).groups
    assert alone == [group for group in whole if group.query == "q1"]
    assert sample_negatives(RUN.items(), QRELS, settings(seed=7)).groups != whole


def test_some_are_any_documents_of_the_collection() -> None:
    collection = [f"c{number}" for number in range(40)] + ["p1", "p2", "away", "n1"]
    sample = sample_negatives(RUN.items(), QRELS, settings(count=3, random=2), Facts(collection=collection))
    drawn = [group.negatives for group in sample.groups]
    assert [group.positive for group in sample.groups if group.query == "q1"] == ["away", "p1", "p2"]
    for group in sample.groups:
        assert group.negatives[0] in {document for document, _ in RUN.get(group.query, [])}
        assert set(group.negatives[1:]) <= set(collection) - QRELS[group.query].keys()
        assert len(set(group.negatives)) == 3
    again = sample_negatives(RUN.items(), QRELS, settings(count=3, random=2), Facts(collection=collection))
    assert drawn == [group.negatives for group in again.groups]
    # If all are random, nothing of the run is needed. They are drawn evenly.
    counts: Counter[str] = Counter()
    for seed in range(400):
        drawn_by = settings(count=1, random=1, seed=seed)
        sample = sample_negatives([("q", [])], {"q": {"p": 1}}, drawn_by, Facts(collection=["p", *"abcd"]))
        counts.update(sample.groups[0].negatives)
    assert sorted(counts) == ["a", "b", "c", "d"]
    assert min(counts.values()) > 70


def test_a_collection_of_hardly_anything_but_relevant_documents_gives_no_group() -> None:
    judged = {"q": {"p": 1, "a": 1}}
    run, collection = [("q", ranking("p", "a", "b"))], ["p", "a", "b"]
    assert sample_negatives(run, judged, settings(count=1, random=1), Facts(collection=collection)).groups
    with pytest.raises(NoGroup):
        sample_negatives(run, judged, settings(count=2, random=2), Facts(collection=collection))


def test_the_draw_stays_the_same_over_versions() -> None:
    """A changed draw would make old checkpoints irreproducible, so the test names the drawn documents."""
    run = {"q": ranking(*(f"d{number}" for number in range(100)))}
    assert sample_negatives(run.items(), {"q": {"d3": 1, "away": 1}}, settings(depth=100, count=5)).groups == EXPECTED


EXPECTED = [
    Group("q", "away", ["d64", "d12", "d21", "d55", "d15"]),
    Group("q", "d3", ["d92", "d74", "d50", "d99", "d10"]),
]


def test_every_candidate_is_equally_likely_in_every_place() -> None:
    documents = [f"d{number:02d}" for number in range(20)]
    run = {f"q{number}": ranking(*documents) for number in range(4000)}
    sample = sample_negatives(run.items(), {query: {"away": 1} for query in run}, settings(depth=20, count=5))
    for place in range(5):
        counts = Counter(group.negatives[place] for group in sample.groups)
        # Pearson's statistic with 19 degrees of freedom exceeds 43.8 once in a thousand times; the seed is fixed.
        assert sum((counts[document] - 200) ** 2 / 200 for document in documents) < 43.8
    # Pairs: without replacement, each of the 190 pairs is in 5*4/(20*19) of the groups.
    pairs = Counter(
        (left, right)
        for group in sample.groups
        for left in group.negatives
        for right in group.negatives
        if left < right
    )
    expected = 4000 * 20 / 380
    assert len(pairs) == 190
    assert sum((count - expected) ** 2 / expected for count in pairs.values()) < 255


def test_positives_of_one_query_get_different_negatives() -> None:
    run = {"q": ranking(*(f"d{number}" for number in range(100)))}
    groups = sample_negatives(run.items(), {"q": {"a": 1, "b": 1}}, settings(depth=100, count=10)).groups
    assert groups[0].negatives != groups[1].negatives


@pytest.mark.parametrize(
    ("run", "qrels", "given", "message"),
    [
        (RUN, {"q1": {"p1": 0}}, settings(), "no training group was left: 0 groups of 0 .*a grade above 0"),
        (RUN, QRELS, settings(count=9), "6 left out with fewer than 9 candidates.*; lower count or retrieve deeper"),
        (RUN, {"q2": {"away": 1}}, settings(positives="retrieved"), "check that run and qrels are of the same split"),
        (RUN, QRELS, settings(depth=3, count=4), "count 4 is more than depth 3"),
    ],
)
def test_no_group_is_one_line(run: Run, qrels: dict[str, dict[str, int]], given: Negatives, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        sample_negatives(run.items(), qrels, given)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------- the subcommand


def written(tmp_path: Path) -> list[str]:
    write_run(tmp_path / "run.trec", RUN, "BM25")
    write_qrels(tmp_path / "qrels.txt", QRELS)
    with StoreWriter(tmp_path / "documents.jsonl") as writer:
        for id in sorted({document for judged in QRELS.values() for document in judged} - {"away"}):
            writer.add(id, id)
    given = json.dumps({"retriever": "bm25", "depth": 10, "count": 2})
    return [
        "negatives", "--settings", given, "--run", str(tmp_path / "run.trec"),
        "--collection", str(tmp_path), "--qrels", str(tmp_path / "qrels.txt"),
        "--output", str(tmp_path / "out" / "negatives.jsonl"),
    ]  # fmt: skip


def test_the_subcommand_writes_json_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert cli.main(written(tmp_path)) == 0
    records = [json.loads(line) for line in (tmp_path / "out" / "negatives.jsonl").read_text().splitlines()]
    groups = sample_negatives(RUN.items(), QRELS, settings()).groups
    expected = [group for group in groups if group.positive != "away"]
    assert records == [{"query": a, "positive": b, "negatives": c} for a, b, c in expected]
    assert "2 groups of 6 relevant documents, 2 left out that the collection lacks" in caplog.text
    assert "2 left out with fewer than 2 candidates" in caplog.text
    assert "at most 6 documents per query, so depth 10 is not reached" in caplog.text


def test_pythons_hash_seed_does_not_matter(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ssmrank", *written(tmp_path)]
    texts = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run(command, check=True, env=environment, capture_output=True)
        texts.add((tmp_path / "out" / "negatives.jsonl").read_text())
    assert len(texts) == 1


def test_an_error_names_the_files_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = written(tmp_path)
    write_qrels(tmp_path / "qrels.txt", {"q1": {"p1": 0}})
    assert cli.main(command) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message and "run.trec" in message and "qrels.txt" in message
    assert not (tmp_path / "out" / "negatives.jsonl").exists()


BANDED = [{"first": 1, "last": 3, "count": 2}, {"first": 4, "last": 10, "count": 3}]


def test_bands_give_their_numbers_from_their_ranks() -> None:
    run = [("q", [(f"d{rank}", 100.0 - rank) for rank in range(1, 11)])]
    for seed in range(20):
        drawn = settings(depth=10, count=5, bands=BANDED, seed=seed)
        negatives = sample_negatives(run, {"q": {"away": 1}}, drawn).groups[0].negatives
        assert set(negatives[:2]) < {"d1", "d2", "d3"}
        assert set(negatives[2:]) < {f"d{rank}" for rank in range(4, 11)}
        assert len(set(negatives)) == 5
    # The positive has a rank in the first band, whose other candidates are then all taken.
    negatives = sample_negatives(run, {"q": {"d2": 1}}, settings(depth=10, count=5, bands=BANDED)).groups[0].negatives
    assert set(negatives[:2]) == {"d1", "d3"}


def test_what_a_band_lacks_comes_from_the_other_ranks() -> None:
    run = [("q", [(f"d{rank}", 100.0 - rank) for rank in range(1, 8)])]
    bands = [{"first": 1, "last": 3, "count": 2}, {"first": 6, "last": 10, "count": 3}]
    negatives = sample_negatives(run, {"q": {"away": 1}}, settings(depth=10, count=5, bands=bands)).groups[0].negatives
    assert {"d6", "d7"} < set(negatives)
    assert len(set(negatives)) == 5


def test_candidates_near_the_positive_s_score_are_left_out() -> None:
    run = [("q", [(f"d{rank}", 100.0 - rank) for rank in range(1, 7)])]
    scores = {"d1": 0.9, "d2": 0.5, "d3": 0.41, "d4": 0.4, "d6": 0.1}
    facts = Facts(rival_scores=lambda query: scores)
    drawn = settings(depth=6, count=2, false_negatives={"retriever": "dense", "margin": 0.1})
    sample = sample_negatives(run, {"q": {"d2": 1}}, drawn, facts)
    # d1 scores above 0.5 - 0.1, d3 too; d5, which the other run lacks, has no score at all.
    assert set(sample.groups[0].negatives) < {"d4", "d5", "d6"}
    assert sample.false_negatives == 2
    # Without a score of the positive, no false negatives can be found.
    assert sample_negatives(run, {"q": {"d5": 1}}, drawn, facts).false_negatives == 0


def test_no_text_stands_twice_in_a_group() -> None:
    run = [("q", [(document, 1.0 - number / 10) for number, document in enumerate("abcdef")])]
    texts = {"a": 1, "b": 2, "c": 2, "d": 1, "e": 3, "f": 4, "g": 3, "h": 5}
    facts = Facts(same_text=texts.__getitem__, collection=list("abcdefgh"))
    sample = sample_negatives(run, {"q": {"a": 1}}, settings(depth=6, count=4, random=1, distinct_texts=True), facts)
    # c repeats b, and d repeats the positive; g, from the collection, repeats e.
    assert set(sample.groups[0].negatives) == {"b", "e", "f", "h"}
    assert sample.repeated_texts == 2


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"bands": BANDED, "count": 4}, "bands have 5 negatives and random 0; count must be their sum"),
        ({"bands": BANDED, "count": 5, "depth": 9}, "bands reach rank 10, but depth is 9; raise depth"),
        ({"bands": BANDED[::-1], "count": 5}, "bands overlap or are out of order"),
        ({"bands": [{"first": 3, "last": 4, "count": 3}], "count": 3}, "ranks 3 to 4 are too few for 3 negatives"),
    ],
)
def test_bands_that_cannot_be_drawn_from(changed: dict, problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(problem)):
        check(Negatives, {"retriever": "bm25", "depth": 10, "count": 5} | changed, "params.yaml")
