"""Names in the paths of the canonical form."""

from __future__ import annotations

from pathlib import Path


def names_of_split(path: Path) -> dict[str, str]:
    """{"collection", "split"} of a file COLLECTION/splits/SPLIT/FILE; {} for any other path."""
    split = path.absolute().parent
    if split.parent.name != "splits":
        return {}
    return {"collection": split.parent.parent.name, "split": split.name}
