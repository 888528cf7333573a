"""The Triton kernel under its interpreter, in a process of its own: triton chooses the interpreter when imported."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SOURCE = Path(__file__).parents[3] / "src"


def triton_version() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in importlib.metadata.version("triton").split(".")[:2])
    except importlib.metadata.PackageNotFoundError:
        return (0,)


@pytest.mark.skipif(triton_version() < (3, 7), reason="older triton's interpreter does not run with NumPy 2.5")
def test_values_under_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(SOURCE)}
    check = Path(__file__).parent / "check_triton_forks.py"
    result = subprocess.run([sys.executable, check, "cpu"], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_values_on_a_gpu() -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    check = Path(__file__).parent / "check_triton_forks.py"
    result = subprocess.run([sys.executable, check, "cuda"], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
