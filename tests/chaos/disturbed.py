"""A command in a project, for tests to disturb while it runs."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

from projects import Project

KILLS = ["everything", "everything hangs up", "Ctrl-C", "Snakemake alone", "one process of a job"]

ALONE = ["unshare", "--map-root-user", "--net"]
"""Runs a command without any network, not even the machine's own."""


def can_unshare(*options: str) -> bool:
    """Whether this machine allows a command its own network or mounts."""
    try:
        return subprocess.run(["unshare", *options, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def temporary_folder(project: Project) -> Path:
    """The folder of the project's commands for temporary files."""
    folder = project.folder.parent / "tmp"
    folder.mkdir(exist_ok=True)
    return folder


class Disturbed:
    """Runs the command in its own session, as a terminal does; what is left of it is killed after the block."""

    def __init__(self, project: Project, *command: str) -> None:
        self.project = project
        self._said = temporary_folder(project).with_name(f"said-{time.monotonic_ns()}.txt")
        with self._said.open("w") as stream:
            self.process = subprocess.Popen(
                command,
                cwd=project.folder,
                env=project.environment() | {"TMPDIR": str(temporary_folder(project))},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    @property
    def said(self) -> str:
        """Its output so far."""
        return self._said.read_text(errors="replace")

    def processes(self) -> list[int]:
        """All processes in the project's folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                here = os.readlink(entry / "cwd") == str(self.project.folder)
            except OSError:
                continue
            if here:
                found.append(int(entry.name))
        return found

    def wait_for_job(self, rules: Collection[str]) -> bool:
        """Waits until a job of one of the rules starts; False if the command ends first."""
        while True:
            ended = self.process.poll() is not None
            if set(re.findall(r"^(?:local)?rule (\w+):", self.said, re.MULTILINE)) & set(rules):
                return True
            if ended:
                return False
            time.sleep(0.02)

    def kill(self, how: str, chosen: random.Random) -> None:
        """Kills the command, or a part of it, in one of the ways of `KILLS`."""
        jobs = [pid for pid in self.processes() if pid != self.process.pid]
        try:
            if how == "everything":
                os.killpg(self.process.pid, signal.SIGKILL)
            elif how == "everything hangs up":
                os.killpg(self.process.pid, signal.SIGHUP)
            elif how == "Ctrl-C":
                os.killpg(self.process.pid, signal.SIGINT)
            elif how == "Snakemake alone":
                os.kill(self.process.pid, signal.SIGKILL)
            elif jobs:
                os.kill(chosen.choice(sorted(jobs)), signal.SIGKILL)
        except ProcessLookupError:
            return

    def ends(self, seconds: float = 60) -> bool:
        """Whether the command and all its jobs end by themselves within the time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None and not self.processes():
                return True
            time.sleep(0.05)
        return False
