"""Packed forward and backward against transformers, each sequence alone and without padding."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel

from ssmrank.errors import UserError
from ssmrank.models.backbones import FORWARDS, load_backbone, packed_forward, read_backbone_config
from ssmrank.models.packing import pack

LENGTHS = [5, 17, 1, 33, 8, 8, 30, 9]


def reference_model(folder):
    options = {} if read_backbone_config(folder).model_type.startswith("mamba") else {"attn_implementation": "eager"}
    return AutoModel.from_pretrained(folder, dtype=torch.float32, **options)


def sequences(vocabulary):
    generator = np.random.default_rng(3)
    return [generator.integers(4, vocabulary, length) for length in LENGTHS]


def run_reference(model, batch):
    return torch.cat([model(input_ids=torch.tensor(ids)[None]).last_hidden_state[0] for ids in batch])


@pytest.mark.parametrize("model_type", FORWARDS)
def test_packed_forward_equals_each_sequence_alone(tiny_model, model_type):
    folder = tiny_model(model_type)
    packed_model, reference = load_backbone(folder).eval(), reference_model(folder).eval()
    batch = sequences(packed_model.config.vocab_size)
    with torch.no_grad():
        difference = packed_forward(packed_model, pack(batch)) - run_reference(reference, batch)
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("model_type", FORWARDS)
def test_packed_gradients_equal_each_sequence_alone(tiny_model, model_type):
    folder = tiny_model(model_type)
    packed_model, reference = load_backbone(folder).eval(), reference_model(folder).eval()
    batch = sequences(packed_model.config.vocab_size)
    weights = torch.randn(sum(LENGTHS), packed_model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    (packed_forward(packed_model, pack(batch)) * weights).sum().backward()
    (run_reference(reference, batch) * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    compared = 0
    for name, parameter in packed_model.named_parameters():
        if gradients.get(name) is None:
            assert parameter.grad is None, name
            continue
        scale = gradients[name].abs().max().clamp(min=1.0)
        assert (parameter.grad - gradients[name]).abs().max() / scale < 1e-5, name
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("model_type", FORWARDS)
def test_bf16_stays_within_the_noise_of_bf16(tiny_model, model_type):
    folder = tiny_model(model_type)
    packed_model, reference = load_backbone(folder).eval(), reference_model(folder).eval()
    batch = sequences(packed_model.config.vocab_size)
    with torch.no_grad():
        exact = run_reference(reference, batch)
        with torch.autocast("cpu", torch.bfloat16):
            theirs, ours = run_reference(reference, batch).float(), packed_forward(packed_model, pack(batch)).float()
    noise = (theirs - exact).norm() / exact.norm()
    assert (ours - exact).norm() / exact.norm() < 2 * noise + 1e-3


@pytest.mark.parametrize("model_type", FORWARDS)
def test_a_sequence_does_not_see_its_neighbours(tiny_model, model_type):
    model = load_backbone(tiny_model(model_type)).eval()
    batch = sequences(model.config.vocab_size)
    with torch.no_grad():
        before = packed_forward(model, pack(batch))
        batch[1] = np.full_like(batch[1], 5)
        after = packed_forward(model, pack(batch))
    start, end = LENGTHS[0], LENGTHS[0] + LENGTHS[1]
    assert torch.equal(before[:start], after[:start])
    assert not torch.equal(before[start:end], after[start:end])
    assert (before[end:] - after[end:]).abs().max() < 1e-6


def test_unknown_architecture_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UserError, match=r"config\.json: model_type 't5' has no packed forward; known: bert"):
        read_backbone_config(tmp_path)


def test_folder_without_config_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        read_backbone_config(tmp_path)
