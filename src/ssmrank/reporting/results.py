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
    """What `ssmrank evaluate` writes, as far as tables need it."""

    status: Literal["ok", "oom"]
    queries: int
    mean: dict[str, float]
    run: str = ""


@dataclass(frozen=True)
class Result:
    """The means of one run."""

    path: Path
    status: Literal["ok", "oom"]
    queries: int
    mean: dict[str, float]
    run: str = ""
    """Path of the run."""


def read_result(path: Path) -> Result:
    """Reads one file; raises UserError with its name where it is missing or is no metrics file."""
    values = read_json(path, "run `ssmrank evaluate` to make it")
    record = check(_File, values, str(path))
    return Result(path, record.status, record.queries, record.mean, record.run)


def read_results(folder: Path, keys: Iterable[str]) -> dict[str, Result]:
    """The files KEY.json below a folder of metrics, by key."""
    return {key: read_result(folder / f"{key}.json") for key in keys}
