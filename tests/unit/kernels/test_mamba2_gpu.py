"""Mamba-2's mixer as one function on a GPU, compared with the float64 references of its parts."""

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
from ssmrank.kernels.mixers import mamba2
from ssmrank.kernels.norms import reference as norm_reference
from ssmrank.kernels.ssd import SSDInputs
from ssmrank.kernels.ssd import reference as ssd_reference

pytestmark = gpu_kernels

FP32, BF16 = torch.float32, torch.bfloat16
NARROW = ("projected", "out_weight")
SMALL = mamba2.Sizes(heads=4, width=16, groups=2, states=32, eps=0.1)
GROUPED, SINGLE = SMALL._replace(width=64, states=128), SMALL._replace(heads=10, width=64, groups=1, states=64)
SHORT, MIXED = [1, 0, 20, 3], [130, 1, 0, 300, 64]


def inputs_of(tokens: int, sizes: mamba2.Sizes, hidden: int | None, bias: bool = True) -> dict[str, Any]:
    random, inner = Random(sizes.width), sizes.heads * sizes.width
    channels = inner + 2 * sizes.groups * sizes.states
    return {
        "projected": random(tokens, inner + channels + sizes.heads),
        "filters": random(channels, 4),
        "filter_bias": random(channels) if bias else None,
        "A_log": random(sizes.heads),
        "D": random(sizes.heads),
        "dt_bias": random(sizes.heads) - 2,
        "norm_weight": random(inner),
        "out_weight": None if hidden is None else random(hidden, inner) / inner**0.5,
    }


def plain(starts: Tensor, sizes: mamba2.Sizes, **t: Any) -> Tensor:
    inner, states = sizes.heads * sizes.width, sizes.groups * sizes.states
    z, xbc, dt = t["projected"].split([inner, inner + 2 * states, sizes.heads], dim=1)
    xbc = conv_reference.causal_conv1d(xbc, t["filters"], t["filter_bias"], starts, "silu")
    x, b, c = xbc.split([inner, states, states], dim=1)
    b, c = (part.unflatten(1, (sizes.groups, sizes.states)) for part in (b, c))
    x = x.unflatten(1, (sizes.heads, sizes.width))
    y, _ = ssd_reference.ssd(SSDInputs(x, dt, -t["A_log"].exp(), b, c, t["D"], t["dt_bias"]), starts)
    y = norm_reference.norm(y.flatten(1), z, t["norm_weight"], sizes.eps, inner // sizes.groups)
    return y if t["out_weight"] is None else y @ t["out_weight"].T


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize(
    ("lengths", "sizes", "hidden", "bias", "dtype", "tolerance"),
    [
        interpreted(SHORT, SMALL, 24, True, FP32, 5e-5),
        interpreted([0, 5], SMALL, None, False, FP32, 5e-5),
        *(
            on_gpu(MIXED, sizes, hidden, bias, dtype, tolerance)
            for sizes in (GROUPED, SINGLE)
            for hidden, bias, dtype, tolerance in (
                (96, True, FP32, 1e-4),
                (None, False, BF16, 4e-2),
                (96, True, BF16, 4e-2),
            )
        ),
    ],
)
def test_values_and_gradients(
    lengths: list[int],
    sizes: mamba2.Sizes,
    hidden: int | None,
    bias: bool,
    dtype: torch.dtype,
    tolerance: float,
    recompute: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mamba2, "RECOMPUTE", recompute)
    starts, inputs = cu_seqlens(lengths), narrowed(inputs_of(sum(lengths), sizes, hidden, bias), NARROW, dtype)

    def kernel(**tensors: Any) -> Tensor:
        moved = on_device(tensors)
        projected, out_weight = (moved.pop(name) for name in NARROW)
        out_weight = None if out_weight is None else out_weight.to(dtype)
        y = mamba2.mixer(projected.to(dtype), mamba2.Parameters(**moved), out_weight, starts, sizes)
        assert y.dtype == dtype
        return y.cpu()

    expected = values_and_gradients(lambda **t: plain(starts, sizes, **t), inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, FP32), expected, tolerance)


@pytest.mark.parametrize(("lengths", "sizes"), [interpreted(SHORT, SMALL._replace(groups=1)), on_gpu(MIXED, SINGLE)])
def test_rows_in_8_bit_floats(lengths: list[int], sizes: mamba2.Sizes) -> None:
    """The projection's rows are not contiguous; the interpreter rounds less accurately than a GPU."""
    starts, inputs = cu_seqlens(lengths), inputs_of(sum(lengths), sizes, None)
    expected = plain(starts, sizes, **inputs)
    del inputs["out_weight"]
    moved = {name: tensor.float().to(DEVICE) for name, tensor in inputs.items()}
    projected = moved.pop("projected")
    apart = torch.nn.functional.pad(projected, (0, 8), value=float("nan"))[:, : projected.shape[1]]
    found = mamba2.mixer_float8(apart, mamba2.Parameters(**moved), starts, sizes).wide().cpu()
    assert (found - expected).norm() / expected.norm() < (0.06 if INTERPRETED else 0.03)
