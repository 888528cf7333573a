"""Memory of trainings: the formula by hand, and against the weights of Llama-2-7B and what a training holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from ssmrank.config.models import Model
from ssmrank.config.params import Params, read_params
from ssmrank.config.trainings import Lora, Training
from ssmrank.models.backbones import random_backbone
from ssmrank.planning.dag import PlannedJob
from ssmrank.planning.estimate import Estimator
from ssmrank.planning.memory import adapter_weights, training_bytes, width_of
from ssmrank.planning.report import costs
from ssmrank.planning.speeds import Speeds
from ssmrank.training.adapters import add_adapters

JOB = PlannedJob("train", {"training": "rankllama", "model": "llama-2-7b"})


@pytest.fixture
def params(root: Path) -> Params:
    names = ("params.yaml", "params/paper-models.yaml", "params/paper.yaml", "params/rankllama.yaml")
    return read_params(*(root / name for name in names))


class Whole(torch.nn.Module):
    """As much of a reranker as adapters need."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


def held(training: Training) -> tuple[int, int, float]:
    """Weights of Llama-2-7B and of its adapters, and the bytes that a training holds, counted one by one."""
    with torch.device("meta"):
        model = Whole(random_backbone(AutoConfig.for_model("llama")))
        count = sum(parameter.numel() for parameter in model.parameters())
        assert training.lora is not None
        add_adapters(model, training.lora, "bf16")  # type: ignore[arg-type]
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return count, sum(p.numel() for p in adapters), weights + (4 + 8) * sum(p.numel() for p in adapters)


def test_rankllama_s_memory_against_the_model_itself(params: Params) -> None:
    section, model = params.trainings["rankllama"], params.models["llama-2-7b"]
    count, adapters, exact = held(section)
    assert count == pytest.approx(6.6e9, rel=0.01)
    assert width_of(count) == pytest.approx(4096, rel=0.02)
    every = section.model_copy(update={"lora": Lora(rank=32, alpha=64)})
    of_all = held(every)[1]
    assert adapters < of_all < adapter_weights(count, 32) < 1.4 * of_all
    found = training_bytes(section, model)
    assert found == pytest.approx(exact, rel=0.05)
    assert found is not None and exact < 15e9


def test_bytes_of_a_weight_by_hand(params: Params) -> None:
    model = Model(label="M", kind="D", size="1B", source=params.models["llama-2-7b"].source)
    section = params.trainings["passage"]

    def bytes_of(**changes: object) -> float | None:
        return training_bytes(section.model_copy(update=changes), model)

    assert bytes_of() == 16e9  # weight, gradient, two moments, in float32
    assert bytes_of(optimizer_states="bfloat16") == 12e9
    assert bytes_of(optimizer_states="8bit", parallel="ddp", processes=4) == 10e9
    assert bytes_of(parallel="fsdp2", gather="layer", processes=4) == 4e9
    assert bytes_of(parallel="fsdp2", processes=4) == (2 + 4 + 12 / 4) * 1e9
    adapters = adapter_weights(1e9, 8)
    assert bytes_of(lora=Lora(rank=8, alpha=8)) == 2e9 + 16 * adapters
    assert training_bytes(section, model.model_copy(update={"size": "?"})) is None


def test_a_plan_says_it(params: Params, root: Path) -> None:
    estimator = Estimator(params, Speeds(root / "benchmarks/results"), root / "benchmarks/workloads")
    assert "| rankllama | Llama-2-7B | 15.1 GB |" in costs([JOB], estimator)
    usual = PlannedJob("train", {"training": "passage", "model": "opt-350m"})
    assert "Memory" not in costs([usual], estimator)
