"""Compares the Triton selective scan with the float64 reference on the device named on the command line.

Every buffer that the kernel is to fill is filled with NaN first, so that what it leaves out shows.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from kernel_checks import Random, assert_close, cu_seqlens, values_and_gradients
from torch import Tensor

from ssmrank.kernels import reference
from ssmrank.kernels.selective_scan import gpu as triton_selective_scan

torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True, warn_only=True)


def inputs_of(lengths: list[int], channels: int, states: int, initial: bool) -> dict[str, Tensor | None]:
    random = Random(channels)
    tokens = sum(lengths)
    return {
        "u": random(tokens, channels),
        "delta": random(tokens, channels),
        "A": -torch.exp(random(channels, states)),
        "B": random(tokens, states),
        "C": random(tokens, states),
        "D": random(channels),
        "z": random(tokens, channels),
        "delta_bias": random(channels) - 2,
        "initial_states": random(len(lengths), channels, states) if initial else None,
    }


def check(
    device: str, lengths: list[int], inputs: dict[str, Tensor | None], *, final: bool, tolerance: float = 3e-6
) -> None:
    starts = cu_seqlens(lengths)

    def kernel(**tensors: Any) -> Any:
        assert torch.empty(3).isnan().all()
        moved = {name: None if tensor is None else tensor.to(device) for name, tensor in tensors.items()}
        y, states = triton_selective_scan.selective_scan(**moved, cu_seqlens=starts, need_final=final)
        return (y.cpu(), states.cpu()) if final else y.cpu()

    def plain(**tensors: Any) -> Any:
        outputs = reference.selective_scan(**tensors, cu_seqlens=starts)
        return outputs if final else outputs[0]

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, tolerance)


def check_settings(device: str) -> None:
    """Sizes of blocks, tiles and chunks other than the usual ones."""
    module = triton_selective_scan
    usual = dict(module.FORWARD), dict(module.BACKWARD), module.CHUNK
    lengths = [17, 0, 9]
    for number, (block, tile, chunk) in enumerate(((32, 16, 32), (64, 8, 8), (64, 4, 16))):
        for settings in (module.FORWARD, module.BACKWARD):
            settings |= {"BLOCK": block, "TILE": tile}
        module.CHUNK = chunk
        check(device, lengths, inputs_of(lengths, 40 + 24 * number, 16, True), final=True)
    module.FORWARD, module.BACKWARD, module.CHUNK = usual


def check_segments(device: str, lengths: list[int], channels: int, states: int) -> None:
    module = triton_selective_scan
    usual = module.SEGMENT, module.ENOUGH
    module.SEGMENT, module.ENOUGH = 32, 1 << 30
    assert module._segments(cu_seqlens(lengths).to(device), sum(lengths), channels) is not None
    check(device, lengths, inputs_of(lengths, channels, states, True), final=True)
    plain = inputs_of(lengths, channels, states, False) | dict.fromkeys(("D", "z", "delta_bias"))
    check(device, lengths, plain, final=False)
    moved = {name: tensor if tensor is None else tensor.to(device).float() for name, tensor in plain.items()}
    moved["initial_states"] = Random(3)(2, channels, states).to(device).float()
    index = torch.tensor([-1 if length == 0 else number % 2 for number, length in enumerate(lengths)])
    results = []
    for segment in (32, 0):
        module.SEGMENT = segment
        with torch.no_grad():
            results.append(
                module.selective_scan(
                    **moved, cu_seqlens=cu_seqlens(lengths), initial_index=index.to(device), need_final=True
                )
            )
    for segmented, whole in zip(*results, strict=True):
        torch.testing.assert_close(segmented, whole, rtol=1e-5, atol=1e-5)
    module.SEGMENT, module.ENOUGH = usual


def main(device: str) -> None:
    mixed = [1, 2, 0, 31, 32, 33]
    check(device, mixed, inputs_of(mixed, 40, 16, True), final=True)
    check(
        device, [3, 0, 36], inputs_of([3, 0, 36], 16, 5, False) | dict.fromkeys(("D", "z", "delta_bias")), final=False
    )
    check_settings(device)
    check_segments(device, [130, 0, 1, 190], 5, 3)
    extreme = inputs_of([14, 3], 32, 16, False)
    extreme["delta"] = extreme["delta"] * 30  # type: ignore[operator]
    check(device, [14, 3], extreme, final=True, tolerance=3e-5)

    plain = inputs_of([9, 3], 32, 16, False)
    inputs: Any = {name: tensor.bfloat16() for name, tensor in plain.items() if tensor is not None}
    joint = torch.cat([inputs["u"], inputs["z"]], dim=1).to(device).requires_grad_()
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}
    moved["u"], moved["z"] = joint.chunk(2, dim=1)
    wide = {name: tensor.double() for name, tensor in inputs.items()}
    y, _ = triton_selective_scan.selective_scan(
        **moved, cu_seqlens=cu_seqlens([9, 3]), initial_states=None, need_final=False
    )
    assert y.dtype == torch.bfloat16
    expected, _ = reference.selective_scan(**wide, cu_seqlens=cu_seqlens([9, 3]))
    torch.testing.assert_close(y.cpu().double(), expected, rtol=1e-2, atol=1e-2)
    y.sum().backward()
    assert joint.grad.dtype == torch.bfloat16
    assert joint.grad.isfinite().all()

    if device == "cpu":
        return
    long = [300, 1, 257, 64]
    check(device, long, inputs_of(long, 256, 16, True), final=True, tolerance=1e-5)
    check_segments(device, [130, 0, 1, 190], 256, 16)


if __name__ == "__main__":
    main(sys.argv[1])
    print("agrees with the reference")
