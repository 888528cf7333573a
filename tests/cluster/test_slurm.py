"""The workflow on Slurm: what is sent to it, and what happens to jobs that do not end well."""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from chaos.disturbed import Disturbed
from cluster.slurm import Slurm, running
from projects import Project, new_project

pytestmark = pytest.mark.timeout(900)

COMMAND = ["snakemake", "--workflow-profile", "profiles/slurm"]

NO_ACCOUNTS = ["--slurm-status-command", "squeue"]
"""This cluster keeps no record of ended jobs."""

WATCHED = "    report = executor.report_job_error\n"
OFTEN = "    executor.next_seconds_between_status_checks = property(lambda _: 1, lambda *_: None)\n"
"""Asks Slurm every second. The plugin by itself waits ten seconds longer each time that no job has ended."""

CHECKPOINT = "results/checkpoints/firstp/tiny-mamba2"

EPOCHS = 40

STEPS = 6 * EPOCHS

LOG = "results/logs/train/firstp/tiny-mamba2.log"


class Finished(NamedTuple):
    """The project after Slurm has run everything, what Snakemake printed, and Slurm's jobs."""

    project: Project
    printed: str
    jobs: list[dict[str, str]]


def impatient_project(root: Path, folder: Path) -> Project:
    """The project with nothing built, whose Snakemake sees within a second that a job has ended."""
    project = new_project(root, folder)
    project.edit("workflow/lib/pipeline/slurm.py", WATCHED, WATCHED + OFTEN)
    return project


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Disturbed]:
    """A run on a cluster whose queue is full. It starts before others, because sbatch asks again for two minutes."""
    with running(tmp_path_factory.mktemp("full"), max_jobs=2) as full, pytest.MonkeyPatch.context() as patch:
        for name, value in full.environment.items():
            patch.setenv(name, value)
        full.ask("sbatch", "--hold", "--output=/dev/null", "--wrap", "true")
        project = impatient_project(root, tmp_path_factory.mktemp("refused") / "project")
        run = Disturbed(project, *COMMAND, *NO_ACCOUNTS, "data/models/tiny-bert")
        patch.undo()
        with run:
            yield run


@pytest.fixture(scope="module")
def finished_by_slurm(
    refused: Disturbed, cluster: Slurm, tmp_path_factory: pytest.TempPathFactory, root: Path
) -> Iterator[Finished]:
    """No test may change it. The first try of the training gets too little memory."""
    project = impatient_project(root, tmp_path_factory.mktemp("slurm-project") / "project")
    project.edit("params.yaml", "          - {model: tiny-bert, training: firstp}\n", "")
    project.edit(
        "params.yaml",
        "    reranking: bm25-top10\n",
        "    reranking: bm25-top10\n    significance: {baseline: {retriever: bm25}}\n",
    )
    # Long enough to be disturbed, and its state is saved often.
    project.edit("params.yaml", "    groups: 16\n", f"    epochs: {EPOCHS}\n")
    saved = "--save-seconds 0.5 --token-cache {params.state}"
    project.edit("workflow/rules/train.smk", "--token-cache {params.state}", saved)
    profile = "profiles/slurm/config.yaml"
    project.edit(profile, "    mem_mb: 64000 * attempt\n", "    mem_mb: 300 * 20 ** (attempt - 1)\n")
    project.edit(profile, "  rerank: {<<: *gpu,", "  rerank: {<<: *gpu, mem_mb: 64000,")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        printed = project.run(*COMMAND, *NO_ACCOUNTS).stdout
        # Jobs of other tests, which srun started, have no comment.
        yield Finished(project, printed, [job for job in cluster.jobs() if "Comment" in job])


@pytest.fixture
def project(finished_by_slurm: Finished, slurm: Slurm, tmp_path: Path) -> Project:
    """A copy of the finished project, which the test may change."""
    return finished_by_slurm.project.copy(tmp_path / "project")


def rule_of(job: dict[str, str]) -> str:
    """The rule or group of a job of Slurm."""
    return re.sub("_wildcards_.*", "", job["Comment"]).removeprefix("rule_")


def wait_for(is_true: Callable[[], Any], run: Disturbed) -> None:
    deadline = time.monotonic() + 120
    while not is_true():
        assert run.process.poll() is None, run.said
        assert time.monotonic() < deadline, run.said
        time.sleep(0.1)


def minutes_of(limit: str) -> int:
    """Slurm's `D-HH:MM:SS` in minutes."""
    days, _, clock = f"0-{limit}".rpartition("-")
    hours, minutes, _ = map(int, clock.split(":"))
    return int(days.rpartition("-")[2]) * 24 * 60 + hours * 60 + minutes


def gigabytes(memory: str) -> str:
    """A profile's megabytes of the first try as Slurm shows thousands of them."""
    return f"{int(memory.split()[0]) / 1024:.2f}G"


def errors(printed: str) -> list[str]:
    """The lines that say what went wrong, without Snakemake's own."""
    return re.findall(r"^ssmrank: error: (.*)$", printed, re.MULTILINE)


def test_each_node_of_the_dag_is_a_job_and_rules_of_seconds_share_one(finished_by_slurm: Finished) -> None:
    rules = [rule_of(job) for job in finished_by_slurm.jobs]
    assert sorted(rules) == [
        *("download_collection", "download_model", "download_model", "first-stages_evaluate_first_stage", "index"),
        *("metrics-firstp-tiny-mamba2_evaluate", "negatives", "rerank", "retrieve", "retrieve"),
        *("tables_significance_table", "train", "train"),
    ]
    assert errors(finished_by_slurm.printed) == []


def test_jobs_ask_for_what_the_profile_says(finished_by_slurm: Finished, root: Path) -> None:
    profile = yaml.safe_load((root / "profiles/slurm/config.yaml").read_text())
    for job in finished_by_slurm.jobs:
        rule = rule_of(job)
        asked = profile["default-resources"] | profile["set-resources"].get(rule, {})
        minutes = asked["runtime"] * (2 if rule == "tables_significance_table" else 1)  # one after the other
        assert minutes_of(job["TimeLimit"]) == minutes, job
        if rule != "train":
            assert job["MinMemoryNode"] in (f"{asked['mem_mb'].split()[0]}M", gigabytes(asked["mem_mb"])), job
        assert job.get("TresPerJob") == ("gres:gpu:1" if rule in ("train", "rerank") else None), job
        assert job["NumNodes"] == "1"
        assert job["NumCPUs"] == ("8" if rule in ("index", "retrieve", "train", "rerank") else "1"), job


def test_nothing_is_left_to_do_and_runs_are_in_mlflow(finished_by_slurm: Finished) -> None:
    project = finished_by_slurm.project
    assert project.planned() == {}
    assert [*project.folder.glob("results/tracking/*.jsonl")] == []
    with closing(sqlite3.connect(project.folder / "mlflow.db")) as database:
        [[losses]] = database.execute("select count(*) from metrics where key = 'loss'")
    assert losses == STEPS


def test_a_job_killed_for_memory_is_tried_again_with_more(finished_by_slurm: Finished) -> None:
    first, second = [job for job in finished_by_slurm.jobs if rule_of(job) == "train"]
    assert (first["JobState"], first["MinMemoryNode"]) == ("FAILED", "300M")
    assert (second["JobState"], second["MinMemoryNode"]) == ("COMPLETED", "6000M")


def test_a_training_goes_on_when_its_node_is_lost(finished_by_slurm: Finished, project: Project, slurm: Slurm) -> None:
    shutil.rmtree(project.folder / CHECKPOINT)
    shutil.rmtree(project.folder / "results/state")
    with Disturbed(project, *COMMAND, *NO_ACCOUNTS, CHECKPOINT) as run:
        wait_for(lambda: [*project.folder.glob("results/state/train-*/firstp/tiny-mamba2/step*")], run)
        [job] = [job for job in slurm.jobs() if job["JobState"] == "RUNNING"]
        slurm.kill_node(job["NodeList"])
        # Slurm waits two minutes before it starts such a job again.
        slurm.ask("scontrol", "update", f"jobid={job['JobId']}", "starttime=now")
        assert run.ends(600), run.said
    assert run.process.returncode == 0, run.said
    [again] = [other for other in slurm.jobs() if other["JobId"] == job["JobId"]]
    assert re.search(rf"resuming after step \d+ of {STEPS}", (project.folder / LOG).read_text())
    assert (again["JobState"], again["Restarts"]) == ("COMPLETED", "1")
    assert again["NodeList"] != job["NodeList"]
    weights = f"{CHECKPOINT}/model.safetensors"
    assert (project.folder / weights).read_bytes() == (finished_by_slurm.project.folder / weights).read_bytes()


def test_a_cancelled_job_is_one_line(project: Project, slurm: Slurm) -> None:
    shutil.rmtree(project.folder / CHECKPOINT)
    slurm.pause()
    with Disturbed(project, *COMMAND, *NO_ACCOUNTS, CHECKPOINT) as run:
        wait_for(lambda: "has been submitted" in run.said, run)
        number = slurm.jobs()[-1]["JobId"]
        slurm.ask("scancel", number)
        assert run.ends(60), run.said
    assert run.process.returncode == 1
    assert errors(run.said) == [
        f"train ({CHECKPOINT}) was cancelled (job {number} of Slurm); the same command goes on from here"
    ]
    assert slurm.jobs()[-1]["JobId"] == number  # it is not tried again


def test_ctrl_c_cancels_the_jobs(project: Project, slurm: Slurm) -> None:
    shutil.rmtree(project.folder / CHECKPOINT)
    with Disturbed(project, *COMMAND, *NO_ACCOUNTS, CHECKPOINT) as run:
        wait_for(lambda: slurm.jobs()[-1]["JobState"] == "RUNNING", run)
        run.kill("Ctrl-C", random.Random(0))
        assert run.ends(60), run.said
    assert "Traceback" not in run.said
    assert slurm.jobs()[-1]["JobState"] == "CANCELLED"


def test_without_a_record_of_ended_jobs_a_line_says_what_to_set(project: Project) -> None:
    shutil.rmtree(project.folder / CHECKPOINT)
    done = project.run(*COMMAND, CHECKPOINT, check=False)
    assert done.returncode == 1
    assert errors(done.stdout) == [
        "Slurm keeps no record of ended jobs (Slurm accounting storage is disabled); set "
        "`slurm-status-command: squeue` in profiles/slurm/config.yaml, else no job would be seen to end"
    ]


def test_jobs_of_a_killed_run_are_named(project: Project, slurm: Slurm) -> None:
    shutil.rmtree(project.folder / CHECKPOINT)
    number = slurm.ask("sbatch", "--hold", "--parsable", "-D", str(project.folder), "--wrap", "true").strip()
    done = project.run(*COMMAND, *NO_ACCOUNTS, CHECKPOINT, check=False)
    assert done.returncode == 1
    assert errors(done.stdout) == [
        "jobs of a former run are in Slurm's queue and would write the same files; wait for them, or "
        f"`scancel {number}`, and start again"
    ]


def test_a_full_queue_is_one_line(refused: Disturbed) -> None:
    assert refused.ends(200), refused.said
    assert refused.process.returncode == 1
    assert errors(refused.said) == [
        "download_model (data/models/tiny-bert) was not taken by Slurm: Batch job submission failed: Resource "
        "temporarily unavailable; see profiles/slurm/config.yaml, or wait if the queue is full, and start again"
    ]
