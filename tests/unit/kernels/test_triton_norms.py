"""The Triton norms under the interpreter, in a process of its own: triton chooses the interpreter when imported."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SOURCE = Path(__file__).parents[3] / "src"
CHECK = Path(__file__).parent / "check_triton_norms.py"


def triton_version() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in importlib.metadata.version("triton").split(".")[:2])
    except importlib.metadata.PackageNotFoundError:
        return (0,)


def run_check(device: str, **environment: str) -> None:
    variables = {**os.environ, "PYTHONPATH": str(SOURCE), **environment}
    result = subprocess.run([sys.executable, CHECK, device], env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.skipif(triton_version() < (3, 7), reason="older triton's interpreter does not run with NumPy 2.5")
def test_values_and_gradients_under_the_interpreter() -> None:
    run_check("cpu", TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_values_and_gradients_on_a_gpu() -> None:
    run_check("cuda")
