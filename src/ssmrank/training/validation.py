"""Measures a model in training by reranking a run of held-out queries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np
import torch

from ssmrank.config.trainings import Validation
from ssmrank.errors import UserError
from ssmrank.io.pairs import pairs_of
from ssmrank.io.texts import Texts
from ssmrank.io.trec import Qrels, Run
from ssmrank.models.packed_model import PackedModel
from ssmrank.models.packing import pack
from ssmrank.models.precision import Precision, autocast
from ssmrank.models.templates import LongQueries, Template
from ssmrank.models.token_budget import budget_batches
from ssmrank.models.tokens import TokenStore
from ssmrank.training.parallel import Workers

log = logging.getLogger(__name__)


def choose_queries(run: Run, qrels: Qrels, settings: Validation, seed: int) -> tuple[Run, Qrels]:
    """The run, cut to its depth, and the qrels of the validation's queries.

    These are queries with a relevant document. A query that the run lacks stays in the qrels, because it counts as 0.
    Raises UserError if there is no such query, or none in the run.
    """
    queries = [query for query, judged in qrels.items() if max(judged.values()) > 0]
    if not queries:
        raise UserError("validation: the qrels have no relevant documents; give the qrels of the run's split")
    if settings.queries is not None and settings.queries < len(queries):
        drawn = np.random.default_rng(seed).permutation(len(queries))[: settings.queries]
        queries = [queries[index] for index in sorted(drawn)]
    chosen = {query: run[query][: settings.depth] for query in queries if query in run}
    if not chosen:
        raise UserError("validation: the run has none of the qrels' queries; give the run and qrels of one split")
    return chosen, {query: qrels[query] for query in queries}


class RerankedMetric:
    """The mean metric of a run that the model reranks, with scores as in `ssmrank rerank`.

    `mean` computes the metric of a run against qrels, and counts queries that the run lacks as 0. Scores have the
    training's own precision: autocast over float32 weights, which do not change. Texts are tokenized once. No random
    numbers are drawn, so a training with validation takes the same steps as one without.
    """

    def __init__(
        self,
        settings: Validation,
        mean: Callable[[Qrels, Run], float],
        run: Run,
        qrels: Qrels,
        queries: Mapping[str, str],
        documents: Texts | TokenStore,
        template: Template,
        max_length: int,
        token_budget: int,
        precision: Precision,
        long_queries: LongQueries = "cut",
    ) -> None:
        self.every_steps, self.patience = settings.every_steps, settings.patience
        self._mean, self._qrels, self._queries = mean, qrels, list(run)
        self._budget, self._precision = token_budget, precision
        self._pairs = pairs_of(run, settings.depth)
        unknown = next((query for query in run if query not in queries), None)
        if unknown is not None:
            raise UserError(f"query {unknown}: in the validation's run, but not in split {settings.split}")
        sides = template.tokenize_queries([queries[query] for query in run])
        asked = dict(zip(run, template.fit_queries(sides, max_length, list(run), long_queries), strict=True))
        ids = list(dict.fromkeys(pair.document for pair in self._pairs))
        if isinstance(documents, TokenStore):
            found = {id: documents[id] for id in ids}
        else:
            found = dict(zip(ids, template.tokenize_documents([documents[id] for id in ids]), strict=True))
        self._sequences = [
            template.join(asked[pair.query], found[pair.document], max_length, pair.query) for pair in self._pairs
        ]

    @torch.no_grad()
    def __call__(self, reranker: PackedModel, workers: Workers) -> float:
        """The metric. Each process scores a part of the pairs, and leaves the model in training mode."""
        reranker.eval()
        device = next(reranker.parameters()).device
        scores = torch.zeros(len(self._sequences))
        batches = budget_batches([len(sequence) for sequence in self._sequences], self._budget)
        for start in range(0, len(batches), workers.size):
            # Processes may go through the layers together, so all take part in the last round. Each batch counts once.
            number = start + workers.rank
            batch = batches[min(number, len(batches) - 1)]
            packed = pack([self._sequences[index] for index in batch], device)
            with autocast(self._precision, device):
                found = reranker(packed).float().cpu()
            if number < len(batches):
                scores[torch.from_numpy(batch)] = found
        reranker.train()
        ranked: Run = {query: [] for query in self._queries}
        for pair, score in zip(self._pairs, workers.sum(scores).tolist(), strict=True):
            ranked[pair.query].append((pair.document, score))
        return self._mean(self._qrels, ranked)
