"""SsmReranker in PyTerrier's own pipelines and experiments, with BM25 of a real index."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pt = pytest.importorskip("pyterrier")
pyterrier_pisa = pytest.importorskip("pyterrier_pisa")

from ssmrank.api import Reranker  # noqa: E402
from ssmrank.cli import main  # noqa: E402
from ssmrank.errors import UserError  # noqa: E402
from ssmrank.integrations.pyterrier import SsmReranker  # noqa: E402
from ssmrank.io.jsonl import write_jsonl  # noqa: E402
from ssmrank.io.trec import write_qrels, write_run  # noqa: E402

TEXTS = {"d1": "fish swim in the river", "d2": "snow on the mountain", "d3": "a boat on the river", "d4": "snow"}


@pytest.fixture(scope="module")
def reranker(root: Path) -> Reranker:
    return Reranker.from_pretrained(root / "models" / "minis" / "mamba2", precision="fp32")


@pytest.fixture(scope="module")
def tests(root: Path) -> tuple[dict[str, str], pd.DataFrame, pd.DataFrame]:
    """Texts by docno, topics and qrels of the tests' collection."""
    folder = root / "tests" / "data" / "workflow" / "collection"
    documents = map(json.loads, (folder / "corpus.jsonl").read_text().splitlines())
    texts = {document["_id"]: f"{document['title']} {document['text']}" for document in documents}
    queries = map(json.loads, (folder / "queries.jsonl").read_text().splitlines())
    with (folder / "qrels" / "test.tsv").open() as stream:
        lines = list(csv.reader(stream, delimiter="\t"))[1:]
    qrels = pd.DataFrame([(q, d, int(grade)) for q, d, grade in lines], columns=["qid", "docno", "label"])
    topics = pd.DataFrame([(query["_id"], query["text"]) for query in queries], columns=["qid", "query"])
    return texts, topics[topics["qid"].isin(qrels["qid"])].reset_index(drop=True), qrels


@pytest.fixture(scope="module")
def bm25(tests, tmp_path_factory: pytest.TempPathFactory) -> pt.Transformer:
    texts, _, _ = tests
    index = pyterrier_pisa.PisaIndex(
        str(tmp_path_factory.mktemp("pisa") / "index"), "text", stemmer="porter2", threads=1
    )
    index.index([{"docno": docno, "text": text} for docno, text in texts.items()])
    return index.bm25(k1=0.9, b=0.4, num_results=20)


def frame(*rows: tuple[str, str, str]) -> pd.DataFrame:
    columns = ["qid", "query", "docno"]
    return pd.DataFrame(rows, columns=columns).assign(text=lambda table: table["docno"].map(TEXTS), score=1.0, rank=0)


def test_an_experiment_gives_the_dags_ndcg_for_the_same_run(tests, bm25, reranker: Reranker, tmp_path: Path) -> None:
    texts, topics, qrels = tests
    measures = [pt.measures.nDCG @ 10, pt.measures.RR]
    pipeline = bm25 % 10 >> pt.apply.text(lambda row: texts[row["docno"]]) >> SsmReranker(reranker)
    found = pt.Experiment([bm25, pipeline], topics, qrels, measures, names=["bm25", "ours"], perquery=True)

    # The same through files, as the DAG's steps: the first stage's run, its reranking, its evaluation.
    split = tmp_path / "tiny" / "splits" / "test"
    split.mkdir(parents=True)
    queries = dict(zip(topics["qid"], topics["query"], strict=True))
    write_jsonl(split / "queries.jsonl", ({"id": id, "text": text} for id, text in queries.items()))
    write_jsonl(tmp_path / "tiny" / "documents.jsonl", ({"id": id, "text": text} for id, text in texts.items()))
    grades: dict[str, dict[str, int]] = {}
    for row in qrels.itertuples():
        grades.setdefault(row.qid, {})[row.docno] = row.label
    write_qrels(split / "qrels.txt", grades)
    first: dict[str, list[tuple[str, float]]] = {}
    for row in bm25.transform(topics).itertuples():
        first.setdefault(row.qid, []).append((row.docno, float(row.score)))
    write_run(tmp_path / "first.trec", first, "bm25")
    reranker.save_pretrained(tmp_path / "checkpoint")
    settings = {"retriever": "bm25", "depth": 10, "precision": "fp32"}
    rerank = ["--settings", json.dumps(settings), "--checkpoint", tmp_path / "checkpoint", "--split", "test"]
    rerank += ["--collection", tmp_path / "tiny", "--run", tmp_path / "first.trec", "--output", tmp_path / "ours.trec"]
    assert main(["rerank", *map(str, rerank)]) == 0
    for name, run in (("bm25", "first.trec"), ("ours", "ours.trec")):
        metrics = ["--settings", '{"metrics": ["nDCG@10", "RR"]}', "--qrels", split / "qrels.txt"]
        metrics += ["--run", tmp_path / run, "--output", tmp_path / "mean.json", "--per-query", tmp_path / "all.json"]
        assert main(["evaluate", *map(str, metrics)]) == 0
        for metric, values in json.loads((tmp_path / "all.json").read_text()).items():
            rows = found[(found["name"] == name) & (found["measure"].astype(str) == metric)]
            assert dict(zip(rows["qid"], rows["value"], strict=True)) == pytest.approx(values, abs=1e-9), (name, metric)
            assert len(values) == len(topics) and len(set(values.values())) > 1


def test_scores_are_the_rerankers_and_rows_are_ordered(reranker: Reranker) -> None:
    rows = [("q1", "river fish", "d2"), ("q2", "winter", "d2"), ("q1", "river fish", "d1"), ("q2", "winter", "d3")]
    found = SsmReranker(reranker).transform(frame(*rows).assign(other=[1, 2, 3, 4]))
    assert list(found.columns) == ["qid", "query", "docno", "text", "other", "score", "rank"]
    assert found["qid"].tolist() == ["q1", "q1", "q2", "q2"] and found["rank"].tolist() == [0, 1, 0, 1]
    assert found["docno"].tolist()[:2] == ["d1", "d2"] and found["other"].tolist()[:2] == [3, 1]
    for row in found.itertuples():
        [score] = reranker.score(row.query, [row.text])
        assert row.score == pytest.approx(score, abs=1e-4)


def test_the_frame_is_scored_in_one_call_and_equal_pairs_once(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    rank_many = Reranker.rank_many

    def counted(self, queries, candidates, documents, **more):
        calls.append((queries, candidates, documents))
        return rank_many(self, queries, candidates, documents, **more)

    monkeypatch.setattr(Reranker, "rank_many", counted)
    given = frame(
        ("1", "snow", "d2"), ("2", "snow", "d2"), ("2", "snow", "d4"), ("3", "river", "d2"), ("1", "snow", "d4")
    )
    given.loc[4, "text"] = TEXTS["d2"]  # another document with the same text
    found = SsmReranker(reranker).transform(given)
    [(queries, candidates, documents)] = calls
    assert sorted(queries.values()) == ["river", "snow"] and sorted(documents.values()) == ["snow", TEXTS["d2"]]
    assert sum(map(len, candidates.values())) == 3
    first = found[found["qid"] == "1"]
    assert first["score"].nunique() == 1 and first["docno"].tolist() == ["d4", "d2"], "ties by descending docno"


def test_inputs_and_outputs_are_declared(reranker: Reranker) -> None:
    ours = SsmReranker(reranker, text_field="body")
    assert pt.inspect.transformer_inputs(ours) == [["qid", "query", "docno", "body"]]
    columns = ["qid", "query", "docno", "score", "body"]
    outputs = ["qid", "query", "docno", "body", "score", "rank"]
    assert pt.inspect.transformer_outputs(ours, columns) == outputs
    assert list(ours.transform(pd.DataFrame(columns=columns)).columns) == outputs
    with pytest.raises(pt.validate.InputValidationError, match="body"):
        ours.transform(frame(("q", "snow", "d2")))
    with pytest.raises(pt.validate.InputValidationError, match="query"):
        pt.inspect.transformer_outputs(ours, ["qid", "docno", "body"])


def test_a_row_without_text_is_one_line(reranker: Reranker) -> None:
    with pytest.raises(UserError, match=r"column 'text': query q, document d9 has no text but nan; load texts"):
        SsmReranker(reranker).transform(frame(("q", "snow", "d2"), ("q", "snow", "d9")))
    with pytest.raises(UserError, match="device: the reranker is loaded already"):
        SsmReranker(reranker, device="cpu")


def test_without_pyterrier_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['pyterrier'] = None; import ssmrank.integrations.pyterrier"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert finished.stderr.endswith("PyTerrier is not installed; pip install 'ssmrank[pyterrier]'\n")
