"""flash-linear-attention's kernels of the gated delta rule, compared with float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import (
    DEVICE,
    assert_close,
    cu_seqlens,
    gpu_kernels,
    narrowed,
    on_device,
    on_gpu,
    values_and_gradients,
)
from torch import Tensor

import fla_kernels
from ssmrank.kernels import dispatch
from ssmrank.kernels.delta_rule import DeltaInputs, packed_delta_rule, reference
from ssmrank.kernels.dispatch import Implementation

from .test_delta_rule import delta_inputs

pytestmark = gpu_kernels

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
MIXED = [65, 1, 0, 130, 64]


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package serves, on tensors of a CPU in the interpreter."""
    fla_kernels.ready(monkeypatch)
    monkeypatch.setattr(dispatch, "delta_rule", lambda *_, **__: Implementation.LIBRARY)


def check(
    lengths: list[int], inputs: dict[str, Tensor | None], tolerance: float, dtype: torch.dtype, final: bool = True
) -> None:
    starts = cu_seqlens(lengths)

    def kernel(initial_states: Tensor | None, **tensors: Any) -> Any:
        moved = on_device(tensors)
        moved["values"] = moved["values"].to(dtype)
        initial = None if initial_states is None else initial_states.to(DEVICE)
        found = packed_delta_rule(
            DeltaInputs(**moved), starts.to(DEVICE), initial_states=initial, return_final_states=final
        )
        y, *states = found if final else (found,)
        assert y.dtype == dtype and all(state.dtype == FP32 for state in states)
        return tuple(part.cpu() for part in (y, *states))

    def plain(initial_states: Tensor | None, **tensors: Any) -> Any:
        return reference.delta_rule(DeltaInputs(**tensors), starts, initial_states)[: 1 + final]

    exact = narrowed(inputs, ("values", "queries", "keys"), dtype)
    expected = values_and_gradients(plain, exact, torch.float64)
    if fla_kernels.INTERPRETED or dispatch.delta_rule_has_gradients(torch.device(DEVICE)):
        assert_close(values_and_gradients(kernel, exact, FP32), expected, tolerance)
        return
    with torch.no_grad():
        found = kernel(**{name: None if tensor is None else tensor.float() for name, tensor in exact.items()})
    values = {str(place): part.double() for place, part in enumerate(found)}
    assert_close(values, {place: expected[place] for place in values}, tolerance)
    pytest.skip("values agree; with this Triton the package has no gradients on a Hopper GPU")


# On a GPU float32 is multiplied in TF32.
SINGLE = 1e-5 if fla_kernels.INTERPRETED else 3e-3


@pytest.mark.parametrize("initial", [False, True])
def test_mixed_lengths_values_and_all_gradients(initial: bool) -> None:
    check(MIXED, delta_inputs(MIXED, 4, 32, 16, 2, initial=initial), SINGLE, FP32)


@pytest.mark.parametrize("dtype", [FP16, on_gpu(BF16)])  # the interpreter cannot multiply bfloat16
def test_half_precision(dtype: torch.dtype) -> None:
    inputs = delta_inputs([70, 20], 2, 64, 64, 1, initial=True)
    check([70, 20], inputs, 0.01 if dtype == FP16 else 0.06, dtype)


def test_sizes_that_are_no_powers_of_two_and_no_final_states() -> None:
    check([40, 3], delta_inputs([40, 3], 3, 40, 24, 3), SINGLE, FP32, final=False)


def test_a_tensor_of_starts_that_is_written_to_again() -> None:
    """The package remembers what follows from a tensor; a batch of another layout may be copied into it."""
    starts = cu_seqlens([3, 97]).to(DEVICE)
    inputs: Any = {name: value for name, value in delta_inputs([100], 1, 16, 16, 1).items() if value is not None}
    moved = DeltaInputs(**on_device(inputs)).to(FP32)
    packed_delta_rule(moved, starts)
    starts.copy_(cu_seqlens([70, 30]))
    found = packed_delta_rule(moved, starts)
    expected, _ = reference.delta_rule(DeltaInputs(**inputs), cu_seqlens([70, 30]))
    assert (found.double().cpu() - expected).abs().max() < 10 * SINGLE


def test_states_that_reuse_hands_on() -> None:
    """Two suffixes from the state at a prefix's end are what whole sequences give."""
    lengths = [30, 50]
    inputs: Any = {name: value for name, value in delta_inputs([80], 2, 32, 16, 1).items() if value is not None}
    whole, _ = reference.delta_rule(DeltaInputs(**inputs), cu_seqlens([80]))
    parts = [tensor.split(lengths) for tensor in DeltaInputs(**on_device(inputs)).to(FP32)]
    before, after = (DeltaInputs(*(part[index] for part in parts)) for index in (0, 1))
    _, state = packed_delta_rule(before, torch.tensor([0, 30], device=DEVICE), return_final_states=True)
    twice = DeltaInputs(*(torch.cat([part, part]) for part in after))
    index = torch.tensor([0, 0], device=DEVICE)
    y = packed_delta_rule(twice, torch.tensor([0, 50, 100], device=DEVICE), initial_states=state, initial_index=index)
    for half in y.double().cpu().split(50):
        assert (half - whole[30:]).abs().max() < 10 * SINGLE
