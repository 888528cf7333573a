"""ssmrank: state space models as text rerankers, from raw collections to tables.

The public names are imported on first use, so that `import ssmrank` and the command line start at once. Modules of the
package import names from where they are defined, never from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ssmrank._version import __version__

if TYPE_CHECKING:
    from ssmrank.api import PassageWindows, Ranked, Reranker
    from ssmrank.errors import UserError

__all__ = ["PassageWindows", "Ranked", "Reranker", "UserError", "__version__"]

_MODULES = {"PassageWindows": "api", "Ranked": "api", "Reranker": "api", "UserError": "errors"}
"""The module that defines each public name."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
