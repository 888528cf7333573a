"""A model's passes over the beginnings of sequences, whose states are kept, and over what follows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ssmrank.models.kept_states import StatePool, StateShapes, state_shapes
from ssmrank.models.packing import Packed, moved, pack
from ssmrank.models.reranker import Reranker
from ssmrank.models.token_budget import budget_batches
from ssmrank.reranking.document_prefixes import Prefix, SplitPair
from ssmrank.reranking.scoring import Scorer

Progress = Callable[[int, int], None]
"""Called after each batch with how many are done, and how many there are."""

_STATE_TOKENS = 24
"""The tokens of a batch that stand for a state of scans that is gathered for it."""

_KEY_TOKENS = 8
"""The tokens of a prefix whose keys and values stand for one token of a batch."""


def why_no_states(reranker: Reranker) -> str:
    """Why documents of a model have no states that queries can start from, for a message; empty if they have."""
    if not reranker.can_share_prefixes:
        kind, pooled = reranker.backbone.config.model_type, reranker.settings.pooled
        return f"{kind} with pooling {pooled} does not read a document independently of its query"
    if reranker.template.query_leads:
        return f"its template, {reranker.template.order}, does not begin with the document"
    return ""


class StatePasses:
    """The passes of a model that has states, on its device and in its precision."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        with scorer.computing():
            self.shapes: StateShapes = state_shapes(scorer.reranker.backbone, scorer.device)

    def pool(self, slots: int, dtype: torch.dtype | None) -> StatePool:
        """Memory for states; as `StatePool`."""
        return StatePool(self.shapes, slots, self._scorer.device, dtype)

    def keep(self, prefixes: Sequence[Prefix], pool: StatePool, slots: Sequence[int]) -> None:
        """Computes the states of prefixes into slots of a pool, in one batch."""
        self._run([prefix.tokens for prefix in prefixes], lambda packed: pool.keeping(packed, slots))

    def scores(self, pairs: Sequence[SplitPair], pool: StatePool, slots: Sequence[int]) -> np.ndarray:
        """Scores of pairs, float32, whose prefixes' states are in these slots, in one batch.

        Pairs of one slot must be neighbours.
        """
        return self._run([pair.suffix for pair in pairs], lambda packed: pool.continuing(packed, slots))

    def cost(self, pair: SplitPair, first: bool) -> int:
        """The tokens that a pair counts as in a batch; first: whether it is the first one of its prefix there."""
        cost = len(pair.suffix)
        if first and self.shapes.scans:
            cost += _STATE_TOKENS
        if first and self.shapes.keys:
            cost += len(pair.prefix.tokens) // _KEY_TOKENS
        return cost

    def _run(self, sequences: Sequence[np.ndarray], kept: Callable[[Packed], Packed]) -> np.ndarray:
        device = self._scorer.device
        with self._scorer.computing():
            return self._scorer.reranker.scores(kept(moved(pack(sequences), device))).cpu().numpy()


def whole_scores(scorer: Scorer, sequences: Sequence[np.ndarray], token_budget: int, progress: Progress) -> np.ndarray:
    """Scores of whole sequences, float32."""
    scores, done = np.empty(len(sequences), dtype=np.float32), 0
    for batch in budget_batches([len(sequence) for sequence in sequences], token_budget):
        with scorer.computing():
            packed = moved(pack([sequences[place] for place in batch.tolist()]), scorer.device)
            scores[batch] = scorer.reranker.scores(packed).cpu().numpy()
        done += len(batch)
        progress(done, len(sequences))
    return scores
