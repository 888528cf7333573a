"""Compares the Triton slope of a cross entropy with float64 on the device named on the command line."""

from __future__ import annotations

import sys

import torch
from kernel_checks import Random
from torch.nn import functional as F

from ssmrank.kernels.cross_entropy.gpu import to_slope

torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True, warn_only=True)


def check(device: str, rows: int, vocabulary: int, dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    random = Random(vocabulary)
    logits = (3 * random(rows, vocabulary)).to(dtype)
    shift = random(vocabulary) if bias else None
    targets = torch.arange(rows) * 7 % vocabulary
    targets[1] = -1
    leaf = logits.double().requires_grad_()
    whole = leaf if shift is None else leaf + shift
    expected = F.cross_entropy(whole, targets, reduction="none", ignore_index=-1)
    expected.sum().backward()
    moved = logits.to(device)
    losses = to_slope(moved, None if shift is None else shift.float().to(device), targets.to(device))
    assert (losses.double().cpu() - expected).abs().max() <= 2e-6 * expected.abs().max()
    assert leaf.grad is not None
    assert (moved.double().cpu() - leaf.grad).abs().max() <= tolerance


def main(device: str) -> None:
    for vocabulary in (5, 64, 1000):
        for bias in (False, True):
            check(device, 9, vocabulary, torch.float32, 2e-6, bias)
            check(device, 9, vocabulary, torch.bfloat16, 4e-3, bias)
    if device == "cuda":
        check(device, 300, 8192, torch.bfloat16, 4e-3, bias=True)


if __name__ == "__main__":
    main(sys.argv[1])
