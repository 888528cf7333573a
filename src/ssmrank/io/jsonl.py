"""JSON lines, with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.io.files import BYTE_ORDER_MARK, decode, lines_up_to, open_file
from ssmrank.io.plain import parse_json

LONGEST_LINE = 2**28
"""Lines must have fewer bytes than this, so that a file without line ends is not read into memory whole."""


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for each non-blank line.

    Raises UserError for a missing file, bytes that are not UTF-8, malformed JSON, or a line that is not an object.
    """
    with open_file(path) as stream:
        for number, raw in lines_up_to(stream, path, LONGEST_LINE):
            record = parse_line(path, number, raw)
            if record is None:
                continue
            yield number, record


def parse_line(path: str | Path, number: int, raw: bytes) -> dict[str, Any] | None:
    """The object in the bytes of a line, None for a blank line; raises UserError as `read_jsonl` does."""
    line = decode(raw, f"{path}:{number}").rstrip()
    if not line:
        return None
    if line.startswith(BYTE_ORDER_MARK):
        raise UserError(f"{path}:{number}: begins with a byte order mark; save the file as UTF-8 without one")
    record = parse_json(line, f"{path}:{number}", "; each line must be one object")
    if not isinstance(record, dict):
        raise UserError(f"{path}:{number}: is a {type(record).__name__}, but must be a JSON object")
    return record


def write_jsonl(path: str | Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Writes one object on each line (UTF-8, keys in the given order); returns the number of lines."""
    count = 0
    with atomic_file(path) as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count
