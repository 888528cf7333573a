"""Compares the Triton convolution with the float64 reference on the device named on the command line.

Every buffer that the kernel is to fill is filled with NaN first, so that what it leaves out shows.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from kernel_checks import Random, assert_close, cu_seqlens, values_and_gradients
from torch import Tensor

from ssmrank.kernels import reference
from ssmrank.kernels.causal_conv import gpu as triton_causal_conv

torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True, warn_only=True)


def inputs_of(lengths: list[int], channels: int, width: int, bias: bool) -> dict[str, Tensor | None]:
    random = Random(channels)
    return {
        "x": random(sum(lengths), channels),
        "weight": random(channels, width),
        "bias": random(channels) if bias else None,
    }


def check(device: str, lengths: list[int], inputs: dict[str, Tensor | None], *, silu: bool) -> None:
    starts = cu_seqlens(lengths)

    def kernel(**tensors: Any) -> Tensor:
        assert torch.empty(3).isnan().all()
        moved = {name: None if tensor is None else tensor.to(device) for name, tensor in tensors.items()}
        return triton_causal_conv.causal_conv1d(**moved, cu_seqlens=starts, silu=silu).cpu()

    def plain(**tensors: Any) -> Tensor:
        return reference.causal_conv1d(**tensors, cu_seqlens=starts, activation="silu" if silu else None)

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, 2e-6)


def check_slices_and_dtypes(device: str) -> None:
    """A slice of a projection, in half precision, with weights in float32."""
    inputs = inputs_of([5, 40], 24, 4, bias=True)
    joint = torch.cat([inputs["x"], inputs["x"]], dim=1).half().to(device).requires_grad_()
    y = triton_causal_conv.causal_conv1d(
        joint[:, 24:], inputs["weight"].float().to(device), inputs["bias"].float().to(device),
        cu_seqlens([5, 40]), silu=True,
    )  # fmt: skip
    assert y.dtype == torch.float16
    rounded = inputs["x"].half().double()
    expected = reference.causal_conv1d(rounded, inputs["weight"], inputs["bias"], cu_seqlens([5, 40]), "silu")
    torch.testing.assert_close(y.detach().cpu().double(), expected, rtol=2e-3, atol=2e-3)
    y.sum().backward()
    assert joint.grad[:, :24].eq(0).all() and joint.grad[:, 24:].ne(0).any(dim=0).all()


def main(device: str) -> None:
    mixed = [1, 2, 0, 17, 3, 40]
    check(device, mixed, inputs_of(mixed, 24, 4, bias=True), silu=True)
    # Runs that end within a sequence, at its end, and within a tile of the next one.
    usual = triton_causal_conv.FORWARD
    triton_causal_conv.FORWARD = usual | {"RUN": 12}
    check(device, mixed, inputs_of(mixed, 24, 4, bias=True), silu=True)
    triton_causal_conv.FORWARD = usual
    check(device, [33], inputs_of([33], 130, 2, bias=False), silu=False)
    check_slices_and_dtypes(device)
    if device != "cpu":
        long = [300, 1, 0, 257, 640]
        check(device, long, inputs_of(long, 2304, 4, bias=True), silu=True)


if __name__ == "__main__":
    main(sys.argv[1])
    print("agrees with the reference")
