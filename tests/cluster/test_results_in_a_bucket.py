"""Runs, models and checkpoints in a bucket: the same tables, little left here, and nothing old passes as new."""

from __future__ import annotations

import logging
import shutil
import socket
from pathlib import Path

import pytest
import snakemake_storage_plugin_s3 as plugin
import yaml

from pipeline.storage import mend
from projects import new_project
from ssmrank.tracking.run_metadata import SUFFIX

RUN = "results/runs/reranked/tiny/test/bm25-top10/firstp/tiny-bert"
TRAININGS = {"train": 2, "rerank": 2, "evaluate": 2, "table": 1}
FIRST_STAGE = "results/runs/first-stage/tiny/test/bm25.trec"
PROFILE = "profiles/s3/config.yaml"


@pytest.fixture(scope="module")
def stored(first_run, s3, bucket: str, root: Path, tmp_path_factory: pytest.TempPathFactory):
    """The tests' experiment after a run with its results in the bucket, and what Snakemake printed."""
    project = new_project(root, tmp_path_factory.mktemp("stored") / "project")
    shutil.copy2(first_run[0].folder / "mlflow.db", project.folder)
    project.edit(PROFILE, "s3://my-bucket/my-experiment", f"s3://{bucket}/grid")
    project.edit(
        PROFILE, "# storage-s3-endpoint-url: https://s3.example.org", f"storage-s3-endpoint-url: {s3.endpoint}"
    )
    printed = project.run("snakemake", "--workflow-profile", "profiles/s3", "all", "all_figures").stdout
    return project, printed


@pytest.fixture
def provider(s3, tmp_path: Path) -> plugin.StorageProvider:
    mend("s3")
    settings = plugin.StorageProviderSettings(endpoint_url=s3.endpoint)
    return plugin.StorageProvider(tmp_path, logging.getLogger(), settings=settings)


def plan(project, *arguments: str) -> dict[str, int]:
    return project.jobs(project.run("snakemake", "--workflow-profile", "profiles/s3", "-n", *arguments).stdout)


def error_of(project, *arguments: str) -> str:
    """The error line of a plan that fails; Snakemake itself prints a line before it."""
    finished = project.run("snakemake", "--workflow-profile", "profiles/s3", "-n", *arguments, check=False)
    lines = [line for line in finished.stdout.splitlines() if line and not line.startswith("Using workflow specific")]
    assert finished.returncode == 1 and len(lines) == 1, finished.stdout
    return lines[0]


def test_the_table_is_that_of_a_local_run(stored, first_run) -> None:
    folders = [project.folder / "results/tables" for project in (stored[0], first_run[0])]
    for kind in ("md", "tex", "csv"):
        here, local = ((folder / f"table4.{kind}").read_text() for folder in folders)
        assert here == local
    # The page says where each run was read.
    page, local = ((folder / "table4.html").read_text() for folder in folders)
    assert page.replace(f".snakemake/storage/s3/{_bucket(stored[0])}/grid/", "") == local


def test_figures_and_metrics_are_those_of_a_local_run(stored, first_run) -> None:
    here, local = stored[0].files(), first_run[0].files()
    same = [name for name in local if name.startswith(("results/figures", "results/per-query"))]
    assert len(same) == 7
    assert {name: here[name] for name in same} == {name: local[name] for name in same}


def test_nothing_is_left_to_do(stored) -> None:
    assert plan(stored[0], "all", "all_figures") == {}


def test_what_is_large_is_in_the_bucket_alone(stored, s3, bucket: str) -> None:
    project, _ = stored
    stored_files = {key.removeprefix("grid/") for key in s3.keys(bucket)}
    assert {
        "data/collections/tiny/documents.jsonl",
        "data/models/tiny-bert/model.safetensors",
        "data/indexes/tiny/porter/segments_2",
        "results/negatives/tiny/train/bm25-top20.jsonl",
        "results/runs/first-stage/tiny/test/bm25.trec",
        "results/checkpoints/firstp/tiny-mamba2/model.safetensors",
        f"{RUN}.trec",
    } <= stored_files
    here = [path.relative_to(project.folder).parts[:2] for path in project.folder.rglob("*") if path.is_file()]
    assert {parts[1] for parts in here if parts[0] == "results"} == {
        *("benchmarks", "figures", "logs", "metrics", "per-query", "provenance", "state", "tables")
    }
    assert not [path for path in (project.folder / "data").rglob("*") if path.is_file()]


def test_copies_go_as_soon_as_no_job_needs_them(stored) -> None:
    project, printed = stored
    assert "Skipped removing non-empty directory" not in printed
    removed = printed.index(
        f"Removing local copy of storage file: s3://{_bucket(project)}/grid/data/indexes/tiny/porter"
    )
    assert removed < printed.index("rule table:")
    copies = (project.folder / ".snakemake/storage").rglob("*")
    assert [path.name for path in copies if path.is_file() and not path.name.endswith(SUFFIX)] == []


def test_a_run_has_its_description_beside_it(stored, s3, bucket: str) -> None:
    found = yaml.safe_load(s3.read(bucket, f"grid/{RUN}{SUFFIX}"))
    assert [step["name"] for step in found["method"]["retrieval"]] == ["bm25", "tiny-bert-firstp"]


def test_a_changed_setting_runs_its_own_jobs(stored) -> None:
    with stored[0].edited("params.yaml", "learning_rate: 1.0e-3", "learning_rate: 2.0e-3"):
        assert plan(stored[0]) == TRAININGS


def test_an_output_that_is_gone_from_the_bucket_is_made_again(stored, s3, bucket: str) -> None:
    project, _ = stored
    run = s3.read(bucket, key := f"grid/{FIRST_STAGE}")
    s3.client.delete_object(Bucket=bucket, Key=key)
    printed = project.run("snakemake", "--workflow-profile", "profiles/s3", FIRST_STAGE).stdout
    assert project.jobs(printed) == {"retrieve": 1}
    assert s3.read(bucket, key) == run
    assert plan(project, FIRST_STAGE) == {}


def test_a_copy_is_whole_or_absent(s3, provider) -> None:
    """The second object cannot be fetched: a file is in the place of its folder."""
    bucket = s3.bucket()
    s3.write(bucket, "model/weights", b"1")
    model = provider.object(f"s3://{bucket}/model")
    model.local_path().mkdir(parents=True)
    (model.local_path() / "of an older version").touch()
    model.retrieve_object()
    assert [path.name for path in model.local_path().iterdir()] == ["weights"]
    s3.write(bucket, "other/weights", b"1")
    s3.write(bucket, "other/weights/part", b"2")
    other = provider.object(f"s3://{bucket}/other")
    with pytest.raises(FileExistsError):
        other.retrieve_object()
    assert [path.name for path in other.local_path().parent.iterdir()] == ["model"]


def test_a_folder_that_is_made_later_is_one(s3, provider) -> None:
    bucket = s3.bucket()
    folder = provider.object(f"s3://{bucket}/folder")
    assert not folder.exists()
    s3.write(bucket, "folder/file", b"1")
    assert folder.exists() and folder.is_dir() and folder.size() == 1
    folder.remove()
    assert s3.keys(bucket) == [] and provider.object(f"s3://{bucket}/folder").bucket_exists()


def test_results_of_another_folder_do_not_pass_as_ones_own(stored, root: Path, tmp_path: Path) -> None:
    other = new_project(root, tmp_path / "project")
    shutil.copy2(stored[0].folder / PROFILE, other.folder / PROFILE)
    assert plan(other, FIRST_STAGE) == {"download_collection": 1, "index": 1, "retrieve": 1}


def test_jobs_of_a_scheduler_are_told_where_the_server_is(s3, bucket: str, root: Path, tmp_path: Path) -> None:
    """sbatch gives a job the variables of the process that calls it."""
    project = new_project(root, tmp_path / "project")
    (project.folder / "told.smk").write_text(
        'import os\n\ninclude: "Snakefile"\n\nprint("told " + os.environ["SNAKEMAKE_STORAGE_S3_ENDPOINT_URL"])\n'
    )
    options = ("--workflow-profile", "profiles/s3", "--storage-s3-endpoint-url", s3.endpoint)
    prefix = ("--default-storage-prefix", f"s3://{bucket}/grid")
    printed = project.run("snakemake", "--snakefile", "told.smk", *options, *prefix, "--list-rules").stdout
    assert f"told {s3.endpoint}\n" in printed


def test_no_credentials(stored, s3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in s3.environment.keys() - s3.no_credentials.keys():
        monkeypatch.delenv(name)
    assert "/grid: Unable to locate credentials; create the bucket, or correct" in error_of(stored[0])


def test_a_bucket_that_does_not_exist(stored, s3) -> None:
    error = error_of(stored[0], "--default-storage-prefix", "s3://nowhere/grid")
    assert "--default-storage-prefix s3://nowhere/grid: there is no bucket 'nowhere'; create the bucket" in error
    assert "nowhere" not in [bucket["Name"] for bucket in s3.client.list_buckets()["Buckets"]]


def test_a_server_that_is_down(stored) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "Could not connect to the endpoint URL" in error_of(
        stored[0], "--storage-s3-endpoint-url", f"http://127.0.0.1:{port}", "--storage-s3-retries", "0"
    )


def test_a_folder_elsewhere(stored, first_run, root: Path, tmp_path: Path) -> None:
    """The first stages alone: folders and files, by rsync."""
    if shutil.which("rsync") is None:
        pytest.skip("storage in a folder needs rsync; Debian's package has that name")
    project = new_project(root, tmp_path / "project")
    shutil.copy2(first_run[0].folder / "mlflow.db", project.folder)
    project.edit("profiles/fs/config.yaml", "/scratch/me/my-experiment", str(tmp_path / "scratch"))
    command = ("snakemake", "--workflow-profile", "profiles/fs", "results/metrics/tiny/test/bm25.json")
    project.run(*command)
    run = "results/runs/first-stage/tiny/test/bm25"
    for suffix in (".trec", SUFFIX):
        assert (tmp_path / f"scratch/{run}{suffix}").is_file()
    assert not (project.folder / "results/runs").exists() and not (project.folder / "data/indexes").exists()
    assert (tmp_path / f"scratch/{run}.trec").read_bytes() == (first_run[0].folder / f"{run}.trec").read_bytes()
    assert project.jobs(project.run(*command, "-n").stdout) == {}


def _bucket(project) -> str:
    return yaml.safe_load((project.folder / PROFILE).read_text())["default-storage-prefix"].split("/")[2]
