"""Random packed inputs, and the comparison of a kernel with its float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

LENGTHS = [1, 2, 0, 63, 64, 65, 200]

MAMBA1_PARTS = ("segments", "rounded", "exact", "model")
"""Of Mamba-1's check on a GPU, where the kernels of each size are compiled for half a minute: tests of their own."""


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


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Largest difference of each tensor, relative to its largest value.

    Gradients that sum over all tokens may be small sums of large terms: ten times the tolerance.
    """
    assert got.keys() == expected.keys()
    for name, reference in expected.items():
        assert got[name].shape == reference.shape, name
        if reference.numel():
            error = float((got[name] - reference).abs().max() / reference.abs().max().clamp(min=1e-30))
            assert error <= tolerance * (10 if name in ("A", "dt_bias", "delta_bias") else 1), f"{name}: {error:.2e}"
