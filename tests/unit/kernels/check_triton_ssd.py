"""Compares the Triton kernels of Mamba-2's mixer with the float64 reference on the device named on the command line.

Every buffer that the kernels are to fill is filled with NaN first, so that what they leave out shows.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from kernel_checks import Random, assert_close, cu_seqlens, values_and_gradients
from torch import Tensor

from ssmrank.kernels import reference
from ssmrank.kernels.ssd import gpu as triton_ssd

torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True, warn_only=True)


def inputs_of(
    lengths: list[int], heads: int, width: int, states: int, groups: int = 1, initial: bool = False
) -> dict[str, Tensor | None]:
    random = Random(width + states)
    tokens = sum(lengths)
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


def check(
    device: str,
    lengths: list[int],
    inputs: dict[str, Tensor | None],
    *,
    final: bool,
    tolerance: float = 3e-5,
    dtype: torch.dtype = torch.float32,
) -> None:
    starts = cu_seqlens(lengths)
    narrow = ("x", "dt", "B", "C")
    if dtype != torch.float32:
        inputs = {k: v.to(dtype).double() if k in narrow and v is not None else v for k, v in inputs.items()}

    def kernel(**tensors: Any) -> Any:
        assert torch.empty(3).isnan().all()
        moved = {name: None if tensor is None else tensor.to(device) for name, tensor in tensors.items()}
        moved |= {name: moved[name].to(dtype) for name in narrow}
        y, states = triton_ssd.ssd(**moved, cu_seqlens=starts, need_final=final)
        assert y.dtype == dtype
        return (y.cpu(), states.cpu()) if final else y.cpu()

    def plain(**tensors: Any) -> Any:
        outputs = reference.ssd(**tensors, cu_seqlens=starts)
        return outputs if final else outputs[0]

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, tolerance)


def check_slices(device: str) -> None:
    """Inputs that are slices of one projection: nothing need be contiguous."""
    inputs = inputs_of([70, 3], 2, 16, 16)
    joint = torch.cat([inputs[name].flatten(1) for name in ("x", "B", "C", "dt")], dim=1)  # type: ignore[union-attr]
    joint = joint.float().to(device).requires_grad_()
    x, b, c, dt = joint.split([32, 16, 16, 2], dim=1)
    others = {k: inputs[k].float().to(device) for k in ("A", "D", "dt_bias")}  # type: ignore[union-attr]
    y, _ = triton_ssd.ssd(
        x.view(-1, 2, 16), dt, B=b.view(-1, 1, 16), C=c.view(-1, 1, 16), **others, cu_seqlens=cu_seqlens([70, 3]),
        initial_states=None, need_final=False,
    )  # fmt: skip
    expected, _ = reference.ssd(**inputs, cu_seqlens=cu_seqlens([70, 3]))
    torch.testing.assert_close(y.detach().cpu().double(), expected, rtol=1e-4, atol=1e-5)
    y.square().sum().backward()
    assert joint.grad.isfinite().all() and joint.grad.ne(0).any(dim=0).all()


def main(device: str) -> None:
    if device == "cpu":
        mixed = [1, 0, 16, 17, 33]
        check(device, mixed, inputs_of(mixed, 2, 16, 32, groups=2, initial=True), final=True)
        # From here on chunks are those of bfloat16, of which the interpreter multiplies no matrices.
        triton_ssd.FLOAT32_CHUNK = triton_ssd.CHUNK
        mixed = [1, 0, 64, 65, 130]
        check(device, mixed, inputs_of(mixed, 2, 16, 32, groups=2, initial=True), final=True)
        check(device, [3, 0, 70], inputs_of([3, 0, 70], 3, 32, 16) | dict.fromkeys(("D", "dt_bias")), final=False)
        extreme = inputs_of([140, 3], 2, 16, 16)
        extreme["dt"] = extreme["dt"] * 30  # type: ignore[operator]
        check(device, [140, 3], extreme, final=True, tolerance=3e-4)
        check_slices(device)
        half = inputs_of([70, 9], 2, 16, 16, initial=True)
        check(device, [70, 9], half, final=True, dtype=torch.float16, tolerance=2e-2)
        return
    for heads, width, states in [(4, 64, 128), (10, 64, 64)]:
        assert triton_ssd.supports(width, states)
        mixed = [130, 1, 0, 300, 64]
        check(device, mixed, inputs_of(mixed, heads, width, states, initial=True), final=True)
        for initial in (False, True):
            inputs = inputs_of(mixed, heads, width, states, initial=initial)
            check(device, mixed, inputs, final=initial, tolerance=2e-2, dtype=torch.bfloat16)


if __name__ == "__main__":
    main(sys.argv[1])
    print("agrees with the reference")
