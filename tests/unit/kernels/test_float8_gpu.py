"""Rows rounded to 8-bit floats by GPU kernels, alone and in the norms; on a GPU also their products."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DEVICE, INTERPRETED, Random, gpu_kernels, on_gpu
from torch import Tensor

from ssmrank.kernels.float8 import Rows, gpu, product, reference
from ssmrank.kernels.norms import gpu as norm_kernels
from ssmrank.kernels.norms import reference as norm_reference

pytestmark = gpu_kernels

EPS = 1e-5
SHAPES = [(5, 16), (7, 48), (9, 300), on_gpu(300, 2048)]


def assert_rounded(found: Rows, exact: Tensor) -> None:
    """Asserts that each value is within its rounding error: 1/16 of it, or half of its row's smallest step.

    The interpreter truncates the smallest values. For others it loses a carry into the exponent, which halves them.
    """
    assert found.values.dtype == torch.float8_e4m3fn and found.scales.dtype == torch.float32
    assert found.scales.shape == (len(exact), 1)
    largest = exact.abs().amax(1, keepdim=True)
    part, of_smallest = (1 / 2, 1) if INTERPRETED else (1 / 16, 1 / 2)
    step = torch.maximum(exact.abs() * part, largest / reference.LARGEST * 2**-9 * of_smallest)
    wide = found.values.double() * found.scales.double()
    assert ((wide.cpu() - exact).abs() <= step * (1 + 1e-4) + 1e-30).all()
    kept = largest > 0
    torch.testing.assert_close(found.scales.cpu().double()[kept], largest[kept] / reference.LARGEST, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("rows", "channels"), SHAPES)
def test_rows_of_very_different_magnitudes(rows: int, channels: int) -> None:
    x = Random(channels)(rows, channels) * torch.logspace(-6, 6, rows, dtype=torch.float64)[:, None]
    x[rows // 2] = 0
    assert_rounded(gpu.quantized(x.float().to(DEVICE)), x.float().double())


@pytest.mark.parametrize(("rows", "channels"), SHAPES)
def test_a_slice_of_a_projection(rows: int, channels: int) -> None:
    joint = Random(channels)(rows, 2 * channels).bfloat16()
    assert_rounded(gpu.quantized(joint.to(DEVICE)[:, channels:]), joint[:, channels:].double())


@pytest.mark.parametrize(
    ("rows", "channels"), [on_gpu(5, 16), on_gpu(300, 2048)]
)  # the interpreter turns NaN into numbers
def test_what_is_no_number_stays_none(rows: int, channels: int) -> None:
    x = Random(channels)(rows, channels).float()
    for place, odd in enumerate((float("nan"), float("inf"), float("-inf"))):
        x[place, channels // 2] = odd
    found = gpu.quantized(x.to(DEVICE)).wide().isnan().any(1).cpu()
    assert found.tolist() == [True] * 3 + [False] * (rows - 3)


def test_no_rows() -> None:
    assert len(gpu.quantized(torch.empty(0, 16, device=DEVICE)).values) == 0


@pytest.mark.parametrize(("rows", "channels"), SHAPES)
def test_norms(rows: int, channels: int) -> None:
    random = Random(channels)
    stream, joint = random(rows, channels).float(), random(rows, 2 * channels).bfloat16()
    weight, update = random(channels).float(), joint[:, channels:]
    moved = stream.to(DEVICE), joint.to(DEVICE)[:, channels:], weight.to(DEVICE)
    summed = stream + update
    for own, added in ((summed, moved[1]), (stream, None)):
        normed, total = norm_kernels.add_rms_norm_float8(moved[0], added, moved[2], EPS)
        assert torch.equal(total.cpu(), own)
        assert_rounded(normed, norm_reference.norm(own.double(), None, weight.double(), EPS, channels))
    x, z = joint.to(DEVICE).chunk(2, dim=1)
    normed = norm_kernels.gated_rms_norm_float8(x, z, moved[2], EPS)
    assert_rounded(normed, norm_reference.norm(*joint.double().chunk(2, dim=1), weight.double(), EPS, channels))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [on_gpu(1, 16, 16), on_gpu(77, 768, 3360), on_gpu(300, 2048, 1024)]
)
def test_products(rows: int, inputs: int, outputs: int, biased: bool) -> None:
    random = Random(inputs)
    x, weight = reference.quantized(random(rows, inputs)), reference.quantized(random(outputs, inputs))
    bias = random(outputs).bfloat16() if biased else None
    exact = (x.values.double() * x.scales) @ (weight.values.double() * weight.scales).T
    wanted = exact if bias is None else exact + bias.double()
    x, weight = (Rows(*(part.to(DEVICE) for part in factor)) for factor in (x, weight))
    found = product(x, weight, None if bias is None else bias.to(DEVICE)).cpu()
    assert found.dtype == torch.bfloat16
    assert ((found.double() - wanted).norm() / wanted.norm()) < 2**-8
    assert (found.double() - wanted).abs().max() < 0.02 * wanted.abs().max()
