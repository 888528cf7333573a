"""params/matched.yaml and params/ettin.yaml: their plans, their models, and each step with small random weights."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig

from ssmrank.config.params import read_params
from ssmrank.models.backbones import random_backbone

FILES = ("params.yaml", "params/paper-models.yaml", "params/paper.yaml", "params/matched.yaml")
TABLES = [f"results/tables/matched-table{number}.md" for number in (2, 3, 4, 5)]

SIZES = {
    # hidden size, layers, width of the MLP: published. A reranker has no output embeddings, so it is smaller.
    "pythia-160m": (768, 12, 3072, 124e6),
    "pythia-410m": (1024, 24, 4096, 354e6),
    "pythia-1b": (2048, 16, 8192, 908e6),
    "pythia-1.4b": (2048, 24, 8192, 1.31e9),
}

SMALL: dict[str, Any] = {
    "models": {
        "pythia-160m": {"model_type": "gpt_neox", "num_attention_heads": 2},
        "transformerpp-2.7b": {"model_type": "llama", "num_attention_heads": 2},
    },
    "encoders": {"tiny": {"model": "tiny-bert", "pooling": "mean", "normalize": True}},
    "retrievers": {"bge": {"kind": "dense", "encoder": "tiny", "depth": 20, "label": "Dense"}},
    "rerankings": {
        "bge-top1000": {"retriever": "bge", "depth": 5},
        "bm25-top100": {"retriever": "bm25", "depth": 5},
    },
    "evaluation": {"metrics": ["nDCG@10", "MRR@10", "MRR@100"]},
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_pythia(name: str) -> None:
    width, layers, inner, parameters = SIZES[name]
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=50304, hidden_size=width, num_hidden_layers=layers, intermediate_size=inner
    )
    config.num_attention_heads = 8
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in random_backbone(config).parameters())
    assert count == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize(("name", "tokens", "count"), [("matched", "300B", 14), ("ettin", "2T", 12)])
def test_rows_differ_by_architecture_alone(root: Path, name: str, tokens: str, count: int) -> None:
    base = read_params(*(root / file for file in FILES[:-1]))
    params = read_params(*(root / file for file in FILES[:-1]), root / f"params/{name}.yaml")
    assert {table: params.tables[table] for table in base.tables} == base.tables
    for number in (2, 3, 4, 5):
        table = params.tables[f"{name}-table{number}"]
        sections = [section for section in table.sections if section.rerankers]
        for section in sections:
            models = {row.model: params.models[row.model] for row in section.rerankers}
            assert {model.pretraining for model in models.values()} == {tokens}
            assert len({one.rpartition("-")[0] for one in models}) == len(models) > 1
            trained = [{row.training for row in section.rerankers if row.model == one} for one in models]
            assert all(names == trained[0] for names in trained)
            # One learning rate for all models of a size.
            assert len({model.training for model in models.values()}) == 1
        if number != 3:
            assert sum(len({row.model for row in section.rerankers}) for section in sections) == count


@pytest.mark.slow
def test_the_matched_grid_plans_without_data(fresh, root: Path) -> None:
    for name in FILES:
        (fresh.folder / name).parent.mkdir(exist_ok=True)
        (fresh.folder / name).write_text((root / name).read_text())
    # 14 models: passages; documents FirstP and LongP. BEIR: the five largest, which include both sizes from 1.3B on.
    assert fresh.planned("--configfile", *FILES[1:], "--", *TABLES) == {
        "download_collection": 15,
        "download_model": 15,
        "encode": 14,
        "index": 1,
        "retrieve": 4,
        "retrieve_dense": 17,
        "negatives": 2,
        "train": 14 * 3,
        "rerank": 14 * 3 + 5 * 13 + 14 * 2 * 3,
        "rerank_speed": 14,
        "costs": 1,
        "evaluate": 14 * 3 + 5 * 13 + 14 * 2 * 3,
        "evaluate_first_stage": 19,
        "significance": 3,
        "table": 4,
    }


@pytest.mark.slow
def test_every_step_with_small_random_weights(project, root: Path) -> None:
    overlay = _small(yaml.safe_load((root / "params/matched.yaml").read_text()))
    (project.folder / "matched.yaml").write_text(yaml.safe_dump(overlay))
    options = ("--configfile", "matched.yaml", "--", *TABLES)
    project.snakemake(*options)
    assert project.planned(*options) == {}
    rows = []
    for table in TABLES:
        with open((project.folder / table).with_suffix(".csv"), newline="") as stream:
            rows.append(list(csv.DictReader(stream)))
    names = [[row["model"] for row in table] for table in rows]
    models = ["Pythia-160M", "Transformer++-2.7B"]
    assert names == [["Dense", *models], ["Dense", models[1]], ["BM25", *models], models]
    assert all(float(row["pairs/s"].replace(",", "")) > 0 for row in rows[3])


def _small(values: dict[str, Any]) -> dict[str, Any]:
    """The tables of matched.yaml for two models, on the tests' collection."""
    small = {"kind": "random", "tokenizer": "tiny-bert"}
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    models = {
        name: values["models"][name] | {"source": small | {"config": shape | config}}
        for name, config in SMALL["models"].items()
    }
    for model in models.values():
        model.pop("tokenizer", None)
    for table in values["tables"].values():
        table["tests"] = [test | {"collection": "tiny", "split": "test"} for test in table["tests"]]
        if "costs" in table:
            table["costs"] = {"speed": {"collection": "tiny", "split": "test", "pairs": 20}}
        for section in table["sections"]:
            # FirstP is left out, which saves a third of the time and shows nothing that LongP does not.
            section["rerankers"] = [
                row
                for row in section.get("rerankers", [])
                if row["model"] in models and row["training"] != "document-firstp"
            ]
        table["sections"] = [one for one in table["sections"] if one["rerankers"] or one.get("retrievers")]
    training = {"collection": "tiny", "split": "train", "negatives": "bm25-top20", "learning_rate": 1e-3}
    trainings = {
        name: {**training, "label": label, "max_length": length, "batch_groups": 4, "groups": 8}
        for name, label, length in (("passage", "512", 32), ("document-longp", "LongP (1536)", 64))
    }
    return SMALL | {"models": models, "trainings": trainings, "tables": values["tables"]}
