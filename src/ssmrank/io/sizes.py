"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

from ssmrank.errors import UserError

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", 1)
    for suffix, base in (("", 1000), ("B", 1000), ("iB", 1024))
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")


def parse_bytes(size: int | str, name: str) -> int:
    """A number of bytes from a number or a text such as 2GB, 500 MB or 1.5GiB.

    name: the setting's, for the error. Raises UserError if it is no size, or negative.
    """
    found = _SIZE.fullmatch(str(size).strip())
    unit = "" if found is None else found[2][:1].upper() + found[2][1:]
    unit = unit[:-1] + "B" if unit.endswith("b") else unit
    if found is None or isinstance(size, bool) or unit not in _UNITS:
        raise UserError(f"{name} {size!r}: is no size; give a number of bytes, such as 2GB or 500MiB")
    return int(float(found[1]) * _UNITS[unit])


def show_bytes(size: float) -> str:
    """A size for people, with three digits, such as 1.25 MB."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
