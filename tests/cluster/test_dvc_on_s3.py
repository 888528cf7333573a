"""DVC's remote in a bucket: what was pushed comes back whole, or one line says what did not."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

REMOTE = ("python", "workflow/scripts/remote.py")
TABLE = "results/tables/table4.md"


@pytest.fixture(scope="module")
def pushed(first_run, s3, bucket: str, tmp_path_factory: pytest.TempPathFactory):
    """A finished project whose outputs are in the bucket, committed to Git with its remote."""
    project = first_run[0].copy(tmp_path_factory.mktemp("pushed") / "project", without=["tmp"])
    project.run("dvc", "remote", "add", "--quiet", "--default", "storage", f"s3://{bucket}/experiment")
    project.run("dvc", "remote", "modify", "storage", "endpointurl", s3.endpoint)
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "A version")
    assert "objects sent to s3://" in project.run(*REMOTE, "push").stdout
    return project


@pytest.fixture(scope="module")
def clone(pushed, tmp_path_factory: pytest.TempPathFactory):
    return pushed.clone(tmp_path_factory.mktemp("clone") / "project")


@pytest.fixture
def wiped(clone):
    """The clone without outputs, and without anything that DVC keeps of them on this machine."""
    for name in ("data", "results", ".dvc/cache", ".dvc/tmp", "../dvc-site"):
        shutil.rmtree(clone.folder / name, ignore_errors=True)
    return clone


@pytest.fixture
def object_of(s3, bucket: str, pushed) -> Callable[[str], str]:
    """The key of the object with an output's content, or with the list of a folder's files."""
    stages = yaml.safe_load((pushed.folder / "dvc.lock").read_text())["stages"].values()
    outputs = {output["path"]: output["md5"] for stage in stages for output in stage.get("outs", [])}

    def key(digest: str) -> str:
        return f"experiment/files/md5/{digest[:2]}/{digest[2:]}"

    def of(path: str) -> str:
        if path in outputs:
            return key(outputs[path])
        folder, _, name = path.rpartition("/")
        files = json.loads(s3.read(bucket, key(outputs[folder])))
        return key(next(file["md5"] for file in files if file["relpath"] == name))

    return of


def error_of(project, *command: str) -> str:
    """What a command prints that fails with one line."""
    finished = project.run(*command, check=False)
    assert finished.returncode == 2 and finished.stdout.count("\n") == 1, finished.stdout
    assert finished.stdout.startswith("ssmrank: error: ")
    return finished.stdout


def test_a_second_push_sends_nothing(pushed) -> None:
    assert pushed.run(*REMOTE, "push").stdout.startswith("0 objects sent")


def test_a_pull_into_a_fresh_clone_leaves_nothing_to_do(wiped, first_run) -> None:
    wiped.run(*REMOTE, "pull")
    assert wiped.files() == first_run[0].files()
    assert wiped.planned() == {}


def test_dvcs_own_pull_does_the_same_with_its_remote(wiped, first_run) -> None:
    wiped.run("dvc", "pull", "tables")
    assert (wiped.folder / TABLE).read_bytes() == (first_run[0].folder / TABLE).read_bytes()


def test_a_damaged_object_is_named_and_only_its_output_is_made_again(wiped, s3, bucket: str, object_of) -> None:
    key = object_of(TABLE)
    good = s3.read(bucket, key)
    s3.write(bucket, key, good.replace(b"Tiny", b"Tony"))
    error = error_of(wiped, *REMOTE, "pull")
    assert f"error: {TABLE}: its object s3://{bucket}/{key} is not what was pushed" in error
    assert not (wiped.folder / TABLE).exists()
    assert wiped.planned() == {"table": 1}
    s3.client.delete_object(Bucket=bucket, Key=key)
    assert f"error: {TABLE}: its object s3://{bucket}/{key} is not there" in error_of(wiped, *REMOTE, "pull", "tables")
    s3.write(bucket, key, good)
    wiped.run(*REMOTE, "pull", "tables")
    assert wiped.planned() == {}


@pytest.mark.parametrize("damage", [lambda good: good.replace(b"table4", b"table9"), lambda good: good[:50]])
def test_a_damaged_list_of_files_brings_no_file_of_a_wrong_name(wiped, s3, bucket: str, object_of, damage) -> None:
    key = object_of("results/tables")
    good = s3.read(bucket, key)
    s3.write(bucket, key, damage(good))
    try:
        error = error_of(wiped, *REMOTE, "pull", "tables")
    finally:
        s3.write(bucket, key, good)
    assert error.startswith("ssmrank: error: results/tables")
    assert f": its object s3://{bucket}/{key} is not what was pushed" in error
    assert not (wiped.folder / "results/tables").exists()
    wiped.run(*REMOTE, "pull", "tables")
    assert [path.stem for path in (wiped.folder / "results/tables").iterdir()] == ["table4"] * 4


def test_outputs_that_were_here_before_stay_when_a_pull_fails(wiped, s3, bucket: str, object_of) -> None:
    key = object_of(TABLE)
    good = s3.read(bucket, key)
    mine = wiped.folder / TABLE
    mine.parent.mkdir(parents=True)
    mine.write_text("my own table")
    s3.write(bucket, key, b"")
    try:
        error_of(wiped, *REMOTE, "pull", "tables")
    finally:
        s3.write(bucket, key, good)
    assert mine.read_text() == "my own table"


def test_no_credentials(clone, s3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in s3.environment.keys() - s3.no_credentials.keys():
        monkeypatch.delenv(name)
    assert "DVC's remote 'storage' (s3://" in (error := error_of(clone, *REMOTE, "push"))
    assert "Unable to locate credentials" in error


def test_a_bucket_that_does_not_exist(clone, bucket: str) -> None:
    with clone.edited(".dvc/config", f"s3://{bucket}/experiment", "s3://nowhere/experiment"):
        error = error_of(clone, *REMOTE, "pull")
    assert "DVC's remote 'storage' (s3://nowhere/experiment): The specified bucket does not exist" in error


def test_a_server_that_is_down(clone, s3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # by itself the client asks again for some seconds
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with clone.edited(".dvc/config", s3.endpoint, f"http://127.0.0.1:{port}"):
        assert "Could not connect to the endpoint URL" in error_of(clone, *REMOTE, "pull")


def test_a_server_that_never_answers(clone, s3, tmp_path: Path) -> None:
    (tmp_path / "impatient.py").write_text(
        "import sys; sys.path[:0] = ['workflow/lib', 'workflow/scripts']\n"
        "import pipeline.remote; pipeline.remote.PATIENCE = 1\n"
        "import remote; remote.main()\n"
    )
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with clone.edited(".dvc/config", s3.endpoint, address):
            error = error_of(clone, "python", str(tmp_path / "impatient.py"), "pull")
    assert "it has not answered for 1 s" in error


def test_a_remote_that_is_not_configured(clone) -> None:
    assert "DVC has no remote 'elsewhere' here, only: storage" in error_of(clone, *REMOTE, "pull", "--remote=elsewhere")
