"""`ssmrank train`: fine-tunes a reranker and writes its checkpoint."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import torch

from ssmrank.collections.store import TextStore, read_queries
from ssmrank.config import TrainSettings, read_settings
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory
from ssmrank.io.checksum import sha256
from ssmrank.models.attention import backend
from ssmrank.models.precision import default_device, resolve_precision
from ssmrank.models.reranker import new_reranker
from ssmrank.tracking import track
from ssmrank.training.groups import GroupSequences, read_groups
from ssmrank.training.loop import History, OutOfMemory, train
from ssmrank.training.loss import LOSSES
from ssmrank.training.state import TrainingState

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument("--settings", required=True, help="training section with the model's overrides: JSON or a file")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder to start from")
    parser.add_argument("--kind", choices=["E", "ED", "D"], required=True, help="encoder, encoder-decoder or decoder")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--split", required=True, help="split whose queries are trained on")
    parser.add_argument("--negatives", type=Path, required=True, help="groups that `ssmrank negatives` wrote")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument(
        "--state", type=Path, required=True, help="folder that keeps what a killed training goes on from"
    )
    parser.add_argument("--save-seconds", type=float, default=300.0, help="how often that is written (default: 300)")


def run(arguments: argparse.Namespace) -> None:
    """Trains and writes the checkpoint; a model too large for the device leaves outcome.json with status oom."""
    settings = read_settings(TrainSettings, arguments.settings)
    if settings.loss not in LOSSES:
        raise UserError(f"trainings: loss {settings.loss!r} is unknown; known: {', '.join(LOSSES)}")
    device = default_device()
    precision = resolve_precision(settings.precision, device)
    torch.manual_seed(settings.seed)
    reranker = new_reranker(arguments.model, arguments.kind, settings.max_length)
    groups = read_groups(arguments.negatives, settings.negatives_count)
    if settings.groups is not None and settings.groups < len(groups):
        drawn = np.random.default_rng(settings.seed).permutation(len(groups))[: settings.groups]
        groups = [groups[index] for index in sorted(drawn)]
    data = GroupSequences(
        groups,
        reranker.template,
        read_queries(arguments.collection / "splits" / arguments.split / "queries.jsonl"),
        TextStore(arguments.collection / "documents.jsonl"),
        settings.max_length,
    )
    log.info(
        "%d groups, %d parameters, %s, %s, attention: %s",
        len(groups),
        sum(parameter.numel() for parameter in reranker.parameters()),
        device,
        precision,
        backend(device),
    )
    state = TrainingState(arguments.state, _fingerprint(arguments, settings))
    tags = {"model": arguments.model.name, "collection": settings.collection, "seed": str(settings.seed)}
    with track(
        "train", f"{arguments.output.parent.name}/{arguments.model.name}", tags, settings.model_dump()
    ) as tracked:
        try:
            history = train(
                reranker,
                data,
                settings,
                device,
                state,
                arguments.save_seconds,
                on_step=lambda step, loss: tracked.metrics({"loss": loss}, step=step),
            )
            outcome = _summary(history, str(device), precision)
        except OutOfMemory:
            log.warning("%s: does not fit into the memory of %s; the result is OOM", arguments.model.name, device)
            outcome = {"status": "oom", "device": str(device)}
        with atomic_directory(arguments.output) as folder:
            if outcome["status"] == "ok":
                reranker.cpu().write(folder)
                tracked.metrics({"tokens_per_second": outcome["tokens_per_second"]})
            (folder / "outcome.json").write_text(json.dumps(outcome, indent=2) + "\n")
            if tracked.run_id:
                (folder / "mlflow_run_id").write_text(tracked.run_id + "\n")
        tracked.artifact_path("checkpoint", arguments.output)
    state.clear()


def _summary(history: History, device: str, precision: str) -> dict:
    return {
        "status": "ok",
        "steps": len(history.loss),
        "tokens": history.tokens,
        "seconds": round(history.seconds, 3),
        "tokens_per_second": round(history.tokens / max(history.seconds, 1e-9), 1),
        "device": device,
        "precision": precision,
        "loss": [round(loss, 6) for loss in history.loss],
    }


def _fingerprint(arguments: argparse.Namespace, settings: TrainSettings) -> str:
    parts = [settings.model_dump_json(), arguments.kind, sha256(arguments.negatives), str(arguments.model)]
    parts.append(
        sha256(arguments.model / "model.safetensors") if (arguments.model / "model.safetensors").exists() else ""
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
