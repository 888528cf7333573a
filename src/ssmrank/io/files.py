"""Files that users name, opened for reading.

Reading always ends, whatever a path names: pipes, devices and overlong lines are refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO

from ssmrank.errors import UserError

BYTE_ORDER_MARK = "\ufeff"

_KINDS = (
    (stat.S_ISFIFO, "is a pipe, not a file; write what comes out of it to a file first"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
)


def open_file(path: str | Path, advice: str = "") -> BufferedReader:
    """Opens a regular file for reading bytes.

    Raises UserError if the file is missing or cannot be read (the message then ends in `advice`), or if it is a folder,
    a pipe, a device or a socket.
    """
    try:
        mode = os.stat(path).st_mode
        for is_kind, what in _KINDS:
            if is_kind(mode):
                raise UserError(f"{path}: {what}")
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}{advice and '; '}{advice}") from error
    except ValueError as error:  # a NUL in the path
        raise UserError(f"{path}: cannot read: {error}") from error


def read_text(path: str | Path, longest: int) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises UserError as `open_file` does, for bytes that are not UTF-8, and for a file of more than `longest` bytes.
    """
    with open_file(path) as stream:
        content = stream.read(longest + 1)
    if len(content) > longest:
        raise UserError(f"{path}: has more than {longest:,} bytes; is it the right file?")
    return decode(content, str(path)).removeprefix(BYTE_ORDER_MARK)


def decode(content: bytes, where: str) -> str:
    """The text of bytes in UTF-8; raises UserError that names the first wrong byte."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start + 1} is not UTF-8; convert the file to UTF-8") from error


def lines_up_to(stream: IO[bytes], path: str | Path, longest: int, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Yields (number, line) for each line of a stream; the first line has the number `first`.

    Raises UserError for a line of `longest` bytes or more.
    """
    number = first
    while line := stream.readline(longest):
        if len(line) >= longest:
            raise UserError(f"{path}:{number}: the line has {longest:,} bytes or more; is it the right file?")
        yield number, line
        number += 1
