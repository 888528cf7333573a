"""Kernels on sequences that continue others, against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import Random, cu_seqlens

from ssmrank.kernels import reference
from ssmrank.kernels.causal_conv import packed_causal_conv1d
from ssmrank.kernels.selective_scan import packed_selective_scan
from ssmrank.kernels.ssd import packed_ssd

# Short sequences only (the loops for suffixes), long ones and such without a state among them, and none at all.
CASES = [
    ([3, 5, 17, 1, 30, 7, 0, 9], [2, 2, 2, 0, 0, 1, 1, 2]),
    ([3, 5, 170, 1, 30, 7, 0, 9], [2, 2, -1, 0, 0, 1, -1, 2]),
    ([200, 70], [1, 1]),
    ([9] * 40, [1] * 40),
    ([4, 6], [-1, -1]),
]


def chosen(states, index):
    rows = torch.tensor(index)
    return torch.where((rows >= 0).view(-1, *[1] * (states.ndim - 1)), states[rows.clamp(min=0)], 0.0)


def close(got, expected, tolerance=2e-6):
    assert got.shape == expected.shape
    assert (got.double() - expected).abs().max() <= tolerance * expected.abs().max()


def single(tensors):
    return {name: tensor.float() for name, tensor in tensors.items()}


@pytest.mark.parametrize(("lengths", "index"), CASES)
@pytest.mark.parametrize("shape", [(3, 64, 128, 1), (4, 16, 32, 2), (3, 5, 7, 1)])
@pytest.mark.parametrize("final", [False, True])
def test_ssd(lengths, index, shape, final):
    heads, width, states, groups = shape
    random, tokens, starts = Random(1), sum(lengths), cu_seqlens(lengths)
    inputs = {
        "x": random(tokens, heads, width),
        "dt": random(tokens, heads),
        "A": -torch.exp(random(heads)),
        "B": random(tokens, groups, states) / states**0.5,
        "C": random(tokens, groups, states) / states**0.5,
        "D": random(heads),
        "dt_bias": random(heads) - 2,
    }
    initial = random(3, heads, width, states)
    expected = reference.ssd(**inputs, cu_seqlens=starts, initial_states=chosen(initial, index))
    out = torch.full((tokens, heads, width), float("nan"))
    got = packed_ssd(
        **single(inputs),
        cu_seqlens=starts,
        chunk_size=64,
        initial_states=initial.float(),
        initial_index=torch.tensor(index),
        out=out,
        return_final_states=final,
    )
    for mine, wanted in zip(got if final else (got,), expected, strict=False):
        close(mine, wanted)
    close(out, expected[0])


@pytest.mark.parametrize(("lengths", "index"), CASES)
@pytest.mark.parametrize("channels", [40, 64])
def test_selective_scan(lengths, index, channels):
    random, tokens, starts = Random(2), sum(lengths), cu_seqlens(lengths)
    inputs = {
        "u": random(tokens, channels),
        "delta": random(tokens, channels),
        "A": -torch.exp(random(channels, 16)),
        "B": random(tokens, 16),
        "C": random(tokens, 16),
        "D": random(channels),
        "z": random(tokens, channels),
        "delta_bias": random(channels) - 2,
    }
    initial = random(3, channels, 16)
    expected = reference.selective_scan(**inputs, cu_seqlens=starts, initial_states=chosen(initial, index))
    out = torch.full((tokens, channels), float("nan"))
    options = {"initial_states": initial.float(), "initial_index": torch.tensor(index), "out": out}
    got = packed_selective_scan(**single(inputs), cu_seqlens=starts, return_final_states=True, **options)
    for mine, wanted in zip(got, expected, strict=True):
        close(mine, wanted)
    close(out, expected[0])


def test_gradients_through_the_index():
    lengths, index = [3, 4, 2], [1, -1, 1]
    random = Random(3)
    states = random(2, 2, 16, 16).requires_grad_()
    inputs = [random(9, 2, 16), random(9, 2), -torch.exp(random(2)), random(9, 1, 16), random(9, 1, 16)]
    options = {"cu_seqlens": cu_seqlens(lengths), "chunk_size": 64}
    packed_ssd(
        *inputs, None, None, **options, initial_states=states, initial_index=torch.tensor(index)
    ).sum().backward()
    through_index, states.grad = states.grad, None
    reference.ssd(*inputs, None, None, cu_seqlens(lengths), chosen(states, index))[0].sum().backward()
    close(through_index, states.grad)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [16, 20])
def test_causal_conv_goes_on_behind_other_sequences(width, dtype, channels):
    # The third sequence continues the first, the fourth the second, which is shorter than the filter, the fifth the
    # third.
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
        expected = reference.causal_conv1d(whole, weight, bias, cu_seqlens([len(whole)]), "silu")[len(path) :]
        close(got[own], expected)
