"""JSON lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssmrank.errors import UserError
from ssmrank.io.jsonl import read_jsonl, write_jsonl


def test_round_trip(tmp_path: Path) -> None:
    records = [{"id": "1", "text": "é\u2028\nx"}, {"id": "2", "n": [1, None]}]
    path = tmp_path / "deep" / "a.jsonl"
    assert write_jsonl(path, records) == 2
    assert list(read_jsonl(path)) == [(1, records[0]), (2, records[1])]
    assert "é" in path.read_text(encoding="utf-8")


def test_blank_lines_count_as_lines(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"a": 1}\r\n\n  \n{"a": 2}')
    assert list(read_jsonl(tmp_path / "a")) == [(1, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1', "malformed JSON (Expecting ',' delimiter, column 8); each line must be one object"),
        (b'{"a": 1} {"a": 2}', "malformed JSON (Extra data, column 10); each line must be one object"),
        (b"[1]", "is a list, but must be a JSON object"),
        (b'"text"', "is a str, but must be a JSON object"),
        (b'{"a": "caf\xe9"}', "byte 11 is not UTF-8; convert the file to UTF-8"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 0}\n' + line + b"\n")
    with pytest.raises(UserError) as caught:
        list(read_jsonl(path))
    assert str(caught.value) == f"{path}:2: {message}"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl: cannot read: No such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))


def test_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_jsonl(tmp_path / "a", [{"a": 1}, {"a": object()}])
    assert not list(tmp_path.iterdir())
