"""The metrics files that a table reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from ssmrank.config import check
from ssmrank.errors import UserError


class _File(BaseModel):
    """What `ssmrank evaluate` writes, as far as tables need it."""

    status: Literal["ok", "oom"]
    queries: int
    mean: dict[str, float]


@dataclass(frozen=True)
class Result:
    """The means of one run."""

    path: Path
    status: Literal["ok", "oom"]
    queries: int
    mean: dict[str, float]


def read_result(path: Path) -> Result:
    """Reads one file; raises UserError with its name where it is missing or is no metrics file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}; run `ssmrank evaluate` to make it") from error
    except ValueError as error:
        raise UserError(f"{path}: malformed JSON; delete it and run `ssmrank evaluate` again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no JSON object; delete it and run `ssmrank evaluate` again")
    record = check(_File, values, str(path))
    return Result(path, record.status, record.queries, record.mean)


def read_results(files: list[str], keys: list[str]) -> dict[str, Result]:
    """From `KEY=FILE` words; raises UserError for a word of another form, an unknown key, or one without a file."""
    results: dict[str, Result] = {}
    for word in files:
        key, separator, path = word.partition("=")
        if not separator or not path:
            raise UserError(f"--metrics {word!r}: write it as KEY=FILE")
        if key not in keys:
            raise UserError(f"--metrics: no row of the table asks for {key!r}; its keys: {', '.join(keys)}")
        results[key] = read_result(Path(path))
    missing = [key for key in keys if key not in results]
    if missing:
        raise UserError(f"--metrics: no file for {missing[0]}; add {missing[0]}=FILE ({len(missing)} missing in all)")
    return results
