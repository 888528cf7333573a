"""GPU kernels of Mamba-1's scan, compared with float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import (
    DEVICE,
    Random,
    assert_close,
    cu_seqlens,
    gpu_kernels,
    on_device,
    on_gpu,
    scan_inputs,
    values_and_gradients,
)
from torch import Tensor

from ssmrank.kernels.selective_scan import ScanInputs, gpu, reference

pytestmark = gpu_kernels

MIXED = [1, 0, 16, 17]
OPTIONAL = ("D", "z", "delta_bias")


def check(lengths: list[int], inputs: dict[str, Tensor | None], *, final: bool, tolerance: float = 3e-6) -> None:
    starts = cu_seqlens(lengths)

    def kernel(**tensors: Any) -> Any:
        moved = on_device(tensors)
        initial = moved.pop("initial_states")
        y, states = gpu.selective_scan(ScanInputs(**moved), starts, initial, need_final=final)
        return (y.cpu(), states.cpu()) if states is not None else y.cpu()

    def plain(initial_states: Tensor | None, **tensors: Any) -> Any:
        outputs = reference.selective_scan(ScanInputs(**tensors), starts, initial_states)
        return outputs if final else outputs[0]

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, tolerance)


@pytest.mark.parametrize(
    ("lengths", "channels", "states", "tolerance"),
    [(MIXED, 40, 4, 3e-6), on_gpu([300, 1, 257, 64], 256, 16, 1e-5)],
)
def test_values_and_gradients(lengths: list[int], channels: int, states: int, tolerance: float) -> None:
    check(lengths, scan_inputs(lengths, channels, states, initial=True), final=True, tolerance=tolerance)


def test_without_optional_inputs_and_states() -> None:
    check([3, 0, 20], scan_inputs([3, 0, 20], 16, 5) | dict.fromkeys(OPTIONAL), final=False)


@pytest.mark.parametrize(("block", "tile", "chunk", "channels"), [(32, 16, 32, 40), (64, 8, 8, 64), (64, 4, 16, 88)])
def test_other_sizes_of_blocks_tiles_and_chunks(
    block: int, tile: int, chunk: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings in (gpu.FORWARD, gpu.BACKWARD):
        monkeypatch.setitem(settings, "BLOCK", block)
        monkeypatch.setitem(settings, "TILE", tile)
    monkeypatch.setattr(gpu, "CHUNK", chunk)
    check([17, 0, 3], scan_inputs([17, 0, 3], channels, 2, initial=True), final=True)


@pytest.mark.parametrize(("channels", "states"), [(5, 2), on_gpu(256, 16)])
def test_segments(channels: int, states: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments end within a sequence, at its end, and are shorter than usual."""
    lengths = [0, 65]
    monkeypatch.setattr(gpu, "SEGMENT", 16)
    monkeypatch.setattr(gpu, "ENOUGH", 1 << 30)
    assert gpu._segments(cu_seqlens(lengths).to(DEVICE), sum(lengths), channels) is not None
    check(lengths, scan_inputs(lengths, channels, states, initial=True), final=True)
    plain = scan_inputs(lengths, channels, states) | dict.fromkeys(OPTIONAL)
    check([33], scan_inputs([33], channels, states) | dict.fromkeys(OPTIONAL), final=False)
    moved = {name: None if tensor is None else tensor.to(DEVICE).float() for name, tensor in plain.items()}
    del moved["initial_states"]
    tensors: Any = moved
    initial = Random(3)(2, channels, states).to(DEVICE).float()
    index = torch.tensor([-1 if length == 0 else number % 2 for number, length in enumerate(lengths)], device=DEVICE)
    results = []
    for segment in (16, 0):
        monkeypatch.setattr(gpu, "SEGMENT", segment)
        with torch.no_grad():
            results.append(
                gpu.selective_scan(ScanInputs(**tensors), cu_seqlens(lengths), initial, index, need_final=True)
            )
    for segmented, whole in zip(*results, strict=True):
        torch.testing.assert_close(segmented, whole, rtol=1e-5, atol=1e-5)


def test_steps_that_forget_everything() -> None:
    extreme: Any = scan_inputs([14, 3], 32, 4)
    extreme["delta"] = extreme["delta"] * 30
    check([14, 3], extreme, final=True, tolerance=3e-5)


def test_slices_of_a_projection_in_bfloat16() -> None:
    inputs: Any = {k: v.bfloat16() for k, v in scan_inputs([9, 3], 32, 4).items() if v is not None}
    joint = torch.cat([inputs["u"], inputs["z"]], dim=1).to(DEVICE).requires_grad_()
    moved = on_device(inputs)
    moved["u"], moved["z"] = joint.chunk(2, dim=1)
    y, _ = gpu.selective_scan(ScanInputs(**moved), cu_seqlens([9, 3]), None, need_final=False)
    assert y.dtype == torch.bfloat16
    wide = {name: tensor.double() for name, tensor in inputs.items()}
    expected, _ = reference.selective_scan(ScanInputs(**wide), cu_seqlens([9, 3]))
    torch.testing.assert_close(y.detach().cpu().double(), expected, rtol=1e-2, atol=1e-2)
    y.sum().backward()
    assert joint.grad is not None and joint.grad.dtype == torch.bfloat16
    assert joint.grad.isfinite().all()
