"""`ssmrank train`: fine-tunes a reranker and writes its checkpoint."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ssmrank.config.reading import read_settings
from ssmrank.config.trainings import TrainSettings
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory
from ssmrank.io.checksum import sha256
from ssmrank.io.texts import read_queries
from ssmrank.io.trec import Qrels, Run, read_qrels, read_run
from ssmrank.launch import command_of, launch
from ssmrank.models.attention import backend
from ssmrank.models.precision import default_device, device_name, resolve_precision
from ssmrank.models.reranker import new_reranker
from ssmrank.models.templates import Template
from ssmrank.models.tokens import TokenStore, token_store
from ssmrank.tracking import Tracked, track
from ssmrank.training.gradients import OutOfMemory
from ssmrank.training.groups import Group, GroupSequences, read_groups
from ssmrank.training.loop import train
from ssmrank.training.loss import LOSSES
from ssmrank.training.parallel import Workers, workers_of
from ssmrank.training.progress import History
from ssmrank.training.state import TrainingState

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
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
    parser.add_argument("--validation-run", type=Path, help="first-stage run of settings' validation.split")
    parser.add_argument("--validation-qrels", type=Path, help="relevance judgments of that split")
    parser.add_argument(
        "--token-cache", type=Path, help="folder of tokenized texts that trainings share (default: inside --state)"
    )
    parser.add_argument("--save-seconds", type=float, default=300.0, help="how often that is written (default: 300)")


def run(arguments: argparse.Namespace) -> None:
    """Trains and writes the checkpoint; a model too large for the device leaves outcome.json with status oom."""
    settings = read_settings(TrainSettings, arguments.settings)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.teacher is not None and not LOSSES[settings.loss].distils:
        distilling = ", ".join(name for name, loss in LOSSES.items() if loss.distils)
        raise UserError(f"trainings: teacher is set, but loss {settings.loss!r} has none; choose {distilling}")
    if _is_out_of_memory(arguments.model):
        with atomic_directory(arguments.output) as folder:
            shutil.copy2(arguments.model / "outcome.json", folder)
        log.warning("%s did not fit into memory; the result is OOM", arguments.model)
        return
    if settings.parallel != "none" and "RANK" not in os.environ:
        launch(command_of(arguments), settings.processes or max(1, torch.cuda.device_count()))
        return
    device = default_device()
    if device.type == "cuda" and settings.parallel != "none":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    with workers_of(settings.parallel, device) as workers:
        _train(arguments, settings, device, workers)


def _train(arguments: argparse.Namespace, settings: TrainSettings, device: torch.device, workers: Workers) -> None:
    precision = resolve_precision(settings.precision, device)
    torch.manual_seed(settings.seed)
    reranker = new_reranker(arguments.model, arguments.kind, settings.max_length)
    if workers.rank > 0:
        torch.manual_seed(settings.seed + workers.rank)  # each process its own dropout, after the same weights
    groups = _groups(arguments.negatives, settings)
    held_out = _held_out(arguments, settings)
    documents = _tokens(arguments, settings, reranker.template, groups, held_out, workers)
    splits = arguments.collection / "splits"
    data = GroupSequences(
        groups,
        reranker.template,
        read_queries(splits / arguments.split / "queries.jsonl"),
        documents,
        settings.max_length,
        settings.long_queries,
    )
    if data.queries_cut:
        log.warning(
            "%d training queries leave no room for a document in max_length %d; they are cut to half of it",
            *(data.queries_cut, settings.max_length),
        )
    validator = None
    if held_out is not None and settings.validation is not None:
        from ssmrank.evaluation.metrics import mean_metric
        from ssmrank.training.validation import RerankedMetric

        validator = RerankedMetric(
            settings.validation,
            partial(mean_metric, metric=settings.validation.metric, run_name="validation"),
            *held_out,
            read_queries(splits / settings.validation.split / "queries.jsonl"),
            documents,
            reranker.template,
            settings.max_length,
            settings.token_budget,
            precision,
            settings.long_queries,
        )
    log.info(
        "%d groups, %d parameters, %s, %s, attention: %s%s",
        len(groups),
        sum(parameter.numel() for parameter in reranker.parameters()),
        device,
        precision,
        backend(device, precision),
        f", process {workers.rank} of {workers.size}" if workers.size > 1 else "",
    )
    state = TrainingState(arguments.state, _fingerprint(arguments, settings))
    tags = {"model": arguments.model.name, "collection": settings.collection, "seed": str(settings.seed)}
    name = f"{arguments.output.parent.name}/{arguments.model.name}"
    with (
        track("train", name, tags, settings.model_dump(), resume=state.tracking_run())
        if workers.rank == 0
        else nullcontext(Tracked())
    ) as tracked:
        metric = settings.validation.metric if settings.validation else ""

        def on_validation(step: int, value: float) -> None:
            log.info("step %d: %s %.4f on held-out queries", step, metric, value)
            tracked.metrics({f"validation {metric}": value}, step=step)

        try:
            history = train(
                reranker,
                data,
                settings,
                device,
                state,
                arguments.save_seconds,
                on_step=lambda step, loss: tracked.metrics({"loss": loss}, step=step),
                on_validation=on_validation,
                validator=validator,
                workers=workers,
            )
            outcome = _summary(history, device_name(device), precision)
        except (OutOfMemory, torch.OutOfMemoryError):
            log.warning("%s: does not fit into the memory of %s; the result is OOM", arguments.model.name, device)
            outcome = {"status": "oom", "device": device_name(device)}
        if outcome["status"] == "ok":
            reranker = workers.whole(
                reranker, lambda: new_reranker(arguments.model, arguments.kind, settings.max_length)
            )
        if workers.rank == 0:
            with atomic_directory(arguments.output) as folder:
                if outcome["status"] == "ok":
                    reranker.cpu().write(folder)
                    tracked.metrics({"tokens_per_second": outcome["tokens_per_second"]})
                (folder / "outcome.json").write_text(json.dumps(outcome, indent=2) + "\n")
                if tracked.run_id:
                    (folder / "mlflow_run_id").write_text(tracked.run_id + "\n")
            tracked.artifact_path("checkpoint", arguments.output)
            state.clear()


def _is_out_of_memory(model: Path) -> bool:
    """Whether the checkpoint to start from is one of a training that ran out of memory."""
    outcome = model / "outcome.json"
    return outcome.is_file() and json.loads(outcome.read_text())["status"] == "oom"


def _groups(path: Path, settings: TrainSettings) -> list[Group]:
    groups = read_groups(path, settings.negatives_count, distils=LOSSES[settings.loss].distils)
    if settings.groups is None or settings.groups >= len(groups):
        return groups
    drawn = np.random.default_rng(settings.seed).permutation(len(groups))[: settings.groups]
    return [groups[index] for index in sorted(drawn)]


def _held_out(arguments: argparse.Namespace, settings: TrainSettings) -> tuple[Run, Qrels] | None:
    if settings.validation is None:
        return None
    if arguments.validation_run is None or arguments.validation_qrels is None:
        raise UserError("trainings: validation needs the options --validation-run and --validation-qrels")
    from ssmrank.training.validation import choose_queries

    run, qrels = read_run(arguments.validation_run), read_qrels(arguments.validation_qrels)
    return choose_queries(run, qrels, settings.validation, settings.seed)


def _tokens(
    arguments: argparse.Namespace,
    settings: TrainSettings,
    template: Template,
    groups: Sequence[Group],
    held_out: tuple[Run, Qrels] | None,
    workers: Workers,
) -> TokenStore:
    """Tokens of all documents that are read; the first process makes them, the others find them."""
    ids = {document for group in groups for document in group.documents}
    if held_out is not None:
        ids.update(document for ranking in held_out[0].values() for document, _ in ranking)
    cache = arguments.token_cache or arguments.state / "tokens"
    source = arguments.collection / "documents.jsonl"
    store = None
    if workers.rank == 0:
        store = token_store(source, template, cache, ids, settings.max_length)
    workers.wait()
    return store or token_store(source, template, cache, ids, settings.max_length)


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
    } | ({"validation": history.validation, "best_step": history.best[0]} if history.best else {})


def _fingerprint(arguments: argparse.Namespace, settings: TrainSettings) -> str:
    splits = {settings.split, *([settings.validation.split] if settings.validation else [])}
    texts = [arguments.collection / "documents.jsonl"]
    texts += [arguments.collection / "splits" / split / "queries.jsonl" for split in sorted(splits)]
    model = sorted(path for path in arguments.model.rglob("*") if path.is_file())
    parts = [settings.model_dump_json(), arguments.kind, str(arguments.model)]
    parts += [sha256(path) for path in (arguments.negatives, *texts, *model)]
    held_out = (arguments.validation_run, arguments.validation_qrels) if settings.validation else ()
    parts += [sha256(path) for path in held_out]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
