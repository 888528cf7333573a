"""ranx's compiled metrics without the rest of ranx."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from ssmrank.errors import UserError


def ranx_metrics() -> ModuleType:
    """The subpackage `ranx.metrics`, whose functions take arrays of numbers.

    `import ranx` also loads pandas, SciPy's statistics, matplotlib, seaborn and ir_datasets, which takes about six
    seconds, and none of them is needed. The subpackage is therefore imported below an empty `ranx`, whose `__init__`
    does not run. Its modules keep their real names, because numba's cache on disk refers to them. The empty `ranx` is
    removed afterwards, so that a later `import ranx` works as usual.

    Raises UserError where ranx is not installed.
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
    # As ranx's own __init__ does: this is the only threading layer that needs no system library.
    numba = importlib.import_module("numba")
    numba.config.THREADING_LAYER = "workqueue"
    return metrics
