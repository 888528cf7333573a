from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import LENGTHS, Random, assert_close, conv_inputs, cu_seqlens, values_and_gradients
from torch import Tensor

from ssmrank.kernels.causal_conv import packed_causal_conv1d, reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["silu", None])
@pytest.mark.parametrize(("channels", "width", "bias"), [(48, 4, True), (37, 3, False), (16, 1, True)])
def test_values_and_gradients(channels: int, width: int, bias: bool, activation: Any, dtype: torch.dtype) -> None:
    lengths = [*LENGTHS, 3, 300]
    inputs = conv_inputs(lengths, channels, width, bias)
    starts = cu_seqlens(lengths)

    def kernel(**tensors: Any) -> Tensor:
        return packed_causal_conv1d(**tensors, cu_seqlens=starts, activation=activation)

    def plain(**tensors: Any) -> Tensor:
        return reference.causal_conv1d(**tensors, cu_seqlens=starts, activation=activation)

    expected = values_and_gradients(plain, inputs, torch.float64)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-13
    assert_close(values_and_gradients(kernel, inputs, dtype), expected, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_leaks_across_a_start(dtype: torch.dtype) -> None:
    inputs: Any = {k: v.to(dtype) for k, v in conv_inputs([7, 2, 9], 16, 4).items() if v is not None}
    starts = cu_seqlens([7, 2, 9])
    before = packed_causal_conv1d(**inputs, cu_seqlens=starts)
    inputs["x"][:9] = float("inf")
    assert torch.equal(packed_causal_conv1d(**inputs, cu_seqlens=starts)[9:], before[9:])


def test_bfloat16_is_convolved_in_float32() -> None:
    inputs: Any = {k: v.bfloat16() for k, v in conv_inputs([40, 9], 32, 4).items() if v is not None}
    y = packed_causal_conv1d(**inputs, cu_seqlens=cu_seqlens([40, 9]), activation="silu")
    wide: Any = {k: v.float() for k, v in inputs.items()}
    assert torch.equal(y, packed_causal_conv1d(**wide, cu_seqlens=cu_seqlens([40, 9]), activation="silu").bfloat16())


def test_a_slice_of_a_projection_is_read_in_place() -> None:
    joint = Random(0)(50, 64).float()
    weight, bias = Random(1)(32, 4).float(), Random(2)(32).float()
    starts = cu_seqlens([20, 30])
    sliced = packed_causal_conv1d(joint[:, 16:48], weight, bias, starts)
    assert torch.equal(sliced, packed_causal_conv1d(joint[:, 16:48].contiguous(), weight, bias, starts))


def test_equals_transformers() -> None:
    from transformers.models.mamba.modeling_mamba import causal_conv1d_fn

    inputs: Any = {k: v.float() for k, v in conv_inputs([5, 66], 32, 4).items() if v is not None}
    y = packed_causal_conv1d(**inputs, cu_seqlens=cu_seqlens([5, 66]), activation="silu")
    for start, end in ((0, 5), (5, 71)):
        theirs = causal_conv1d_fn(
            inputs["x"][None, start:end].transpose(1, 2), inputs["weight"], inputs["bias"], "silu"
        )
        torch.testing.assert_close(y[start:end], theirs[0].T, rtol=1e-5, atol=1e-5)
