"""params/paper-models.yaml and its shapes against the paper's Table 1."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from ssmrank.config.params import read_params
from ssmrank.models.architectures import MODEL_TYPES
from ssmrank.models.backbones import longest_input, random_backbone

ROOT = Path(__file__).parents[3]

TABLE_1 = {
    # label: kind, parameters, tokens of pretraining
    "BERT-base": ("E", "110M", "3.3B"),
    "RoBERTa-base": ("E", "120M", "33B"),
    "ELECTRA-base": ("E", "105M", "3.3B"),
    "BERT-large": ("E", "330M", "3.3B"),
    "RoBERTa-large": ("E", "335M", "33B"),
    "ELECTRA-large": ("E", "320M", "33B"),
    "BART-base": ("ED", "130M", "33B"),
    "BART-large": ("ED", "385M", "33B"),
    "OPT-125M": ("D", "125M", "180B"),
    "Mamba-1-130M": ("D", "130M", "300B"),
    "Mamba-2-130M": ("D", "130M", "300B"),
    "OPT-350M": ("D", "350M", "180B"),
    "Mamba-1-370M": ("D", "370M", "300B"),
    "Mamba-2-370M": ("D", "370M", "300B"),
    "Mamba-1-790M": ("D", "790M", "300B"),
    "Mamba-2-780M": ("D", "780M", "300B"),
    "OPT-1.3B": ("D", "1.3B", "180B"),
    "Mamba-1-1.4B": ("D", "1.4B", "300B"),
    "Mamba-2-1.3B": ("D", "1.3B", "300B"),
    "Llama-3.2-1B": ("D", "1.3B", "15T"),
}


def models_of(overlay):
    base, merged = (read_params(*files) for files in ([ROOT / "params.yaml"], [ROOT / "params.yaml", overlay]))
    return {name: model for name, model in merged.models.items() if name not in base.models}


def parameters(size):
    return float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]


RANDOM = models_of(ROOT / "params" / "paper-models-random.yaml")


def test_the_models_are_table_1s():
    models = models_of(ROOT / "params" / "paper-models.yaml")
    assert {model.label: (model.kind, model.size, model.pretraining) for model in models.values()} == TABLE_1
    assert [name for name, model in models.items() if name != model.label.lower()] == []
    assert {model.source.kind for model in models.values()} == {"hub"}


def test_random_models_have_the_same_names_kinds_and_sizes():
    models = models_of(ROOT / "params" / "paper-models.yaml")
    assert {name: (model.kind, model.size) for name, model in RANDOM.items()} == {
        name: (model.kind, model.size) for name, model in models.items()
    }


@pytest.mark.parametrize("name", RANDOM)
def test_shapes_have_the_papers_number_of_parameters(name):
    config = AutoConfig.for_model(**RANDOM[name].source.config)
    assert config.model_type in MODEL_TYPES
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in random_backbone(config).parameters())
    assert count == pytest.approx(parameters(RANDOM[name].size), rel=0.08)


def test_every_model_takes_512_tokens_and_the_long_ones_1536():
    short = set()
    for model in RANDOM.values():
        longest = longest_input(AutoConfig.for_model(**model.source.config))
        assert longest is None or longest >= 512
        if longest is not None and longest < 1536:
            short.add(model.source.config["model_type"])
    assert short == {"bert", "roberta", "electra", "bart"}
