"""The processes of a training: how they find each other, and the workers for a setting."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist

from ssmrank.errors import UserError, reason_of, shown
from ssmrank.launch import LAUNCHED, LOST
from ssmrank.training.parallel import Reduction, Replicated, Workers

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others. The launcher notices at once if a process dies."""

SEVERAL = "several processes were started, but trainings say parallel: none; set ddp or fsdp2"

Gather = Literal["auto", "step", "layer"]


@contextmanager
def workers_of(
    parallel: str, device: torch.device, gather: Gather = "auto", reduction: Reduction = "fp32"
) -> Iterator[Workers]:
    """The workers for the setting `parallel`, in a process that torchrun or `ssmrank train` itself started.

    gather, reduction: the settings of these names, for fsdp2.

    Raises UserError if several processes were started but `parallel` is none.
    """
    if parallel == "none":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(SEVERAL)
        yield Workers()
        return
    _meet("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Replicated() if parallel == "ddp" else _sharded(gather, reduction)
    finally:
        dist.destroy_process_group()


def check_started(processes: int | None, nodes: int | None) -> None:
    """Raises UserError if torchrun started other processes than the settings of these names say, or not all variables.

    Those that `ssmrank train` started are as many as the settings say.
    """
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        value = os.environ.get(name)
        if value is None or (name != "MASTER_ADDR" and not value.isdecimal()):
            raise UserError(
                f"{name} is {'not set' if value is None else shown(value)}; start the training with torchrun"
            )
    if LAUNCHED in os.environ:
        return
    started = int(os.environ["WORLD_SIZE"])
    if processes is not None and started != processes:
        raise UserError(
            f"{started} processes were started, but trainings say processes: {processes}; start as many, or leave "
            "processes out"
        )
    agents = os.environ.get("GROUP_WORLD_SIZE")  # torchrun's own processes, one on each node
    if nodes is not None and agents is not None and int(agents) != nodes:
        raise UserError(f"torchrun runs on {agents} nodes, but trainings say nodes: {nodes}; make them equal")


def _meet(backend: str) -> None:
    """Connects this process with the others. Raises UserError if they do not answer, or the port is taken."""
    environment = os.environ
    try:
        dist.init_process_group(backend, timeout=TIMEOUT, **_loopback_only())
    except (RuntimeError, OSError) as error:
        if LAUNCHED in environment and environment["LOCAL_WORLD_SIZE"] == environment["WORLD_SIZE"]:
            raise SystemExit(LOST) from error  # the launcher reports which process ended, and how
        raise UserError(
            f"process {environment['RANK']} of {environment['WORLD_SIZE']}: no connection with the others through "
            f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']} ({reason_of(error)[:200]}); check that nodes "
            "reach each other and the port is free, or name their network in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
        ) from error


def _sharded(gather: Gather, reduction: Reduction) -> Workers:
    # These import parts of PyTorch that take a second, and no other training needs them.
    from ssmrank.training.gathered import ByMemory, GatheredOnce
    from ssmrank.training.sharded import Sharded

    if gather == "auto":
        return ByMemory(reduction)
    return GatheredOnce(reduction) if gather == "step" else Sharded(reduction)


def _loopback_only() -> dict[str, Any]:
    """Makes gloo and NCCL listen only on loopback if all processes are on one host; returns process group arguments.

    By default they listen on the host's address, and the store that connects the processes listens on all addresses.
    """
    environment = os.environ
    loopback = environment.get("MASTER_ADDR") in ("127.0.0.1", "localhost")
    if not loopback and environment.get("LOCAL_WORLD_SIZE") != environment["WORLD_SIZE"]:
        return {}
    for library in ("GLOO", "NCCL"):
        environment.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    if not loopback or environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return {}  # torchrun already has a store
    rank, size, port = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    listening = None
    if rank == 0:
        with socket.socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(("127.0.0.1", port))
            bound.listen()
            listening = bound.detach()  # the store closes it
    store = dist.TCPStore("127.0.0.1", port, size, rank == 0, TIMEOUT, master_listen_fd=listening)
    return {"store": store, "rank": rank, "world_size": size}
