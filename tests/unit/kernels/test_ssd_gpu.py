"""GPU kernels of Mamba-2's mixer, compared with float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import (
    DEVICE,
    assert_close,
    cu_seqlens,
    gpu_kernels,
    interpreted,
    narrowed,
    on_device,
    on_gpu,
    ssd_inputs,
    values_and_gradients,
)
from torch import Tensor

from ssmrank.kernels.ssd import SSDInputs, gpu, gpu_forward, gpu_tiles, reference

pytestmark = gpu_kernels

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
NARROW = ("x", "dt", "B", "C")
MIXED = [130, 1, 0, 300, 64]


@pytest.fixture
def long_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of float32 are as long as bfloat16's, whose matrices the interpreter cannot multiply."""
    if DEVICE == "cpu":
        monkeypatch.setattr(gpu_tiles, "FLOAT32_CHUNK", gpu_forward.CHUNK)


def check(
    lengths: list[int],
    inputs: dict[str, Tensor | None],
    *,
    final: bool,
    tolerance: float = 3e-5,
    dtype: torch.dtype = FP32,
) -> None:
    starts = cu_seqlens(lengths)

    def kernel(initial_states: Tensor | None, **tensors: Any) -> Any:
        moved = on_device(tensors)
        moved |= {name: moved[name].to(dtype) for name in NARROW}
        initial = None if initial_states is None else initial_states.to(DEVICE)
        y, states = gpu.ssd(SSDInputs(**moved), starts, initial, need_final=final)
        assert y.dtype == dtype
        return (y.cpu(), states.cpu()) if states is not None else y.cpu()

    def plain(initial_states: Tensor | None, **tensors: Any) -> Any:
        outputs = reference.ssd(SSDInputs(**tensors), starts, initial_states)
        return outputs if final else outputs[0]

    inputs = narrowed(inputs, NARROW, dtype)
    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, FP32), expected, tolerance)


@pytest.mark.parametrize("lengths", [interpreted([1, 0, 16, 33])])
def test_short_chunks(lengths: list[int]) -> None:
    check(lengths, ssd_inputs(lengths, 2, 16, 32, groups=2, initial=True), final=True)


@pytest.mark.usefixtures("long_chunks")
@pytest.mark.parametrize(
    ("lengths", "heads", "width", "states", "groups"),
    [interpreted([1, 0, 64, 66], 2, 16, 32, 2), on_gpu(MIXED, 4, 64, 128, 1), on_gpu(MIXED, 10, 64, 64, 1)],
)
def test_values_and_gradients(lengths: list[int], heads: int, width: int, states: int, groups: int) -> None:
    check(lengths, ssd_inputs(lengths, heads, width, states, groups, initial=True), final=True)


@pytest.mark.usefixtures("long_chunks")
@pytest.mark.parametrize("lengths", [interpreted([3, 0, 70])])
def test_without_optional_inputs_and_states(lengths: list[int]) -> None:
    check(lengths, ssd_inputs(lengths, 3, 32, 16) | dict.fromkeys(("D", "dt_bias")), final=False)


@pytest.mark.usefixtures("long_chunks")
@pytest.mark.parametrize("lengths", [interpreted([70, 3])])
def test_decays_that_forget_everything(lengths: list[int]) -> None:
    extreme: Any = ssd_inputs(lengths, 2, 16, 16)
    extreme["dt"] = extreme["dt"] * 30
    check(lengths, extreme, final=True, tolerance=3e-4)


@pytest.mark.usefixtures("long_chunks")
@pytest.mark.parametrize(
    ("lengths", "heads", "width", "states", "dtype", "initial"),
    [
        interpreted([70, 9], 2, 16, 16, FP16, True),
        *(
            on_gpu(MIXED, heads, 64, states, BF16, initial)
            for heads, states in ((4, 128), (10, 64))
            for initial in (False, True)
        ),
    ],
)
def test_half_precision(
    lengths: list[int], heads: int, width: int, states: int, dtype: torch.dtype, initial: bool
) -> None:
    inputs = ssd_inputs(lengths, heads, width, states, initial=initial)
    check(lengths, inputs, final=initial, tolerance=2e-2, dtype=dtype)


@pytest.mark.parametrize("lengths", [interpreted([20, 3])])
def test_slices_of_a_projection(lengths: list[int]) -> None:
    """No input has to be contiguous."""
    inputs: Any = ssd_inputs(lengths, 2, 16, 16)
    del inputs["initial_states"]
    joint = torch.cat([inputs[name].flatten(1) for name in ("x", "B", "C", "dt")], dim=1)
    joint = joint.float().to(DEVICE).requires_grad_()
    x, b, c, dt = joint.split([32, 16, 16, 2], dim=1)
    A, D, bias = (inputs[name].float().to(DEVICE) for name in ("A", "D", "dt_bias"))
    sliced = SSDInputs(x.view(-1, 2, 16), dt, A, b.view(-1, 1, 16), c.view(-1, 1, 16), D, bias)
    y, _ = gpu.ssd(sliced, cu_seqlens(lengths), None, need_final=False)
    expected, _ = reference.ssd(SSDInputs(**inputs), cu_seqlens(lengths))
    torch.testing.assert_close(y.detach().cpu().double(), expected, rtol=1e-4, atol=1e-5)
    y.square().sum().backward()
    assert joint.grad is not None
    assert joint.grad.isfinite().all() and joint.grad.ne(0).any(dim=0).all()
