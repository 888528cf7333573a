"""Models that transformers does not have, used as other libraries use transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM

from ssmrank.models import gated_deltanet, mamba3_modules
from tiny_models import SHAPES

OWN = [shape for shape in SHAPES if shape.startswith(("gated_deltanet", "mamba3"))]
VOCABULARY = 50


@pytest.mark.parametrize("shape", OWN)
def test_padding_on_either_side_changes_nothing(tiny_model: Any, shape: str) -> None:
    model = AutoModel.from_pretrained(tiny_model(shape)).eval()
    ids = torch.randint(4, VOCABULARY, (1, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone = model(input_ids=ids).last_hidden_state[0]
        for left, right in ((5, 0), (0, 5)):
            mask = F.pad(torch.ones_like(ids), (left, right))
            padded = model(input_ids=F.pad(ids, (left, right), value=7), attention_mask=mask).last_hidden_state[0]
            assert (padded[left : left + 12] - alone).abs().max() < 1e-5


@pytest.mark.parametrize("kind", [AutoModel, AutoModelForCausalLM])
@pytest.mark.parametrize(
    "config",
    [
        gated_deltanet.GatedDeltaNetConfig(num_heads=2, head_dim=8, hidden_size=16, num_hidden_layers=1),
        mamba3_modules.Mamba3Config(head_dim=16, state_size=8, hidden_size=16, num_hidden_layers=1),
    ],
    ids=lambda config: config.model_type,
)
def test_word_embeddings_are_found_and_replaced(config: Any, kind: Any) -> None:
    model = kind.from_config(config)
    assert model.get_input_embeddings() is model.base_model.embeddings
    model.set_input_embeddings(other := nn.Embedding(7, 16))
    assert model.base_model.embeddings is other
