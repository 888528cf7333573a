"""Which GPUs a process takes, without any: locks are files, and counts are made up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from ssmrank import gpus
from ssmrank.errors import UserError
from ssmrank.gpus import own_gpu, own_gpus, private_folder, take, visible_names
from ssmrank.models.precision import default_device

HOLD = """
import json, sys
from ssmrank import gpus
count, wanted = map(int, sys.argv[1:])
print(json.dumps(gpus.own_gpu(count) if wanted == 1 else gpus.own_gpus(count, wanted)), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Locks in the test's folder; this process has taken nothing."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    gpus._own.cache_clear()
    yield
    gpus._own.cache_clear()
    for lock in gpus._held:
        os.close(lock)
    gpus._held.clear()


@contextmanager
def job(count: int, wanted: int = 1, **variables: str) -> Iterator[object]:
    """What another process takes of `count` GPUs, until the end of the block, when it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(count), str(wanted)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def test_processes_take_different_gpus_and_a_killed_one_gives_its_own_back() -> None:
    with ExitStack() as stack:
        with job(3) as first:
            assert (first, stack.enter_context(job(3))) == (0, 1)
        assert [stack.enter_context(job(3)) for _ in range(2)] == [0, 2]


def test_more_jobs_than_gpus_share_them_evenly_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    taken = [take(["0", "1", "2"], 1, private_folder())[0] for _ in range(9)]
    assert taken == [0, 1, 2] * 3
    assert caplog.messages[0] == "GPU 0 is shared by 2 jobs of yours, because all are taken"
    assert caplog.messages[-1] == "GPU 2 is shared by 3 jobs of yours, because all are taken"


def test_a_job_of_several_processes_takes_as_many_gpus_and_they_see_no_others() -> None:
    with job(4) as one, job(4, wanted=2) as two, job(4) as other:
        assert (one, two, other) == (0, {"CUDA_VISIBLE_DEVICES": "1,2"}, 3)
    with job(2, wanted=2) as all_of_them:
        assert all_of_them == {}
        assert own_gpus(4, 2) == {"CUDA_VISIBLE_DEVICES": "2,3"}


def test_a_process_that_starts_others_keeps_its_own_gpu() -> None:
    with job(4):
        assert own_gpu(4) == 1
        assert own_gpus(4, 3) == {"CUDA_VISIBLE_DEVICES": "1,2,3"}


def test_runs_that_see_different_gpus_know_them_by_the_same_names() -> None:
    """Two runs of Snakemake with `CUDA_VISIBLE_DEVICES=2,3` and without."""
    with job(2, CUDA_VISIBLE_DEVICES="2,3") as first, job(2, CUDA_VISIBLE_DEVICES="3,2") as second:
        assert (first, second) == (0, 0)  # GPU 2, and GPU 3
        with job(4) as third, job(2, wanted=2, CUDA_VISIBLE_DEVICES="1,0") as shared:
            assert third == 0
            assert shared == {}
            assert own_gpu(4) == 1  # all are taken, GPU 0 by two


def test_in_a_job_of_slurm_the_scheduler_has_chosen() -> None:
    """With cgroups each job of a node sees its GPUs as 0, 1, …, whichever they are."""
    first, second = ({"SLURM_JOB_ID": number, "CUDA_VISIBLE_DEVICES": "0,1"} for number in ("7", "8"))
    with job(2, **first) as one, job(2, **second) as other, job(2, **first) as beside:
        assert (one, other, beside) == (0, 0, 1)
        # A job that asked for no GPU sees all of the node.
        with job(2, SLURM_JOB_ID="9") as unasked:
            assert unasked == 0
            assert own_gpu(2) == 1


def test_names_are_those_of_the_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible_names(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-3f, MIG-GPU-8a/1/0")
    assert visible_names(2) == ["GPU-3f", "MIG-GPU-8a/1/0"]
    assert take(visible_names(2), 2, private_folder()) == [0, 1]
    assert {path.name for path in private_folder().iterdir()} == {"gpu-GPU-3f-0.lock", "gpu-MIG-GPU-8a-1-0-0.lock"}


def test_a_process_that_asks_again_keeps_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"is_available": True, "device_count": 3, "set_device": None}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    with job(3) as taken:
        assert taken == 0
        assert [default_device() for _ in range(3)] == [torch.device("cuda", 1)] * 3


def test_locks_lie_in_a_folder_that_no_other_user_can_write_to(tmp_path: Path) -> None:
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


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "gpu-0-0.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        take(["0"], 1, tmp_path)
    assert (tmp_path / "precious").read_text() == "kept"
