"""Parses LABEL=FOLDER arguments, which label lines in figures."""

from __future__ import annotations

from pathlib import Path

from ssmrank.errors import UserError


def labelled_folder(word: str, option: str) -> tuple[str, Path]:
    """Splits LABEL=FOLDER at the last equals sign. Raises UserError, which names `option`, for another form."""
    label, separator, folder = word.rpartition("=")
    if not separator or not folder:
        raise UserError(f"{option} {word!r}: write it as LABEL=FOLDER")
    return label, Path(folder)
