"""Compares Mamba-2's mixer as one function with the float64 references of its parts, on the device of the command line.

Every buffer that the kernels are to fill is filled with NaN first, so that what they leave out shows.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from kernel_checks import Random, assert_close, cu_seqlens, values_and_gradients
from torch import Tensor

from ssmrank.kernels import norms, reference
from ssmrank.kernels.mixers import mamba2 as triton_mamba2

torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True, warn_only=True)

BF16 = torch.bfloat16


def inputs_of(tokens: int, sizes: triton_mamba2.Sizes, hidden: int | None, bias: bool = True) -> dict[str, Any]:
    random, inner = Random(sizes.width), sizes.heads * sizes.width
    channels = inner + 2 * sizes.groups * sizes.states
    return {
        "projected": random(tokens, inner + channels + sizes.heads),
        "filters": random(channels, 4),
        "filter_bias": random(channels) if bias else None,
        "A_log": random(sizes.heads),
        "D": random(sizes.heads),
        "dt_bias": random(sizes.heads) - 2,
        "norm_weight": random(inner),
        "out_weight": None if hidden is None else random(hidden, inner) / inner**0.5,
    }


def plain(starts: Tensor, sizes: triton_mamba2.Sizes, **t: Any) -> Tensor:
    inner, states = sizes.heads * sizes.width, sizes.groups * sizes.states
    z, xbc, dt = t["projected"].split([inner, inner + 2 * states, sizes.heads], dim=1)
    xbc = reference.causal_conv1d(xbc, t["filters"], t["filter_bias"], starts, "silu")
    x, b, c = xbc.split([inner, states, states], dim=1)
    b, c = (part.unflatten(1, (sizes.groups, sizes.states)) for part in (b, c))
    x = x.unflatten(1, (sizes.heads, sizes.width))
    y = reference.ssd(x, dt, -t["A_log"].exp(), b, c, t["D"], t["dt_bias"], starts)[0].flatten(1)
    y = norms.norm_reference(y, z, t["norm_weight"], sizes.eps, inner // sizes.groups)
    return y if t["out_weight"] is None else y @ t["out_weight"].T


def check(
    device: str,
    lengths: list[int],
    sizes: triton_mamba2.Sizes,
    inputs: dict[str, Any],
    tolerance: float,
    dtype: torch.dtype = torch.float32,
) -> None:
    starts = cu_seqlens(lengths)
    narrow = ("projected", "out_weight")
    if dtype != torch.float32:
        inputs = {k: v.to(dtype).double() if k in narrow and v is not None else v for k, v in inputs.items()}

    def kernel(**tensors: Any) -> Tensor:
        assert torch.empty(3).isnan().all()
        moved = {name: None if tensor is None else tensor.to(device) for name, tensor in tensors.items()}
        moved |= {name: moved[name].to(dtype) for name in narrow if moved[name] is not None}
        projected, out_weight = (moved.pop(name) for name in narrow)
        y = triton_mamba2.mixer(projected, triton_mamba2.Parameters(**moved), out_weight, starts, sizes)
        assert y.dtype == dtype
        return y.cpu()

    expected = values_and_gradients(lambda **t: plain(starts, sizes, **t), inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, tolerance)


def check_float8(device: str, lengths: list[int], sizes: triton_mamba2.Sizes) -> None:
    """Rounded rows, of a projection whose rows lie apart; the interpreter rounds worse than a GPU."""
    starts, inputs = cu_seqlens(lengths), inputs_of(sum(lengths), sizes, None)
    expected = plain(starts, sizes, **inputs)
    del inputs["out_weight"]
    moved = {name: tensor.float().to(device) for name, tensor in inputs.items()}
    projected = moved.pop("projected")
    apart = torch.nn.functional.pad(projected, (0, 8), value=float("nan"))[:, : projected.shape[1]]
    found = triton_mamba2.mixer_float8(apart, triton_mamba2.Parameters(**moved), starts, sizes).wide().cpu()
    assert (found - expected).norm() / expected.norm() < (0.03 if device == "cuda" else 0.06)


def main(device: str) -> None:
    small = triton_mamba2.Sizes(heads=4, width=16, groups=2, states=32, eps=0.1)
    lengths = [1, 0, 70, 33]
    check_float8(device, lengths, small._replace(groups=1))
    for recompute in (True, False):
        triton_mamba2.RECOMPUTE = recompute
        if device == "cpu":
            check(device, lengths, small, inputs_of(sum(lengths), small, 24), 5e-5)
            check(device, [0, 5], small, inputs_of(5, small, None, bias=False), 5e-5)
            continue
        for sizes in (small._replace(width=64, states=128), small._replace(heads=10, width=64, groups=1, states=64)):
            assert triton_mamba2.supports(sizes, 4)
            if recompute and sizes.groups == 1:
                check_float8(device, [130, 1, 0, 300, 64], sizes)
            mixed = [130, 1, 0, 300, 64]
            check(device, mixed, sizes, inputs_of(sum(mixed), sizes, 96), 1e-4)
            check(device, mixed, sizes, inputs_of(sum(mixed), sizes, None, bias=False), 4e-2, BF16)
            check(device, mixed, sizes, inputs_of(sum(mixed), sizes, 96), 4e-2, BF16)


if __name__ == "__main__":
    main(sys.argv[1])
    print("agrees with the reference")
