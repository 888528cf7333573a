from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_checks import Random, assert_near

from ssmrank.kernels import dispatch, products
from ssmrank.kernels.products import FastProducts, FixedProducts

AS_MKL = pytest.mark.skipif(not dispatch.library_is_slow(), reason="the library adds in the order of another processor")


@pytest.fixture(autouse=True)
def threads():
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 1), (16, 70), (96, 130), (33, 64), (193, 33), (500, 70)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 5e-3)])
def test_products_are_those_of_float64(inputs, outputs, dtype, tolerance):
    random = Random(outputs)
    x, weight, bias = (random(*shape).to(dtype) for shape in ((2, 150, inputs), (outputs, inputs), (outputs,)))
    expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    assert_near(FixedProducts().linear(x, weight, bias), expected, tolerance)


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 1), (48, 70), (256, 300), (400, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rows_bits_depend_on_the_row_alone(inputs, outputs, dtype):
    random, products = Random(inputs), FixedProducts()
    bias = random(outputs).to(dtype)
    x, weight = random(600, inputs).to(dtype), random(outputs, inputs).to(dtype)
    torch.set_num_threads(1)
    expected = torch.cat([products.linear(row, weight, bias) for row in x.split(1)])
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        for rows in (1, 2, 3, 7, 64, 65, 257, 600):
            assert torch.equal(products.linear(x[:rows], weight, bias), expected[:rows])
        order = torch.from_numpy(np.random.default_rng(0).permutation(600))
        assert torch.equal(products.linear(x[order], weight, bias), expected[order])


def test_a_strided_input_and_a_part_of_a_weight():
    random, products = Random(1), FixedProducts()
    x, weight = random(20, 64).float(), random(80, 32).float()
    whole = products.linear(x[:, :32].contiguous(), weight)
    assert torch.equal(products.linear(x[:, :32], weight[16:]), whole[:, 16:])
    assert torch.equal(products.linear(x[:, :32], weight), whole)
    assert products.linear(x[:0, :32], weight).shape == (0, 80)


@AS_MKL
@pytest.mark.parametrize("inputs", [16, 192, 193, 194, 256, 383, 384, 386, 512, 700, 1024])
@pytest.mark.parametrize(("rows", "outputs"), [(8, 16), (61, 70), (300, 48), (5, 64), (300, 3)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_fast_products_have_the_bits_of_the_library(inputs, rows, outputs, has_bias):
    random = Random(inputs + rows)
    x, weight = random(2, rows, inputs).float()[1], torch.nn.Parameter(random(outputs, inputs).float())
    bias = random(outputs).float() if has_bias else None
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        with torch.inference_mode():
            expected = torch.nn.functional.linear(x, weight, bias)
            assert torch.equal(FastProducts().linear(x, weight, bias), expected)


@pytest.fixture
def layouts(monkeypatch):
    """The weights whose layout was made, on a CPU whose library is slow."""
    from ssmrank.kernels.products import cpu

    made, panels_of = [], cpu.panels_of
    monkeypatch.setattr(dispatch, "library_is_slow", lambda: True)
    monkeypatch.setattr(cpu, "panels_of", lambda weight: made.append(weight.data_ptr()) or panels_of(weight))
    return made


def test_the_layout_of_a_parameter_and_of_its_parts_is_made_once_and_again_after_a_change(layouts):
    random, own = Random(2), FastProducts()
    x, weight = random(20, 32).float(), torch.nn.Parameter(random(80, 32).float())

    def check():
        for part in (weight, weight[16:], weight, weight[16:]):
            assert_near(own.linear(x, part), x.double() @ part.double().T, 2e-6)

    with torch.inference_mode():
        check()
        assert len(layouts) == 2
    with torch.no_grad():
        weight.mul_(2.0)
        check()
        assert len(layouts) == 4


def test_only_some_layouts_are_kept(layouts, monkeypatch):
    monkeypatch.setattr(products, "KEPT", 4 * 2 * 64 * 32)
    random, own = Random(3), FastProducts()
    x = random(300, 32).float()
    weights = [torch.nn.Parameter(random(64, 32).float()) for _ in range(4)]
    with torch.inference_mode():
        for weight in (*weights, *weights, *(weight * 1.0 for weight in weights)):
            expected = x.double() @ weight.double().T
            assert_near(own.linear(x, weight), expected, 2e-6)
            count = len(layouts)
            assert_near(own.linear(x[:9], weight), expected[:9], 2e-6)
            assert len(layouts) == count  # too few rows to make one for them
    # Two are kept, two others are made in each of two rounds, and the weights of a moment are made each time.
    assert len(layouts) == 2 + 2 * 2 + 4


def test_the_library_multiplies_few_rows_other_dtypes_and_where_it_is_not_slow(layouts, monkeypatch):
    random, own = Random(4), FastProducts()
    x, weight = random(40, 32).float(), torch.nn.Parameter(random(80, 32).float())
    with torch.inference_mode():
        own.linear(x[:7], weight)
        own.linear(x, weight[:15])
        assert own.linear(x, weight[0]).shape == (40,)
        own.linear(x.double(), weight.double())
        own.linear(x.bfloat16(), weight.bfloat16())
        monkeypatch.setattr(dispatch, "library_is_slow", lambda: False)
        own.linear(x, weight)
    assert not layouts
