"""The GPU's activations, compared with float64."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DEVICE, INTERPRETED, Random, gpu_kernels

from ssmrank.kernels.activations import gpu

pytestmark = gpu_kernels

HALF_TOLERANCE = 2**-7 if INTERPRETED else 2**-8  # the interpreter cuts bfloat16 off

FUNCTIONS = [(gpu.silu, torch.nn.functional.silu), (gpu.gelu, torch.nn.functional.gelu)]


@pytest.mark.parametrize(("function", "reference"), FUNCTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, HALF_TOLERANCE)])
def test_values_are_those_of_float64(function, reference, dtype, tolerance):
    x = torch.cat([6 * Random(1)(5000), torch.tensor([0.0, -0.0, 1e-30, 90.0, -90.0, 3e38, -3e38])]).to(dtype)
    got, expected = function(x.to(DEVICE)).cpu(), reference(x.double())
    assert got.dtype == dtype and got.isfinite().all()
    assert ((got.double() - expected).abs() <= tolerance * x.double().abs() + 1e-30).all()
    assert function(torch.tensor([float("nan")], dtype=dtype, device=DEVICE)).isnan().all()


@pytest.mark.parametrize(("function", "_"), FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_values_bits_depend_on_the_value_alone(function, _, dtype):
    x = (3 * Random(3)(9, 1100)).to(DEVICE, dtype)
    whole = function(x)
    assert torch.equal(function(x[:, 3:1060]), whole[:, 3:1060])
    assert torch.equal(function(x[2:5]), whole[2:5])
    assert torch.equal(torch.stack([function(row) for row in x]), whole)
    assert torch.equal(function(x[:0]), whole[:0])
