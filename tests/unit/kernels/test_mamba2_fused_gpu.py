"""Mamba-2's mixer whose scan convolves and gates, compared with the float64 references of its parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import DEVICE, Random, cu_seqlens, gpu_kernels
from test_mamba2_gpu import inputs_of, plain
from torch import Tensor

from ssmrank.kernels import dispatch
from ssmrank.kernels.mixers import mamba2
from ssmrank.kernels.norms import add_rms_norm
from ssmrank.kernels.norms import gpu as norms
from ssmrank.kernels.norms import reference as norm_reference
from ssmrank.kernels.norms.reference import Unscaled

pytestmark = gpu_kernels

SIZES = mamba2.Sizes(heads=8, width=64, groups=1, states=128, eps=0.1)
HIDDEN, BF16 = 96, torch.bfloat16


def on_hopper(test: Any) -> Any:
    """Marks a test that needs such a GPU."""
    return pytest.mark.gpu(pytest.mark.usefixtures("hopper")(test))


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got.cpu().double() - expected).norm() / expected.norm())


def inputs(
    lengths: list[int], sizes: mamba2.Sizes, bias: bool = True
) -> tuple[Tensor, mamba2.Parameters, Tensor, Tensor]:
    """The projection's result in bf16, parameters, the output projection's folded weight, and the float64 result."""
    starts, values = cu_seqlens(lengths), inputs_of(sum(lengths), sizes, HIDDEN, bias)
    values["projected"] = values["projected"].to(BF16).double()
    expected = plain(starts, sizes, **values)
    values["out_weight"] = values["out_weight"] * values["norm_weight"]
    values["norm_weight"] = torch.ones_like(values["norm_weight"])
    moved = {name: None if tensor is None else tensor.float().to(DEVICE) for name, tensor in values.items()}
    projected, out_weight = moved.pop("projected").to(BF16), moved.pop("out_weight").to(BF16)
    return projected, mamba2.Parameters(**moved), out_weight, expected


def serves(projected: Tensor, sizes: mamba2.Sizes = SIZES) -> bool:
    return dispatch.mamba2_gates(projected, 4, sizes.width, sizes.states, sizes.groups)


@pytest.mark.parametrize(("parts", "channels"), [(5, 24), (32, 256)])
def test_rows_are_scaled_where_they_are_added(parts: int, channels: int) -> None:
    random = Random(parts)
    residual, rows, weight, values = random(7, channels), random(7, channels), random(channels), random(parts, 7, 3)
    squares = values.square().sum(2)
    stream = residual + rows * torch.rsqrt(values.square().sum((0, 2)) / (3 * parts) + 0.1)[:, None]
    expected = norm_reference.norm(stream, None, weight, 0.2, channels)
    residual, rows, squares, weight = (tensor.float().to(DEVICE) for tensor in (residual, rows, squares, weight))
    update = Unscaled(rows, squares, 3 * parts, 0.1)
    kernel = norms.add_rms_norm_unscaled(residual, update, weight, 0.2, torch.float32)
    for normed, total in (kernel, add_rms_norm(residual, update, weight, 0.2)):
        assert relative(total, stream) < 1e-6
        assert relative(normed, expected) < 1e-6


@on_hopper
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("heads", [8, 32])
@pytest.mark.parametrize(
    "lengths", [[130, 1, 0, 300, 64], [1], [3, 2], [64], [65, 63, 128, 0], [0, 0, 17], [512, 5, 1000]]
)
def test_values(lengths: list[int], heads: int, bias: bool) -> None:
    sizes, starts = SIZES._replace(heads=heads), cu_seqlens(lengths)
    projected, own, out_weight, expected = inputs(lengths, sizes, bias)
    assert serves(projected)
    found = mamba2.mixer_gated(projected, own, out_weight, starts, sizes)
    error, today = relative(found.scaled(), expected), mamba2.mixer(projected, own, out_weight, starts, sizes)
    assert error < 1e-2
    if sum(lengths) > 100:  # rounding of fewer tokens is up to chance
        assert error < 1.2 * relative(today, expected)
    again = mamba2.mixer_gated(projected, own, out_weight, starts, sizes)
    assert torch.equal(again.rows, found.rows) and torch.equal(again.squares, found.squares)


@on_hopper
def test_values_beside_the_rows_are_not_read() -> None:
    lengths = [70, 64, 9]
    projected, own, out_weight, expected = inputs(lengths, SIZES)
    apart = torch.nn.functional.pad(projected, (8, 8), value=float("nan"))[:, 8:-8]
    assert serves(apart)
    found = mamba2.mixer_gated(apart, own, out_weight, cu_seqlens(lengths), SIZES)
    assert relative(found.scaled(), expected) < 1e-2


@on_hopper
def test_rows_in_8_bit_floats() -> None:
    lengths = [130, 1, 0, 300, 64]
    projected, own, _, _ = inputs(lengths, SIZES)
    starts = cu_seqlens(lengths)
    wide = {name: None if tensor is None else tensor.cpu().double() for name, tensor in own._asdict().items()}
    expected = plain(starts, SIZES, projected=projected.cpu().double(), out_weight=None, **wide)
    found = mamba2.mixer_gated_float8(projected, own, starts, SIZES).wide()
    assert relative(found, expected) < 0.03


@on_hopper
def test_only_aligned_rows_are_served() -> None:
    """Others would be refused by the unit that copies tiles."""
    rows = torch.zeros(9, 2 * 512 + 256 + 8, dtype=BF16, device=DEVICE)
    assert serves(rows)
    assert not serves(rows[:0])
    assert not serves(rows.float())
    assert not serves(rows[:, 1:])
    assert not serves(torch.zeros(9, 2 * 640 + 256 + 10, dtype=BF16, device=DEVICE), SIZES._replace(heads=10))
    assert not serves(rows, SIZES._replace(states=64))
    assert not serves(rows, SIZES._replace(groups=2))
