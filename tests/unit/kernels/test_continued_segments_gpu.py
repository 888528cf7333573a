"""GPU kernels on segments that continue others, compared with float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import (
    DEVICE,
    Random,
    assert_near,
    chosen,
    cu_seqlens,
    gpu_kernels,
    interpreted,
    narrowed,
    on_gpu,
    scan_inputs,
    ssd_inputs,
)

from ssmrank.kernels.causal_conv import gpu_continued
from ssmrank.kernels.causal_conv import reference as conv_reference
from ssmrank.kernels.selective_scan import ScanInputs
from ssmrank.kernels.selective_scan import gpu as scan_kernels
from ssmrank.kernels.selective_scan import reference as scan_reference
from ssmrank.kernels.ssd import SSDInputs
from ssmrank.kernels.ssd import gpu as ssd_kernels
from ssmrank.kernels.ssd import reference as ssd_reference

pytestmark = gpu_kernels

FP32, BF16 = torch.float32, torch.bfloat16
SMALL, WIDE, MODEL = (4, 16, 32, 2), (2, 64, 128, 1), (8, 64, 128, 1)
STARTS = [1, 70, 64, 0, 130, 3], [2, 2, -1, 0, 1, -1]
# Suffixes: tiles that end before a sequence, a tile full to the last token, a row without sequences.
SUFFIXES = [9, 20, 30, 17, 64, 1, 2], [0, 0, 0, 0, 2, 2, 2]
MANY = [9, 20, 30, 17, 64] * 40, [0] * 100 + [1] * 50 + [2] * 50
SOME = [9, 20, 30, 17] * 10, [0] * 20 + [2] * 20


@pytest.mark.parametrize(
    ("lengths", "index", "shape", "longest", "dtype", "tolerance"),
    [
        interpreted([1, 20, 16, 0, 33, 3], STARTS[1], SMALL, None, FP32, 3e-6),
        interpreted([5, 20], None, SMALL, None, FP32, 3e-6),
        (*SUFFIXES, SMALL, 64, FP32, 3e-6),
        ([3, 4], [1, 1], WIDE, 4, FP32, 3e-6),
        on_gpu(*STARTS, WIDE, None, FP32, 3e-6),
        on_gpu(*SUFFIXES, WIDE, 64, FP32, 3e-6),
        on_gpu(*MANY, MODEL, 64, FP32, 3e-6),
        on_gpu([300, 512, 70], [1, -1, 0], MODEL, None, FP32, 2e-5),
        on_gpu([300, 512, 70], [1, -1, 0], MODEL, None, BF16, 2e-2),
        on_gpu([2048], [1], MODEL, None, FP32, 2e-5),
        on_gpu([2048], [1], MODEL, None, BF16, 2e-2),
        on_gpu(*SOME, MODEL, 30, BF16, 2e-2),
    ],
)
def test_ssd(
    lengths: list[int],
    index: list[int] | None,
    shape: tuple[int, int, int, int],
    longest: int | None,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    starts, initial, final = cu_seqlens(lengths), Random(1)(3, *shape[:3]), longest is None
    inputs: Any = narrowed(ssd_inputs(lengths, *shape), "xBC", dtype)
    del inputs["initial_states"]
    begin = None if index is None else chosen(initial, index)
    expected = ssd_reference.ssd(SSDInputs(**inputs), starts, begin)
    moved = {name: tensor.to(DEVICE, dtype if name in "xBC" else FP32) for name, tensor in inputs.items()}
    y, last = ssd_kernels.ssd(
        SSDInputs(**moved),
        cu_seqlens=starts.to(DEVICE),
        initial_states=None if index is None else initial.float().to(DEVICE),
        initial_index=None if index is None else torch.tensor(index, device=DEVICE),
        need_final=final,
        longest=longest,
    )
    assert_near(y, expected[0], tolerance)
    if final:
        assert_near(last, expected[1], tolerance)


def test_selective_scan() -> None:
    lengths, index = [3, 20, 1, 0, 5], [2, -1, 0, 1, 2]
    starts, initial, inputs = cu_seqlens(lengths), Random(2)(3, 40, 4), scan_inputs(lengths, 40, 4)
    del inputs["initial_states"]
    tensors: Any = inputs
    expected = scan_reference.selective_scan(ScanInputs(**tensors), starts, chosen(initial, index))
    y, last = scan_kernels.selective_scan(
        ScanInputs(**{name: tensor.to(DEVICE, FP32) for name, tensor in tensors.items()}),
        starts,
        initial.float().to(DEVICE),
        torch.tensor(index, device=DEVICE),
        need_final=True,
    )
    assert_near(y, expected[0], 3e-6)
    assert_near(last, expected[1], 3e-6)


@pytest.mark.parametrize(("width", "channels"), [(2, 16), (4, 200)])
def test_causal_conv(width: int, channels: int) -> None:
    random = Random(4)
    x, weight, bias = random(14, channels), random(channels, width), random(channels)
    lengths, paths = [5, 1, 3, 4, 1], [[], [], [0, 1, 2, 3, 4], [5], [0, 1, 2, 3, 4, 6, 7, 8]]
    starts = cu_seqlens(lengths)
    history = torch.tensor([(path[::-1] + [-1] * width)[: width - 1] for path in paths], device=DEVICE)
    moved = (tensor.to(DEVICE, FP32) for tensor in (x, weight, bias))
    got = gpu_continued.causal_conv1d(*moved, starts.to(DEVICE), True, history).cpu()
    for sequence, path in enumerate(paths):
        own = list(range(starts[sequence], starts[sequence + 1]))
        whole = x[path + own]
        expected = conv_reference.causal_conv1d(whole, weight, bias, cu_seqlens([len(whole)]), "silu")
        assert_near(got[own], expected[len(path) :], 1e-6)


def test_causal_conv_of_a_sequence_in_pieces() -> None:
    """A sequence cut into three separate parts; each part names the tokens before its start."""
    random = Random(8)
    x, weight, bias = (random(*shape).float() for shape in ((20, 8), (8, 4), (8,)))
    expected = conv_reference.causal_conv1d(x, weight, bias, cu_seqlens([20]), "silu")
    pieces = [slice(10, 20), slice(0, 2), slice(2, 10)]
    places = torch.cat([torch.arange(20)[piece] for piece in pieces])
    where = torch.argsort(places)
    before = [(9, 8, 7), (-1, -1, -1), (1, 0, -1)]
    history = torch.tensor([[int(where[t]) if t >= 0 else -1 for t in row] for row in before])
    y = gpu_continued.causal_conv1d(
        x[places].to(DEVICE), weight.to(DEVICE), bias.to(DEVICE), cu_seqlens([10, 2, 8]), True, history.to(DEVICE)
    )
    torch.testing.assert_close(y.cpu()[where], expected, rtol=1e-5, atol=1e-5)
