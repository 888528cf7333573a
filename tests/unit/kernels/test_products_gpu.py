"""The GPU's product, compared with float64, and, on a GPU, a row's bits in batches of other sizes."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DEVICE, INTERPRETED, Random, assert_near, gpu_kernels, interpreted, on_gpu

from ssmrank.kernels.products import gpu

pytestmark = gpu_kernels

HALF = torch.float16 if INTERPRETED else torch.bfloat16  # the interpreter cannot multiply bfloat16

SIZES = [
    interpreted(70, 40, 20),
    interpreted(150, 96, 70),
    on_gpu(1, 1024, 1024),
    on_gpu(1000, 1024, 4384),
    on_gpu(20000, 2048, 1024),
    on_gpu(300, 1030, 50),
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """In the interpreter, small tiles, so that a small product has several and a group is not full."""
    if INTERPRETED:
        for name in ("HALF", "SINGLE"):
            monkeypatch.setattr(gpu, name, {"BM": 16, "BN": 32, "BK": 16, "num_warps": 4, "num_stages": 1})
        monkeypatch.setattr(gpu, "GROUP", 2)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (HALF, 1e-2)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_products_are_those_of_float64_and_rows_are_their_own(rows, inputs, outputs, dtype, tolerance, has_bias):
    random = Random(rows)
    x, weight, bias = (random(*shape).to(dtype) for shape in ((rows, inputs), (outputs, inputs), (outputs,)))
    added = bias.to(DEVICE) if has_bias else None
    whole = gpu.product(x.to(DEVICE), weight.to(DEVICE), added)
    assert whole.dtype == dtype
    assert_near(whole, x.double() @ weight.double().T + (bias.double() if has_bias else 0.0), tolerance)
    for first, end in [(0, 1), (rows // 3, rows // 3 + 17), (rows // 2, rows)]:
        part = gpu.product(x[first:end].to(DEVICE), weight.to(DEVICE), added)
        # The interpreter multiplies tiles by NumPy's products, whose rows have other bits at other places.
        assert torch.equal(part, whole[first:end]) or (INTERPRETED and torch.allclose(part, whole[first:end], atol=0.1))


def test_rows_and_weights_may_be_parts_of_others():
    random = Random(1)
    x, weight = (random(40, 64).to(DEVICE, HALF) for _ in range(2))
    expected = gpu.product(x[:, 16:48].contiguous(), weight[8:30, 16:48].contiguous())
    assert torch.allclose(gpu.product(x[:, 16:48], weight[8:30, 16:48]), expected)
