"""Which files an experiment needs, and what its jobs are handed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.experiment import Experiment, FirstStage, Index, Reranked, Sample, Trained, fill
from ssmrank.config import Params, read_params


@pytest.fixture
def params(root: Path) -> Params:
    return read_params(root / "tests/data/params/tiny.yaml")


def test_what_a_table_needs(params: Params) -> None:
    experiment = Experiment(params)
    assert experiment.tables() == ["table4"]
    assert experiment.collections() == ["tiny"]
    assert experiment.models() == ["tiny-bert", "tiny-mamba2"]
    assert experiment.indexes() == [Index("tiny", "porter")]
    assert experiment.evaluated_first_stages() == [FirstStage("tiny", "test", "bm25")]
    assert experiment.first_stages() == [FirstStage("tiny", "test", "bm25"), FirstStage("tiny", "train", "bm25")]
    assert experiment.samples() == [Sample("tiny", "train", "bm25-top20")]
    assert experiment.trained() == [Trained("firstp", "tiny-bert"), Trained("firstp", "tiny-mamba2")]
    assert experiment.reranked() == [
        Reranked("tiny", "test", "bm25-top10", "firstp", model) for model in ("tiny-bert", "tiny-mamba2")
    ]
    assert experiment.table_keys("table4") == [
        "tiny/test/bm25",
        "tiny/test/bm25-top10/firstp/tiny-bert",
        "tiny/test/bm25-top10/firstp/tiny-mamba2",
    ]


def test_a_model_whose_tokenizer_another_takes_is_needed(params: Params) -> None:
    rows = params.tables["table4"].sections[1].rerankers
    sections = [params.tables["table4"].sections[1].model_copy(update={"rerankers": [rows[1]]})]
    table = params.tables["table4"].model_copy(update={"sections": sections})
    experiment = Experiment(params.model_copy(update={"tables": {"table4": table}}))
    assert experiment.trained() == [Trained("firstp", "tiny-mamba2")]
    assert experiment.models() == ["tiny-mamba2", "tiny-bert"]
    assert experiment.parents("tiny-mamba2") == dict.fromkeys(["tokenizer", "embeddings"], "data/models/tiny-bert")


def test_a_training_that_goes_on_from_another_needs_it_with_its_seed(params: Params) -> None:
    values = params.model_dump()
    first = values["trainings"]["firstp"]
    values["trainings"]["second"] = first | {"start": "firstp", "seeds": [43], "seed": 42}
    values["trainings"]["firstp"] = first | {"seeds": [42, 43]}
    values["tables"]["table4"]["sections"][1]["rerankers"] = [{"model": "tiny-bert", "training": "second"}]
    experiment = Experiment(Params.model_validate(values))
    assert experiment.trained() == [Trained("second@seed43", "tiny-bert"), Trained("firstp@seed43", "tiny-bert")]
    assert experiment.start("second@seed43", "tiny-bert") == "results/checkpoints/firstp@seed43/tiny-bert"
    assert experiment.start("firstp@seed43", "tiny-bert") == "data/models/tiny-bert"


def test_a_pretrained_model_is_made_from_its_pretraining(root: Path) -> None:
    experiment = Experiment(read_params(root / "params.yaml", root / "params/minis.yaml"))
    assert experiment.parents("bert-arxiv") == {"pretrained": "results/pretraining/minis/models/bert"}
    assert [Path("data/corpora/arxiv/arxiv-0.jsonl.xz")] == experiment.collection_files("arxiv-titles")[:1]
    assert experiment.collection_corpus("arxiv-titles")[0] == "--corpus"
    assert experiment.collection_corpus("semanlink") == []


def test_held_out_queries_need_a_run(params: Params) -> None:
    values = params.model_dump()
    values["trainings"]["firstp"]["validation"] = {"split": "test", "retriever": "bm25", "every_steps": 2}
    experiment = Experiment(Params.model_validate(values))
    assert experiment.validation("firstp") == [FirstStage("tiny", "test", "bm25")]
    assert Experiment(params).validation("firstp") == []


def test_settings_hold_what_changes_results_and_nothing_that_tables_print(params: Params) -> None:
    values = params.model_dump()
    values["collections"]["tiny"] |= {"title": "Other", "license": "Other"}
    values["models"]["tiny-bert"] |= {"label": "Other", "size": "9M", "pretraining": "9B", "kind": "D"}
    values["trainings"]["firstp"]["label"] = "Other"
    values["retrievers"]["bm25"]["label"] = "Other"
    one, other = Experiment(params), Experiment(Params.model_validate(values))
    for settings, name in (("collection_settings", "tiny"), ("model_settings", "tiny-bert")):
        assert getattr(one, settings)(name) == getattr(other, settings)(name)
    assert one.retriever_settings("bm25", "tiny") == other.retriever_settings("bm25", "tiny")
    assert one.train_settings("firstp", "tiny-bert") == other.train_settings("firstp", "tiny-bert")
    assert other.kind("tiny-bert") == "D"
    assert one.table_settings("table4") != other.table_settings("table4")
    assert json.loads(one.retriever_settings("bm25", "tiny"))["stemmer"] == "porter"


def test_files_on_this_machine(params: Params) -> None:
    experiment = Experiment(params)
    assert [path.name for path in experiment.collection_files("tiny")] == [
        "corpus.jsonl",
        "queries.jsonl",
        "train.tsv",
        "test.tsv",
    ]
    assert experiment.model_files("tiny-mamba2") == []


def test_fill() -> None:
    assert fill("{collection}/{split}.x", [Sample("a", "b", "c")]) == ["a/b.x"]
