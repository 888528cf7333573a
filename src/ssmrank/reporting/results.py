"""The metrics files that a table reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from ssmrank.config.reading import check
from ssmrank.io.plain import read_json


class _File(BaseModel):
    """The part of the file of `ssmrank evaluate` that tables need."""

    status: Literal["ok", "oom"]
    queries: int
    mean: dict[str, float]
    run: str = ""


@dataclass(frozen=True)
class Result:
    """A run's means over its queries."""

    path: Path
    status: Literal["ok", "oom"]
    queries: int
    mean: dict[str, float]
    run: str = ""
    """Path of the run file."""


def read_result(path: Path) -> Result:
    """Reads one file. Raises UserError where it is missing or is no metrics file."""
    values = read_json(path, "run `ssmrank evaluate` to make it")
    record = check(_File, values, str(path))
    return Result(path, record.status, record.queries, record.mean, record.run)


def read_results(folder: Path, keys: Iterable[str]) -> dict[str, Result]:
    """Reads the files KEY.json below a folder of metrics; returns them by key."""
    return {key: read_result(folder / f"{key}.json") for key in keys}
