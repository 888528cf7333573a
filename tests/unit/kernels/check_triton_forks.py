"""Compares the Triton kernels of sequences that continue others with float64, on the device of the command line."""

from __future__ import annotations

import sys

import torch
from kernel_checks import Random, cu_seqlens

from ssmrank.kernels import reference
from ssmrank.kernels.causal_conv import gpu_forks as triton_conv_forks
from ssmrank.kernels.selective_scan import gpu as triton_selective_scan
from ssmrank.kernels.ssd import gpu as triton_ssd

torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True, warn_only=True)


def chosen(states, index):
    rows = torch.tensor(index)
    return torch.where((rows >= 0).view(-1, *[1] * (states.ndim - 1)), states[rows.clamp(min=0)], 0.0)


def close(got, expected, tolerance, what):
    error = float((got.double().cpu() - expected).abs().max() / expected.abs().max())
    assert error <= tolerance, f"{what}: {error:.2e}"


def ssd(device, lengths, index, shape, *, final, longest=None, dtype=torch.float32, tolerance=3e-6):
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
    rounded = {name: tensor.to(dtype).double() if name in "xBC" else tensor for name, tensor in inputs.items()}
    initial = random(3, heads, width, states)
    begin = None if index is None else chosen(initial, index)
    expected = reference.ssd(**rounded, cu_seqlens=starts, initial_states=begin)
    moved = {name: tensor.to(device, dtype if name in "xBC" else torch.float32) for name, tensor in rounded.items()}
    y, last = triton_ssd.ssd(
        **moved,
        cu_seqlens=starts.to(device),
        initial_states=None if index is None else initial.float().to(device),
        initial_index=None if index is None else torch.tensor(index, device=device),
        need_final=final,
        longest=longest,
    )
    what = f"ssd {shape} {dtype} final {final} longest {longest}"
    close(y, expected[0], tolerance, what)
    if final:
        close(last, expected[1], tolerance, what)


def scan(device, lengths, index, channels, states):
    random, tokens, starts = Random(2), sum(lengths), cu_seqlens(lengths)
    inputs = {
        "u": random(tokens, channels),
        "delta": random(tokens, channels),
        "A": -torch.exp(random(channels, states)),
        "B": random(tokens, states),
        "C": random(tokens, states),
        "D": random(channels),
        "z": random(tokens, channels),
        "delta_bias": random(channels) - 2,
    }
    initial = random(3, channels, states)
    expected = reference.selective_scan(**inputs, cu_seqlens=starts, initial_states=chosen(initial, index))
    moved = {name: tensor.to(device, torch.float32) for name, tensor in inputs.items()}
    y, last = triton_selective_scan.selective_scan(
        **moved,
        cu_seqlens=starts,
        initial_states=initial.float().to(device),
        initial_index=torch.tensor(index, device=device),
        need_final=True,
    )
    close(y, expected[0], 3e-6, "scan")
    close(last, expected[1], 3e-6, "scan's state")


def conv(device, width, channels):
    random = Random(4)
    x, weight, bias = random(14, channels), random(channels, width), random(channels)
    lengths, paths = [5, 1, 3, 4, 1], [[], [], [0, 1, 2, 3, 4], [5], [0, 1, 2, 3, 4, 6, 7, 8]]
    starts = cu_seqlens(lengths)
    history = torch.tensor([(path[::-1] + [-1] * width)[: width - 1] for path in paths], device=device)
    moved = (tensor.to(device, torch.float32) for tensor in (x, weight, bias))
    got = triton_conv_forks.causal_conv1d(*moved, starts.to(device), True, history).cpu()
    for sequence, path in enumerate(paths):
        own = list(range(starts[sequence], starts[sequence + 1]))
        whole = x[path + own]
        expected = reference.causal_conv1d(whole, weight, bias, cu_seqlens([len(whole)]), "silu")[len(path) :]
        close(got[own], expected, 1e-6, f"conv {width} {channels}")


def conv_in_pieces(device):
    """A sequence cut in three, the parts laid apart, each with the tokens before its start named."""
    random = Random(8)
    x, weight, bias = (random(*shape).float() for shape in ((20, 8), (8, 4), (8,)))
    expected = reference.causal_conv1d(x, weight, bias, cu_seqlens([20]), "silu")
    pieces = [slice(10, 20), slice(0, 2), slice(2, 10)]
    places = torch.cat([torch.arange(20)[piece] for piece in pieces])
    where = torch.argsort(places)
    before = [(9, 8, 7), (-1, -1, -1), (1, 0, -1)]
    history = torch.tensor([[where[t].item() if t >= 0 else -1 for t in row] for row in before])
    y = triton_conv_forks.causal_conv1d(
        x[places].to(device), weight.to(device), bias.to(device), cu_seqlens([10, 2, 8]), True, history.to(device)
    )
    torch.testing.assert_close(y.cpu()[where], expected, rtol=1e-5, atol=1e-5)


def main(device: str) -> None:
    for shape in ((2, 64, 128, 1), (4, 16, 32, 2)):
        ssd(device, [1, 70, 64, 0, 130, 3], [2, 2, -1, 0, 1, -1], shape, final=True)
        ssd(device, [5, 100], None, shape, final=True)
        # Suffixes: tiles that end before a sequence, a tile full to the last token, a row without sequences.
        ssd(device, [9, 20, 30, 17, 64, 1, 2], [0, 0, 0, 0, 2, 2, 2], shape, final=False, longest=64)
        ssd(device, [3, 4], [1, 1], shape, final=False, longest=4)
    if device == "cuda":
        ssd(device, [9, 20, 30, 17, 64] * 40, [0] * 100 + [1] * 50 + [2] * 50, (8, 64, 128, 1), final=False, longest=64)
        for lengths in ([300, 512, 70], [2048]):
            index = [1, -1, 0][: len(lengths)]
            ssd(device, lengths, index, (8, 64, 128, 1), final=True, tolerance=2e-5)
            ssd(device, lengths, index, (8, 64, 128, 1), final=True, dtype=torch.bfloat16, tolerance=2e-2)
        ssd(
            device, [9, 20, 30, 17] * 10, [0] * 20 + [2] * 20, (8, 64, 128, 1), final=False, longest=30,
            dtype=torch.bfloat16, tolerance=2e-2,
        )  # fmt: skip
    scan(device, [3, 40, 1, 0, 5], [2, -1, 0, 1, 2], 40, 16)
    for width in (2, 4):
        conv(device, width, 16)
        conv(device, width, 200)
    conv_in_pieces(device)


if __name__ == "__main__":
    main(sys.argv[1])
