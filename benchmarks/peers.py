"""Training steps of the contenders on random tokens: forward, loss of the scores, backward, clipping and AdamW."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from shapes import Shape
from torch import nn
from torch.nn import functional as F

from ssmrank.kernels.dispatch import is_available
from ssmrank.models.backbones import pooled_forward
from ssmrank.models.packing import Packed
from ssmrank.models.precision import Precision, autocast
from ssmrank.training.gradients import Accumulator
from ssmrank.training.loss import Loss
from ssmrank.training.memory import choose_recomputation, recomputed_layers
from ssmrank.training.parallel import Workers

IMPLEMENTATIONS = ("ssmrank", "transformers", "mamba_ssm")
"""Ours; transformers' own padded model, unmodified; mamba_ssm's MixerModel with its fused norm."""


class Scorer(nn.Module):
    """A backbone and a linear layer, as in a reranker."""

    def __init__(self, backbone: nn.Module, pools_first: bool, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, 1)
        self.pooling = "first" if pools_first else "last"
        self.settings = SimpleNamespace(max_length=512)

    def forward(self, packed: Packed) -> torch.Tensor:
        return self.head(pooled_forward(self.backbone, packed, self.pooling)).squeeze(-1).float()


def packed_scorer(shape: Shape, device: torch.device) -> Scorer:
    """A scorer with random weights, the same at each call."""
    with torch.device(device):
        backbone = shape.ours()
        width = shape.config.get("word_embed_proj_dim", shape.config["hidden_size"])
        return Scorer(backbone, shape.pools_first, width)


PADDED_BATCH = 64
"""Sequences in a padded model's batch if their lengths differ."""


def training_step(
    shape: Shape,
    implementation: str,
    lengths: Sequence[int],
    precision: Precision,
    device: torch.device,
    order: str = "",
    workers: Workers | None = None,
    may_recompute: bool = False,
) -> Callable[[], None] | None:
    """A step on sequences of these lengths; None if the contender has no such model.

    order: how a padded model orders sequences into batches, `random` or `sorted` by length; empty: all in one batch.
    With several workers (ssmrank only), each has this many sequences. may_recompute: as many layers recompute their
    activations as memory requires (ssmrank only).
    """
    generator = np.random.default_rng(0)
    sequences = [generator.integers(10, shape.config["vocab_size"], length) for length in lengths]
    batches = [[sequences[place] for place in batch] for batch in _batches(lengths, order)]
    if implementation == "ssmrank":
        return _packed_step(shape, sequences, precision, device, workers or Workers(), may_recompute)
    if implementation == "transformers":
        with torch.device(device):
            backbone = shape.theirs()
        return _padded_step(shape, backbone, batches, precision, device)
    if shape.config["model_type"] not in ("mamba", "mamba2") or not is_available("mamba_ssm"):
        return None
    return _padded_step(shape, mixer_model(shape, device), batches, precision, device)


def padded_tokens(lengths: Sequence[int], order: str = "", size: int = PADDED_BATCH) -> int:
    """Tokens that a padded model computes for these sequences: in batches of `size` if they have an order."""
    return sum(len(batch) * max(lengths[place] for place in batch) for batch in _batches(lengths, order, size))


def _batches(lengths: Sequence[int], order: str, size: int = PADDED_BATCH) -> list[list[int]]:
    places = list(range(len(lengths)))
    if not order:
        return [places]
    if order == "sorted":
        places.sort(key=lambda place: lengths[place])
    return [places[start : start + size] for start in range(0, len(places), size)]


def _loss(scores: torch.Tensor) -> torch.Tensor:
    return F.softplus(-scores.float())


def _packed_step(
    shape: Shape,
    sequences: list[np.ndarray],
    precision: Precision,
    device: torch.device,
    workers: Workers,
    may_recompute: bool,
) -> Callable[[], None]:
    """As the training loop: packed, and on a GPU as a CUDA graph if that pays."""
    scorer = packed_scorer(shape, device).train()
    tokens = sum(map(len, sequences))
    if may_recompute:
        choose_recomputation(scorer, "auto", precision, device, tokens, workers.bytes_to_come(scorer, precision))
    workers.prepare(scorer, precision)
    optimizer = torch.optim.AdamW(workers.parameter_groups(scorer, weight_decay=0.01), lr=1e-5, fused=True)
    group_size = min(16, len(sequences))
    groups = [sequences[start : start + group_size] for start in range(0, len(sequences), group_size)]
    loss = Loss(lambda scores: _loss(scores).mean(dim=-1))
    accumulator = Accumulator(scorer, loss, precision, device, tokens, workers)
    if device.type == "cuda" and precision == "bf16" and workers.may_repeat and not recomputed_layers(scorer.backbone):
        accumulator.use_graphs(group_size, len(groups), max(map(len, sequences)))

    def step() -> None:
        accumulator(groups, len(groups) * workers.size)
        workers.clip(scorer, 1.0)
        optimizer.step()
        workers.stepped()
        accumulator.clear()

    return step


def _padded_step(
    shape: Shape, backbone: nn.Module, batches: list[list[np.ndarray]], precision: Precision, device: torch.device
) -> Callable[[], None]:
    padded = [_padded(batch, device) for batch in batches]
    count = sum(map(len, batches))
    own = shape.config["model_type"] if hasattr(backbone, "config") and hasattr(backbone, "base_model") else ""
    width = shape.config.get("word_embed_proj_dim", shape.config["hidden_size"])
    head = nn.Linear(width, 1).to(device)
    backbone.train()
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def step() -> None:
        for ids, mask, last in padded:
            with autocast(precision, device):
                hidden = backbone(input_ids=ids, attention_mask=mask).last_hidden_state if own else backbone(ids)
                pooled = hidden[:, 0] if shape.pools_first else hidden[torch.arange(len(ids), device=device), last]
                scores = head(pooled).squeeze(-1)
            (_loss(scores).sum() / count).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _padded(sequences: Sequence[np.ndarray], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and mask, int64 [S, longest], padded on the right, and the index of each sequence's last token."""
    longest = max(map(len, sequences))
    ids = np.zeros((len(sequences), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)], mask[row, : len(sequence)] = sequence, 1
    last = torch.tensor([len(sequence) - 1 for sequence in sequences], device=device)
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device), last


def mixer_model(shape: Shape, device: torch.device) -> nn.Module:
    """mamba_ssm's model of this shape, random weights, with its fused norm."""
    from mamba_ssm.models.mixer_seq_simple import MixerModel

    config = shape.config
    mamba2 = config["model_type"] == "mamba2"
    mixer = {"layer": "Mamba2", "headdim": config["head_dim"]} if mamba2 else {"layer": "Mamba1"}
    torch.manual_seed(0)
    return MixerModel(
        d_model=config["hidden_size"],
        n_layer=config["num_hidden_layers"],
        d_intermediate=0,
        vocab_size=config["vocab_size"],
        ssm_cfg=mixer | {"d_state": config["state_size"]},
        rms_norm=True,
        fused_add_norm=True,
        residual_in_fp32=True,
        device=device,
    )
