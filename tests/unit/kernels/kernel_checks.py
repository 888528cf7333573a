"""Random packed inputs, the comparison of a kernel with its float64 reference, and where GPU kernels run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

LENGTHS = [1, 0, 31, 65, 70]
"""Lengths of sequences with partial chunks and tiles, with full ones, and with none."""

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton's kernels run on CPU tensors (tests/conftest.py decides)."""

DEVICE = "cpu" if INTERPRETED else "cuda"
"""The device on which GPU kernels are tested."""

_on_gpu = [pytest.mark.gpu, pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="no GPU")]
_interpreted = pytest.mark.skipif(not INTERPRETED, reason="for Triton's interpreter: set TRITON_INTERPRET=1")

gpu_kernels = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="no GPU, and not interpreted"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
"""Marks of a module whose tests run GPU kernels."""


def on_gpu(*values: Any) -> Any:
    """Parameters of a test for GPUs only: sizes of real models."""
    return pytest.param(*values, marks=_on_gpu)


def interpreted(*values: Any) -> Any:
    """Parameters of a test for the interpreter only: sizes that do not occur on a GPU."""
    return pytest.param(*values, marks=_interpreted)


def on_device(tensors: dict[str, Tensor | None]) -> dict[str, Any]:
    return {name: None if tensor is None else tensor.to(DEVICE) for name, tensor in tensors.items()}


def ssd_inputs(
    lengths: list[int], heads: int, width: int, states: int, groups: int = 1, *, initial: bool = False
) -> dict[str, Tensor | None]:
    """Inputs of Mamba-2's mixer by name, with the states that sequences begin with."""
    random, tokens = Random(len(lengths) + width), sum(lengths)
    return {
        "x": random(tokens, heads, width),
        "dt": random(tokens, heads),
        "A": -torch.exp(random(heads)),
        "B": random(tokens, groups, states) / states**0.5,
        "C": random(tokens, groups, states) / states**0.5,
        "D": random(heads),
        "dt_bias": random(heads) - 2,
        "initial_states": random(len(lengths), heads, width, states) if initial else None,
    }


def scan_inputs(lengths: list[int], channels: int, states: int, *, initial: bool = False) -> dict[str, Tensor | None]:
    """Inputs of Mamba-1's scan by name."""
    random, tokens = Random(len(lengths) + channels), sum(lengths)
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


def conv_inputs(lengths: list[int], channels: int, width: int, bias: bool = True) -> dict[str, Tensor | None]:
    """Inputs of the convolution by name."""
    random = Random(channels)
    return {
        "x": random(sum(lengths), channels),
        "weight": random(channels, width),
        "bias": random(channels) if bias else None,
    }


def chosen(states: Tensor, index: list[int]) -> Tensor:
    """The rows of `states` at `index`; zeros for negative indices."""
    rows = torch.tensor(index)
    return torch.where((rows >= 0).view(-1, *[1] * (states.ndim - 1)), states[rows.clamp(min=0)], 0.0)


def cu_seqlens(lengths: Iterable[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


class Random:
    """Standard normal float64 tensors from a seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)


def values_and_gradients(
    function: Callable[..., Any], inputs: dict[str, Tensor | None], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The outputs as "0", "1", … and the inputs' gradients under fixed random output gradients, all float64."""
    leaves = {k: None if v is None else v.to(dtype).detach().clone().requires_grad_() for k, v in inputs.items()}
    outputs = function(**leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    random = Random(99)
    sum((output.double() * random(*output.shape)).sum() for output in outputs).backward()  # type: ignore[union-attr]
    result = {str(index): output.detach().double() for index, output in enumerate(outputs)}
    for name, leaf in leaves.items():
        if leaf is not None:
            assert leaf.grad is not None, name
            assert leaf.grad.dtype == dtype, name
            result[name] = leaf.grad.double()
    return result


def narrowed(inputs: dict[str, Any], names: Iterable[str], dtype: torch.dtype) -> dict[str, Any]:
    """The inputs in float64, those in `names` rounded to a narrower dtype."""
    return {k: v.to(dtype).double() if k in names and v is not None else v for k, v in inputs.items()}


def assert_near(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Asserts that the largest difference, relative to the largest value, is within the tolerance."""
    assert got.shape == expected.shape
    error = float((got.double().cpu() - expected).abs().max() / expected.abs().max())
    assert error <= tolerance, f"{error:.2e}"


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Asserts that each tensor's largest difference, relative to its largest value, is within the tolerance.

    Gradients that sum over all tokens get ten times the tolerance, because they may be small sums of large terms.
    """
    assert got.keys() == expected.keys()
    for name, reference in expected.items():
        assert got[name].shape == reference.shape, name
        if reference.numel():
            error = float((got[name] - reference).abs().max() / reference.abs().max().clamp(min=1e-30))
            assert error <= tolerance * (10 if name in ("A", "dt_bias", "delta_bias") else 1), f"{name}: {error:.2e}"
