"""Where outputs come from: a workflow of two rules, run in this process through Snakemake's API."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import snakemake
from snakemake.api import SnakemakeApi
from snakemake.exceptions import WorkflowError
from snakemake.settings.enums import PersistenceBackend, Quietness
from snakemake.settings.types import DAGSettings, OutputSettings, ResourceSettings, WorkflowSettings

from pipeline import code as finder
from pipeline.version import check_snakemake

SNAKEFILE = """
from pathlib import Path
from pipeline.code import code
from pipeline.contents import Contents
from pipeline.provenance import Provenance

contents = Contents(Path(".snakemake/contents.json"))

rule last:
    input: "data/made/x"
    output: "results/last.txt"
    params: *code("ssmrank.last")
    shell: "cat {input}/text > {output}; sh during-last.sh"

rule first:
    output: directory("data/made/{name}")
    params: *code("ssmrank.first"), files=lambda w: contents.lines([Path("external.txt")])
    shell: "mkdir {output}; cat external.txt > {output}/text; sh during-first.sh"

provenance = Provenance({"first": ["data/made/{name}"], "last": ["results/last.txt"]}, contents)
if workflow.is_main_process:
    provenance.watch()

onsuccess:
    provenance.close()

onerror:
    provenance.close()
"""


class Workflow:
    """A project in the current folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.settings = folder, WorkflowSettings()
        for name in ("__init__", "first", "last"):
            self.write(f"ssmrank/{name}.py", "x = 1\n")
        for name in ("during-first.sh", "during-last.sh"):
            self.write(name, "")
        self.write("external.txt", "one\n")
        self.write("Snakefile", SNAKEFILE)

    def write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def run(self, executor: str | None = None) -> list[str]:
        """The jobs that Snakemake runs, or plans with the executor `dryrun`."""
        finder.forget()
        updated: list[str] = []
        settings = OutputSettings(quiet={Quietness.ALL}, dryrun=executor == "dryrun")
        with SnakemakeApi(settings) as api:
            workflow = api.workflow(
                resource_settings=ResourceSettings(cores=1),
                workflow_settings=self.settings,
                snakefile=self.folder / "Snakefile",
                workdir=self.folder,
            )
            targets = DAGSettings(targets={"results/last.txt"}, forceall=executor == "touch")
            workflow.dag(targets).execute_workflow(pseudo_executor=executor, updated_files=updated)
        return sorted({Path(path).parent.name + "/" + Path(path).name for path in updated})

    def planned(self) -> list[str]:
        return self.run("dryrun")

    def state(self) -> dict[str, tuple[int, int, bytes]]:
        """Times and content of all files except Snakemake's own."""
        paths = [path for path in sorted(self.folder.rglob("*")) if path.is_file() and "iocache" not in path.parts]
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_ctime_ns, path.read_bytes())
            for path in paths
            if "log" not in path.parts
        }

    def forget(self) -> None:
        """Removes what a clone lacks: Snakemake's records and the order of times."""
        for path in sorted((self.folder / ".snakemake").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        os.utime("results/last.txt", (1e9, 1e9))


BOTH = ["made/x", "results/last.txt"]


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workflow]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(finder, "ROOT", tmp_path)
    # Snakemake puts the folder, which has a package of the name ssmrank, in front of all others.
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield Workflow(tmp_path)


@pytest.fixture
def done(new: Workflow) -> Workflow:
    assert new.run() == BOTH
    return new


def test_a_plan_writes_nothing_and_is_right(done: Workflow) -> None:
    assert done.planned() == []
    done.forget()
    before = done.state()
    assert done.planned() == []
    assert done.state() == before
    assert done.run() == []
    after = done.state()
    assert after != before
    assert done.run() == []
    assert done.state() == after
    (done.folder / "results/provenance/first.json").unlink()
    done.forget()
    before = done.state()
    assert done.planned() == BOTH
    assert done.state() == before


def test_an_edit_with_size_and_times_kept_is_seen(done: Workflow) -> None:
    for path, jobs in (("external.txt", BOTH), ("data/made/x/text", BOTH), ("results/last.txt", BOTH[1:])):
        status = os.stat(path)
        old = Path(path).read_text()
        with open(path, "r+") as stream:
            stream.write(old.upper())
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert done.planned() == jobs
        Path(path).write_text(old)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert done.planned() == []


FIRST, LAST = "data/made/x", "results/last.txt"

CHANGES = {
    "edit of code": ("during-first.sh", "echo x = 2 > ssmrank/first.py", FIRST, BOTH),
    "edit of code and back": (
        "during-first.sh",
        "echo x = 2 > ssmrank/first.py; echo x = 1 > ssmrank/first.py",
        FIRST,
        BOTH,
    ),
    "edit of other code": ("during-first.sh", "echo x = 2 > ssmrank/unused.py", None, []),
    "edit of code for a later job": ("during-first.sh", "echo x = 2 > ssmrank/last.py", LAST, BOTH[1:]),
    "comment in code for a later job": ("during-first.sh", "echo '# Why.' >> ssmrank/last.py", None, []),
    "edit of a file and back": ("during-first.sh", "echo two > external.txt; echo one > external.txt", FIRST, BOTH),
    "input": ("during-last.sh", "echo two > data/made/x/text; echo one > data/made/x/text", LAST, BOTH),
    "time of an input": ("during-last.sh", "touch data/made/x/.snakemake_timestamp", None, []),
    "file added to an input": ("during-last.sh", "touch data/made/x/more; rm data/made/x/more", None, []),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_while_a_job_runs(new: Workflow, name: str, capfd: pytest.CaptureFixture) -> None:
    script, text, made, jobs = CHANGES[name]
    new.write(script, text)
    new.run()
    said = [line for line in capfd.readouterr().err.splitlines() if "ssmrank: warning: " in line]
    assert len(said) == (0 if made is None else 2)  # at once, and at the end
    if made is not None:
        assert said[0].startswith(f"ssmrank: warning: {made}: ")
        assert "changed while it was made; its origin is unknown" in said[0]
    new.write(script, "")
    assert new.planned() == jobs
    assert new.run() == jobs
    assert new.planned() == []


def test_records_in_a_database(new: Workflow) -> None:
    new.settings = WorkflowSettings(persistence_backend=PersistenceBackend.DB)
    new.write("during-last.sh", "echo two > external.txt; echo one > external.txt; echo x = 2 > ssmrank/last.py")
    assert new.run() == BOTH
    new.write("during-last.sh", "")
    assert new.planned() == BOTH[1:]
    assert new.run() == BOTH[1:]
    assert new.planned() == []


@pytest.mark.parametrize("failure", ["exit 1", "rm -r data/made/x; exit 1"])
def test_what_a_failed_job_was_to_replace_is_still_out_of_date(done: Workflow, failure: str) -> None:
    """Snakemake deletes the output of a failed job, but counts what was made from it as up to date."""
    done.write("external.txt", "two\n")
    done.write("during-first.sh", failure)
    with pytest.raises(WorkflowError):
        done.run()
    assert not Path("data/made/x").exists()
    assert done.planned() == BOTH
    done.write("external.txt", "one\n")
    assert done.planned() == []
    done.write("external.txt", "two\n")
    done.forget()
    assert done.planned() == BOTH
    done.write("during-first.sh", "")
    assert done.run() == BOTH
    assert Path("results/last.txt").read_text() == "two\n"


def test_touch_accepts_what_is_there(done: Workflow) -> None:
    done.write("ssmrank/first.py", "x = 2\n")
    assert done.planned() == BOTH
    done.run("touch")
    assert done.planned() == []


def test_touch_accepts_that_an_intermediate_output_is_missing(done: Workflow) -> None:
    shutil.rmtree("data/made/x")
    assert done.planned() == []
    done.write("ssmrank/first.py", "x = 2\n")
    assert done.planned() == BOTH
    done.run("touch")
    assert done.planned() == []


def test_an_input_that_changes_after_a_killed_run_is_no_input_of_it(new: Workflow, monkeypatch) -> None:
    """The next run uses the records of jobs that ended before the kill."""
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.provenance.Provenance.close", lambda self: None)
        assert new.run() == BOTH
    assert not (new.folder / "results/provenance").exists()
    assert new.planned() == []
    text = new.folder / "data/made/x/text"
    time = os.stat(text).st_mtime_ns
    text.write_text("two\n")
    os.utime(text, ns=(time, time))
    assert new.planned() == BOTH


WRONG = ["[]", "null", "5", '"a"', "", "{", "[" * 100_000, '{"data/made/x": []}', '{"data/made/x": {}}']


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_files_that_hold_something_else_are_treated_as_absent(done: Workflow, wrong: str) -> None:
    for path in (".snakemake/bound.json", ".snakemake/contents.json", ".snakemake/ended.jsonl"):
        done.write(path, wrong)
    assert done.planned() == []
    assert done.run() == []
    for path in ("results/provenance/first.json", "results/provenance/last.json"):
        done.write(path, wrong)
    assert done.planned() == []
    for path in (done.folder / ".snakemake/metadata").rglob("*"):
        path.write_text(wrong)
    assert done.planned() == BOTH
    assert done.run() == BOTH


@pytest.mark.parametrize(
    "facts",
    [
        {"record": None},
        {"record": []},
        {"record": {"params": 5}},
        {"record": {"endtime": 1e300}},
        {"inputs": [1]},
        {"sha256": 5},
    ],
    ids=str,
)
def test_an_entry_that_lacks_a_part_is_treated_as_absent(done: Workflow, facts: dict) -> None:
    path = done.folder / "results/provenance/last.json"
    entries = json.loads(path.read_text())
    entry = entries["results/last.txt"]
    known = {"record": {**entry["record"], **facts["record"]}} if facts.get("record") else facts
    path.write_text(json.dumps({"results/last.txt": {**entry, **known}}))
    done.forget()
    assert done.planned() == ["results/last.txt"]


def test_links_that_lead_nowhere_and_pipes_are_no_outputs(done: Workflow) -> None:
    Path("data/made/gone").symlink_to("nowhere")
    Path("data/made/x/gone").symlink_to("nowhere")
    os.mkfifo("data/made/pipe")
    assert done.planned() == []
    Path("results/last.txt").unlink()
    Path("results/last.txt").symlink_to("nowhere")
    assert done.run() == ["results/last.txt"]
    assert Path("results/last.txt").read_text() == "one\n"


@pytest.mark.parametrize(("version", "known"), [("9.27.1", True), ("9.27.0", True), ("9.28.0", False), ("10.0", False)])
def test_a_snakemake_that_was_not_tried_is_refused(version: str, known: bool) -> None:
    if known:
        check_snakemake(version)
        return
    with pytest.raises(SystemExit, match=rf"^ssmrank: error: Snakemake {version} was not tried: .* install 9\.27\.\*"):
        check_snakemake(version)


def test_this_snakemake_is_one_that_was_tried() -> None:
    check_snakemake(snakemake.__version__)
