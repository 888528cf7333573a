"""Settings of all tests: no network, few threads, none of the caller's MLflow or Snakemake settings."""

from __future__ import annotations

import atexit
import gc
import os
import signal
from pathlib import Path

import pytest

pytest_plugins = ["projects"]

# This is done before any test imports a library that reads these variables once.
for _name in [name for name in os.environ if name.startswith(("MLFLOW_", "SNAKEMAKE_", "SSMRANK_TRACKING_"))]:
    del os.environ[_name]
# Each pytest-xdist worker has one core. Further threads of a test must not spin on another worker's core.
_WORKER = "PYTEST_XDIST_WORKER" in os.environ
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1",  # tests run Java for a second, which is too short to optimize
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1" if _WORKER else "2",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
} | ({"OMP_WAIT_POLICY": "passive"} if _WORKER else {})

# Under nohup the processes that tests start would ignore SIGHUP, which some of them must obey.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Triton reads this variable once, at its import; its kernels then run on CPU tensors in its interpreter. Torch and
# other packages import Triton if it is installed, so the variable has to be set here.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

# What tests import lives until the end, and the collector would take a third of the time of the imports to visit it.
gc.disable()


def pytest_collection_finish() -> None:
    """Everything is imported: the collector works from now on, on what tests make."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.freeze)


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_collections() -> Path:
    """Folder of public test collections that are too large for the repository; tests that need it skip without it."""
    shared = Path(os.environ.get("SSMRANK_SHARED", ROOT.parent / "shared"))
    if not (shared / "collections").is_dir():
        pytest.skip("no shared collections: set SSMRANK_SHARED to the folder that holds `collections`")
    return shared / "collections"
