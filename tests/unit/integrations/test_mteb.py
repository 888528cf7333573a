"""MtebReranker in MTEB's own evaluation, on a reranking task in local files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

mteb = pytest.importorskip("mteb")

import datasets  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import CrossEncoderProtocol  # noqa: E402
from sentence_transformers import CrossEncoder  # noqa: E402

from ssmrank.api import Reranker  # noqa: E402
from ssmrank.errors import UserError  # noqa: E402
from ssmrank.evaluation.metrics import evaluate  # noqa: E402
from ssmrank.export.formats import export  # noqa: E402
from ssmrank.integrations.mteb import MtebReranker  # noqa: E402
from ssmrank.io.trec import read_qrels, read_run  # noqa: E402

pytestmark = pytest.mark.slow  # MTEB takes seconds to import

CARD = "---\nconfigs:\n{}---\n"


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "models" / "minis" / "mamba2"


@pytest.fixture(scope="module")
def reranker(folder: Path) -> Reranker:
    return Reranker.from_pretrained(folder, precision="fp32")


@pytest.fixture
def data(root: Path) -> Path:
    return root / "examples" / "data"


@pytest.fixture
def task(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AbsTaskRetrieval:
    """The examples' queries and documents in the files that MTEB's loader reads from the hub or a folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    records = {
        "corpus": [json.loads(line) for line in (data / "documents.jsonl").read_text().splitlines()],
        "queries": [json.loads(line) for line in (data / "queries.jsonl").read_text().splitlines()],
        "qrels": [
            {"query-id": query, "corpus-id": document, "score": grade}
            for query, grades in read_qrels(data / "qrels.txt").items()
            for document, grade in grades.items()
        ],
        "top_ranked": [
            {"query-id": query, "corpus-ids": [document for document, _ in ranking]}
            for query, ranking in read_run(data / "first-stage.trec").items()
        ],
    }
    local = tmp_path / "task"
    local.mkdir()
    configs = ""
    for name, rows in records.items():
        (local / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = "default" if name == "qrels" else name
        configs += f"- config_name: {config}\n  data_files:\n  - {{split: test, path: {name}.jsonl}}\n"
    (local / "README.md").write_text(CARD.format(configs))

    class LocalReranking(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="LocalReranking",
            description="ssmrank's examples",
            type="Reranking",
            category="t2t",
            dataset={"path": str(local), "revision": "1"},
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

    return LocalReranking()


def test_a_task_in_local_files_has_the_values_of_our_own_evaluation(
    task: AbsTaskRetrieval, data: Path, reranker: Reranker
) -> None:
    model = MtebReranker(reranker, name="ssmrank/mamba2-mini")
    [result] = mteb.evaluate(model, task, cache=None, show_progress_bar=False).task_results
    [scores] = result.scores["test"]
    texts = {
        name: {record["id"]: record["text"] for record in map(json.loads, (data / name).read_text().splitlines())}
        for name in ("queries.jsonl", "documents.jsonl")
    }
    run = reranker.rerank_run(read_run(data / "first-stage.trec"), texts["queries.jsonl"], texts["documents.jsonl"])
    ours = evaluate(read_qrels(data / "qrels.txt"), run, ["nDCG@10", "nDCG@3", "AP@10", "R@1"]).mean()
    # MTEB rounds to five decimals.
    for name, own in (
        ("ndcg_at_10", "nDCG@10"),
        ("ndcg_at_3", "nDCG@3"),
        ("map_at_10", "AP@10"),
        ("recall_at_1", "R@1"),
    ):
        assert scores[name] == pytest.approx(ours[own], abs=1e-5), name
    assert result.get_score() == scores["ndcg_at_10"] > 0.8


def test_mteb_keeps_results_under_the_models_name(task: AbsTaskRetrieval, folder: Path, tmp_path: Path) -> None:
    model = MtebReranker(folder, precision="fp32", revision="1a2b")
    assert isinstance(model, CrossEncoderProtocol)
    meta = model.mteb_model_meta
    assert (meta.name, meta.revision, meta.max_tokens) == ("ssmrank/mamba2", "1a2b", 192)
    assert 5_900_000 < meta.n_parameters < 6_300_000
    mteb.evaluate(model, task, cache=mteb.ResultCache(tmp_path / "results"), show_progress_bar=False)
    [kept] = (tmp_path / "results").rglob("LocalReranking.json")
    assert kept.parent.name == "1a2b" and kept.parent.parent.name == "ssmrank__mamba2"


def test_all_pairs_of_a_task_are_scored_in_one_call(
    task: AbsTaskRetrieval, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    rank_many = Reranker.rank_many

    def counted(self, queries, candidates, documents, **more):
        calls.append(sum(map(len, candidates.values())))
        return rank_many(self, queries, candidates, documents, **more)

    monkeypatch.setattr(Reranker, "rank_many", counted)
    model = MtebReranker(reranker, name="ssmrank/mini")
    mteb.evaluate(model, task, cache=None, encode_kwargs={"batch_size": 2}, show_progress_bar=False)
    assert calls == [12]


def test_an_exported_checkpoint_has_the_same_value_without_us(
    task: AbsTaskRetrieval, folder: Path, reranker: Reranker, tmp_path: Path
) -> None:
    export(folder, tmp_path / "exported", "sentence-transformers")
    exported = CrossEncoder(str(tmp_path / "exported"), device="cpu", trust_remote_code=True)
    [theirs] = mteb.evaluate(exported, task, cache=None, show_progress_bar=False).task_results
    [ours] = mteb.evaluate(MtebReranker(reranker, name="a/b"), task, cache=None, show_progress_bar=False).task_results
    assert theirs.get_score() == ours.get_score()


def test_wrong_arguments_are_one_line(reranker: Reranker) -> None:
    with pytest.raises(UserError, match="name: a loaded reranker has none; give OWNER/NAME"):
        MtebReranker(reranker)
    with pytest.raises(UserError, match="name mine: MTEB takes OWNER/NAME"):
        MtebReranker(reranker, name="mine")
    with pytest.raises(UserError, match="device: the reranker is loaded already"):
        MtebReranker(reranker, name="a/b", device="cpu")
    with pytest.raises(UserError, match="a batch of MTEB has image and no text"):
        MtebReranker(reranker, name="a/b").predict([{"image": [0]}], [{"text": ["a"]}])


def test_without_mteb_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['mteb'] = None; import ssmrank.integrations.mteb"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert finished.stderr.endswith("MTEB is not installed; pip install 'ssmrank[mteb]'\n")
