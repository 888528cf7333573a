"""Sharded training whose weights are gathered once a step (ZeRO's first stage, Rajbhandari et al. 2020).

Each process holds the whole model as its passes read it, and a part of the float32 weights and of AdamW's moments. A
pass needs nothing of other processes, so it may be a CUDA graph, or be repeated with less memory, and processes may
have different numbers of passes. After a step's passes gradients are summed and shared out, their norm is summed, and
the new weights are gathered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from ssmrank.models.packed_model import PackedModel
from ssmrank.models.precision import Precision, rounded_weights
from ssmrank.training.memory import memory_of
from ssmrank.training.optimizer import Moments, decays
from ssmrank.training.parallel import ALIGNED, Reduction, Replicated, Workers, bytes_of, trained
from ssmrank.training.sharded import Sharded
from ssmrank.training.shards import Parted, Piece, Pieces, parts_of

log = logging.getLogger(__name__)

LARGEST_SHARE = 0.7
"""Of a GPU's memory that weights, gradients and optimizer may take; activations need the rest."""

# torch 2.13 has other names for them, and warns of the old ones.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class ByMemory(Replicated):
    """Gathers once a step if every process has the memory, else layer by layer."""

    def __init__(self, reduction: Reduction) -> None:
        super().__init__()
        self._reduction: Reduction = reduction

    @override
    def suited_to(
        self, reranker: PackedModel, precision: Precision, device: torch.device, moments: float = 8
    ) -> Workers:
        once = GatheredOnce(self._reduction)
        if device.type != "cuda":
            return once
        needed = once.bytes_to_come(reranker, precision, moments) + bytes_of(reranker.parameters())
        fits = needed <= LARGEST_SHARE * memory_of(device)
        found: Workers = Sharded(self._reduction) if self.any(not fits) else once
        log.info(
            "weights, gradients and optimizer take %.1f GB if weights are gathered once a step; gathering them %s",
            needed / 1e9,
            "once a step" if found is once else "layer by layer",
        )
        return found


class _Bucket:
    """Parameters that are views of one tensor, of which each process's optimizer changes a part.

    whole `[processes * part]`: the parameters in `dtype`; sums, of the same size: their gradients; own `[part]`: this
    process's part in float32, with its gradient.
    """

    def __init__(self, named: dict[str, nn.Parameter], dtype: torch.dtype, sums: torch.dtype, workers: Workers) -> None:
        self.named = named
        device = next(iter(named.values())).device
        ends, end = {}, 0
        for name, parameter in named.items():
            ends[name] = (end, end + parameter.numel())
            end += -(-parameter.numel() // ALIGNED) * ALIGNED
        self.places = ends
        self.part = -(-end // (workers.size * ALIGNED)) * ALIGNED
        self.first = workers.rank * self.part
        self.whole = torch.zeros(workers.size * self.part, dtype=dtype, device=device)
        self.sums = torch.zeros(len(self.whole), dtype=sums, device=device)
        exact = dtype == torch.float32
        self.own = nn.Parameter(self._mine(self.whole) if exact else torch.zeros(self.part, device=device))
        self.own.grad = self._mine(self.sums) if sums == torch.float32 else torch.zeros_like(self.own)
        for name, parameter in named.items():
            self._take_in(name, parameter)

    def _take_in(self, name: str, parameter: nn.Parameter) -> None:
        start, end = self.places[name]
        values = parameter.data
        self.set(name, values)
        parameter.data = self.whole[start:end].view(values.shape)
        sums = self.sums[start:end].view(values.shape)
        if self.sums.dtype == parameter.dtype:
            parameter.grad = sums
        else:
            parameter.register_post_accumulate_grad_hook(partial(_add_up, sums))

    def set(self, name: str, values: Tensor) -> None:
        """Sets a parameter, given its whole values."""
        (start, end), values = self.places[name], values.flatten()
        self.whole[start:end] = values.to(self.whole.device)
        low, high = self._range(name)
        if self.whole.dtype != torch.float32:
            self.own.data[low:high] = values[low + self.first - start : high + self.first - start].to(self.own.device)

    def piece(self, name: str, tensor: Tensor) -> tuple[int, Tensor]:
        """The parameter's part of a tensor like `own`, and where it starts in the flattened parameter."""
        low, high = self._range(name)
        return max(0, low + self.first - self.places[name][0]), tensor[low:high]

    def share_out(self) -> None:
        """Sums the gradients over all processes."""
        mine = self._mine(self.sums)
        _reduce_scatter(mine, self.sums)
        if self.own.grad is not None and self.sums.dtype != torch.float32:
            self.own.grad.copy_(mine)

    def gather(self) -> None:
        """Makes the parameters in all processes those that the optimizers have computed."""
        mine = self._mine(self.whole)
        if self.whole.dtype != torch.float32:
            mine.copy_(self.own.detach())
        _all_gather(self.whole, mine)

    def gathered(self, own: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Whole tensors of the parameters' shapes, by name, of which `own` has this process's part.

        They overwrite the sums of gradients where these have the same dtype, because a second tensor may not fit.
        """
        whole = self.sums if own.dtype == self.sums.dtype else torch.empty_like(self.sums, dtype=own.dtype)
        _all_gather(whole, own.detach())
        for name, parameter in self.named.items():
            start, end = self.places[name]
            yield name, whole[start:end].view(parameter.shape)

    def clear(self) -> None:
        """Sets the gradients to zero."""
        self.sums.zero_()
        if self.sums.dtype != self.whole.dtype:
            for parameter in self.named.values():
                parameter.grad = None  # where memory ran out before it was added

    def _mine(self, tensor: Tensor) -> Tensor:
        return tensor[self.first : self.first + self.part]

    def _range(self, name: str) -> tuple[int, int]:
        """Where a parameter starts and ends in this process's part; the same if it has nothing of it."""
        start, end = (min(max(place - self.first, 0), self.part) for place in self.places[name])
        return start, end


class GatheredOnce(Parted):
    """Every process holds the whole model, and a part of the float32 weights and optimizer state.

    Where autocast would round a weight for each pass, only the rounded one is whole. So results are those of other
    trainings, up to the order of sums over processes.
    """

    keeps_gradients = True

    def __init__(self, reduction: Reduction = "fp32") -> None:
        super().__init__()
        self._reduction: Reduction = reduction
        self._buckets: list[_Bucket] = []

    @override
    def bytes_to_come(self, reranker: PackedModel, precision: Precision, moments: float = 8) -> int:
        weights = sum(parameter.numel() for parameter in trained(reranker).values())
        rounded = sum(p.numel() for p in rounded_weights(reranker, precision).values() if p.requires_grad)
        whole = 4 * weights - 2 * rounded
        gradients = 4 * weights - (2 * rounded if self._reduction == "bf16" else 0)
        masters = 4 * rounded * (2 if self._reduction == "bf16" else 1)  # and float32 copies of their gradients
        parts = (masters + int(moments * weights)) // self.size
        return whole + gradients + parts - 4 * weights

    @override
    def prepare(self, reranker: PackedModel, precision: Precision = "fp32") -> None:
        named = trained(reranker)
        rounded = rounded_weights(reranker, precision)
        sums = torch.bfloat16 if self._reduction == "bf16" else torch.float32
        kinds: list[tuple[Callable[[str], bool], torch.dtype, torch.dtype]] = [
            (lambda name: name in rounded, torch.bfloat16, sums),
            (lambda name: name not in rounded and decays(name, named[name]), torch.float32, torch.float32),
            (lambda name: name not in rounded and not decays(name, named[name]), torch.float32, torch.float32),
        ]
        for belongs, dtype, of_sums in kinds:
            members = {name: parameter for name, parameter in named.items() if belongs(name)}
            if members:
                self._buckets.append(_Bucket(members, dtype, of_sums, self))

    @override
    def parameter_groups(self, reranker: PackedModel, weight_decay: float) -> list[dict[str, Any]]:
        groups = []
        for bucket in self._buckets:
            name, parameter = next(iter(bucket.named.items()))
            groups.append({"params": [bucket.own], "weight_decay": weight_decay if decays(name, parameter) else 0.0})
        return groups

    @override
    def add_up(self, reranker: PackedModel, loss: Tensor) -> Tensor:
        with self._others():
            for bucket in self._buckets:
                bucket.share_out()
            dist.all_reduce(loss)
        return loss

    @override
    def clip(self, reranker: PackedModel, norm: float) -> None:
        self._clip([bucket.own.grad for bucket in self._buckets if bucket.own.grad is not None], norm)

    @override
    def stepped(self) -> None:
        with self._others():
            for bucket in self._buckets:
                bucket.gather()

    @override
    def clear(self, reranker: PackedModel, set_to_none: bool) -> None:
        for bucket in self._buckets:
            bucket.clear()

    @override
    def gradients(self, reranker: PackedModel) -> dict[str, Tensor]:
        found = [bucket.gathered(bucket.own.grad) for bucket in self._buckets if bucket.own.grad is not None]
        return {name: gradient for bucket in found for name, gradient in bucket}

    @override
    def pieces(self, reranker: PackedModel, moments: Moments) -> Pieces:
        found: Pieces = {}
        for bucket in self._buckets:
            for kind, tensor in parts_of(bucket.own, bucket.own, moments).items():
                for name, parameter in bucket.named.items():
                    start, part = bucket.piece(name, tensor)
                    found[f"{name}/{kind}"] = Piece(part, start, parameter.numel())
        return found

    @override
    def read_pieces(self, reranker: PackedModel) -> None:
        self.stepped()

    @override
    def weights(self, reranker: PackedModel) -> dict[str, Tensor]:
        exact: dict[str, Tensor] = {}
        for bucket in self._buckets:
            if bucket.whole.dtype != torch.float32:
                for name, weight in bucket.gathered(bucket.own):
                    if self.rank == 0:
                        exact[name] = weight.to("cpu", copy=True)
                bucket.clear()
        return super().weights(reranker) | exact if self.rank == 0 else {}

    @override
    def take_weights(self, reranker: PackedModel, weights: dict[str, Tensor]) -> None:
        super().take_weights(reranker, weights)
        for bucket in self._buckets:
            for name in bucket.named:
                bucket.set(name, weights[name])


def _add_up(sums: Tensor, parameter: nn.Parameter) -> None:
    """Adds a new gradient to the sums, which are in float32 although the parameter is not."""
    if parameter.grad is not None:
        sums.add_(parameter.grad)
        parameter.grad = None
