from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_checks import Random, assert_near

from ssmrank.kernels.products import FixedProducts


@pytest.fixture(autouse=True)
def threads():
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 1), (16, 70), (96, 130), (33, 64)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 5e-3)])
def test_products_are_those_of_float64(inputs, outputs, dtype, tolerance):
    random = Random(outputs)
    x, weight, bias = (random(*shape).to(dtype) for shape in ((2, 150, inputs), (outputs, inputs), (outputs,)))
    expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    assert_near(FixedProducts().linear(x, weight, bias), expected, tolerance)


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 1), (48, 70), (256, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rows_bits_depend_on_the_row_alone(inputs, outputs, dtype):
    random, products = Random(inputs), FixedProducts()
    x, weight = random(600, inputs).to(dtype), random(outputs, inputs).to(dtype)
    torch.set_num_threads(1)
    expected = torch.cat([products.linear(row, weight) for row in x.split(1)])
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        for rows in (1, 2, 3, 7, 64, 65, 257, 600):
            assert torch.equal(products.linear(x[:rows], weight), expected[:rows])
        order = torch.from_numpy(np.random.default_rng(0).permutation(600))
        assert torch.equal(products.linear(x[order], weight), expected[order])


def test_a_strided_input_and_a_part_of_a_weight():
    random, products = Random(1), FixedProducts()
    x, weight = random(20, 64).float(), random(80, 32).float()
    whole = products.linear(x[:, :32].contiguous(), weight)
    assert torch.equal(products.linear(x[:, :32], weight[16:]), whole[:, 16:])
    assert torch.equal(products.linear(x[:, :32], weight), whole)
    assert products.linear(x[:0, :32], weight).shape == (0, 80)
