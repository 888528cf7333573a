from __future__ import annotations

import pytest
import torch
from kernel_checks import Random

from ssmrank.kernels.activations import gelu, silu

FUNCTIONS = [(silu, torch.nn.functional.silu), (gelu, torch.nn.functional.gelu)]


@pytest.mark.parametrize(("function", "reference"), FUNCTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_values_are_those_of_float64(function, reference, dtype, tolerance):
    x = torch.cat([6 * Random(1)(5000), torch.tensor([0.0, -0.0, 1e-30, 90.0, -90.0, 3e38, -3e38])]).to(dtype)
    got, expected = function(x), reference(x.double())
    assert got.dtype == dtype and got.isfinite().all()
    assert ((got.double() - expected).abs() <= tolerance * x.double().abs() + 1e-30).all()
    assert function(torch.tensor([float("nan")], dtype=dtype)).isnan().all()


@pytest.mark.parametrize(("function", "reference"), FUNCTIONS)
def test_rounding_to_bfloat16_is_torchs(function, reference):
    x = (4 * Random(2)(40000)).bfloat16()
    assert torch.equal(function(x), function(x.float()).bfloat16())


@pytest.mark.parametrize(("function", "reference"), FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_values_bits_depend_on_the_value_alone(function, reference, dtype):
    x = (3 * Random(3)(300, 70)).to(dtype)
    whole = function(x)
    assert torch.equal(function(x[:, 3:40]), whole[:, 3:40])
    assert torch.equal(torch.stack([function(row) for row in x]), whole)
    assert torch.equal(function(x[:0]), whole[:0])
