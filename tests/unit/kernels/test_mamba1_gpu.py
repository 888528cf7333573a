"""Mamba-1's mixer as one function on a GPU, compared with the float64 references of its parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import (
    DEVICE,
    INTERPRETED,
    Random,
    assert_close,
    cu_seqlens,
    gpu_kernels,
    interpreted,
    narrowed,
    on_device,
    on_gpu,
    values_and_gradients,
)
from torch import Tensor

from ssmrank.kernels.causal_conv import reference as conv_reference
from ssmrank.kernels.mixers import mamba1
from ssmrank.kernels.selective_scan import ScanInputs
from ssmrank.kernels.selective_scan import gpu as scan
from ssmrank.kernels.selective_scan import reference as scan_reference

pytestmark = gpu_kernels

FP32, BF16 = torch.float32, torch.bfloat16
NARROW = ("projected", "x_weight", "dt_weight", "out_weight")
MIXED = [130, 1, 0, 300, 64]


def inputs_of(
    tokens: int, channels: int, states: int, hidden: int | None, *, rank: int = 6, width: int = 4, bias: bool = True
) -> dict[str, Any]:
    random = Random(channels)
    return {
        "projected": random(tokens, 2 * channels),
        "filters": random(channels, width),
        "filter_bias": random(channels) if bias else None,
        "x_weight": random(rank + 2 * states, channels) / channels**0.5,
        "dt_weight": random(channels, rank) / rank**0.5,
        "dt_bias": random(channels) - 2,
        "A_log": random(channels, states),
        "D": random(channels),
        "out_weight": None if hidden is None else random(hidden, channels) / channels**0.5,
    }


def plain(starts: Tensor, **t: Any) -> Tensor:
    x, z = t["projected"].chunk(2, dim=1)
    x = conv_reference.causal_conv1d(x, t["filters"], t["filter_bias"], starts, "silu")
    states = t["A_log"].shape[1]
    step, b, c = (x @ t["x_weight"].T).split([t["dt_weight"].shape[1], states, states], dim=1)
    rates = -t["A_log"].exp()
    scanned = ScanInputs(x, step @ t["dt_weight"].T, rates, b, c, t["D"], z, t["dt_bias"])
    y, _ = scan_reference.selective_scan(scanned, starts)
    return y if t["out_weight"] is None else y @ t["out_weight"].T


def check(lengths: list[int], inputs: dict[str, Any], tolerance: float, dtype: torch.dtype = FP32) -> None:
    starts, inputs = cu_seqlens(lengths), narrowed(inputs, NARROW, dtype)

    def kernel(**tensors: Any) -> Tensor:
        moved = on_device(tensors)
        moved |= {name: moved[name].to(dtype) for name in NARROW if moved[name] is not None}
        y = mamba1.mixer(**moved, cu_seqlens=starts)
        assert y.dtype == dtype
        return y.cpu()

    expected = values_and_gradients(lambda **t: plain(starts, **t), inputs, torch.float64)
    got = values_and_gradients(kernel, inputs, FP32)
    assert_close(got, expected, tolerance)
    with torch.no_grad():  # nothing is saved for the backward pass, and the output is the same
        y = kernel(**{name: None if tensor is None else tensor.float() for name, tensor in inputs.items()})
    assert torch.equal(y.double(), got["0"])


@pytest.mark.parametrize(
    ("channels", "hidden", "rank"), [interpreted(40, 24, 6), on_gpu(256, 128, 16), on_gpu(512, None, 16)]
)
def test_values_and_gradients(channels: int, hidden: int | None, rank: int) -> None:
    lengths = [1, 0, 17] if INTERPRETED else MIXED
    inputs = inputs_of(sum(lengths), channels, 4 if INTERPRETED else 16, hidden, rank=rank)
    check(lengths, inputs, 2e-5 if INTERPRETED else 1e-4)


@pytest.mark.parametrize("width", [interpreted(2)])
def test_a_short_filter_without_bias_and_projection(width: int) -> None:
    check([0, 5], inputs_of(5, 16, 5, None, width=width, bias=False), 2e-5)


@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize(
    ("channels", "hidden"), [interpreted(32, 24), on_gpu(256, 128), on_gpu(512, None), on_gpu(96, 64)]
)
def test_states_kept_rounded_or_not(
    channels: int, hidden: int | None, rounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mamba1, "ROUND_STATES", rounded)
    if INTERPRETED:
        check([0, 18], inputs_of(18, channels, 4, hidden), 4e-2, BF16)
    else:
        check(MIXED, inputs_of(sum(MIXED), channels, 16, hidden, rank=16), 4e-2, BF16)


@pytest.mark.parametrize(("dtype", "tolerance"), [on_gpu(FP32, 1e-4), (BF16, 4e-2)])
def test_segments(dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences are cut into pieces, as when there are few of them; states are then kept in float32."""
    monkeypatch.setattr(scan, "SEGMENT", 16)
    monkeypatch.setattr(scan, "ENOUGH", 1 << 30)
    check([33], inputs_of(33, 32, 2, 16), tolerance, dtype)


@pytest.mark.parametrize("biased", [False, True])
def test_a_small_model_equals_the_one_without(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig, AutoModel

    from ssmrank.kernels import dispatch
    from ssmrank.models import mamba
    from ssmrank.models.packing import pack

    torch.manual_seed(0)
    small = {"hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 11, "state_size": 4}
    packed = pack([torch.arange(3).numpy(), torch.arange(3, 8).numpy()], DEVICE)
    for settings in (
        scan.FORWARD,
        scan.BACKWARD,
    ):  # the interpreter takes as long for a part of a tile as for all of it
        monkeypatch.setitem(settings, "TILE", 4)
    model = AutoModel.from_config(AutoConfig.for_model("mamba", **small, use_bias=biased)).train().to(DEVICE)
    for parameter in model.parameters():  # a new model's biases are zero
        torch.nn.init.normal_(parameter, std=0.3)
    calls: list[int] = []

    def runs(projected: Tensor, filter_width: int) -> bool:
        calls.append(filter_width)
        return True

    found: list[dict[str, Tensor]] = []
    for decide in (lambda *_: False, runs):
        model.zero_grad()
        monkeypatch.setattr(dispatch, "mamba1_runs_as_one", decide)
        hidden = mamba.mamba1_forward(model, packed)
        (hidden * Random(5)(*hidden.shape).float().to(DEVICE)).sum().backward()
        found.append({name: p.grad.double().cpu() for name, p in model.named_parameters() if p.grad is not None})
        found[-1]["hidden"] = hidden.detach().double().cpu()
    assert len(calls) == 2
    assert "layers.1.mixer.A_log" in found[0]
    assert_close(found[1], found[0], 2e-5 if INTERPRETED else 1e-4)
