"""Versions of the packages that a source imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata

from pipeline.source import nodes

WITHOUT_EFFECT = frozenset({"huggingface_hub", "mlflow", "pip", "pydantic", "tqdm", "triton", "typing_extensions"})
"""Modules whose version changes no result: logs, progress, downloads, checks of settings and types.

triton is the one that torch was built with, so torch's version stands for both; a CPU has it for tests alone.
"""

COMPANIONS = {"transformers": "tokenizers"}
"""Modules that compute for another one, which is what sources import."""

_FINDERS = frozenset({"find_spec", "import_module", "is_available"})
"""Functions whose first argument names a module."""


def foreign(text: str) -> set[str]:
    """Top-level modules that a source imports, neither Python's own nor the package's."""
    found: set[str] = set()
    for node in nodes(text):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if name in _FINDERS and isinstance(node.args[0].value, str):
                found.add(node.args[0].value)
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"ssmrank", ""}


def versions(modules: Iterable[str]) -> list[str]:
    """`PACKAGE VERSION` of the modules' packages, sorted; those that are not installed are left out.

    What tells builds of one version apart (`+cpu`) is left out as well, so that results move between machines.
    """
    modules = {*modules}
    modules |= {COMPANIONS[module] for module in modules & COMPANIONS.keys()}
    packages = {package for module in modules - WITHOUT_EFFECT for package in _packages().get(module, ())}
    return sorted(f"{package.lower()} {metadata.version(package).partition('+')[0]}" for package in packages)


@cache
def _packages() -> dict[str, list[str]]:
    return {module: list(packages) for module, packages in metadata.packages_distributions().items()}
