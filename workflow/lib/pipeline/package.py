"""Whether jobs run the workflow's own package. Imports nothing of it, because it may be another one."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

INSTALLED_RELEASE = "installed_release"
"""Key of `snakemake --config` that allows a package other than the workflow's own."""


def check_package(tree: Path, config: Mapping[str, Any]) -> None:
    """Exits with one line unless jobs run the package `ssmrank` of this tree, or a release is asked for.

    Otherwise the code of another tree would run and the revision of this one would be recorded.
    """
    spec = find_spec("ssmrank")
    found = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
    own = (tree / "src" / "ssmrank").resolve()
    if found is None:
        raise SystemExit(f"ssmrank: error: the package ssmrank is not installed for {sys.executable}; run `make test`")
    if found != own and str(config.get(INSTALLED_RELEASE, "")).lower() != "true":
        raise SystemExit(
            f"ssmrank: error: the workflow is in {tree}, but {sys.executable} runs the package in {found}; activate "
            f"this folder's own .venv (`make` sets it up), or add `--config {INSTALLED_RELEASE}=true` to run and "
            "record that release"
        )
    os.environ["SSMRANK_PACKAGE"] = str(found)
    if found != own:
        os.environ["SSMRANK_RELEASE"] = f"ssmrank {version('ssmrank')}"
