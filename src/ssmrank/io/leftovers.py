"""Removal of what killed processes leave in a folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ssmrank.io.atomic import ASIDE, PART
from ssmrank.io.locks import abandoned

_LEFTOVER = re.compile(rf"\.(?P<name>.+)\.[a-z0-9_]{{8}}({re.escape(PART)}|{re.escape(ASIDE)})|\..+\.lock")
"""Names that `ssmrank.io.atomic` gives to what is being written, to folders being replaced, and to locks."""


def sweep(folder: Path, below: bool = True) -> list[Path]:
    """Removes partly written outputs and locks that no live process holds; returns their paths.

    A folder that was put aside is put back if the process was killed before the new one replaced it. below: whether to
    sweep the folders inside too. What cannot be removed remains.
    """
    swept = []
    for path in list(_leftovers(folder, below)):
        with abandoned(path) as free:
            if free and _remove(path):
                swept.append(path)
    return swept


def _leftovers(folder: Path, below: bool) -> Iterator[Path]:
    """The leftovers in a folder, but not those inside other leftovers; links are not followed."""
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return
    for child in children:
        if _LEFTOVER.fullmatch(child.name):
            yield child
        elif below and child.is_dir() and not child.is_symlink():
            yield from _leftovers(child, below)


def _remove(path: Path) -> bool:
    try:
        match = _LEFTOVER.fullmatch(path.name)
        if match and path.suffix == ASIDE and not (place := path.with_name(match["name"])).exists():
            path.rename(place)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        return False
    return True
