"""Machine code on disk is used only with the sources that it was compiled from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ssmrank.kernels.simd import compiled

CALLER = """
import numpy as np
from ssmrank.kernels.simd.compiled import cfunc
from ssmrank.kernels.simd.vectors import load, sigmoid, store

@cfunc
def apply(place):
    store(place, sigmoid(load(place)))

@cfunc
def copy(place):
    store(place, load(place))

x = np.zeros(16, dtype=np.float32)
apply.ctypes(x.ctypes.data)
print(x[0], apply.cache_hits)
"""


@pytest.fixture
def kernels(tmp_path: Path, root: Path) -> Path:
    """A package from which only the sigmoid of `simd.vectors` is used."""
    folder = tmp_path / "ssmrank" / "kernels"
    folder.mkdir(parents=True)
    (tmp_path / "ssmrank" / "__init__.py").touch()
    (folder / "__init__.py").touch()
    shutil.copytree(root / "src/ssmrank/kernels/simd", folder / "simd", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "caller.py").write_text(CALLER)
    return folder


def run(kernels: Path) -> tuple[str, int]:
    """What the caller prints: the sigmoid of 0, and whether its compiled code was found on disk.

    It says once that it compiles, and only if it does.
    """
    environment = os.environ | {"PYTHONPATH": str(kernels.parents[1])}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-m", "ssmrank.kernels.caller"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    value, hits = finished.stdout.split()
    assert finished.stderr.count("compiling loops for this CPU") == 1 - int(hits)
    return value, int(hits)


def test_an_edit_of_a_called_function_is_compiled(kernels: Path) -> None:
    assert run(kernels) == ("0.5", 0)
    assert run(kernels) == ("0.5", 1)
    source = kernels / "simd/vectors.py"
    text = source.read_text()
    changed = re.sub(r"(def sigmoid.*?one = constant\()1\.0", r"\g<1>3.0", text, count=1, flags=re.DOTALL)
    assert changed != text
    source.write_text(changed)
    assert run(kernels) == ("0.75", 0)
    assert len(list((kernels / "__pycache__").glob("numba-*"))) == 1


def test_a_loop_is_compiled_when_it_is_first_run(root: Path) -> None:
    code = (
        "import numpy as np, torch\n"
        "from ssmrank.kernels.causal_conv import cpu_loops, packed_causal_conv1d\n"
        "packed_causal_conv1d(torch.ones(2, 32), torch.ones(32, 4), None, torch.tensor([0, 2]))\n"
        "print(*('compiled' in vars(loop) for loop in vars(cpu_loops).values()"
        " if type(loop).__name__ == 'Loop'))"
    )
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    assert subprocess.check_output(command, env=environment, text=True).split() == ["True", "False"]


def test_the_user_s_folder_of_machine_code_has_one_for_these_sources() -> None:
    assert compiled._folder("/elsewhere") == Path("/elsewhere", f"numba-{compiled.digest()}")


def test_nothing_is_compiled_in_another_way(root: Path) -> None:
    sources = {path: path.read_text() for path in (root / "src").rglob("*.py")}
    other_way = re.compile(r"numba import .*\b(n?jit|cfunc)|\bcache=True")
    users = [path.name for path, text in sources.items() if other_way.search(text)]
    assert users == ["ranx_report.py"]  # in memory alone: it seeds the thread that ranx draws from
    assert "cache=True" not in sources[root / "src/ssmrank/evaluation/ranx_report.py"]
    makers = [path for path, text in sources.items() if "kernels.simd.compiled import" in text]
    assert makers and all(root / "src/ssmrank/kernels" in path.parents for path in makers)
    foreign = re.compile(r"^ *(?:from|import) ssmrank(?!\.kernels\b)", re.MULTILINE)
    assert [path.name for path in makers if foreign.search(sources[path])] == []
