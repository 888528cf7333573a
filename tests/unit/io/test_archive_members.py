"""Archives are read without being trusted."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ssmrank.errors import UserError
from ssmrank.io import archive_members
from ssmrank.io.archive_members import extract_folder, read_member

from .conftest import make_tar, make_zip

MEMBERS = {"top/data/a.txt": b"alpha", "top/data/deep/b.txt": b"beta", "top/database.txt": b"no", "other.txt": b"no"}


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_members_and_folders(tmp_path: Path, make) -> None:
    archive = make(tmp_path / "archive", MEMBERS)
    assert read_member(archive, "top/data/a.txt") == b"alpha"
    written = extract_folder(archive, "top/data", tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == ["a.txt", "deep/b.txt"]
    assert (tmp_path / "out/deep/b.txt").read_bytes() == b"beta"
    with pytest.raises(UserError, match=r"archive: has no file top/c.txt; correct folder"):
        read_member(archive, "top/c.txt")
    with pytest.raises(UserError, match=r"archive: has no folder top/nothing; correct folder"):
        extract_folder(archive, "top/nothing", tmp_path / "out")


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize("name", ["../evil.txt", "top/../../evil.txt", "/evil.txt", "C:/evil.txt", "top\\..\\evil.txt"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, make, name: str) -> None:
    archive = make(tmp_path / "archive", {name: b"evil"})
    with pytest.raises(UserError, match="points outside the archive"):
        extract_folder(archive, "top", tmp_path / "a" / "b" / "c")
    assert not list(tmp_path.rglob("evil*"))


def test_links_are_left_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "archive", "w:gz") as archive:
        link = tarfile.TarInfo("top/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("top/file"))
    assert extract_folder(tmp_path / "archive", "top", tmp_path / "out") == [tmp_path / "out/file"]


def test_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"archive: is not a .tar.gz or .zip archive, or is damaged .*; delete it"):
        read_member(tmp_path / "archive", "a")
    whole = make_tar(tmp_path / "whole", {"a": os.urandom(100_000)}).read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        read_member(tmp_path / "half", "a")
    with pytest.raises(UserError, match="no such file; download it again"):
        read_member(tmp_path / "missing", "a")


def refused(archive: Path, out: Path) -> str:
    """The one line with which both extracting and reading end."""
    with pytest.raises(UserError) as extracted:
        extract_folder(archive, "top", out)
    with pytest.raises(UserError):
        read_member(archive, "top/nothing")
    assert str(extracted.value).startswith(f"{archive}: ")
    assert "\n" not in str(extracted.value)
    return str(extracted.value)


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize("names", [("top/a", "top/a/b"), ("top/a/b", "top/a")])
def test_a_file_over_a_folder_is_refused(tmp_path: Path, make, names: tuple[str, str]) -> None:
    archive = make(tmp_path / "archive", dict.fromkeys(names, b"x"))
    assert "has both a file and a folder named a" in refused(archive, tmp_path / "out")


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize("name", ["x" * 300, "é" * 128, "/".join(["deep"] * 1000)])
def test_names_that_no_file_system_takes_are_refused(tmp_path: Path, make, name: str) -> None:
    archive = make(tmp_path / "archive", {f"top/{name}": b"x"})
    message = refused(archive, tmp_path / "out")
    assert "is too long for a file system" in message
    assert len(message) < 300 + len(str(tmp_path))


def checksum(whole: bytes) -> bytes:
    return whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]


def length(whole: bytes) -> bytes:
    return whole[:-4] + bytes([whole[-4] ^ 1]) + whole[-3:]


@pytest.mark.parametrize("damage", [checksum, length, lambda whole: whole[:-6], lambda whole: whole + b"more"])
def test_a_gzip_of_which_the_end_is_wrong_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    whole = make_tar(tmp_path / "archive", {"top/a": b"x" * 20_000, "top/b": b"y"})
    whole.write_bytes(damage(whole.read_bytes()))
    assert "is not a .tar.gz or .zip archive, or is damaged" in refused(whole, tmp_path / "out")


def test_a_zip_with_a_wrong_checksum_or_a_password_is_refused(tmp_path: Path) -> None:
    whole = make_zip(tmp_path / "archive", {"top/a": b"x" * 100}).read_bytes()
    (tmp_path / "archive").write_bytes(whole.replace(b"xx", b"xy", 1))
    assert "damaged (Bad CRC-32" in refused(tmp_path / "archive", tmp_path / "out")
    place = whole.index(b"PK\x01\x02") + 8
    (tmp_path / "archive").write_bytes(whole[:6] + b"\x01" + whole[7:place] + b"\x01" + whole[place + 1 :])
    assert "damaged" in refused(tmp_path / "archive", tmp_path / "out")


def bomb_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("top/zeros", bytes(2_000_000))


def bomb_tar(path: Path) -> None:
    make_tar(path, {"before": bytes(2_000_000), "top/a": b"x"})


def bomb_of_many_empty_files(path: Path) -> None:
    make_tar(path, {f"top/{number}": b"" for number in range(4000)})


def bomb_of_a_header(path: Path) -> None:
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 2_000_000}) as archive:
        archive.addfile(tarfile.TarInfo("top/a"))


def bomb_of_holes(path: Path) -> None:
    info = tarfile.TarInfo("top/a")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}
    content = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
    info.size = len(content)
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("make", [bomb_zip, bomb_tar, bomb_of_many_empty_files, bomb_of_a_header, bomb_of_holes])
def test_bombs_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(archive_members, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(archive_members, "LARGEST_RATIO", 2)
    make(tmp_path / "archive")
    assert "would expand to more than 2 times its size" in refused(tmp_path / "archive", tmp_path / "out")
    assert not sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_what_is_not_packed_by_gzip_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "archive", "w") as archive:
        archive.addfile(tarfile.TarInfo("top/a"))
    assert "damaged (Not a gzipped file" in refused(tmp_path / "archive", tmp_path / "out")
    (tmp_path / "archive").write_bytes(gzip.compress(b"no tar at all" * 100))
    assert "is not a .tar.gz or .zip archive" in refused(tmp_path / "archive", tmp_path / "out")
