"""Runs the workflow's jobs on a machine that has a GPU but no Snakemake.

Here, `python workflow/scripts/carry_jobs.py list JOBS.json -- SNAKEMAKE ARGUMENTS` writes the list of jobs that
Snakemake would run: each job's command with its inputs and outputs. There, in a copy of the repository with the files
that they need, `python3 workflow/scripts/carry_jobs.py run JOBS.json --seconds 3000` runs the jobs whose outputs are
missing, each as soon as its inputs exist. The same command resumes after a time-out or a kill. Copy the outputs back to
the same paths; `snakemake --touch ARGUMENTS` then accepts them. `run` needs only the standard library.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

STOPPABLE = re.compile(r"ssmrank (pretrain (?:run|sweep)) ")
"""Subcommands that save their state and end when asked to."""

SAVING = 25
"""Seconds before the end at which such a subcommand is asked to stop."""


@dataclass
class Job:
    """One job; paths are relative to the repository."""

    rule: str
    inputs: list[str]
    outputs: list[str]
    log: list[str]
    gpu: bool
    command: str

    @property
    def name(self) -> str:
        """A name for people."""
        return f"{self.rule} {self.outputs[0]}"

    def is_done(self) -> bool:
        """Whether all outputs exist."""
        return all(os.path.exists(path) for path in self.outputs)


def list_jobs(arguments: list[str], rules: list[str]) -> list[Job]:
    """The jobs that Snakemake would run, in an order in which they can run."""
    command = ["snakemake", "--dry-run", "--printshellcmds", *arguments]
    planned = subprocess.run(command, capture_output=True, text=True)
    if planned.returncode:
        raise SystemExit(f"carry_jobs: {' '.join(command)}\n{planned.stdout}{planned.stderr}")
    jobs: list[Job] = []
    facts: dict[str, str] = {}
    for line in planned.stderr.splitlines() + planned.stdout.splitlines():
        if match := re.fullmatch(r"(?:local)?rule (\w+):", line):
            facts = {"rule": match[1]}
        elif match := re.fullmatch(r"    (input|output|log|resources): (.*)", line):
            facts[match[1]] = match[2]
        elif line.startswith("Shell command: ") and facts:
            names = {key: facts[key].split(", ") if key in facts else [] for key in ("input", "output", "log")}
            gpu = re.search(r"\bgpu=[1-9]", facts.get("resources", "")) is not None
            command_line = line.removeprefix("Shell command: ")
            # A rule that only names targets has no command.
            if command_line != "None" and (not rules or facts["rule"] in rules):
                jobs.append(Job(facts["rule"], names["input"], names["output"], names["log"], gpu, command_line))
            facts = {}
    return jobs


def run_jobs(jobs: list[Job], seconds: float, gpu_jobs: int, cpu_jobs: int) -> int:
    """Runs jobs as soon as their inputs exist; returns how many are left."""
    deadline = time.monotonic() + seconds
    folder = tempfile.TemporaryDirectory()
    environment = _environment(Path(folder.name))
    made = {output for job in jobs for output in job.outputs}
    running: dict[int, tuple[Job, subprocess.Popen, TextIO, float]] = {}
    failed: set[int] = set()
    while True:
        for number, (job, process, output, began) in list(running.items()):
            late = time.monotonic() > deadline
            if process.poll() is None and not late:
                continue
            if late and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.close()
            del running[number]
            state = "done" if process.returncode == 0 else f"ended with {process.returncode}"
            print(f"[{state} in {time.monotonic() - began:.0f} s] {job.name}", flush=True)
            if process.returncode:
                failed.add(number)
                _show_end(Path(output.name))
            elif rate := re.findall(r"([\d,]+) tokens/s$", Path(output.name).read_text(), flags=re.M):
                print(f"    {rate[-1]} tokens/s", flush=True)
        left = deadline - time.monotonic()
        for number, job in enumerate(jobs):
            alike = sum(other.gpu == job.gpu for other, *_ in running.values())
            if left < 2 * SAVING or alike >= (gpu_jobs if job.gpu else cpu_jobs):
                continue
            if number in running or number in failed or job.is_done():
                continue
            if not all(os.path.exists(path) for path in job.inputs):
                continue
            running[number] = (job, *_start(job, left, environment), time.monotonic())
        if not running:
            break
        time.sleep(0.2)
    missing = [job for job in jobs if not job.is_done()]
    for job in missing:
        wants = [path for path in job.inputs if not os.path.exists(path) and path not in made]
        print(f"[left] {job.name}{': needs ' + ', '.join(wants) if wants else ''}", flush=True)
    return len(missing)


def _start(job: Job, left: float, environment: dict[str, str]) -> tuple[subprocess.Popen, TextIO]:
    command = job.command
    if STOPPABLE.match(command):
        command = STOPPABLE.sub(rf"ssmrank \1 --stop-seconds {left - SAVING:.0f} ", command, count=1)
    for path in [*job.outputs, *job.log]:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    print(f"[start] {job.name}", flush=True)
    output = tempfile.NamedTemporaryFile("w", prefix="carry-", suffix=".log", delete=False)  # noqa: SIM115
    return (
        subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        ),
        output,  # type: ignore[return-value]
    )


def _environment(folder: Path) -> dict[str, str]:
    """The environment of jobs, with a command `ssmrank` that runs the package of this repository."""
    script = folder / "ssmrank"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ssmrank "$@"\n')
    script.chmod(0o755)
    source = str(Path(__file__).resolve().parents[2] / "src")
    paths = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": paths}


def _show_end(path: Path) -> None:
    for line in path.read_text().splitlines()[-12:]:
        print(f"    {line}", flush=True)


def main() -> None:
    """Lists jobs, or runs the jobs of a list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(dest="subcommand", required=True)
    listing = subparsers.add_parser("list")
    listing.add_argument("file", type=Path)
    listing.add_argument("--rules", nargs="+", default=[], help="run only jobs of these rules")
    running = subparsers.add_parser("run")
    running.add_argument("file", type=Path)
    running.add_argument("--seconds", type=float, default=1e9, help="time at which to stop")
    running.add_argument("--rules", nargs="+", default=[], help="run only jobs of these rules")
    running.add_argument(
        "--gpu-jobs", type=int, default=1, help="jobs on the GPU at a time; with more than 1, their times mean little"
    )
    running.add_argument("--cpu-jobs", type=int, default=2)
    words = sys.argv[1:]
    place = words.index("--") if "--" in words else len(words)
    options, arguments = parser.parse_args(words[:place]), words[place + 1 :]
    if options.subcommand == "list":
        jobs = list_jobs(arguments, options.rules)
        options.file.write_text(json.dumps([asdict(job) for job in jobs], indent=1) + "\n")
        print(f"{len(jobs)} jobs")
        return
    jobs = [Job(**facts) for facts in json.loads(options.file.read_text())]
    jobs = [job for job in jobs if not options.rules or job.rule in options.rules]
    raise SystemExit(75 if run_jobs(jobs, options.seconds, options.gpu_jobs, options.cpu_jobs) else 0)


if __name__ == "__main__":
    main()
