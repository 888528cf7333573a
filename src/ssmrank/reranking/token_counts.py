"""Counts the tokens that a reranking reads, and those that it computes where prefixes are shared. No model runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssmrank.config.rerankings import Reranking
from ssmrank.io.atomic import scratch_directory
from ssmrank.io.collection import documents_file, queries_file
from ssmrank.io.pairs import pairs_of
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import read_run
from ssmrank.models.reranker import load_reranker
from ssmrank.models.tokens import token_store
from ssmrank.reranking.engine import PassageWindows, plan_work
from ssmrank.reranking.planner import parts_of


def count_tokens(settings: Reranking, checkpoint: Path, collection: Path, split: str, run: Path) -> dict[str, Any]:
    """Tokens of all pairs of a run, planned in parts as `ssmrank rerank` does.

    pairs: their number; tokens: of their sequences; computed: where shared prefixes are computed once; shortened: pairs
    that lack a part of their document; order: in which the reranker reads. The counts are the same on every machine.
    """
    reranker = load_reranker(checkpoint)
    pairs = pairs_of(read_run(run), settings.depth)
    queries, longest = read_queries(queries_file(collection, split)), reranker.settings.max_length
    texts, windows = TextStore(documents_file(collection)), settings.passages
    tokens = computed = shortened = 0
    with scratch_directory() as cache:
        kept = longest if windows is None else None
        documents = token_store(texts, reranker.template, cache, pairs.documents, kept)
        for places in parts_of(pairs, texts.sizes(pairs.documents)):
            work = plan_work(
                *(reranker, pairs.at(places), queries, documents, settings.token_budget),
                passages=None if windows is None else PassageWindows(windows.length, windows.stride),
                long_queries=settings.long_queries,
                deterministic=settings.deterministic,
            )
            tokens, computed = tokens + work.all_tokens, computed + work.tokens
            shortened += len(np.unique(work.owners[work.sequences.shortened]))
    return {
        "pairs": len(pairs),
        "tokens": tokens,
        "computed": computed,
        "shortened": shortened,
        "order": reranker.template.order,
        "collection": collection.name,
    }
