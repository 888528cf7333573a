"""Parses LABEL=FOLDER and LABEL=FILE arguments, which label lines of figures and runs of reports."""

from __future__ import annotations

from pathlib import Path

from ssmrank.errors import UserError


def labelled_path(word: str, option: str, what: str = "FOLDER") -> tuple[str, Path]:
    """Splits LABEL=FOLDER at the last equals sign. Raises UserError, which names `option`, for another form.

    what: FOLDER or FILE, for the message.
    """
    label, separator, path = word.rpartition("=")
    if not separator or not path:
        raise UserError(f"{option} {word!r}: write it as LABEL={what}")
    return label, Path(path)
