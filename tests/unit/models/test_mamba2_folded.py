"""Mamba-2 with its norms' weights in the output projections, as inference on Hopper has it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from ssmrank.kernels import dispatch
from ssmrank.models import mamba
from ssmrank.models.architectures import architecture_of
from ssmrank.models.backbones import random_backbone, scored_forward
from ssmrank.models.float8 import to_float8
from ssmrank.models.packing import Packed, mapped, pack
from ssmrank.models.prefix_sharing import pack_shared


def model(heads: int, layers: int = 4) -> Any:
    """A random model whose norms have weights; its head and state sizes are those of the published models."""
    torch.manual_seed(heads)
    sizes = {"hidden_size": 32 * heads, "num_heads": heads, "head_dim": 64, "state_size": 128, "expand": 2}
    config = AutoConfig.for_model("mamba2", **sizes, num_hidden_layers=layers, n_groups=1, vocab_size=300)
    backbone = random_backbone(config).eval()
    with torch.no_grad():
        for layer in backbone.layers:
            weight = layer.mixer.norm.weight
            weight.copy_(1 + torch.randn_like(weight) / 4)
    return backbone


def batches() -> list[Packed]:
    """Sequences of mixed lengths one by one, and others that share prefixes."""
    generator = np.random.default_rng(0)
    apart = pack([generator.integers(4, 300, length) for length in (1, 30, 64, 65, 130, 3, 200)])
    lengths = np.array([70, 3, 65, 1])
    tokens = generator.integers(4, 300, int(lengths.sum())).astype(np.int32)
    return [apart, pack_shared(tokens, lengths, np.array([-1, 0, 0, 1]))[0]]


def relative(got: torch.Tensor, exact: torch.Tensor) -> float:
    return float((got.float().cpu() - exact).norm() / exact.norm())


def test_the_function_stays_the_same() -> None:
    backbone = model(heads=2, layers=2)
    folded = copy.deepcopy(backbone)
    mamba.fold_norms([layer.mixer for layer in folded.layers])
    assert not torch.equal(folded.layers[0].mixer.out_proj.weight, backbone.layers[0].mixer.out_proj.weight)
    for batch in batches():
        with torch.inference_mode():
            exact = scored_forward(backbone, batch, "last")
            assert relative(scored_forward(folded, batch, "last"), exact) < 1e-5


def test_a_model_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several scorers may take the same model."""
    monkeypatch.setattr(dispatch, "mamba2_gates_on", lambda *values: True)
    backbone = model(heads=2, layers=2)
    architecture_of("mamba2").prepare(backbone)
    assert torch.equal(backbone.layers[0].mixer.norm.weight, torch.ones(128))
    kept = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    architecture_of("mamba2").prepare(backbone)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in backbone.state_dict().items())
    to_float8(backbone, architecture_of("mamba2"))
    kept = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    architecture_of("mamba2").prepare(backbone)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in backbone.state_dict().items())


def test_a_device_without_the_kernel_leaves_weights_alone() -> None:
    backbone = model(heads=2, layers=1)
    kept = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    architecture_of("mamba2").prepare(backbone)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("float8", [False, True])
@pytest.mark.parametrize(("heads", "gated"), [(8, True), (2, False)])
def test_as_exact_as_without(heads: int, gated: bool, float8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of two heads are not aligned, so the scan of one does not serve them in bf16."""
    from ssmrank.kernels.mixers import mamba2

    served, own = [], mamba2._gated
    monkeypatch.setattr(mamba2, "_gated", lambda *values: served.append(values) or own(*values))
    exact, today = model(heads), model(heads).cuda()
    fused = copy.deepcopy(today)
    architecture_of("mamba2").prepare(fused)
    if float8:
        for backbone in (today, fused):
            to_float8(backbone, architecture_of("mamba2"))
    for batch, plain in zip(batches(), (True, False), strict=True):
        served.clear()
        moved = mapped(batch, torch.Tensor.cuda)
        with torch.inference_mode():
            right = scored_forward(exact, batch, "last")
            with torch.autocast("cuda", torch.bfloat16):
                noise = relative(scored_forward(today, moved, "last"), right)
                assert not served
                error = relative(scored_forward(fused, moved, "last"), right)
        assert len(served) == (3 if plain and (gated or float8) else 0)  # the last layer projects scored tokens alone
        assert error < 1.5 * noise
