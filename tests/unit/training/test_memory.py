from __future__ import annotations

import gc
import math

import pytest
import torch
from tiny_training import sequences

from ssmrank.models.architectures import MODEL_TYPES
from ssmrank.models.packing import pack
from ssmrank.models.reranker import new_reranker
from ssmrank.training.memory import (
    MARGIN,
    Kept,
    choose_recomputation,
    layers_of,
    measure_kept,
    recompute_layers,
    recomputed_layers,
    share_to_recompute,
)
from tiny_models import kind_of

CPU = torch.device("cpu")


def loss_and_gradients(reranker):
    data = sequences(reranker)
    torch.manual_seed(5)  # of dropout
    loss = reranker(pack([sequence for index in range(4) for sequence in data[index]])).square().sum()
    loss.backward()
    found = {name: parameter.grad for name, parameter in reranker.named_parameters()}
    reranker.zero_grad(set_to_none=True)
    return loss.item(), found


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_recomputed_layers_give_the_same_gradients_and_keep_less(tiny_model, model_type):
    torch.manual_seed(0)
    reranker = new_reranker(tiny_model(model_type), kind_of(model_type), 32).train()
    loss, whole = loss_and_gradients(reranker)
    kept = [measure_kept(reranker, "fp32", CPU, tokens=64).per_token]
    for share in (0.5, 1.0):
        recompute_layers(reranker.backbone, share)
        assert recomputed_layers(reranker.backbone) == math.ceil(len(layers_of(reranker.backbone)) * share)
        again, recomputed = loss_and_gradients(reranker)
        assert again == loss
        assert whole.keys() == recomputed.keys()
        for name, gradient in whole.items():
            assert torch.allclose(gradient, recomputed[name], rtol=1e-6, atol=1e-7), name
        kept.append(measure_kept(reranker, "fp32", CPU, tokens=64).per_token)
    assert kept[0] > kept[1] > kept[2]


@pytest.mark.parametrize(("model_type", "kind"), [("bert", "E"), ("mamba", "D")])
def test_measuring_leaves_no_node_of_a_weight_behind(tiny_model, model_type, kind):
    """A CUDA graph cannot have the gradient of a weight whose node is older than the capture."""
    reranker = new_reranker(tiny_model(model_type), kind, 32).train()
    weights = list(reranker.parameters())

    def node(weight):
        return weight.expand_as(weight).grad_fn.next_functions[0][0]

    def mark(module, inputs, scores):
        for weight in weights:
            node(weight).metadata["measured"] = True

    hook = reranker.register_forward_hook(mark)
    gc.disable()
    try:
        measure_kept(reranker, "fp32", CPU, tokens=64)
        hook.remove()
        assert not any("measured" in node(weight).metadata for weight in weights)
    finally:
        gc.enable()


def test_what_is_kept_is_measured_by_hand():
    class Square(torch.nn.Module):
        """Saves its input, 10 float32 per token, and a constant of 100."""

        settings = type("Settings", (), {"max_length": 16})

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(100))

        def forward(self, packed):
            wide = self.weight[:10].expand(len(packed.input_ids), 10) * 2.0
            return (wide * wide).sum() + (self.weight * 3.0).square().sum()

    assert measure_kept(Square(), "fp32", CPU, tokens=32) == Kept(400.0, 40.0)


def test_as_few_layers_as_memory_asks_for_by_hand():
    # 10 layers keep 100 bytes per token each. One that recomputes keeps 4 x 5, and 100 again for one layer at a time.
    kept, tokens = Kept(0.0, 1000.0), 8
    for bytes_per_token, share in [(1000, 0.0), (999, 0.2), (860, 0.3), (859, 0.4), (300, 1.0), (1, 1.0)]:
        free = MARGIN * bytes_per_token * tokens
        assert share_to_recompute(kept, 10, 5, tokens, free) == share, bytes_per_token


def test_recomputed_layers_are_spread_evenly(tiny_model):
    reranker = new_reranker(tiny_model("llama"), "D", 32)
    reranker.backbone.layers.extend(
        type(layer)(reranker.backbone.config, 0) for layer in [*reranker.backbone.layers] * 2
    )
    recompute_layers(reranker.backbone, 0.5)
    assert [layer.gradient_checkpointing for layer in layers_of(reranker.backbone)] == [False, True] * 3


def test_settings_on_a_cpu(tiny_model):
    reranker = new_reranker(tiny_model("llama"), "D", 32)
    for setting, layers in (("auto", 0), ("off", 0), ("full", 2)):
        choose_recomputation(reranker, setting, "fp32", CPU, 1000, 0)
        assert recomputed_layers(reranker.backbone) == layers
