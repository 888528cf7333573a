"""A CPU loop never reads memory that was freed: glibc overwrites it in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = [
    "test_attention.py",
    "test_causal_conv.py",
    "test_continued_segments.py",
    "test_selective_scan.py",
    "test_ssd.py",
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc overwrites freed memory")
def test_results_are_right_where_freed_memory_is_overwritten() -> None:
    """Every byte of freed memory is 255, so a float that is read from it is NaN."""
    files = [str(Path(__file__).parent / name) for name in FILES]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *files]
    done = subprocess.run(
        command, env=os.environ | {"MALLOC_PERTURB_": "255", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
