"""Kernels on segments that continue others, compared with the float64 reference."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import Random, assert_near, chosen, cu_seqlens, scan_inputs, ssd_inputs

from ssmrank.kernels.causal_conv import packed_causal_conv1d
from ssmrank.kernels.causal_conv import reference as conv_reference
from ssmrank.kernels.selective_scan import ScanInputs, packed_selective_scan
from ssmrank.kernels.selective_scan import reference as scan_reference
from ssmrank.kernels.ssd import SSDInputs, packed_ssd
from ssmrank.kernels.ssd import reference as ssd_reference

# Only short segments (the loops for suffixes), with long ones and ones without a state among them, and none at all.
CASES = [
    ([3, 5, 17, 1, 30, 7, 0, 9], [2, 2, 2, 0, 0, 1, 1, 2]),
    ([3, 5, 90, 1, 7, 0, 9], [2, 2, -1, 0, 1, -1, 2]),
    ([100, 70], [1, 1]),
    ([9] * 40, [1] * 40),
    ([4, 6], [-1, -1]),
]


def without_states(inputs):
    return {name: tensor for name, tensor in inputs.items() if name != "initial_states"}


def single(tensors):
    return {name: tensor.float() for name, tensor in tensors.items()}


@pytest.mark.parametrize(("lengths", "index"), CASES)
@pytest.mark.parametrize("shape", [(3, 64, 128, 1), (4, 16, 32, 2), (3, 5, 7, 1)])
@pytest.mark.parametrize("final", [False, True])
def test_ssd(lengths, index, shape, final):
    heads, width, states, _ = shape
    tokens, starts, initial = sum(lengths), cu_seqlens(lengths), Random(1)(3, heads, width, states)
    inputs = without_states(ssd_inputs(lengths, *shape))
    expected = ssd_reference.ssd(SSDInputs(**inputs), starts, chosen(initial, index))
    out = torch.full((tokens, heads, width), float("nan"))
    got = packed_ssd(
        SSDInputs(**single(inputs)),
        starts,
        chunk_size=64,
        initial_states=initial.float(),
        initial_index=torch.tensor(index),
        out=out,
        return_final_states=final,
    )
    for mine, wanted in zip(got if final else (got,), expected, strict=False):
        assert_near(mine, wanted, 2e-6)
    assert_near(out, expected[0], 2e-6)


@pytest.mark.parametrize(("lengths", "index"), CASES)
@pytest.mark.parametrize("channels", [40, 64])
def test_selective_scan(lengths, index, channels):
    tokens, starts, initial = sum(lengths), cu_seqlens(lengths), Random(2)(3, channels, 16)
    inputs = without_states(scan_inputs(lengths, channels, 16))
    expected = scan_reference.selective_scan(ScanInputs(**inputs), starts, chosen(initial, index))
    out = torch.full((tokens, channels), float("nan"))
    options = {"initial_states": initial.float(), "initial_index": torch.tensor(index), "out": out}
    got = packed_selective_scan(ScanInputs(**single(inputs)), starts, return_final_states=True, **options)
    for mine, wanted in zip(got, expected, strict=True):
        assert_near(mine, wanted, 2e-6)
    assert_near(out, expected[0], 2e-6)


def test_gradients_through_the_index():
    lengths, index = [3, 4, 2], [1, -1, 1]
    random = Random(3)
    states = random(2, 2, 16, 16).requires_grad_()
    inputs = SSDInputs(random(9, 2, 16), random(9, 2), -torch.exp(random(2)), random(9, 1, 16), random(9, 1, 16))
    options = {"cu_seqlens": cu_seqlens(lengths), "chunk_size": 64}
    packed_ssd(inputs, **options, initial_states=states, initial_index=torch.tensor(index)).sum().backward()
    through_index, states.grad = states.grad, None
    ssd_reference.ssd(inputs, cu_seqlens(lengths), chosen(states, index))[0].sum().backward()
    assert_near(through_index, states.grad, 2e-6)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [16, 20])
def test_causal_conv_goes_on_behind_other_sequences(width, dtype, channels):
    # The third sequence continues the first, the fourth continues the second, which is shorter than the filter, and
    # the fifth continues the third.
    random = Random(4)
    x, weight, bias = random(14, channels), random(channels, width), random(channels)
    lengths, paths = [5, 1, 3, 4, 1], [[], [], [0, 1, 2, 3, 4], [5], [0, 1, 2, 3, 4, 6, 7, 8]]
    starts = cu_seqlens(lengths)
    history = torch.tensor([(path[::-1] + [-1] * width)[: width - 1] for path in paths])
    got = packed_causal_conv1d(
        x.to(dtype), weight.to(dtype), bias.to(dtype), starts, activation="silu", history=history
    )
    for sequence, path in enumerate(paths):
        own = list(range(starts[sequence], starts[sequence + 1]))
        whole = x[path + own]
        expected = conv_reference.causal_conv1d(whole, weight, bias, cu_seqlens([len(whole)]), "silu")[len(path) :]
        assert_near(got[own], expected, 2e-6)
