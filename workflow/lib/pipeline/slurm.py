"""What Snakemake's plugin for Slurm does not say: whether Slurm answers, and in one line why a job did not end well.

The plugin's jobs report an error to `report_job_error` of its executor, with a message that has Slurm's words. A job
that a person has cancelled, or that Slurm does not take, is not tried again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import Any

from ssmrank.errors import UserError

PROFILE = "profiles/slurm/config.yaml"

_REASONS = {
    "CANCELLED": "was cancelled",
    "DEADLINE": "was not started before its deadline",
    "NODE_FAIL": "was lost with its node",
    "OUT_OF_MEMORY": f"needed more memory than it asked for; raise `mem_mb` of {{rule}} in {PROFILE}",
    "TIMEOUT": f"needed more time than it asked for; raise `runtime` of {{rule}} in {PROFILE}",
}
"""What became of a job, by Slurm's state of it."""

_ended: dict[str, list[str]] = {}
"""The names of jobs that are not tried again, by what is said of them."""


def watch(plugin: Any, settings: Any) -> None:
    """Checks that Slurm takes and reports jobs, if this executor plugin is Slurm's, and watches how its jobs end.

    settings: of the plugin. Raises UserError.
    """
    if plugin.name != "slurm":
        return
    _check(settings.status_command)
    executor = plugin.executor
    report = executor.report_job_error

    def report_and_remember(self: Any, job_info: Any, msg: str | None = None, **options: Any) -> None:
        _remember(job_info.job, str(job_info.external_jobid), msg or "")
        report(self, job_info, msg=msg, **options)

    executor.report_job_error = report_and_remember


def repeat_ends() -> None:
    """At the end of a failed run, says in a line for each cause which jobs of Slurm did not end well."""
    for reason, names in _ended.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        print(f"ssmrank: error: {names[0]}{others} {reason}", file=sys.stderr)


def _check(status_command: str | None) -> None:
    if shutil.which("sbatch") is None:
        raise UserError(
            "no command `sbatch` on this machine; start Snakemake where the cluster takes jobs, such as its login "
            "node, or without profiles/slurm"
        )
    queue, problem = _ask("squeue", "--me", "--noheader", "--format=%A %Z")
    if problem:
        raise UserError(f"Slurm does not answer ({problem}); try `squeue`, and start again once it does")
    jobs = [line.partition(" ")[0] for line in queue.splitlines() if line.partition(" ")[2] == os.getcwd()]
    if jobs:
        raise UserError(
            f"jobs of a former run are in Slurm's queue and would write the same files; wait for them, or `scancel "
            f"{' '.join(sorted(set(jobs), key=int))}`, and start again"
        )
    if status_command == "sacct" and (problem := _ask("sacct", "--noheader", "--allocations", "--starttime=now")[1]):
        raise UserError(
            f"Slurm keeps no record of ended jobs ({problem}); set `slurm-status-command: squeue` in {PROFILE}, "
            "else no job would be seen to end"
        )


def _ask(*command: str) -> tuple[str, str]:
    """What a command printed, and if it failed the last line of its errors."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    problem = (done.stderr.strip().splitlines() or ["no reason given"])[-1] if done.returncode else ""
    return done.stdout, problem


def _remember(job: Any, number: str, message: str) -> None:
    refused = re.search(r"sbatch failed\. The error message was '(.+?)'\.?$", message, re.MULTILINE | re.DOTALL)
    state = re.search(r"SLURM status is: '([A-Z_]+)", message)
    if refused or (state and state[1] == "CANCELLED"):
        job.attempt = job.restart_times + 1
    if job.attempt <= job.restart_times:
        return  # it is tried again
    name = job.groupid if job.is_group() else f"{job.rule.name} ({job.output[0]})"
    rule = "these rules" if job.is_group() else job.rule.name
    if refused:
        said = refused[1].splitlines()[-1].removeprefix("sbatch: error: ")
        reason = f"was not taken by Slurm: {said}; see {PROFILE}, or wait if the queue is full, and start again"
    elif state and state[1] in _REASONS:
        reason = f"{_REASONS[state[1]].format(rule=rule)} (job {number} of Slurm); the same command goes on from here"
    else:
        reason = f"failed as job {number} of Slurm; the files of its log are named above"
    _ended.setdefault(reason, []).append(name)
