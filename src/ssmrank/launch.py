"""Starts the processes of a parallel training or reranking, on this machine or as a part of several tasks of Slurm.

PyTorch's elastic agent starts them, as torchrun does, so `torchrun --nproc-per-node N -m ssmrank train …` is the same
training. If a process started here dies, the others are stopped within a second and one line says why. A process that
only notices the death of another exits with status LOST and prints nothing.

On several nodes each task of Slurm has a launcher. `on_nodes` starts the tasks, `launcher_group` makes their launchers
one group, and `launch` starts this task's processes.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from typing_extensions import override

from ssmrank import lifetime
from ssmrank.errors import UserError
from ssmrank.io.atomic import scratch_directory
from ssmrank.lifetime import STARTER, myself
from ssmrank.nodes.group import First, Other, joined, listening_socket
from ssmrank.nodes.slurm import starting_process, step_of_job, this_task

LAUNCHED = "SSMRANK_LAUNCHED"
"""Environment variable that is set for processes started here."""

FIRST_GPU = "SSMRANK_FIRST_GPU"
"""Environment variable of processes started here: the number of GPUs that other tasks on this node use."""

LOST = 3
"""Exit status of a process started here after another process has died."""

GO_ON = "start again to resume from the last saved state"

_GRACE_SECONDS = 5.0
"""Processes that all fail for the same reason, such as a wrong setting, have this long to report it themselves."""

_STOP_SECONDS = 3.0
"""After another launcher was stopped by a signal, this one has so long to get the same signal."""

_END_SECONDS = 15.0
"""After one task of a step has reported an error, the others have so long to end."""

_SHOWN = 300
"""How many characters of a process's last line are shown, if it is not its own report of what is wrong."""

_OF_JOB = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CLUSTER_NAME")
"""Slurm's variables by which srun finds its job."""

_OWN_ERROR = re.compile(r"ssmrank [a-z -]*: error: (.+)")

LauncherGroup = First | Other


def command_of(arguments: argparse.Namespace) -> list[str]:
    """The command line of the `ssmrank` that parsed these arguments."""
    words = [sys.executable, "-m", "ssmrank", *arguments.subcommand.split()]
    for name, value in vars(arguments).items():
        if value is not None and name not in ("subcommand", "run_subcommand", "words"):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


@contextmanager
def launcher_group() -> Iterator[LauncherGroup | None]:
    """The group of this task's launcher if Slurm started several tasks for this command, else None.

    An error in the block ends all launchers; the first one reports it.
    """
    task = this_task()
    if task is None:
        yield None
        return
    lifetime.end_with(lifetime.identity(starting_process()))
    with joined(task) as group:
        yield group


def launch(
    command: Sequence[str],
    processes: int,
    variables: Mapping[str, str] | None = None,
    group: LauncherGroup | None = None,
) -> None:
    """Runs a command in this many processes and waits for them, and for those of the other launchers in the group.

    variables: of the processes' environment.

    The very first process writes to this process's output. Raises UserError, with what the dead process said last, if
    one dies, and SystemExit if that has already been reported. However this function ends, no process is left.
    """
    from ssmrank.elastic import run

    with scratch_directory() as folder:
        values = _environment(processes, group) | dict(variables or {})
        words = lifetime.tied(["env", *(f"{name}={value}" for name, value in values.items()), *command])
        if group is None:
            watch = _Watch(str(folder))
            run(words, processes, str(folder), watch)
            watch.raise_failure()
        elif isinstance(group, First):
            _launch_first(words, processes, str(folder), group)
        else:
            _launch_other(words, processes, str(folder), group)


def end_with_torchrun() -> None:
    """Makes this process end with the torchrun that started it, if one did; torchrun itself may be killed."""
    if LAUNCHED not in os.environ and "TORCHELASTIC_RUN_ID" in os.environ:
        lifetime.end_with(lifetime.identity(os.getppid()))


def on_nodes(command: Sequence[str], nodes: int) -> None:
    """Starts a command as one task on each of this many nodes of the Slurm job, and waits for it.

    Raises UserError if this is no job of Slurm, and if a task failed without a report; SystemExit if one has reported.
    """
    if step_of_job() is None:
        raise UserError(
            f"nodes: {nodes} needs a job of Slurm, or torchrun on each node; run `sbatch --nodes={nodes} …`, or leave "
            "nodes out to use this machine alone"
        )
    # All that the job has on a node is its task's, and what waits for the task takes nothing. A task that ends is the
    # others' own business, which they report.
    words = ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    words += ["--mem=0", "--cpu-bind=none", "--kill-on-bad-exit=0", *command]
    # What a job or an outer step was asked for must not limit this step, nor the starter on another machine its life.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != STARTER and (name in _OF_JOB or not name.startswith(("SLURM_", "SRUN_")))
    }
    try:
        process = subprocess.Popen(
            lifetime.tied(words, signal.SIGTERM), stderr=subprocess.PIPE, env=environment, text=True, errors="replace"
        )
    except FileNotFoundError:
        raise UserError("srun is not installed here; start the training where Slurm's commands are") from None
    reported, of_slurm = False, ""
    end = threading.Timer(_END_SECONDS, process.terminate)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            own = _OWN_ERROR.match(line) is not None
            if re.match(r"(srun|slurmstepd)[^ ]*: ", line):
                of_slurm = of_slurm or (line.strip() if "error: " in line else "")
            elif not (own and reported):
                print(line, end="", file=sys.stderr, flush=True)
            if own and not reported:
                reported = True
                end.start()  # a task that has not met the others yet would wait for them
        status = process.wait()
    finally:
        end.cancel()
        _stop(process)
    if status != 0:
        if reported:
            raise SystemExit(2)
        raise UserError(f"srun ended with status {status} ({of_slurm[:_SHOWN] or 'no reason given'}); {GO_ON}")


def _launch_first(words: list[str], processes: int, folder: str, group: First) -> None:
    from ssmrank.elastic import meeting_of_first, run

    task = group.task
    listening = listening_socket(0, task.is_on_one_host)
    meeting = meeting_of_first(task.count, task.address, listening)
    group.start(processes, meeting.port)
    watch = _WatchAll(folder, group)
    try:
        run(words, processes, folder, watch, meeting)
    except SystemExit:
        # Slurm may end this task because another one has ended, and nobody else would say why.
        group.receive()
        if "no longer answers" in group.lost.values():
            watch.raise_failure()
        raise
    watch.raise_failure()


def _launch_other(words: list[str], processes: int, folder: str, group: Other) -> None:
    from ssmrank.elastic import meeting_of_other, run

    task = group.task
    port = group.start(processes)

    def is_over(statuses: Sequence[int | None]) -> bool | None:
        dead = _cause(statuses)
        group.report(statuses, "" if dead is None else _said(folder, dead, statuses[dead]))
        return group.over

    run(words, processes, folder, is_over, meeting_of_other(task.rank, task.count, task.address, port))
    if not group.over:
        if group.alone and task.rank == 1:  # the first of those that are left
            world = sum(group.sizes)
            raise UserError(
                f"the node of {_processes(0, group.sizes[0], world)} no longer answers ({task.address}); the others "
                f"were stopped; {GO_ON}"
            )
        raise SystemExit(2)


def _environment(processes: int, group: LauncherGroup | None) -> dict[str, str]:
    """Variables of the processes."""
    cores, on_node = os.cpu_count() or 1, processes
    values = {LAUNCHED: "1", STARTER: myself()}
    if group is not None:
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else cores  # those of the job
        on_node *= max(1, group.task.count // group.task.nodes)
        values[FIRST_GPU] = str(group.task.local * processes)
    values["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // on_node)))
    return values


class _Watch:
    """Whether the processes of this launcher are done, given their statuses, again and again.

    Processes that fail for the same reason, such as a wrong setting, have some time to report it themselves, and so has
    a process whose death others notice before we do.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._since = math.inf
        self._statuses: list[int | None] = []

    def __call__(self, own: list[int | None]) -> bool | None:
        self._statuses = own
        dead = _cause(own)
        if dead is None:
            return True if all(status == 0 for status in own) else None
        self._since = min(self._since, time.monotonic())
        status = own[dead] or 0
        if status < 0 or time.monotonic() - self._since >= _GRACE_SECONDS:
            return False
        return False if status != LOST and own[0] is not None else None

    def raise_failure(self) -> None:
        """Raises an error for the process that failed, if any."""
        statuses = self._statuses
        dead = _cause(statuses)
        if dead is None:
            return
        status = statuses[dead] or 0
        if status > 0 and statuses[0] == 2:
            raise SystemExit(2)
        raise UserError(_message(dead, status, len(statuses), self._said(dead) if dead else ""))

    def _said(self, dead: int) -> str:
        return _said(self._folder, dead, self._statuses[dead])


class _WatchAll(_Watch):
    """The same for the processes of all launchers, in the first one."""

    def __init__(self, folder: str, group: First) -> None:
        super().__init__(folder)
        self._group = group
        self._lost_since = math.inf

    @override
    def __call__(self, own: list[int | None]) -> bool | None:
        group = self._group
        group.receive()
        group.statuses[0] = own
        found = super().__call__([status for statuses in group.statuses for status in statuses])
        if found is None and group.lost:
            self._lost_since = min(self._lost_since, time.monotonic())
            stopped = all(how == "was stopped" for how in group.lost.values())
            return None if stopped and time.monotonic() - self._lost_since < _STOP_SECONDS else False
        return found

    @override
    def raise_failure(self) -> None:
        group = self._group
        dead = _cause(self._statuses)
        # A lost node explains that others no longer got an answer.
        if group.lost and (dead is None or self._statuses[dead] == LOST):
            task, how = next(iter(group.lost.items()))
            first, size, world = sum(group.sizes[:task]), group.sizes[task], sum(group.sizes)
            raise UserError(
                f"node {group.node_of(task)} with {_processes(first, size, world)} {how}; the others were stopped; "
                f"{GO_ON}"
            )
        super().raise_failure()

    @override
    def _said(self, dead: int) -> str:
        sizes = self._group.sizes
        task = next(task for task in range(len(sizes)) if dead < sum(sizes[: task + 1]))
        return self._group.said[task] if task else super()._said(dead)


def _stop(process: subprocess.Popen[str]) -> None:
    """Ends srun and with it the step, if it has not ended."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stderr is not None:
        process.stderr.close()


def _cause(statuses: Sequence[int | None]) -> int | None:
    """The rank of a process that failed by itself, or else of one that followed another; None if all are well."""
    failed = [rank for rank, status in enumerate(statuses) if status]
    return next((rank for rank in failed if statuses[rank] != LOST), failed[0] if failed else None)


def _message(dead: int, status: int, processes: int, said: str) -> str:
    own = _OWN_ERROR.fullmatch(said)
    if status == 2 and own is not None:
        return own[1]
    ended = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    if status == LOST:
        ended = "ended, as another one no longer answered"
    said = f" ({said[:_SHOWN]})" if said else ""
    return f"process {dead} of {processes} {ended}{said}; the others were stopped; {GO_ON}"


def _processes(first: int, size: int, world: int) -> str:
    return f"process {first} of {world}" if size == 1 else f"processes {first} to {first + size - 1} of {world}"


def _said(folder: str, rank: int, status: int | None) -> str:
    """The last line of a dead process of this launcher; empty if its output does not explain its end."""
    from ssmrank.elastic import error_file

    if status == -signal.SIGKILL:  # from outside
        return ""
    with open(error_file(folder, rank), encoding="utf-8", errors="replace") as stream:
        lines = [line.strip() for line in stream if line.strip()]
    return lines[-1] if lines else ""
