"""Versions of the packages that a source imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata

from pipeline.source import nodes

WITHOUT_EFFECT = frozenset({"huggingface_hub", "mlflow", "pip", "pydantic", "triton", "typing_extensions"})
"""Modules whose version changes no result: logs, progress, downloads, checks of settings and types.

triton comes with torch, so torch's version covers both; on a CPU only tests use it.
"""

COMPANIONS = {
    "ir_measures": ("pytrec_eval", "cwl"),
    "ranx": ("numba", "scipy"),
    "transformers": ("tokenizers",),
}
"""Modules that compute on behalf of another one. Sources import only that other one."""

_FINDERS = frozenset({"find_spec", "import_module", "import_quietly", "is_available"})
"""Functions whose first argument names a module."""


@cache
def foreign(text: str) -> frozenset[str]:
    """Top-level modules that a source imports, except Python's own and the package's."""
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
    return frozenset(name.partition(".")[0] for name in found) - sys.stdlib_module_names - {"ssmrank", ""}


def versions(modules: Iterable[str]) -> list[str]:
    """`PACKAGE VERSION` of the modules' packages, sorted; packages that are not installed are left out.

    The build (`+cpu`) is left out as well, so that results stay valid on other machines.
    """
    modules = {*modules}
    modules |= {other for module in modules & COMPANIONS.keys() for other in COMPANIONS[module]}
    packages = {package for module in modules - WITHOUT_EFFECT for package in _packages(module)}
    return sorted(f"{package.lower()} {version_of(package)}" for package in packages)


@cache
def version_of(package: str) -> str:
    """The installed version, without its build."""
    return metadata.version(package).partition("+")[0]


@cache
def _packages(module: str) -> frozenset[str]:
    """Names of the packages that install a module."""
    return frozenset(distribution.name for distribution in _distributions().get(module, ()))


@cache
def _distributions() -> dict[str, list[metadata.Distribution]]:
    """Distributions of each module. `metadata.packages_distributions` takes far longer, because it reads names too."""
    found: dict[str, list[metadata.Distribution]] = {}
    for distribution in metadata.distributions():
        for module in _modules(distribution):
            found.setdefault(module, []).append(distribution)
    return found


def _modules(distribution: metadata.Distribution) -> set[str]:
    declared = (distribution.read_text("top_level.txt") or "").split()
    if declared:
        return set(declared)
    files = (line.partition(",")[0] for line in (distribution.read_text("RECORD") or "").splitlines())
    return {file.partition("/")[0].removesuffix(".py") for file in files if file.endswith(".py")}
