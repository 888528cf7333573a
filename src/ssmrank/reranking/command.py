"""`ssmrank rerank`: a TREC run from a TREC run, a checkpoint and a collection."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from ssmrank.collections.store import read_queries
from ssmrank.config import Reranking, read_settings
from ssmrank.io.atomic import atomic_file
from ssmrank.io.checksum import sha256
from ssmrank.io.trec import OUT_OF_MEMORY, Run, read_run, write_run
from ssmrank.launch import command_of, launch
from ssmrank.models.attention import backend
from ssmrank.models.precision import default_device, resolve_precision
from ssmrank.models.reranker import Reranker, load_reranker, ran_out_of_memory
from ssmrank.models.tokens import token_store
from ssmrank.reranking.engine import Passages, Work, fingerprint, plan_work, reranked, score
from ssmrank.reranking.planner import documents_of
from ssmrank.reranking.state import RerankingState
from ssmrank.tracking import track

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument("--settings", required=True, help="section of rerankings: inline JSON, or a file")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that `ssmrank train` wrote")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--split", required=True, help="split whose queries the run answers")
    parser.add_argument("--run", type=Path, required=True, help="first-stage run")
    parser.add_argument("--output", type=Path, required=True, help="run to write")
    parser.add_argument(
        "--state",
        type=Path,
        help="folder of finished parts, from which a killed reranking goes on (default: hidden, beside --output)",
    )
    parser.add_argument(
        "--token-cache", type=Path, help="folder of tokenized texts that rerankings share (default: inside --state)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes the reranked run."""
    settings = read_settings(Reranking, arguments.settings)
    if ran_out_of_memory(arguments.checkpoint):
        with atomic_file(arguments.output) as stream:
            stream.write(OUT_OF_MEMORY + "\n")
        return
    own_state = arguments.state is None
    if own_state:
        arguments.state = arguments.output.with_name(f".{arguments.output.name}.state")
    if "RANK" in os.environ:
        _run_share(arguments, settings)
        return
    collection = arguments.collection
    tags = {"collection": collection.name, "model": arguments.checkpoint.name}
    # The run of MLflow that trained the model goes on.
    trained_by = arguments.checkpoint / "mlflow_run_id"
    run_id = trained_by.read_text().strip() if trained_by.is_file() else None
    with track("rerank", str(arguments.output), tags, {"reranking": settings.model_dump()}, run_id) as tracked:
        first_stage, reranker = read_run(arguments.run), load_reranker(arguments.checkpoint)
        work = _plan(arguments, settings, first_stage, reranker)
        device = default_device()
        attention = backend(device, resolve_precision(settings.precision, device))
        log.info(
            "%d pairs: %d tokens to compute, %.1f times fewer than all; %s, attention: %s",
            *(len(work.pairs), work.tokens, work.all_tokens / max(1, work.tokens), device, attention),
        )
        state = _state(arguments, settings, work, device)
        state.begin()
        started = time.perf_counter()
        scores = _scores(arguments, settings, work, reranker, device, state)
        seconds = time.perf_counter() - started
        name = f"{arguments.checkpoint.name}-{arguments.checkpoint.parent.name}"
        write_run(arguments.output, reranked(first_stage, work, scores), name)
        speed = {
            "pairs": len(work.pairs),
            "pairs_per_second": len(work.pairs) / seconds,
            "tokens_computed": work.tokens,
            "tokens_of_all_sequences": work.all_tokens,
        }
        tracked.metrics({f"{collection.name}/{arguments.split}/{name}": value for name, value in speed.items()})
        state.clear()
        if own_state:
            shutil.rmtree(arguments.state, ignore_errors=True)


def _scores(
    arguments: argparse.Namespace,
    settings: Reranking,
    work: Work,
    reranker: Reranker,
    device: torch.device,
    state: RerankingState,
) -> np.ndarray:
    processes = settings.processes or 1
    if processes == 1:
        return score(reranker, work, resolve_precision(settings.precision, device), device, state)
    launch(command_of(arguments), processes)
    scores = np.full(len(work.sequences), np.nan, dtype=np.float32)
    for pairs, found in state.finished().values():
        scores[pairs] = found
    return scores


def _run_share(arguments: argparse.Namespace, settings: Reranking) -> None:
    """Computes the part of one of several processes; the one that started them has made the state ready."""
    process, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = default_device()
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    reranker = load_reranker(arguments.checkpoint)
    work = _plan(arguments, settings, read_run(arguments.run), reranker)
    state = _state(arguments, settings, work, device)
    score(reranker, work, resolve_precision(settings.precision, device), device, state, process, processes)


def _plan(arguments: argparse.Namespace, settings: Reranking, first_stage: Run, reranker: Reranker) -> Work:
    documents = token_store(
        arguments.collection / "documents.jsonl",
        reranker.template,
        arguments.token_cache or arguments.state / "tokens",
        documents_of(first_stage, settings.depth),
        # Passages reach to a document's end.
        None if settings.passages else reranker.settings.max_length,
    )
    queries = read_queries(arguments.collection / "splits" / arguments.split / "queries.jsonl")
    passages = Passages(settings.passages.length, settings.passages.stride) if settings.passages else None
    return plan_work(reranker, first_stage, queries, documents, settings.depth, settings.token_budget, passages)


def _state(arguments: argparse.Namespace, settings: Reranking, work: Work, device: torch.device) -> RerankingState:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    facts = [settings.model_dump_json(exclude={"processes"}), name]
    facts += [sha256(arguments.checkpoint / file) for file in ("model.safetensors", "reranker.json", "config.json")]
    facts += [sha256(arguments.collection / "documents.jsonl"), sha256(arguments.run)]
    facts.append(sha256(arguments.collection / "splits" / arguments.split / "queries.jsonl"))
    return RerankingState(arguments.state / "parts", fingerprint(work, *facts))
