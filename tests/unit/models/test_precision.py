"""Which GPU a process takes, without one: locks are files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssmrank.errors import UserError
from ssmrank.models.precision import default_device, free_gpu, private_folder

HOLD = """
import sys
from pathlib import Path
from ssmrank.models.precision import free_gpu
print(free_gpu(int(sys.argv[1]), Path(sys.argv[2])), flush=True)
sys.stdin.read()
"""


def holder(count: int, folder: Path) -> tuple[subprocess.Popen, int]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(count), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline())


def test_processes_take_different_gpus_and_a_killed_one_gives_its_own_back(tmp_path: Path) -> None:
    first, one = holder(3, tmp_path)
    second, other = holder(3, tmp_path)
    try:
        assert (one, other) == (0, 1)
        first.kill()
        first.wait()
        third, again = holder(3, tmp_path)
        try:
            assert again == 0
            assert free_gpu(3, tmp_path) == 2
            assert free_gpu(3, tmp_path) in range(3)  # all are taken
        finally:
            third.kill()
    finally:
        first.kill()
        second.kill()


def test_a_process_that_asks_again_keeps_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name, value in {"is_available": True, "device_count": 3, "set_device": None}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    other, taken = holder(3, private_folder())
    try:
        assert taken == 0
        assert [default_device() for _ in range(3)] == [torch.device("cuda", 1)] * 3
    finally:
        other.kill()


def test_locks_lie_in_a_folder_that_no_other_user_can_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = private_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder() == folder
    folder.chmod(0o777)
    with pytest.raises(UserError, match="belongs to another user or is open to others; remove it, or set TMPDIR"):
        private_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(UserError, match="belongs to another user or is open to others"):
        private_folder()


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "gpu-0-0.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        free_gpu(1, tmp_path)
    assert (tmp_path / "precious").read_text() == "kept"
