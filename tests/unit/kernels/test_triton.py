"""Triton's kernels under its interpreter, in processes of their own: triton chooses the interpreter when imported."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_checks import MAMBA1_PARTS

SOURCE = Path(__file__).parents[3] / "src"
KERNELS = ["causal_conv", "cross_entropy", "float8", "forks", "mamba1", "mamba2", "norms", "selective_scan", "ssd"]


def triton_version() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in importlib.metadata.version("triton").split(".")[:2])
    except importlib.metadata.PackageNotFoundError:
        return (0,)


def compare(kernels: str, device: str, *parts: str, **environment: str) -> None:
    check = Path(__file__).parent / f"check_triton_{kernels}.py"
    inherited = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, check, device, *parts]
    result = subprocess.run(command, env=inherited | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.skipif(triton_version() < (3, 7), reason="older triton's interpreter does not run with NumPy 2.5")
@pytest.mark.parametrize("kernels", KERNELS)
def test_values_and_gradients_under_the_interpreter(kernels: str) -> None:
    compare(kernels, "cpu", TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kernels", [kernels for kernels in KERNELS if kernels != "mamba1"])
def test_values_and_gradients_on_a_gpu(kernels: str) -> None:
    compare(kernels, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("part", MAMBA1_PARTS)
def test_mamba1_on_a_gpu(part: str) -> None:
    compare("mamba1", "cuda", part)
