"""One training in several processes, each with a part of every step's groups.

`Workers` is the loop's interface to the other processes; the class itself is a training in one process. Loss and
gradients are the same as in one process with the same global batch: sums over processes, never means of means.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import fully_shard
from typing_extensions import override

from ssmrank.errors import UserError
from ssmrank.launch import LAUNCHED, LOST
from ssmrank.models.architectures import architecture_of
from ssmrank.models.reranker import Reranker
from ssmrank.training.memory import layers_of

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others. The launcher notices at once if a process dies."""

_ALIGNED = 64
"""Each gradient starts at a multiple of this many elements, so that kernels read it in whole vectors."""


class Workers:
    """A training in one process."""

    rank = 0
    size = 1
    may_repeat = True
    """Whether a process may repeat its part of a step without the others."""
    gradient_scale = 1.0
    """A factor of the loss in the backward pass, so that gradients are sums over processes."""
    keeps_gradients = False
    """Whether gradients are the same tensors in all steps, which are set to zero between steps, not to None."""

    def prepare(self, reranker: Reranker) -> None:
        """Prepares the model, which is already on its device, before the optimizer is made."""

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of a step."""
        return list(items[self.rank :: self.size])

    def rounds(self, own: int) -> int:
        """How many micro-batches this process goes through; own: how many it has."""
        return own

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def add_up(self, reranker: Reranker, loss: torch.Tensor) -> torch.Tensor:
        """Sums the gradients over all processes, and returns the sum of the losses."""
        return loss

    def first_decides(self, flag: bool) -> bool:
        """The first process's flag."""
        return flag

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        return [value]

    def sum(self, array: torch.Tensor) -> torch.Tensor:
        """The sum over all processes of a tensor on the CPU."""
        return array

    def snapshot(self, reranker: Reranker, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Whole weights and optimizer state, complete in the first process. All processes must call this."""
        return {"model": reranker.state_dict(), "optimizer": optimizer.state_dict()}

    def restore(self, saved: dict[str, Any], reranker: Reranker, optimizer: torch.optim.Optimizer) -> None:
        """Restores weights and optimizer state from a `snapshot`."""
        reranker.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])

    def weights(self, reranker: Reranker) -> dict[str, torch.Tensor]:
        """Whole weights on the CPU, complete in the first process. All processes must call this."""
        return {name: tensor.detach().cpu() for name, tensor in reranker.state_dict().items()}

    def take_weights(self, reranker: Reranker, weights: dict[str, torch.Tensor]) -> None:
        """Loads whole weights, as from `weights`."""
        reranker.load_state_dict(weights)

    def whole(self, reranker: Reranker, new: Callable[[], Reranker]) -> Reranker:
        """The model, with whole weights in the first process. `new` makes a model of the same shape."""
        return reranker

    def wait(self) -> None:
        """Waits until all processes have called this."""
        self.gather(None)


class Replicated(Workers):
    """Every process holds the whole model (data parallelism like DDP).

    Gradients are summed once a step, after the last micro-batch. DistributedDataParallel sums them during the backward
    pass. Summing them later lets a process that runs out of memory halve its micro-batches and repeat its part while
    the others wait. It also allows different numbers of micro-batches, and passes as CUDA graphs. All gradients are
    views of one tensor, which is summed in place, so nothing is copied.
    """

    keeps_gradients = True
    _gradients: torch.Tensor

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @override
    def prepare(self, reranker: Reranker) -> None:
        parameters = [parameter for parameter in reranker.parameters() if parameter.requires_grad]
        sizes = [-(-parameter.numel() // _ALIGNED) * _ALIGNED for parameter in parameters]
        self._gradients = torch.zeros(sum(sizes), device=parameters[0].device)
        for parameter, part in zip(parameters, self._gradients.split(sizes), strict=True):
            parameter.grad = part[: parameter.numel()].view_as(parameter)

    @override
    def any(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor(int(flag))))

    @override
    def add_up(self, reranker: Reranker, loss: torch.Tensor) -> torch.Tensor:
        with self._others():
            dist.all_reduce(self._gradients)
            dist.all_reduce(loss)
        return loss

    @override
    def first_decides(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor(int(flag and self.rank == 0))))

    @override
    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        with self._others():
            dist.all_gather_object(values, value)
        return values

    @override
    def sum(self, array: torch.Tensor) -> torch.Tensor:
        with self._others():
            dist.all_reduce(array)
        return array

    @contextmanager
    def _others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # both gloo and NCCL raise it
            if LAUNCHED in os.environ:
                raise SystemExit(LOST) from error  # the launcher reports which process ended, and how
            # Drops the source file at the start of the message, and the advice after the first sentence.
            reason = re.sub(r"^\[\S+:\d+\] ", "", str(error).splitlines()[0]).split(". ")[0]
            raise UserError(
                f"process {self.rank} of {self.size}: another process of this training has ended or did not answer "
                f"({reason[:200]}); start again to resume from the last saved state"
            ) from error


class Sharded(Replicated):
    """Every process holds a part of each layer's weights, gradients and optimizer state (FSDP2).

    The processes go through the layers together, so they have the same number of micro-batches, and none can repeat its
    part alone.
    """

    may_repeat = False
    keeps_gradients = False

    def __init__(self) -> None:
        super().__init__()
        self.gradient_scale = float(self.size)  # FSDP takes the mean over processes

    @override
    def prepare(self, reranker: Reranker) -> None:
        for unit in _units(reranker.backbone):
            fully_shard(unit)
        fully_shard(reranker)

    @override
    def rounds(self, own: int) -> int:
        return max(self.gather(own))

    @override
    def add_up(self, reranker: Reranker, loss: torch.Tensor) -> torch.Tensor:
        with self._others():
            dist.all_reduce(loss)
        return loss

    @override
    def snapshot(self, reranker: Reranker, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        model, state = get_state_dict(reranker, optimizer, options=_WHOLE)
        return {"model": model, "optimizer": state}

    @override
    def restore(self, saved: dict[str, Any], reranker: Reranker, optimizer: torch.optim.Optimizer) -> None:
        set_state_dict(
            reranker,
            optimizer,
            model_state_dict=saved["model"],
            optim_state_dict=saved["optimizer"],
            options=StateDictOptions(full_state_dict=True),
        )

    @override
    def weights(self, reranker: Reranker) -> dict[str, torch.Tensor]:
        return cast(dict[str, torch.Tensor], get_model_state_dict(reranker, options=_WHOLE))

    @override
    def take_weights(self, reranker: Reranker, weights: dict[str, torch.Tensor]) -> None:
        set_model_state_dict(reranker, dict[str, Any](weights), options=StateDictOptions(full_state_dict=True))

    @override
    def whole(self, reranker: Reranker, new: Callable[[], Reranker]) -> Reranker:
        weights = self.weights(reranker)
        if self.rank > 0:
            return reranker
        whole = new()
        whole.load_state_dict(weights)
        return whole.eval()


_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@contextmanager
def workers_of(parallel: str, device: torch.device) -> Iterator[Workers]:
    """The workers for the setting `parallel`, in a process that torchrun or `ssmrank train` itself started.

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
        yield Replicated() if parallel == "ddp" else Sharded()
    finally:
        dist.destroy_process_group()


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


def _units(backbone: Any) -> list[nn.Module]:
    """The modules that FSDP gathers one at a time."""
    shards = architecture_of(backbone.config.model_type).shards
    return [unit for layer in layers_of(backbone) for unit in shards(layer)]
