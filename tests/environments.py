"""Fresh virtual environments, filled without network with what this one has installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(requirements: Iterable[str]) -> set[str]:
    """The installed distributions that requirements name, with their own requirements."""
    found: set[tuple[str, str]] = set()
    waiting = list(map(Requirement, requirements))
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in found:
                continue
            try:
                needed = map(Requirement, metadata.requires(name) or [])
            except metadata.PackageNotFoundError:  # CUDA packages, if torch is built without CUDA
                continue
            found.add((name, extra))
            waiting += [one for one in needed if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def link_packages(environment: Path, names: Iterable[str]) -> Path:
    """Links installed distributions into an environment; returns its folder of packages."""
    [packages] = environment.glob("lib/python*/site-packages")
    for name in names:
        files = metadata.distribution(name).files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            place = Path(str(metadata.distribution(name).locate_file(top)))
            if not place.exists() or (packages / top).exists():
                continue
            if top.endswith(".dist-info"):  # uv sees no links among them
                shutil.copytree(place, packages / top)
            else:
                (packages / top).symlink_to(place)
    return packages
