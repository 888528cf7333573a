"""Archives: pip fetches them from a local folder in place of the package index, and they are checked."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest

from ssmrank.config.archives import PackageArchive
from ssmrank.errors import UserError
from ssmrank.io import archive as module
from ssmrank.io.archive import archive_path, fetch_archive
from ssmrank.io.archive_members import read_member
from ssmrank.io.checksum import sha256

from .conftest import make_tar, make_zip

SETUP = 'import setuptools\nsetuptools.setup(name="tinydata", version="1.0", packages=[])\n'


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only source."""
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_RETRIES", "0")
    return folder


@pytest.fixture
def wheel(index: Path) -> PackageArchive:
    path = make_zip(
        index / "tinydata-1.0-py3-none-any.whl",
        {
            "tinydata/data/a.txt": b"alpha",
            "tinydata-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n",
            "tinydata-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "tinydata-1.0.dist-info/RECORD": b"",
        },
    )
    return package(archive="wheel", sha256=sha256(path))


def package(**changes: str) -> PackageArchive:
    values = {"kind": "package", "package": "tinydata", "version": "1.0", "archive": "wheel", "sha256": "0" * 64}
    return PackageArchive.model_validate(values | changes)


def fails(source: PackageArchive, folder: Path) -> str:
    """The error's message; asserts that it is one line and that nothing was written."""
    with pytest.raises(UserError) as caught:
        fetch_archive(source, folder)
    assert "\n" not in str(caught.value)
    assert not folder.exists() or not list(folder.iterdir())
    return str(caught.value)


def test_wheel_is_fetched_and_kept(wheel: PackageArchive, tmp_path: Path, index: Path) -> None:
    path = fetch_archive(wheel, tmp_path / "archives")
    assert path == archive_path(wheel, tmp_path / "archives") == tmp_path / "archives" / "tinydata-1.0.whl"
    assert sha256(path) == wheel.sha256
    # The second time, the file that is already there is used, because the index is gone.
    for file in index.iterdir():
        file.unlink()
    assert fetch_archive(wheel, tmp_path / "archives") == path


def test_sdist_is_fetched_without_a_build_environment(index: Path, tmp_path: Path) -> None:
    made = make_tar(
        index / "tinydata-1.0.tar.gz",
        {
            "tinydata-1.0/setup.py": SETUP.encode(),
            "tinydata-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n",
            "tinydata-1.0/data/docs.json": b"[]",
        },
    )
    path = fetch_archive(package(archive="sdist", sha256=sha256(made)), tmp_path / "archives")
    assert path.name == "tinydata-1.0.tar.gz"
    assert read_member(path, "tinydata-1.0/data/docs.json") == b"[]"


@pytest.mark.parametrize("content", [b"", b"only the first half"])
def test_damaged_or_partial_file_is_fetched_again(wheel: PackageArchive, tmp_path: Path, content: bytes) -> None:
    path = archive_path(wheel, tmp_path)
    path.write_bytes(content)
    assert sha256(fetch_archive(wheel, tmp_path)) == wheel.sha256


def test_wrong_sha256(wheel: PackageArchive, tmp_path: Path) -> None:
    message = fails(package(), tmp_path / "archives")
    assert message == (
        f"tinydata==1.0 (wheel): sha256 of what the package index delivers is {wheel.sha256}, expected {'0' * 64}; "
        "run again if the download was damaged, or correct sha256 in params.yaml"
    )


def test_setup_of_an_sdist_with_a_wrong_sha256_is_not_run(index: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    make_tar(
        index / "tinydata-1.0.tar.gz",
        {"tinydata-1.0/setup.py": f"open({str(ran)!r}, 'w')\n{SETUP}".encode(), "tinydata-1.0/PKG-INFO": b""},
    )
    assert "expected 0000" in fails(package(archive="sdist"), tmp_path / "archives")
    assert not ran.exists()


def test_wrong_version_names_those_that_exist(wheel: PackageArchive, tmp_path: Path) -> None:
    message = fails(package(version="2.0"), tmp_path / "archives")
    assert message == (
        "tinydata==2.0 (wheel): the package index has no such wheel; it has 1.0: correct version in params.yaml"
    )


def test_unknown_package(index: Path, tmp_path: Path) -> None:
    message = fails(package(), tmp_path / "archives")
    assert message.startswith("tinydata==1.0 (wheel): pip finds no wheel of this package; correct package")


def test_no_network(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # a port that nobody listens on
    message = fails(package(), tmp_path / "archives")
    assert message.startswith("tinydata==1.0 (wheel): cannot reach the package index; check the network")


def test_no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert "cannot download without pip" in fails(package(), tmp_path / "archives")


def test_destination_that_cannot_be_written(wheel: PackageArchive, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"file/archives/tinydata-1.0.whl: cannot write: a file is in the place of a folder"
    ):
        fetch_archive(wheel, tmp_path / "file" / "archives")


def test_other_failures_give_pips_last_error() -> None:
    output = "WARNING: something\nERROR: first\nERROR: the reason\n"
    assert module._explain(package(), output) == "tinydata==1.0 (wheel): pip cannot download it: ERROR: the reason"
    assert "the disk is full" in module._explain(package(), "ERROR: [Errno 28] No space left on device")
