"""Matplotlib without a screen, and figures whose bytes depend on nothing but what they show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file

_FORMATS = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}
"""What is left out of each format, so that equal figures are equal files."""


@contextmanager
def plotting() -> Iterator[Any]:
    """Matplotlib's pyplot; figures made inside are closed at the end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Texts stay texts, with their dollar signs, and the ids in an SVG come from this salt instead of a random one.
    with matplotlib.rc_context({"svg.hashsalt": "ssmrank", "svg.fonttype": "none", "text.parse_math": False}):
        try:
            yield pyplot
        finally:
            pyplot.close("all")


def save(figure: Any, outputs: Iterable[Path]) -> None:
    """Writes a figure to files .svg, .pdf or .png."""
    for output in outputs:
        if output.suffix not in _FORMATS:
            raise UserError(f"{output}: figures are written as {', '.join(_FORMATS)}; choose one of them")
        with atomic_file(output, "wb") as stream:
            figure.savefig(stream, format=output.suffix[1:], metadata=_FORMATS[output.suffix])
