"""A teacher's scores, compared with values worked out by hand and with its members' scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssmrank.cli import main
from ssmrank.io.texts import StoreWriter, TextStore
from ssmrank.io.trec import write_run
from ssmrank.models.reranker import load_reranker, new_reranker
from ssmrank.retrieval.vectors import encode_collection
from ssmrank.teaching.members import EncoderMember
from ssmrank.teaching.queries import GroupedQuery, MemberScores, grouped_queries
from ssmrank.teaching.teach import Weighting, teach
from ssmrank.training.groups import Group

DOCUMENTS = {
    "a": "state space models",
    "b": "river boat fish",
    "c": "search engine index",
    "d": "mountain snow",
    "e": "x",
}
QUERIES = {"q1": "models", "q2": "fish", "q3": "snow"}
GROUPS = [Group("q1", ("a", "c", "e")), Group("q2", ("b", "a", "d")), Group("q2", ("d", "a", "c"))]
POOL = {"q2": [("b", 4.0), ("d", 2.0), ("a", 0.0)], "q1": [("c", 3.0), ("a", 1.0)]}
OTHER = {"q1": [("a", 5.0), ("c", 4.0)], "q2": [("a", 9.0), ("b", 3.0)]}


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "c"
    (folder / "splits/train").mkdir(parents=True)
    with StoreWriter(folder / "documents.jsonl") as writer:
        for id, text in DOCUMENTS.items():
            writer.add(id, text)
    lines = [json.dumps({"id": id, "text": text}) + "\n" for id, text in QUERIES.items()]
    (folder / "splits/train/queries.jsonl").write_text("".join(lines))
    return folder


def write_groups(path: Path, groups: Sequence[Group] = GROUPS) -> Path:
    lines = (
        json.dumps({"query": group.query, "positive": group.documents[0], "negatives": group.documents[1:]})
        for group in groups
    )
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def command(
    collection: Path, settings: dict, *members: Sequence[object], groups: Sequence[Group] = GROUPS
) -> list[str]:
    folder = collection.parent
    write_run(folder / "pool.trec", POOL, "pool")
    given = {"depth": 100, "scale": 1.0, "positive_bonus": 0.0, "negatives_count": 2} | settings
    options = [["--member", *map(str, member)] for member in members]
    return [
        *("teach", "--settings", json.dumps(given), "--groups", str(write_groups(folder / "groups.jsonl", groups))),
        *("--collection", str(collection), "--split", "train", "--pool", str(folder / "pool.trec")),
        *(word for option in options for word in option),
        *("--state", str(folder / "state"), "--output", str(folder / "taught.jsonl")),
    ]


def scores_of(collection: Path) -> list[list[float]]:
    lines = (collection.parent / "taught.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [Group(one["query"], (one["positive"], *one["negatives"])) for one in records] == GROUPS
    return [record["scores"] for record in records]


def run_member(name: str, weight: float = 1.0) -> dict:
    return {name: {"kind": "run", "retriever": name, "weight": weight}}


def test_z_scores_over_the_pool_are_added_by_weight(collection: Path) -> None:
    write_run(collection.parent / "other.trec", OTHER, "other")
    settings = {
        "members": run_member("bm25") | run_member("other"),
        "weights": {"bm25": 1.0, "other": 3.0},
        "scale": 2.0,
        "positive_bonus": 0.5,
    }
    pool, other = collection.parent / "pool.trec", collection.parent / "other.trec"
    assert main(command(collection, settings, ("bm25", pool), ("other", other))) == 0
    # q1: BM25's scores are 3 and 1, so z is 1 and -1; the other run is the reverse. Both lack e, which counts as the
    # lowest. q2: BM25's scores are 4, 2, 0: mean 2, deviation sqrt(8/3). The other's pool is b 3, d (missing) 3, a 9:
    # mean 5, deviation sqrt(8).
    deviation, wide = np.sqrt(8 / 3), np.sqrt(8)
    bm25 = {"b": 2 / deviation, "d": 0.0, "a": -2 / deviation, "c": -2 / deviation}
    others = {"b": -2 / wide, "d": -2 / wide, "a": 4 / wide, "c": -2 / wide}

    def expected(*documents: str) -> list[float]:
        values = [2 * (bm25[d] + 3 * others[d]) / 4 for d in documents]
        return [values[0] + 0.5, *values[1:]]

    first, second, third = scores_of(collection)
    assert first == pytest.approx([2 * (-1 + 3 * 1) / 4 + 0.5, 2 * (1 - 3) / 4, 2 * (-1 - 3) / 4], abs=1e-4)
    assert second == pytest.approx(expected("b", "a", "d"), abs=1e-4)
    assert third == pytest.approx(expected("d", "a", "c"), abs=1e-4)
    assert not (collection.parent / "state").exists()


def test_a_pool_of_equal_scores_says_nothing() -> None:
    assert MemberScores(np.array([2.0, 2.0]), np.array([2.0, 1.0, np.nan])).standardised().tolist() == [0, 0, 0]
    found = MemberScores(np.array([2.0, 0.0]), np.array([2.0, 1.0, np.nan])).standardised().tolist()
    assert found == [1, 0, -1]


def test_scores_that_tie_in_a_run_say_nothing(collection: Path) -> None:
    """Equal scores are written one float32 apart, which would give large z-scores."""
    write_run(collection.parent / "other.trec", {"q1": [("a", 7.0), ("c", 7.0), ("e", 7.0)], "q2": OTHER["q2"]}, "x")
    settings = {"members": run_member("other"), "weights": {"other": 1.0}}
    assert main(command(collection, settings, ("other", collection.parent / "other.trec"))) == 0
    assert scores_of(collection)[0] == [0.0, 0.0, 0.0]


def test_a_member_that_lacks_a_query_says_nothing(collection: Path) -> None:
    write_run(collection.parent / "other.trec", {"q2": OTHER["q2"]}, "other")
    settings = {"members": run_member("bm25") | run_member("other"), "weights": {"bm25": 1.0, "other": 1.0}}
    runs = [("bm25", collection.parent / "pool.trec"), ("other", collection.parent / "other.trec")]
    assert main(command(collection, settings, *runs)) == 0
    assert scores_of(collection)[0] == [-0.5, 0.5, -0.5]  # half of BM25's z-scores


def test_a_query_without_a_pool_has_the_bonus_alone(collection: Path, caplog: pytest.LogCaptureFixture) -> None:
    groups = [*GROUPS, Group("q3", ("d", "a", "b"))]
    settings = {"members": run_member("bm25"), "weights": {"bm25": 1.0}, "positive_bonus": 1.0}
    assert main(command(collection, settings, ("bm25", collection.parent / "pool.trec"), groups=groups)) == 0
    last = json.loads((collection.parent / "taught.jsonl").read_text().splitlines()[-1])
    assert last["scores"] == [1.0, 0.0, 0.0]
    assert "1 groups have queries without documents" in caplog.text


class _Encoder:
    """A bi-encoder whose vectors come from a table."""

    width = 8

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        table = [np.random.default_rng(list(text.encode())).standard_normal(self.width) for text in texts]
        return np.array(table, dtype=np.float32)

    queries = documents


def test_a_bi_encoder_s_scores_are_inner_products_of_stored_vectors(collection: Path) -> None:
    encoder, documents = _Encoder(), collection / "documents.jsonl"
    encode_collection(encoder, documents, collection.parent / "vectors", collection.parent / "s", 2, "f")
    write_run(collection.parent / "pool.trec", POOL, "pool")
    own = list(grouped_queries(GROUPS, collection.parent / "pool.trec", 2))
    assert [query.id for query in own] == ["q2", "q1"]  # the run's order, because the run is read only once
    member = EncoderMember(encoder, collection.parent / "vectors", TextStore(documents), QUERIES)  # type: ignore[arg-type]
    for query, found in zip(own, member.score(own), strict=True):
        vector = encoder.queries([QUERIES[query.id]])[0]
        half = encoder.documents(list(DOCUMENTS.values())).astype(np.float16).astype(np.float32)
        expected = dict(zip(DOCUMENTS, half @ vector, strict=True))
        assert found.pool.tolist() == pytest.approx([expected[document] for document, _ in query.pool], rel=1e-5)
        assert found.documents.tolist() == pytest.approx([expected[d] for d in query.documents], rel=1e-5)


def test_a_reranker_s_scores_are_standardised_over_the_query_s_groups(
    collection: Path, tiny_model: Callable[[str], Path]
) -> None:
    torch.manual_seed(1)
    (collection.parent / "checkpoint").mkdir()
    new_reranker(tiny_model("mamba2"), "D", 32).write(collection.parent / "checkpoint")
    settings = {
        "members": {"mamba": {"retriever": "bm25", "depth": 100, "precision": "fp32"}},
        "weights": {"mamba": 1.0},
    }
    assert main(command(collection, settings, ("mamba", collection.parent / "checkpoint"))) == 0
    reranker = load_reranker(collection.parent / "checkpoint")
    taught = scores_of(collection)
    for query, places in (("q1", [0]), ("q2", [1, 2])):
        documents = list(dict.fromkeys(d for place in places for d in GROUPS[place].documents))
        scores = np.array(reranker.score(QUERIES[query], [DOCUMENTS[d] for d in documents]), dtype=np.float64)
        z = dict(zip(documents, (scores - scores.mean()) / scores.std(), strict=True))
        for place in places:
            assert taught[place] == pytest.approx([z[d] for d in GROUPS[place].documents], abs=2e-3)


class _Fails:
    """A member that counts its calls and fails at a query."""

    def __init__(self, at: str = "") -> None:
        self.at, self.asked, self.skipped = at, [], []  # type: ignore[var-annotated]

    def score(self, part: Sequence[GroupedQuery]) -> list[MemberScores]:
        if any(query.id == self.at for query in part):
            raise KeyboardInterrupt
        self.asked += [query.id for query in part]
        return [MemberScores(np.array([0.0, 2.0]), np.arange(float(len(query.documents)))) for query in part]

    def skip(self, part: Sequence[GroupedQuery]) -> None:
        self.skipped += [query.id for query in part]


def test_a_killed_teaching_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmrank.teaching.teach._QUERIES_AT_ONCE", 1)
    write_run(tmp_path / "pool.trec", POOL, "pool")

    def taught(member: _Fails, state: str) -> NDArray[np.float32]:
        own = grouped_queries(GROUPS, tmp_path / "pool.trec", 100)
        return teach(own, GROUPS, [member], Weighting([1.0], 1.0, 0.0), tmp_path / state).scores

    with pytest.raises(KeyboardInterrupt):
        taught(_Fails(at="q1"), "state")
    (tmp_path / "state/part-00007.npy").write_bytes(b"damaged")
    second, whole = _Fails(), _Fails()
    np.testing.assert_array_equal(taught(second, "state"), taught(whole, "other"))
    assert (second.skipped, second.asked, whole.asked) == (["q2"], ["q1"], ["q2", "q1"])
    (tmp_path / "state/part-00000.npy").write_bytes(b"damaged")
    third = _Fails()
    taught(third, "state")
    assert third.asked == ["q2"]


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([], "member 'bm25' needs --member bm25 and 1 paths"),
        ([("bm25", "pool.trec"), ("x", "y")], "--member x: the settings have no such member, only bm25"),
    ],
)
def test_files_of_members_are_checked(
    collection: Path, members: list, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"members": run_member("bm25"), "weights": {"bm25": 1.0}}
    assert main(command(collection, settings, *members)) == 2
    assert problem in capsys.readouterr().err
    assert not (collection.parent / "taught.jsonl").exists()
