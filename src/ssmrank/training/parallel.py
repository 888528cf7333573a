"""One training in several processes, each with a part of every step's groups.

`Workers` is the loop's interface to the other processes; the class itself is a training in one process. Loss and
gradients are the same as in one process with the same global batch: sums over processes, never means of means.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from ssmrank.errors import UserError
from ssmrank.launch import LAUNCHED, LOST
from ssmrank.models.packed_model import PackedModel
from ssmrank.models.precision import Precision
from ssmrank.training.optimizer import decay_groups
from ssmrank.training.state import TrainingState

T = TypeVar("T")
M = TypeVar("M", bound=PackedModel)

Reduction = Literal["fp32", "bf16"]

ALIGNED = 64
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

    def suited_to(
        self, reranker: PackedModel, precision: Precision, device: torch.device, moments: float = 8
    ) -> Workers:
        """The workers for this model. They differ from these only if a setting leaves the choice to the memory."""
        return self

    def bytes_to_come(self, reranker: PackedModel, precision: Precision, moments: float = 8) -> int:
        """Bytes that a training needs in each process besides the model as it is, without activations.

        moments: bytes of AdamW's two moments of a weight.
        """
        return int((4 + moments) * sum(parameter.numel() for parameter in trained(reranker).values()))

    def prepare(self, reranker: PackedModel, precision: Precision = "fp32") -> None:
        """Prepares the model, which is already on its device, before the optimizer is made."""

    def parameter_groups(self, reranker: PackedModel, weight_decay: float) -> list[dict[str, Any]]:
        """What the optimizer changes, as its parameter groups."""
        return decay_groups(reranker, weight_decay)

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of a step."""
        return list(items[self.rank :: self.size])

    def rounds(self, own: int) -> int:
        """How many micro-batches this process goes through; own: how many it has."""
        return own

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def add_up(self, reranker: PackedModel, loss: torch.Tensor) -> torch.Tensor:
        """Sums the gradients over all processes, and returns the sum of the losses."""
        return loss

    def clip(self, reranker: PackedModel, norm: float) -> None:
        """Scales the gradients down so that the norm of all of them together is at most `norm`."""
        torch.nn.utils.clip_grad_norm_(reranker.parameters(), norm)

    def stepped(self) -> None:
        """Follows each step of the optimizer."""

    def clear(self, reranker: PackedModel, set_to_none: bool) -> None:
        """Sets all gradients to zero, or to None."""
        reranker.zero_grad(set_to_none=set_to_none)

    def gradients(self, reranker: PackedModel) -> dict[str, torch.Tensor]:
        """The whole gradients after `add_up`, by name. All processes must call this."""
        named = reranker.named_parameters()
        return {name: parameter.grad for name, parameter in named if parameter.grad is not None}

    def first_decides(self, flag: bool) -> bool:
        """The first process's flag."""
        return flag

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        return [value]

    def sum(self, array: torch.Tensor) -> torch.Tensor:
        """The sum over all processes of a tensor on the CPU."""
        return array

    def save(
        self,
        state: TrainingState,
        step: int,
        reranker: PackedModel,
        optimizer: torch.optim.Optimizer,
        facts: dict[str, Any],
        best: int | None,
    ) -> None:
        """Writes weights, optimizer state and `facts`, the same in all processes. All processes must call this."""
        if self.rank == 0:
            whole = {"model": state_of(reranker), "optimizer": optimizer.state_dict()}
            state.save(step, whole | facts, best)

    def load(
        self, state: TrainingState, step: int, reranker: PackedModel, optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        """Restores what `save` wrote after `step` steps, and returns the facts."""
        saved = state.read(step)
        load_state(reranker, saved.pop("model"))
        optimizer.load_state_dict(saved.pop("optimizer"))
        return saved

    def weights(self, reranker: PackedModel) -> dict[str, torch.Tensor]:
        """Whole trained weights on the CPU, complete in the first process. All processes must call this."""
        return {name: tensor.detach().cpu() for name, tensor in state_of(reranker).items()}

    def take_weights(self, reranker: PackedModel, weights: dict[str, torch.Tensor]) -> None:
        """Loads whole weights, as from `weights`."""
        load_state(reranker, weights)

    def whole(self, reranker: M, new: Callable[[], M]) -> M:
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
    def prepare(self, reranker: PackedModel, precision: Precision = "fp32") -> None:
        parameters = [parameter for parameter in reranker.parameters() if parameter.requires_grad]
        sizes = [-(-parameter.numel() // ALIGNED) * ALIGNED for parameter in parameters]
        self._gradients = torch.zeros(sum(sizes), device=parameters[0].device)
        for parameter, part in zip(parameters, self._gradients.split(sizes), strict=True):
            parameter.grad = part[: parameter.numel()].view_as(parameter)

    @override
    def any(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor(int(flag))))

    @override
    def add_up(self, reranker: PackedModel, loss: torch.Tensor) -> torch.Tensor:
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

    def _clip(self, parts: list[torch.Tensor], norm: float) -> None:
        """Clips gradients of which each process has parts of its own; nothing waits for the device."""
        square = torch.nn.utils.get_total_norm(parts).square()
        with self._others():
            dist.all_reduce(square)
        # As torch.nn.utils.clip_grad_norm_ does.
        torch._foreach_mul_(parts, torch.clamp(norm / (square.sqrt() + 1e-6), max=1.0))

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


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name: all, or adapters and head."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def has_frozen(model: nn.Module) -> bool:
    """Whether some parameters are not trained."""
    return not all(parameter.requires_grad for parameter in model.parameters())


def bytes_of(parameters: Iterable[Tensor]) -> int:
    """The bytes of all parameters together."""
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a checkpoint: all, or those of a model with frozen weights that are trained.

    Each has one name, also where modules share it.
    """
    names = set(trained(model))
    if not has_frozen(model):
        names.update(name for name, _ in model.named_buffers())
    return {name: tensor for name, tensor in model.state_dict().items() if name in names}


def load_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads the tensors of `state_of`. Raises RuntimeError if some are missing, left over or of other shapes."""
    check_loaded(model, model.load_state_dict(state, strict=False))


def check_loaded(model: nn.Module, differences: Any) -> None:
    """Raises RuntimeError if a state lacked a tensor of `state_of`, or had one that the model has not.

    differences: missing and left-over names. A tensor of several names is missing by all but one.
    """
    missing, left_over = differences
    lacking = sorted({*missing} & {*state_of(model)})
    if lacking or left_over:
        raise RuntimeError(f"the saved state lacks {lacking[:3]}, and has {left_over[:3]}, which the model has not")
