"""One training in several processes, each with a part of every step's groups.

`Workers` is what the loop asks of the others; the plain class is a training in one process. Loss and gradients are
those of one process at the same global batch: sums over processes, never means of means.
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
"""How long a process waits for the others; a process that dies is seen at once by whoever started it."""

_ALIGNED = 64
"""Elements to a multiple of which each gradient begins, so that kernels read it in whole vectors."""


class Workers:
    """A training in one process."""

    rank = 0
    size = 1
    may_repeat = True
    """Whether a process may do its part of a step again by itself."""
    gradient_scale = 1.0
    """Factor of the loss whose gradients are summed."""
    keeps_gradients = False
    """Whether gradients are the same tensors in all steps, to be set to zero between them, not to None."""

    def prepare(self, reranker: Reranker) -> None:
        """Readies the model, on its device, before the optimizer is made."""

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of a step."""
        return list(items[self.rank :: self.size])

    def rounds(self, own: int) -> int:
        """How many micro-batches each process goes through."""
        return own

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def add_up(self, reranker: Reranker, loss: torch.Tensor) -> torch.Tensor:
        """Sums the gradients over all processes; returns the sum of the losses."""
        return loss

    def first_decides(self, flag: bool) -> bool:
        """The first process's flag."""
        return flag

    def gather(self, value: T) -> list[T]:
        """Each process's value."""
        return [value]

    def sum(self, array: torch.Tensor) -> torch.Tensor:
        """Sum over all processes of a tensor on the CPU."""
        return array

    def snapshot(self, reranker: Reranker, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Whole weights and optimizer state; complete in the first process, all must call."""
        return {"model": reranker.state_dict(), "optimizer": optimizer.state_dict()}

    def restore(self, saved: dict[str, Any], reranker: Reranker, optimizer: torch.optim.Optimizer) -> None:
        """Takes a `snapshot`."""
        reranker.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])

    def weights(self, reranker: Reranker) -> dict[str, torch.Tensor]:
        """Whole weights, on the CPU; complete in the first process, all must call."""
        return {name: tensor.detach().cpu() for name, tensor in reranker.state_dict().items()}

    def take_weights(self, reranker: Reranker, weights: dict[str, torch.Tensor]) -> None:
        """Takes `weights`."""
        reranker.load_state_dict(weights)

    def whole(self, reranker: Reranker, new: Callable[[], Reranker]) -> Reranker:
        """The model with whole weights in the first process; `new` makes one of the same shape."""
        return reranker

    def wait(self) -> None:
        """Until all processes are here."""
        self.gather(None)


class Replicated(Workers):
    """Every process holds the whole model (data parallelism, as DDP).

    Gradients are summed once a step, behind the last micro-batch, not during the backward pass as
    DistributedDataParallel does it: so a process that runs out of memory halves its micro-batches and does its part
    again while the others wait, the number of micro-batches may differ, and a pass can be a CUDA graph. They lie end to
    end in one tensor from the beginning, which is summed where it is: nothing is copied.
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
        except RuntimeError as error:  # what gloo and NCCL raise alike
            if LAUNCHED in os.environ:
                raise SystemExit(LOST) from error  # who started the processes says which one has ended, and how
            # Without the file of their source before it, and the advice behind.
            reason = re.sub(r"^\[\S+:\d+\] ", "", str(error).splitlines()[0]).split(". ")[0]
            raise UserError(
                f"process {self.rank} of {self.size}: another process of this training has ended or did not answer "
                f"({reason[:200]}); start again to go on from the last state"
            ) from error


class Sharded(Replicated):
    """Every process holds a part of each layer's weights, gradients and optimizer state (FSDP2).

    The processes go through the layers together, so their number of micro-batches is the same and none can do its
    part again by itself.
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
    """The workers of the settings' `parallel`, in a process that torchrun (or `ssmrank train` itself) started."""
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
    """For processes of one host: gloo and NCCL are told to listen on loopback alone; arguments of the process group.

    By themselves they listen on the host's address, and the store where they find one another on all addresses.
    """
    environment = os.environ
    loopback = environment.get("MASTER_ADDR") in ("127.0.0.1", "localhost")
    if not loopback and environment.get("LOCAL_WORLD_SIZE") != environment["WORLD_SIZE"]:
        return {}
    for library in ("GLOO", "NCCL"):
        environment.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    if not loopback or environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return {}  # torchrun has a store already
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
    """The modules that are gathered one at a time."""
    shards = architecture_of(backbone.config.model_type).shards
    return [unit for layer in layers_of(backbone) for unit in shards(layer)]
