"""What killed processes left is removed, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ssmrank.io.atomic import atomic_directory, atomic_file, one_at_a_time, scratch_directory
from ssmrank.io.leftovers import sweep

WRITERS = {
    "file": "with atomic_file(path) as stream: stream.write('half'); stream.flush(); wait()",
    "folder": "with atomic_directory(path) as folder: (folder / 'half').write_text(''); wait()",
    "scratch folder": "with scratch_directory('x', path.parent) as folder: (folder / 'half').write_text(''); wait()",
    "lock": "with one_at_a_time(path): wait()",
}


def start(code: str, path: Path) -> subprocess.Popen:
    """A process that runs the code up to its `wait()`."""
    lines = [
        "import sys; from pathlib import Path",
        "from ssmrank.io.atomic import atomic_directory, atomic_file, one_at_a_time, scratch_directory",
        "def wait(): print('here', flush=True); sys.stdin.read()",
        f"path = Path({str(path)!r})",
        code,
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    return process


def end(process: subprocess.Popen, number: signal.Signals) -> None:
    process.send_signal(number)
    process.communicate()


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_live_process_writes_stays_and_goes_once_it_is_killed(tmp_path: Path, name: str) -> None:
    process = start(WRITERS[name], tmp_path / "below" / "out")
    [left] = (tmp_path / "below").iterdir()
    assert sweep(tmp_path) == []
    assert left.exists()
    end(process, signal.SIGKILL)
    assert left.exists()
    assert sweep(tmp_path) == [left]
    assert list((tmp_path / "below").iterdir()) == []


def test_a_writer_that_goes_on_after_a_sweep_ends_well(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as stream, atomic_directory(tmp_path / "b"), one_at_a_time(tmp_path / "c"):
        stream.write("whole")
        assert sweep(tmp_path) == []
    assert (tmp_path / "a").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_other_files_stay(tmp_path: Path) -> None:
    names = [".part", "a.part", ".a.part", ".a.12345678.parts", ".lock", "a.lock", ".snakemake_timestamp", ".a.old"]
    for name in names:
        (tmp_path / name).write_text("")
    (tmp_path / ".link.12345678.part").symlink_to(tmp_path / "a.part")
    assert sweep(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == len(names) + 1


def test_only_one_folder_is_looked_at_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for folder in (tmp_path, tmp_path / "below"):
        (folder / ".a.12345678.part").write_text("")
    assert sweep(tmp_path, below=False) == [tmp_path / ".a.12345678.part"]
    assert sweep(tmp_path / "absent") == []


def test_killed_between_the_two_renames_of_a_folder(tmp_path: Path) -> None:
    """Neither folder is lost: the old one is restored."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")
    process = start("Path.replace = lambda *_: wait()\nwith atomic_directory(path): pass", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    end(process, signal.SIGKILL)
    assert len(sweep(tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]


def test_killed_before_the_old_folder_is_removed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")
    code = "import shutil; shutil.rmtree = lambda *_, **__: wait()\n"
    code += "with atomic_directory(path) as folder: (folder / 'new').write_text('')"
    end(start(code, tmp_path / "out"), signal.SIGKILL)
    assert len(sweep(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")
    monkeypatch.setattr(Path, "replace", lambda *_: os.strerror("no"))
    with pytest.raises(TypeError), atomic_directory(tmp_path / "out"):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_lock_that_is_removed_while_others_wait_lets_one_in_at_a_time(tmp_path: Path) -> None:
    code = (
        "for _ in range(40):\n"
        "    with one_at_a_time(path):\n"
        "        inside = path.with_name('inside'); inside.touch(exist_ok=False); inside.unlink()\n"
    )
    code = f"wait()\n{code}"
    processes = [start(code, tmp_path / "out") for _ in range(4)]
    for process in processes:
        process.stdin.close()  # type: ignore[union-attr]
    assert [process.wait() for process in processes] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def test_scratch_folders_are_in_the_system_s_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_directory() as folder:
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []
