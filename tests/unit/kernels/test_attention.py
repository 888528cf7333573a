from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from kernel_checks import Random, assert_near

from ssmrank.kernels.attention import attention_in_order
from ssmrank.kernels.attention.ranges import key_ranges
from ssmrank.kernels.attention.reference import attention

LENGTHS = [5, 70, 1, 130, 64]
SPANS = list(pairwise([0, *np.cumsum(LENGTHS).tolist()]))
WHOLE = key_ranges(SPANS, [[span] for span in SPANS])


def inputs(heads=4, shared=1, size=16):
    random = Random(size)
    return [random(sum(LENGTHS), count, size).float() for count in (heads, heads // shared, heads // shared)]


@pytest.mark.parametrize(("heads", "shared", "size"), [(4, 1, 64), (4, 2, 40), (6, 3, 8)])
@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 5), (False, None), (False, 1), (False, 7)])
def test_attention_is_that_of_float64(heads, shared, size, causal, window):
    q, k, v = inputs(heads, shared, size)
    expected = attention(q.double(), k.double(), v.double(), WHOLE, causal, 0.3, window or 0)
    got = attention_in_order(q, k, v, WHOLE, causal=causal, scaling=0.3, window=window)
    assert_near(got, expected, 2e-6)


def test_the_reference_is_torchs_own_attention():
    q, k, v = (x.double() for x in inputs(4, 2))
    got = attention(q, k, v, WHOLE, True, 16**-0.5, 0)
    for first, end in SPANS:
        parts = [x[None, first:end].transpose(1, 2) for x in (q, k, v)]
        expected = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
        assert torch.allclose(got[first:end], expected[0].transpose(0, 1))


@pytest.mark.parametrize("cut", [1, 3, 17, 63])
@pytest.mark.parametrize("window", [None, 2, 50])
def test_bits_do_not_depend_on_where_sequences_are_divided(cut, window):
    q, k, v = inputs()
    queries, keys = [], []
    for first, end in SPANS:
        parts = [first, *range(first + cut, end, 40), end]
        queries += list(pairwise(parts))
        keys += [list(pairwise(parts[: place + 2])) for place in range(len(parts) - 1)]
    expected = attention_in_order(q, k, v, WHOLE, causal=True, window=window)
    divided = key_ranges(queries, keys)
    assert torch.equal(attention_in_order(q, k, v, divided, causal=True, window=window), expected)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_bits_do_not_depend_on_other_sequences_and_threads(number):
    q, k, v = inputs()
    expected, threads = attention_in_order(q, k, v, WHOLE, causal=False), torch.get_num_threads()
    torch.set_num_threads(number)
    for first, end in SPANS:
        alone = [x[first:end].clone() for x in (q, k, v)]
        got = attention_in_order(*alone, key_ranges([(0, end - first)], [[(0, end - first)]]), causal=False)
        assert torch.equal(got, expected[first:end])
    torch.set_num_threads(threads)


def test_a_score_far_above_the_others_leaves_their_weights_at_zero():
    q, k, v = inputs(1, 1)
    k[3] = 100 * q[0]
    got = attention_in_order(q, k, v, WHOLE, causal=False)
    assert torch.allclose(got[0], v[3])
