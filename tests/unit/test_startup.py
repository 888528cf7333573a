"""How the process of a command is set up."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS, TENSORS, PAGES = 8, 10, 4096
"""Each step fills tensors of 16 MiB, all held together as a training holds its activations."""

TRAINING = f"""
import resource
import torch
from ssmrank.startup import reuse_freed_memory
reuse_freed_memory()
def step():
    held = [torch.ones({PAGES} * 1024) for _ in range({TENSORS})]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({STEPS}):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries decide by themselves")
def test_the_memory_of_a_step_serves_the_next_one() -> None:
    finished = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, check=True)
    assert int(finished.stdout) < PAGES  # page faults; without the setting they are a hundred times as many
