"""JSON lines with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for each non-blank line.

    Raises UserError for a missing file, bytes that are not UTF-8, malformed JSON, or a line that is no object.
    """
    path = Path(path)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    with stream:
        for number, raw in enumerate(stream, start=1):
            record = parse_line(path, number, raw)
            if record is None:
                continue
            yield number, record


def parse_line(path: str | Path, number: int, raw: bytes) -> dict[str, Any] | None:
    """The object that a line's bytes hold, None for a blank line; errors as in `read_jsonl`."""
    try:
        line = raw.decode("utf-8").rstrip()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: byte {error.start + 1} is not UTF-8; convert the file to UTF-8") from error
    if not line:
        return None
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{number}: malformed JSON ({error.msg}, column {error.colno}); each line must be one object"
        ) from error
    if not isinstance(record, dict):
        raise UserError(f"{path}:{number}: a {type(record).__name__} where a JSON object is needed")
    return record


def write_jsonl(path: str | Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Writes one object a line (UTF-8, keys in their order); returns the number of lines."""
    count = 0
    with atomic_file(path) as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count
