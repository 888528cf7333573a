"""`ssmrank rerank`: reranks a TREC run of a collection with a checkpoint."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from functools import partial
from pathlib import Path

import torch

from ssmrank.config.reading import read_settings
from ssmrank.config.rerankings import Reranking
from ssmrank.gpus import own_gpus
from ssmrank.io.atomic import atomic_file
from ssmrank.io.trec import OUT_OF_MEMORY
from ssmrank.launch import command_of, launch
from ssmrank.models.precision import default_device
from ssmrank.models.reranker import ran_out_of_memory
from ssmrank.models.tokens import limit_tokenizer_threads
from ssmrank.reranking.pipeline import Files, Scores, open_reranking
from ssmrank.tracking import run_of, track, untrained
from ssmrank.tracking.run_metadata import RunMethod, described, metadata_file, trained_on

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="section of rerankings: inline JSON, or a file")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a trained reranker")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--split", required=True, help="split whose queries the run answers")
    parser.add_argument("--run", type=Path, required=True, help="first-stage run")
    parser.add_argument("--output", type=Path, required=True, help="run to write")
    parser.add_argument(
        "--state",
        type=Path,
        help="folder of finished parts, from which a killed reranking resumes (default: hidden, next to --output)",
    )
    parser.add_argument(
        "--token-cache", type=Path, help="folder of tokenized texts that rerankings share (default: inside --state)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes the reranked run."""
    limit_tokenizer_threads()
    settings = read_settings(Reranking, arguments.settings)
    if ran_out_of_memory(arguments.checkpoint):
        metadata_file(arguments.output).unlink(missing_ok=True)
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
    # The MLflow run of the training is resumed.
    model = arguments.checkpoint.name
    run_id = run_of(arguments.checkpoint / "mlflow_run_id") or untrained(model)
    with (
        described(arguments, _method(arguments, settings)),
        track("rerank", model, tags, {"reranking": settings.model_dump()}, run_id) as tracked,
    ):
        processes = settings.processes or 1
        scores: Scores = "none" if processes > 1 else "all"
        reranking = open_reranking(_files(arguments), settings, arguments.checkpoint, default_device(), scores)
        name = f"{arguments.checkpoint.name}-{arguments.checkpoint.parent.name}"
        gpus = own_gpus(torch.cuda.device_count(), processes) if processes > 1 else {}
        several = partial(launch, command_of(arguments), processes, gpus) if processes > 1 else None
        found = reranking.write(arguments.output, name, several)
        log.info(
            "%.1f s before the first batch, %.1f s of scoring, %.1f s of writing",
            *(found.before, found.scoring, found.writing),
        )
        speed: dict[str, float] = {
            "pairs": found.pairs,
            "queries_cut": found.queries_cut,
            "tokens_computed": found.tokens,
            "tokens_of_all_sequences": found.all_tokens,
        }
        if found.scoring:  # 0 if a killed reranking had already scored all batches
            speed["pairs_per_second"] = found.pairs / found.scoring
        tracked.metrics({f"{collection.name}/{arguments.split}/{name}": value for name, value in speed.items()})
        if own_state:
            shutil.rmtree(arguments.state, ignore_errors=True)


def _method(arguments: argparse.Namespace, settings: Reranking) -> RunMethod:
    checkpoint = arguments.checkpoint
    step = {"name": f"{checkpoint.name}-{checkpoint.parent.name}", "method": "ssmrank cross-encoder"}
    step |= settings.model_dump(include={"depth", "passages", "precision", "deterministic"}, exclude_none=True)
    trained = trained_on(checkpoint)
    return RunMethod(step, arguments.collection, arguments.split, [arguments.run], "reranks", training_data=trained)


def _run_share(arguments: argparse.Namespace, settings: Reranking) -> None:
    process, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = default_device()
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    reranking = open_reranking(_files(arguments), settings, arguments.checkpoint, device, "share")
    reranking.score_share(process, processes)


def _files(arguments: argparse.Namespace) -> Files:
    return Files(
        run=arguments.run,
        collection=arguments.collection,
        split=arguments.split,
        state=arguments.state / "parts",
        tokens=arguments.token_cache or arguments.state / "tokens",
    )
