"""ranx's compiled metrics without the rest of ranx."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from ssmrank.errors import UserError


def ranx_metrics() -> ModuleType:
    """The subpackage `ranx.metrics`, whose functions take arrays of numbers.

    `import ranx` also loads pandas, SciPy's statistics, matplotlib, seaborn and ir_datasets, about six seconds of a
    process that needs none of them. The subpackage is therefore imported beneath a `ranx` whose own `__init__` is not
    run. Its modules keep their real names, because numba's cache on disk refers to them, and a later `import ranx`
    finds a clean slate.
    """
    loaded = sys.modules.get("ranx.metrics")
    if loaded is not None:
        return loaded
    if "ranx" in sys.modules:
        return importlib.import_module("ranx.metrics")
    spec = importlib.util.find_spec("ranx")
    if spec is None:
        raise UserError("ranx is not installed; install the package's requirements (pip install ranx)")
    sys.modules["ranx"] = importlib.util.module_from_spec(spec)
    try:
        metrics = importlib.import_module("ranx.metrics")
    finally:
        del sys.modules["ranx"]
    # As ranx's own __init__ does: the one threading layer that needs no library of the system.
    numba = importlib.import_module("numba")
    numba.config.THREADING_LAYER = "workqueue"
    return metrics
