"""Members of a .tar.gz or .zip (.whl) archive, read without trusting it.

An archive may expand to 100 times its own size, or to 256 MiB if that is more. Its paths must stay inside the
destination and be short enough for a file system. Any violation raises one UserError that names the archive.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ssmrank.errors import UserError

LARGEST_RATIO = 100
"""How many bytes an archive may expand to for each of its own; text and weights compress by a factor of 3 to 20."""
FREE_BYTES = 256 << 20
"""How many bytes any archive may expand to."""

_LONGEST_NAME = 255
"""The most bytes in a file name on Linux."""

_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # an unsupported compression
    RuntimeError,  # an encrypted member
    ValueError,
)


def read_member(archive: str | Path, member: str) -> bytes:
    """The bytes of one file in an archive. Raises UserError if the archive is damaged or has no such file."""
    wanted = _parts(archive, member)
    found: bytes | None = None
    with _members(archive) as members:
        for parts, open_member in members:
            if parts == wanted:
                with open_member() as stream:
                    found = stream.read()
    if found is None:
        raise UserError(f"{archive}: has no file {member}; correct folder in params.yaml")
    return found


def extract_folder(archive: str | Path, folder: str, destination: str | Path) -> list[Path]:
    """Writes the files below `folder` of an archive to `destination`; returns their paths.

    Files already in `destination` remain; for all or nothing, pass the folder of an `atomic_directory`. Links are left
    out. Raises UserError if the archive is damaged, has no such folder, has a path that leads out of it, or expands to
    more than the module allows.
    """
    prefix = _parts(archive, folder)
    destination = Path(destination)
    written: list[Path] = []
    with _members(archive) as members:
        for parts, open_member in members:
            if parts[: len(prefix)] != prefix or len(parts) == len(prefix):
                continue
            path = destination.joinpath(*parts[len(prefix) :])
            with open_member() as read, _open_new(archive, path, destination) as write:
                shutil.copyfileobj(read, write, 1 << 20)
            written.append(path)
    if not written:
        raise UserError(f"{archive}: has no folder {folder}; correct folder in params.yaml")
    return written


def _open_new(archive: str | Path, path: Path, destination: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        name = path.relative_to(destination)
        raise UserError(
            f"{archive}: has both a file and a folder named {name}; use an archive without this conflict"
        ) from error


_Member = tuple[tuple[str, ...], Callable[[], IO[bytes]]]


@contextmanager
def _members(archive: str | Path) -> Iterator[Iterator[_Member]]:
    """The regular files of an archive: the parts of each path and a function that opens the file.

    After the last file, all of a .tar.gz has been read, and so gzip has compared its checksum. zipfile compares the
    checksum of each member that is read.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened_zip:
                yield _zip_members(archive, opened_zip)
        else:
            with gzip.open(archive) as unpacked:
                bounded: Any = _Bounded(archive, unpacked)
                with tarfile.open(mode="r:", fileobj=bounded) as opened_tar:
                    yield _tar_members(archive, opened_tar)
                while unpacked.read(1 << 20):  # gzip compares its checksum at the end
                    pass
    except FileNotFoundError as error:
        raise UserError(f"{archive}: no such file; download it again") from error
    except _DAMAGED as error:
        raise UserError(
            f"{archive}: is not a .tar.gz or .zip archive, or is damaged ({error}); delete it and run again"
        ) from error


def _zip_members(archive: str | Path, opened: zipfile.ZipFile) -> Iterator[_Member]:
    if sum(info.file_size for info in opened.infolist()) > _limit(archive):
        raise _bomb(archive)
    for info in opened.infolist():
        if not info.is_dir():
            yield _parts(archive, info.filename), lambda info=info: opened.open(info)  # type: ignore[misc]


def _tar_members(archive: str | Path, opened: tarfile.TarFile) -> Iterator[_Member]:
    total = 0
    for info in opened:
        total += info.size  # the holes of a sparse file included
        if total > _limit(archive):
            raise _bomb(archive)
        if info.isfile():
            yield _parts(archive, info.name), lambda info=info: opened.extractfile(info)  # type: ignore[misc]


class _Bounded:
    """A stream that refuses to read or seek beyond the size to which its archive may expand."""

    def __init__(self, archive: str | Path, stream: gzip.GzipFile) -> None:
        self._archive, self._stream, self._limit = archive, stream, _limit(archive)

    def read(self, size: int) -> bytes:
        self._check(self._stream.tell() + size)
        return self._stream.read(size)

    def seek(self, place: int) -> int:
        self._check(place)
        return self._stream.seek(place)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self, place: int) -> None:
        if place > self._limit + tarfile.RECORDSIZE:
            raise _bomb(self._archive)


def _limit(archive: str | Path) -> int:
    return max(FREE_BYTES, LARGEST_RATIO * Path(archive).stat().st_size)


def _bomb(archive: str | Path) -> UserError:
    return UserError(
        f"{archive}: would expand to more than {LARGEST_RATIO} times its size; archives of texts or weights never do"
    )


def _parts(archive: str | Path, name: str) -> tuple[str, ...]:
    """The parts of a path inside an archive; raises UserError for a path that leads out of it or is too long."""
    path = PurePosixPath(name)
    shown = repr(name if len(name) <= 80 else name[:77] + "...")
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name.split("/")[0] or "\0" in name:
        raise UserError(f"{archive}: path {shown} points outside the archive; use an archive without such paths")
    if any(len(part.encode("utf-8", "surrogateescape")) > _LONGEST_NAME for part in path.parts) or len(name) > 2000:
        raise UserError(f"{archive}: path {shown} is too long for a file system; use an archive with shorter names")
    return path.parts
