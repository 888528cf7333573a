"""A Slurm cluster on this machine: Debian's munged, slurmctld and two slurmd, as any user, without systemd or cgroups.

Each node says that it has 64 CPUs, a terabyte of memory and two GPUs, so that the numbers of profiles/slurm fit. Its
GPUs are links to /dev/null; Slurm numbers them and sets CUDA_VISIBLE_DEVICES as it does for real ones.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

NODES = ("n1", "n2")

GPUS = 2
"""Of each node."""

PROGRAMS = {"munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm"}
"""What is started, and the Debian package that brings it."""

CONFIGURATION = """ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=30
KillWait=5
MinJobAge=3600
MaxJobCount={max_jobs}
{nodes}
PartitionName=main Nodes={names} Default=YES State=UP MaxTime=INFINITE
"""


class Slurm:
    """A running cluster."""

    def __init__(self, folder: Path, max_jobs: int = 1000) -> None:
        """max_jobs: it takes one less at a time."""
        self.folder = folder
        self._max_jobs = max_jobs
        self._servers: dict[str, subprocess.Popen] = {}
        self._ports = _free_ports(1 + len(NODES))

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be a client of this cluster."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def start(self) -> None:
        """Starts all servers; fails the test if the nodes do not become idle."""
        for number in range(GPUS):
            (self.folder / f"gpu{number}").symlink_to(os.devnull)
        (self.folder / "state").mkdir()
        self._keep_configuration()
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        self._configure()
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        options = [f"--{option}={self.folder / name}" for option, name in files.items()]
        self._start("munge", "munged", "--foreground", "--force", f"--log-file={self.folder / 'munge.log'}", *options)
        self._wait("munged", (self.folder / "munge.socket").exists)
        self._start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            self.start_node(node)

    def stop(self) -> None:
        """Cancels all jobs and stops the servers."""
        if "slurmctld" in self._servers:
            self.clear()
        for name in [*NODES, "slurmctld", "munge"]:
            self._stop(name)
        self._kill()

    def start_node(self, node: str) -> None:
        """Starts a node and waits until it takes jobs."""
        self._start(node, "slurmd", "-D", "-N", node)
        self._wait(node, partial(self._takes_jobs, node))

    def kill_node(self, node: str) -> None:
        """Ends a node as a power cut does, its server and all that runs there at once, and tells Slurm that it is down.

        Slurm would notice by itself, after half a minute.
        """
        jobs = self.ask("squeue", "--noheader", "--states=running", f"--nodelist={node}", "--format=%A").split()
        self._servers[node].kill()
        self._kill(jobs)
        self._servers.pop(node).wait()
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=power")

    def pause(self) -> None:
        """From now on, jobs wait in the queue."""
        self.ask("scontrol", "update", f"nodename={','.join(NODES)}", "state=drain", "reason=paused")

    def ask(self, *command: str) -> str:
        """The output of a command of Slurm."""
        done = self._run(*command)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """All jobs, oldest first, with the fields of `scontrol show job`. A comment is a rule with its wildcards."""
        lines = self.ask("scontrol", "show", "job", "--oneliner").splitlines()
        found = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
        return sorted((job for job in found if "JobId" in job), key=lambda job: int(job["JobId"]))

    def mend(self) -> None:
        """Starts nodes that were killed, and takes jobs again."""
        for node in NODES:
            if node not in self._servers:
                self.start_node(node)
            # A node that was down and has started is back already, and refuses this then.
            self._run("scontrol", "update", f"nodename={node}", "state=resume")
            self._wait(node, partial(self._takes_jobs, node))

    def clear(self) -> None:
        """Cancels all jobs and waits until none runs."""
        self._run("scancel", "--user", getpass.getuser())
        self._wait("slurmctld", lambda: not self.ask("squeue", "--noheader", "--format=%A").split())

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60)

    def _configure(self) -> None:
        node = f"NodeAddr=127.0.0.1 CPUs=64 RealMemory=1000000 Gres=gpu:{GPUS} State=UNKNOWN"
        nodes = [f"NodeName={name} Port={port} {node}" for name, port in zip(NODES, self._ports[1:], strict=True)]
        text = CONFIGURATION.format(
            folder=self.folder,
            user=getpass.getuser(),
            controller=self._ports[0],
            max_jobs=self._max_jobs,
            nodes="\n".join(nodes),
            names=",".join(NODES),
        )
        (self.folder / "slurm.conf").write_text(text)
        gpus = f"{self.folder}/gpu[0-{GPUS - 1}]"
        (self.folder / "gres.conf").write_text("".join(f"NodeName={name} Name=gpu File={gpus}\n" for name in NODES))
        # Slurm asks this plugin, which only looks whether cgroups are in use; no other is in all of Debian's versions.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")

    def _keep_configuration(self) -> None:
        """Snakemake's plugin starts srun without SLURM_CONF, as if there were only /etc/slurm; this puts it back."""
        srun = self.folder / "bin/srun"
        srun.parent.mkdir()
        srun.write_text(f"""#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n""")
        srun.chmod(0o755)

    def _start(self, name: str, *command: str) -> None:
        # Debian has the servers in /usr/sbin, which is not in the path of all users.
        environment = os.environ | self.environment | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
        with (self.folder / f"{name}.out").open("a") as stream:
            self._servers[name] = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
            )

    def _stop(self, name: str) -> None:
        server = self._servers.pop(name, None)
        if server is None:
            return
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

    def _takes_jobs(self, node: str) -> bool:
        return self._state(node) in ("idle", "mixed", "allocated", "completing")

    def _state(self, node: str) -> str:
        return self._run("sinfo", "--noheader", "--nodes", node, "--format=%T").stdout.strip()

    def _wait(self, name: str, is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not is_true():
            if time.monotonic() > deadline:
                logs = [f"{path.name}: {line}" for path in self.folder.glob("*.out") for line in _end(path)]
                pytest.fail(
                    "\n".join([f"Slurm: {name} is not ready after a minute", self._run("sinfo", "-Nl").stdout, *logs])
                )
            time.sleep(0.1)

    def _kill(self, jobs: list[str] | None = None) -> None:
        """Kills processes of these jobs, or of all; first those that watch a job and would tell Slurm of its end."""
        watching, watched = [], []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                variables = (process / "environ").read_text().split("\0")
                command = (process / "cmdline").read_text()
            except (OSError, ValueError):
                continue
            if f"SLURM_CONF={self.folder}/slurm.conf" not in variables:
                continue
            watch = re.match(r"slurmstepd: \[(\d+)\.", command)
            number = next((word.removeprefix("SLURM_JOB_ID=") for word in variables if "SLURM_JOB_ID=" in word), None)
            if watch and (jobs is None or watch[1] in jobs):
                watching.append(int(process.name))
            elif number and (jobs is None or number in jobs):
                watched.append(int(process.name))
        for pid in [*watching, *watched]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _end(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-5:]


@contextmanager
def running(folder: Path, max_jobs: int = 1000) -> Iterator[Slurm]:
    """A cluster during the block, whose files are in the folder; skips the test if Slurm is not installed."""
    for program, package in PROGRAMS.items():
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"Slurm is not installed here: apt-get install {package}")
    started = Slurm(folder, max_jobs)
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A running cluster of Slurm; it ends with the session."""
    with running(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture
def slurm(cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """The cluster with both nodes up and no job; processes that the test starts are its clients."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield cluster
    cluster.clear()
    cluster.mend()
