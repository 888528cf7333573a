"""Labels of lines in figures, as command lines give them."""

from __future__ import annotations

from pathlib import Path

from ssmrank.errors import UserError


def labelled_folder(word: str, option: str) -> tuple[str, Path]:
    """The two sides of LABEL=FOLDER; a label may hold an equals sign, a folder may not."""
    label, separator, folder = word.rpartition("=")
    if not separator or not folder:
        raise UserError(f"{option} {word!r}: write it as LABEL=FOLDER")
    return label, Path(folder)
