"""The jobs that Snakemake would run, as its dry run prints them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from ssmrank.errors import UserError

_SNAKEMAKE = "from ssmrank.snakemake_entry import main; main()"
"""The command `snakemake` of this Python, wherever its folder of programs is."""


class PlannedJob(NamedTuple):
    """A job: its rule, and the values of the rule's wildcards, which name what it makes."""

    rule: str
    wildcards: dict[str, str]
    group: int = 0
    """The number of its group, whose jobs a scheduler gets as one; 0 for none."""


def planned_jobs(overlays: Sequence[str], targets: Sequence[str], profile: str = "") -> list[PlannedJob]:
    """The jobs that make the targets with these overlays of params.yaml; without targets those of rule `all`.

    profile: a folder that Snakemake takes as `--workflow-profile`, which may form groups. Raises UserError with
    Snakemake's own message if it plans nothing.
    """
    command = [sys.executable, "-c", _SNAKEMAKE, "--dry-run", "--nocolor", "--cores", "1"]
    command += ["--workflow-profile", profile] if profile else []
    command += ["--configfile", *overlays] if overlays else []
    done = subprocess.run([*command, "--", *targets], capture_output=True, text=True)
    if done.returncode:
        raise UserError(_problem(done.stdout + done.stderr))
    return read_dry_run(done.stdout + done.stderr)


def read_dry_run(printed: str) -> list[PlannedJob]:
    """The jobs in the output of a dry run, without rules that only name targets."""
    jobs: list[PlannedJob] = []
    groups = 0
    for block in re.split(r"^(?=(?:\[.*\] )?Group job | *(?:local)?rule \w+:$)", printed, flags=re.MULTILINE)[1:]:
        rule = re.match(r"( *)(?:local)?rule (\w+):", block)
        if rule is None:
            groups += 1
            continue
        wildcards = re.search(r"^ +wildcards: (.*)$", block, re.MULTILINE)
        if re.search(r"^ +output: ", block, re.MULTILINE):
            pairs = wildcards[1].split(", ") if wildcards else []
            # The jobs of a group are indented.
            jobs.append(PlannedJob(rule[2], dict(pair.split("=", 1) for pair in pairs), groups if rule[1] else 0))
    return jobs


def scheduled(jobs: Sequence[PlannedJob]) -> int:
    """How many jobs a scheduler gets."""
    groups = [job.group for job in jobs]
    return groups.count(0) + len({*groups} - {0})


def _problem(printed: str) -> str:
    own = re.search(r"^ssmrank: error: (.*)$", printed, re.MULTILINE)
    missing = re.search(r"^No rule to produce (\S+)", printed, re.MULTILINE)
    if missing:
        return f"{missing[1]}: no rule makes it with these files of settings; name a target as Snakemake takes it"
    last = " ".join(printed.strip().splitlines()[-3:])
    return own[1] if own else f"snakemake plans nothing: {last}"
