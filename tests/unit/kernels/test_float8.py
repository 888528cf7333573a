"""Rows in 8-bit floats and their products, on the CPU."""

from __future__ import annotations

import torch
from kernel_checks import Random

from ssmrank.kernels.float8 import Rows, product, quantized
from ssmrank.kernels.norms import add_rms_norm_float8, gated_rms_norm_float8, reference


def test_a_hand_worked_row() -> None:
    # Divided by 7 / 448 = 1/64, the row is 448, -64.64, 3.2. The step of e4m3 is 8 between 64 and 128, and a quarter
    # between 2 and 4.
    found = quantized(torch.tensor([[7.0, -1.01, 0.05]]))
    assert found.scales.tolist() == [[1 / 64]]
    assert found.values.float().tolist() == [[448.0, -64.0, 3.25]]


def test_a_row_of_zeros_stays_zeros_and_what_is_no_number_stays_none() -> None:
    x = torch.tensor([[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
    found = quantized(x).wide()
    assert found[0].tolist() == [0.0, 0.0]
    assert found[1:].isnan().any(1).all()


def test_product_is_that_of_the_rounded_factors() -> None:
    x, weight, bias = (quantized(Random(0)(7, 32)), quantized(Random(1)(16, 32)), Random(2)(16))
    exact = (x.values.double() * x.scales) @ (weight.values.double() * weight.scales).T
    torch.testing.assert_close(product(x, weight).double(), exact, rtol=2**-8, atol=1e-4)
    torch.testing.assert_close(product(x, weight, bias).double(), exact + bias, rtol=2**-8, atol=1e-4)


def test_error_of_a_product_of_normally_distributed_factors() -> None:
    x, weight = Random(0)(200, 1024), Random(1)(64, 1024)
    exact = x @ weight.T
    error = (product(quantized(x), quantized(weight)).double() - exact).norm() / exact.norm()
    assert 0.035 < error < 0.040


def test_norms_are_rounded_from_single_precision() -> None:
    residual, update, weight = Random(0)(9, 48).float(), Random(1)(9, 48).bfloat16(), Random(2)(48).float()
    normed, total = add_rms_norm_float8(residual, update, weight, 1e-5)
    assert torch.equal(total, residual + update)
    _same(normed, quantized(reference.norm(total, None, weight, 1e-5, 48)))
    for size in (48, 24):
        normed = gated_rms_norm_float8(update, update, weight, 1e-5, size)
        _same(normed, quantized(reference.norm(update.float(), update.float(), weight, 1e-5, size)))


def _same(found: Rows, expected: Rows) -> None:
    """Asserts equality, except for values halfway between two numbers, where float32's last bit decides."""
    torch.testing.assert_close(found.scales, expected.scales, rtol=1e-5, atol=0)
    different = found.values.float() != expected.values.float()
    assert different.float().mean() < 0.01
    torch.testing.assert_close(found.wide(), expected.wide(), rtol=0.13, atol=1e-6)
