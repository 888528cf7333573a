"""Mamba-3's recurrence through a GPU's kernels of Mamba-2's, and against that of mamba_ssm."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kernel_checks import DEVICE, Random, assert_close, cu_seqlens, gpu_kernels, on_device, values_and_gradients
from torch import Tensor
from torch.nn import functional as F

from ssmrank.kernels.ssd import WeighedInputs, gpu, reference
from ssmrank.kernels.trapezoid import TrapezoidInputs, packed_trapezoid

pytestmark = gpu_kernels


def test_weights_and_decays_as_steps() -> None:
    """A GPU's kernels make both from one step size. Weights far from steps, and steps that leave all of a state."""
    lengths, heads, width, states = [1, 0, 20, 3], 2, 64, 64
    random, tokens, starts = Random(1), sum(lengths), cu_seqlens(lengths)
    decays = -torch.exp(3 * random(tokens, heads) - 2)
    decays[::5] = 0.0
    inputs: dict[str, Tensor | None] = {
        "x": random(tokens, heads, width),
        "weights": torch.exp(random(tokens, heads)),
        "B": random(tokens, heads, states) / states**0.5,
        "C": random(tokens, heads, states) / states**0.5,
        "initial": random(len(lengths), heads, width, states),
    }

    def kernel(x: Tensor, weights: Tensor, B: Tensor, C: Tensor, initial: Tensor) -> Any:
        given = on_device({"x": x, "weights": weights, "log_decays": decays.to(x.dtype), "B": B, "C": C})
        y, final = gpu.ssd(WeighedInputs(**given).stepped(), starts.to(DEVICE), initial.to(DEVICE), need_final=True)
        return y.cpu(), final.cpu() if final is not None else None

    def plain(x: Tensor, weights: Tensor, B: Tensor, C: Tensor, initial: Tensor) -> Any:
        return reference.ssd(WeighedInputs(x, weights, decays, B, C), starts, initial)

    expected = values_and_gradients(plain, inputs, torch.float64)
    assert_close(values_and_gradients(kernel, inputs, torch.float32), expected, 5e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("groups", "pairs"), [(1, 32), (2, 64)])
def test_the_kernel_of_mamba_ssm(groups: int, pairs: int) -> None:
    combined: Any = pytest.importorskip("mamba_ssm.ops.triton.mamba3.mamba3_siso_combined")
    lengths, heads, width, states = [130, 1, 300], 4, 64, 128
    random, tokens = Random(2), sum(lengths)
    steps = F.softplus(random(tokens, heads) - 1)
    decays, share, angles = -steps * torch.exp(random(tokens, heads)), random(tokens, heads), random(tokens, pairs)
    x = random(tokens, heads, width)
    B, C = (F.normalize(random(tokens, groups, states), dim=-1) * states**0.5 for _ in range(2))
    B_bias, C_bias = (1 + 0.2 * random(heads, states) for _ in range(2))
    tensors = (
        x,
        steps,
        decays,
        torch.sigmoid(share),
        math.pi * torch.tanh(angles),
        B,
        C,
        B_bias,
        C_bias,
        random(heads),
    )
    expected = packed_trapezoid(TrapezoidInputs(*tensors), cu_seqlens(lengths))

    def on(tensor: Tensor) -> Tensor:
        return tensor.float().cuda()

    def by_head(tensor: Tensor) -> Tensor:
        return on(tensor).T.contiguous()[None]

    starts = cu_seqlens(lengths).cuda()
    theirs = combined.mamba3_siso_combined(
        *(
            on(C)[None],
            on(B)[None],
            on(x)[None],
            by_head(decays),
            by_head(steps),
            by_head(share),
            on(C_bias),
            on(B_bias),
        ),
        on(angles)[None, :, None].expand(-1, -1, heads, -1).contiguous(),
        D=on(tensors[-1]),
        cu_seqlens=starts.int(),
    )
    own = packed_trapezoid(TrapezoidInputs(*map(on, tensors)), starts)
    for found in (theirs[0], own):
        assert (found.double().cpu() - expected).norm() / expected.norm() < 5e-3
