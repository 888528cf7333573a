"""Trainings of adapters in the workflow: RankLLaMA's recipe, and one that runs."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from pipeline.code import code
from ssmrank.config.params import read_params
from ssmrank.models.backbones import random_backbone
from ssmrank.training.adapters import linear_layers

FILES = ("params.yaml", "params/paper-models.yaml", "params/paper.yaml", "params/rankllama.yaml")

ADAPTED = """
trainings:
  firstp: {lora: {rank: 4, alpha: 8, modules: [in_proj, out_proj]}}
tables:
  table4:
    sections:
      - title: Rerankers
        rerankers:
          - {model: tiny-mamba2, training: firstp}
"""
OPTIONS = ("--configfile", "adapted.yaml", "--", "results/tables/table4.md")


def test_the_recipe_is_that_of_tevatron(root: Path) -> None:
    params = read_params(*(root / name for name in FILES))
    section = params.trainings["rankllama"]
    config = AutoConfig.for_model("llama")  # Llama-2-7B's shape is this class's default
    assert section.lora is not None and section.lora.modules != "all"
    with torch.device("meta"):
        backbone = random_backbone(config)
    assert set(section.lora.modules) == {*linear_layers(backbone)} - {"k_proj"}
    shown = (section.lora.rank, section.lora.alpha, section.lora.dropout, section.learning_rate, section.max_length)
    assert shown == (32, 64, 0.1, 1e-4, 32 + 196)
    assert section.batch_groups == 4 * 4 * 8
    assert params.negatives["bge-top200"].count == 16 - 1


def test_packages_count_for_the_trainings_that_use_them() -> None:
    def packages(module: str, without: tuple[str, ...] = ()) -> set[str]:
        return {line.partition(" ")[0] for line in code(module, without)} & {"peft", "bitsandbytes"}

    assert packages("ssmrank.training.adapters") == {"peft"}
    assert packages("ssmrank.training.eight_bit") == {"bitsandbytes"}
    assert packages("ssmrank.commands.train", ("ssmrank.training.adapters", "ssmrank.training.eight_bit")) == set()


def test_the_recipe_plans_without_data(fresh, root: Path) -> None:
    for name in FILES:
        (fresh.folder / name).parent.mkdir(exist_ok=True)
        (fresh.folder / name).write_text((root / name).read_text())
    assert fresh.planned("--configfile", *FILES[1:], "--", "results/tables/rankllama.md") == {
        "download_collection": 1,
        "download_model": 2,
        "encode": 1,
        "retrieve_dense": 4,
        "negatives": 1,
        "train": 1,
        "rerank": 3,
        "evaluate": 3,
        "evaluate_first_stage": 3,
        "significance": 1,
        "table": 1,
    }


@pytest.mark.slow
def test_a_training_of_adapters_is_a_job_like_others(fresh) -> None:
    (fresh.folder / "adapted.yaml").write_text(ADAPTED)
    fresh.snakemake(*OPTIONS)
    checkpoint = fresh.folder / "results/checkpoints/firstp/tiny-mamba2"
    assert json.loads((checkpoint / "adapter" / "adapter_config.json").read_text())["r"] == 4
    files = [load_file(checkpoint / "adapter" / f"{name}.safetensors") for name in ("adapter_model", "head")]
    trained = sum(tensor.numel() for weights in files for tensor in weights.values())
    with closing(sqlite3.connect(fresh.folder / "mlflow.db")) as store:
        rows = store.execute("select value from metrics where key = 'trained_parameters'").fetchall()
    assert rows == [(trained,)]
    assert "Tiny Mamba-2" in (fresh.folder / "results/tables/table4.md").read_text()
    assert fresh.planned(*OPTIONS) == {}
    again = {"train": 1, "rerank": 1, "evaluate": 1, "table": 1}
    with fresh.edited("adapted.yaml", "rank: 4", "rank: 2"):
        assert fresh.planned(*OPTIONS) == again
    code = "src/ssmrank/training/{}.py"
    with fresh.edited(code.format("adapters"), '"""Adapters', 'EXTRA = 1\n"""Adapters'):
        assert fresh.planned(*OPTIONS) == again
    with fresh.edited(code.format("eight_bit"), '"""AdamW with', 'EXTRA = 1\n"""AdamW with'):
        assert fresh.planned(*OPTIONS) == {}
