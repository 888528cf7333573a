"""The cross entropy's GPU kernel, compared with float64."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DEVICE, Random, gpu_kernels, on_gpu
from torch.nn import functional as F

from ssmrank.kernels.cross_entropy import gpu

pytestmark = gpu_kernels


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "vocabulary", "dtype", "tolerance"),
    [
        (9, 5, torch.float32, 2e-6),
        (9, 64, torch.float32, 2e-6),
        (9, 1000, torch.bfloat16, 4e-3),
        on_gpu(300, 8192, torch.bfloat16, 4e-3),
    ],
)
def test_losses_and_slopes(rows: int, vocabulary: int, dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    random = Random(vocabulary)
    logits = (3 * random(rows, vocabulary)).to(dtype)
    shift = random(vocabulary) if bias else None
    targets = torch.arange(rows) * 7 % vocabulary
    targets[1] = -1
    leaf = logits.double().requires_grad_()
    whole = leaf if shift is None else leaf + shift
    expected = F.cross_entropy(whole, targets, reduction="none", ignore_index=-1)
    expected.sum().backward()
    moved = logits.to(DEVICE)
    losses = gpu.to_slope(moved, None if shift is None else shift.float().to(DEVICE), targets.to(DEVICE))
    assert (losses.double().cpu() - expected).abs().max() <= 2e-6 * expected.abs().max()
    assert leaf.grad is not None
    assert (moved.double().cpu() - leaf.grad).abs().max() <= tolerance


def test_no_rows() -> None:
    logits, targets = torch.empty(0, 8, device=DEVICE), torch.empty(0, dtype=torch.int64, device=DEVICE)
    assert gpu.to_slope(logits, None, targets).shape == (0,)
