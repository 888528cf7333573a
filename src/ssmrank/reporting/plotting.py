"""Matplotlib without a display; a figure's bytes depend only on what it shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file

_FORMATS = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}
"""Metadata that each format must leave out, so that equal figures give equal files."""


@contextmanager
def plotting() -> Iterator[Any]:
    """Gives Matplotlib's pyplot; closes all figures at the end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Text in an SVG stays text, dollar signs are no math, and the fixed salt makes an SVG's ids reproducible.
    with matplotlib.rc_context({"svg.hashsalt": "ssmrank", "svg.fonttype": "none", "text.parse_math": False}):
        try:
            yield pyplot
        finally:
            pyplot.close("all")


def save(figure: Any, outputs: Iterable[Path]) -> None:
    """Writes a figure to .svg, .pdf or .png files. Raises UserError for another suffix."""
    for output in outputs:
        if output.suffix not in _FORMATS:
            raise UserError(f"{output}: figures are written as {', '.join(_FORMATS)}; choose one of them")
        with atomic_file(output, "wb") as stream:
            figure.savefig(stream, format=output.suffix[1:], metadata=_FORMATS[output.suffix])
