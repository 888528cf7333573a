"""Which layers keep their activations for the backward pass, and which recompute them.

Recomputing a layer costs a second forward pass of the layer, and saves all its activations except its input. So only as
many layers recompute as memory requires, evenly spread.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from ssmrank.models.packed_model import PackedModel
from ssmrank.models.packing import pack
from ssmrank.models.precision import Precision, autocast
from ssmrank.training import randomness

log = logging.getLogger(__name__)

MARGIN = 1.25
"""Required memory relative to what is kept for the backward pass; temporaries and fragmentation need the rest."""


def memory_of(device: torch.device) -> float:
    """The bytes of a GPU that this process may use."""
    total = torch.cuda.get_device_properties(device).total_memory
    return total * torch.cuda.get_per_process_memory_fraction(device.index)


def free_memory(device: torch.device) -> float:
    """The bytes of a GPU that this process may still take, without those that its allocator keeps."""
    torch.cuda.empty_cache()
    allowed = memory_of(device) - torch.cuda.memory_reserved(device)
    return min(torch.cuda.mem_get_info(device)[0], allowed)


def layers_of(backbone: nn.Module) -> list[Any]:
    """The layers (GradientCheckpointingLayer) of a transformers backbone, in order, without those within a layer."""
    layers = [module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)]
    inner = {part for layer in layers for part in layer.modules() if part is not layer}
    return [layer for layer in layers if layer not in inner]


def recompute_layers(backbone: nn.Module, share: float) -> None:
    """Makes this share of the layers, rounded up and evenly spread, recompute their activations in training."""
    layers = layers_of(backbone)
    count = math.ceil(share * len(layers))
    for number, layer in enumerate(layers):
        layer.gradient_checkpointing = (number + 1) * count // len(layers) > number * count // len(layers)
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def recomputed_layers(backbone: nn.Module) -> int:
    """How many layers recompute their activations."""
    return sum(bool(layer.gradient_checkpointing) for layer in layers_of(backbone))


@dataclass(frozen=True)
class Kept:
    """Bytes that a forward pass keeps for the backward pass: `fixed`, plus `per_token` for each token."""

    fixed: float
    per_token: float


def measure_kept(reranker: PackedModel, precision: Precision, device: torch.device, tokens: int = 256) -> Kept:
    """What the model keeps besides its weights, measured by forward passes of about `tokens` and twice as many."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in reranker.parameters()}
    length = min(tokens, reranker.settings.max_length)
    random_state = randomness.snapshot(device)
    measured = []
    for sequences in (math.ceil(tokens / length), 2 * math.ceil(tokens / length)):
        storages: dict[int, torch.UntypedStorage] = {}

        # Returns nothing for autograd to save. Else a node that saves its own output would never be freed, nor would
        # the nodes of the weights, which must be new when a CUDA graph is captured.
        def keep(tensor: torch.Tensor, storages: dict[int, torch.UntypedStorage] = storages) -> None:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage  # kept alive, so that no other storage gets its address

        packed = pack([np.ones(length, dtype=np.int32)] * sequences, device)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing), autocast(precision, device):
            reranker(packed)
        measured.append((sequences * length, sum(storage.nbytes() for storage in storages.values())))
    randomness.restore(random_state, device)
    (few, small), (many, large) = measured
    per_token = (large - small) / (many - few)
    return Kept(max(0.0, small - per_token * few), per_token)


def share_to_recompute(kept: Kept, layers: int, width: int, tokens: int, free: float) -> float:
    """The least share of `layers` to recompute so that `tokens` fit into `free` bytes; 1 if no share suffices.

    width: of a layer's input, which a recomputed layer keeps in float32. Recomputed activations live for one layer at a
    time.
    """
    for count in range(layers + 1):
        one_layer = kept.per_token / layers
        per_token = kept.per_token - count * one_layer + (count * 4 * width + one_layer if count else 0)
        if MARGIN * (kept.fixed + per_token * tokens) <= free:
            return count / layers
    return 1.0


def choose_recomputation(
    reranker: PackedModel, setting: str, precision: Precision, device: torch.device, tokens: int, to_come: int
) -> None:
    """Applies the setting activation_checkpointing; call this before the optimizer has its state.

    On a CPU, "auto" recomputes nothing. On a GPU it recomputes as few layers as possible so that micro-batches of
    `tokens` fit. to_come: bytes that the training will take besides activations.
    """
    backbone = reranker.backbone
    if setting == "full":
        recompute_layers(backbone, 1.0)
    if setting != "auto" or device.type != "cuda":
        return
    kept = measure_kept(reranker, precision, device)
    free = free_memory(device) - to_come
    recompute_layers(
        backbone, share_to_recompute(kept, len(layers_of(backbone)), backbone.config.hidden_size, tokens, free)
    )
    log.info(
        "%.0f kB of activations per token, %.1f GB free: %d of %d layers recompute their activations",
        kept.per_token / 1e3,
        free / 1e9,
        recomputed_layers(backbone),
        len(layers_of(backbone)),
    )
