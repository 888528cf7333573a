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

from ssmrank.errors import UserError
from ssmrank.training.parallel import Reduction, Replicated, Workers

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others. The launcher notices at once if a process dies."""

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
            raise UserError("several processes were started, but trainings say parallel: none; set ddp or fsdp2")
        yield Workers()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, **_loopback_only())
    try:
        yield Replicated() if parallel == "ddp" else _sharded(gather, reduction)
    finally:
        dist.destroy_process_group()


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
