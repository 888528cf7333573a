"""Sharded training whose weights are gathered layer by layer: PyTorch's FSDP2.

A process holds its part of weights, gradients and optimizer state, and for a moment the whole weights of two units. A
unit are the linear layers of some layers. Autocast rounds their weights anyway, so they are gathered rounded, which are
half of the bytes, and results are those of other trainings. The rest of the model is gathered once a pass in float32,
and so are layers within several layers.
"""

from __future__ import annotations

import logging
from collections import Counter
from itertools import pairwise
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from typing_extensions import override

from ssmrank.models.architectures import architecture_of
from ssmrank.models.packed_model import PackedModel
from ssmrank.models.precision import Precision
from ssmrank.training.memory import layers_of
from ssmrank.training.optimizer import Moments
from ssmrank.training.parallel import Reduction, bytes_of, check_loaded, state_of, trained
from ssmrank.training.shards import Parted, Piece, Pieces, parts_of

UNIT_BYTES = 128 * 2**20
"""Units have at least this many bytes, as they are gathered. Each costs the CPU milliseconds in a step, while a GPU
receives this much in half of one."""


class Sharded(Parted):
    """Every process holds a part of each weight, gradient and moment (FSDP2).

    The processes go through the layers together, so they have the same number of micro-batches, and none can repeat its
    part alone.
    """

    may_repeat = False
    keeps_gradients = False

    def __init__(self, reduction: Reduction = "fp32", unit_bytes: int = UNIT_BYTES) -> None:
        super().__init__()
        self.gradient_scale = float(self.size)  # FSDP takes the mean over processes
        self._reduction: Reduction = reduction
        self._unit_bytes = unit_bytes

    @override
    def bytes_to_come(self, reranker: PackedModel, precision: Precision, moments: float = 8) -> int:
        units = _units(reranker.backbone, 1)
        learnt = trained(reranker).values()
        in_units = {id(parameter) for unit in units for module in unit for parameter in module.parameters()}
        rest = [parameter for parameter in reranker.parameters() if id(parameter) not in in_units]
        # The rest of the model and its gradients in float32; of two units the weights, before and after they are
        # unpacked, and of one the gradients and their float32 copies.
        whole = bytes_of(rest) + bytes_of(p for p in rest if p.requires_grad) + (4 + 1 + 2) * self._unit_bytes
        held = bytes_of(reranker.parameters())
        parts = (held + int((4 + moments) * sum(parameter.numel() for parameter in learnt))) // self.size
        return parts + whole - held

    @override
    def prepare(self, reranker: PackedModel, precision: Precision = "fp32") -> None:
        # Layers that recompute run again in the backward pass, others of their unit do not, which is no mistake.
        logging.getLogger("torch.distributed.fsdp.fully_shard").setLevel(logging.ERROR)
        policy = MixedPrecisionPolicy()
        if precision == "bf16":
            sums = torch.bfloat16 if self._reduction == "bf16" else torch.float32
            policy = MixedPrecisionPolicy(torch.bfloat16, sums, cast_forward_inputs=False)
        width = 2 if precision == "bf16" else 4
        units = _units(reranker.backbone, self._unit_bytes // width)
        for unit in units:
            fully_shard(unit, mp_policy=policy)
        fully_shard(reranker)
        first = [cast(FSDPModule, module) for module in (reranker, *(unit[0] for unit in units))]
        for one, following in pairwise(first):
            one.set_modules_to_forward_prefetch([following])
            if one is not first[0]:
                following.set_modules_to_backward_prefetch([one])

    @override
    def rounds(self, own: int) -> int:
        most = torch.tensor(own)
        with self._others():
            dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most)

    @override
    def add_up(self, reranker: PackedModel, loss: Tensor) -> Tensor:
        with self._others():
            dist.all_reduce(loss)
        return loss

    @override
    def clip(self, reranker: PackedModel, norm: float) -> None:
        parts = [_local(parameter.grad) for parameter in reranker.parameters() if parameter.grad is not None]
        self._clip([part for part in parts if len(part)], norm)

    @override
    def gradients(self, reranker: PackedModel) -> dict[str, Tensor]:
        found = super().gradients(reranker)
        return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in found.items()}

    @override
    def pieces(self, reranker: PackedModel, moments: Moments) -> Pieces:
        found: Pieces = {}
        for name, parameter in trained(reranker).items():
            rows = -(-len(parameter) // self.size)  # of each process but the last ones
            start = min(self.rank * rows, len(parameter)) * parameter[0].numel()
            for kind, part in parts_of(parameter, _local(parameter), moments).items():
                found[f"{name}/{kind}"] = Piece(part, start, parameter.numel())
        return found

    @override
    def weights(self, reranker: PackedModel) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, tensor in state_of(reranker).items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.rank == 0:
                found[name] = whole.cpu()
        return found

    @override
    def take_weights(self, reranker: PackedModel, weights: dict[str, Tensor]) -> None:
        options = StateDictOptions(full_state_dict=True, strict=False)
        check_loaded(reranker, set_model_state_dict(reranker, dict[str, Any](weights), options=options))


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _numel(modules: list[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _units(backbone: Any, least: int) -> list[list[nn.Module]]:
    """The linear layers that FSDP gathers together: those of successive layers with at least this many weights.

    Modules of several layers are in none, because a unit's modules must all run before one of them runs again.
    """
    shards = architecture_of(backbone.config.model_type).shards
    layers = layers_of(backbone)
    uses = Counter(module for layer in layers for module in layer.modules())
    units: list[list[nn.Module]] = [[]]
    for layer in layers:
        for part in shards(layer):
            linear = [module for module in part.modules() if isinstance(module, nn.Linear)]
            units[-1] += [module for module in linear if uses[module] == 1]
        if _numel(units[-1]) >= least:
            units.append([])
    return [unit for unit in units if unit]
