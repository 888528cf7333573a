"""Files and folders are complete or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ssmrank.errors import UserError
from ssmrank.io import atomic
from ssmrank.io.atomic import atomic_directory, atomic_file


def test_file_appears_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with atomic_file(path) as stream:
        stream.write("élan\n")
        assert not path.exists()
    assert path.read_bytes() == "élan\n".encode()
    assert [child.name for child in path.parent.iterdir()] == ["a.txt"]


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as stream:
        stream.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["a.txt"]


def test_file_mode_follows_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a", "wb") as stream:
            stream.write(b"x")
        with atomic_directory(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o750


def test_directory_replaces_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "new").write_text("")
        assert (tmp_path / "out" / "old").exists()
    assert [child.name for child in (tmp_path / "out").iterdir()] == ["new"]
    assert [child.name for child in tmp_path.iterdir()] == ["out"]


def test_directory_failure_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "out") as folder:
        (folder / "new").write_text("")
        raise RuntimeError
    assert [child.name for child in (tmp_path / "out").iterdir()] == ["old"]
    assert [child.name for child in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, mode: str, encoding: str | None):
        os.close(handle)
        return open("/dev/full", mode, encoding=encoding)

    monkeypatch.setattr(atomic.os, "fdopen", full)
    message = r"a\.txt: cannot write: the disk is full; free space"
    with pytest.raises(UserError, match=message), atomic_file(tmp_path / "a.txt") as stream:
        stream.write("x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [atomic_file, atomic_directory])
def test_below_a_file(tmp_path: Path, write) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "a" / "b"):
        message = "cannot write: a file is in the place of a folder; move it away"
        with pytest.raises(UserError, match=message), write(path):
            pass


def test_a_file_or_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="a file is in the place of a folder"), atomic_directory(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="a folder is in the place of a file"), atomic_file(tmp_path / "folder"):
        pass
    assert sorted(child.name for child in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("write", [atomic_file, atomic_directory])
@pytest.mark.parametrize(("number", "advice"), [(errno.EACCES, "permission denied"), (errno.EROFS, "read-only")])
def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write, number: int, advice: str) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(UserError, match=rf"out: cannot write: .*{advice}"), write(tmp_path / "out"):
        pass


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output"), atomic_file(tmp_path / "a"):
        raise OSError(errno.EIO, "Input/output error")
