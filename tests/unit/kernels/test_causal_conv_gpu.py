"""The convolution's GPU kernels, compared with float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import (
    DEVICE,
    assert_close,
    conv_inputs,
    cu_seqlens,
    gpu_kernels,
    on_device,
    on_gpu,
    values_and_gradients,
)
from torch import Tensor

from ssmrank.kernels.causal_conv import gpu, reference

pytestmark = gpu_kernels

MIXED = [1, 2, 0, 17, 3, 40]
LONG = [300, 1, 0, 257, 640]


@pytest.mark.parametrize("run", [12, 64])  # runs that end within a sequence, at its end, and within the next one's tile
@pytest.mark.parametrize(
    ("lengths", "channels", "width", "bias", "silu"),
    [(MIXED, 24, 4, True, True), ([33], 130, 2, False, False), on_gpu(LONG, 2304, 4, True, True)],
)
def test_values_and_gradients(
    lengths: list[int], channels: int, width: int, bias: bool, silu: bool, run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu.FORWARD, "RUN", run)
    inputs, starts = conv_inputs(lengths, channels, width, bias), cu_seqlens(lengths)

    def kernel(**tensors: Any) -> Tensor:
        return gpu.causal_conv1d(**on_device(tensors), cu_seqlens=starts, silu=silu).cpu()

    def plain(**tensors: Any) -> Tensor:
        return reference.causal_conv1d(**tensors, cu_seqlens=starts, activation="silu" if silu else None)

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, 2e-6)


def test_a_slice_of_a_projection_in_half_precision() -> None:
    inputs: Any = conv_inputs([5, 40], 24, 4)
    joint = torch.cat([inputs["x"], inputs["x"]], dim=1).half().to(DEVICE).requires_grad_()
    weight, bias = (inputs[name].float().to(DEVICE) for name in ("weight", "bias"))
    y = gpu.causal_conv1d(joint[:, 24:], weight, bias, cu_seqlens([5, 40]), silu=True)
    assert y.dtype == torch.float16
    rounded = inputs["x"].half().double()
    expected = reference.causal_conv1d(rounded, inputs["weight"], inputs["bias"], cu_seqlens([5, 40]), "silu")
    torch.testing.assert_close(y.detach().cpu().double(), expected, rtol=2e-3, atol=2e-3)
    y.sum().backward()
    assert joint.grad is not None
    assert joint.grad[:, :24].eq(0).all() and joint.grad[:, 24:].ne(0).any(dim=0).all()
