"""`ssmrank train`: fine-tunes a reranker and writes its checkpoint."""

from __future__ import annotations

import argparse
import logging
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from ssmrank.config.reading import read_settings
from ssmrank.config.trainings import TrainSettings
from ssmrank.errors import UserError
from ssmrank.gpus import own_gpus
from ssmrank.launch import FIRST_GPU, LauncherGroup, command_of, end_with_torchrun, launch, launcher_group, on_nodes
from ssmrank.models.precision import default_device
from ssmrank.models.reranker import ran_out_of_memory
from ssmrank.models.tokens import limit_tokenizer_threads
from ssmrank.nodes.slurm import Task
from ssmrank.tracking import Tracked, track
from ssmrank.training.extras import check_installed
from ssmrank.training.job import Job, TrainFiles, write_out_of_memory
from ssmrank.training.loss import LOSSES
from ssmrank.training.parallel import Workers
from ssmrank.training.processes import SEVERAL, check_started, workers_of

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
        "--state", type=Path, required=True, help="folder of the state from which a killed training resumes"
    )
    parser.add_argument("--validation-run", type=Path, help="first-stage run of settings' validation.split")
    parser.add_argument("--validation-qrels", type=Path, help="relevance judgments of that split")
    parser.add_argument(
        "--token-cache", type=Path, help="folder of tokenized texts that trainings share (default: inside --state)"
    )
    parser.add_argument(
        "--save-seconds", type=float, default=300.0, help="seconds between two saves of the state (default: 300)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Trains and writes the checkpoint; for a model too large for the device, outcome.json with status oom."""
    with launcher_group() as group:
        _run(arguments, group)


def _run(arguments: argparse.Namespace, group: LauncherGroup | None) -> None:
    limit_tokenizer_threads()
    settings = read_settings(TrainSettings, arguments.settings)
    check_installed(settings)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.teacher is not None and not LOSSES[settings.loss].distils:
        distilling = ", ".join(name for name, loss in LOSSES.items() if loss.distils)
        raise UserError(f"trainings: teacher is set, but loss {settings.loss!r} has none; choose {distilling}")
    started = "RANK" in os.environ
    if started:
        check_started(settings.processes, settings.nodes)
        end_with_torchrun()
    if ran_out_of_memory(arguments.model):
        if os.environ.get("RANK", "0") == "0" and (group is None or group.task.rank == 0):
            write_out_of_memory(arguments.model, arguments.output)
            log.warning("%s did not fit into memory; the result is OOM", arguments.model)
        return
    if group is not None or (settings.parallel != "none" and not started):
        _launch(arguments, settings, group)
        return
    device = default_device()
    if device.type == "cuda" and settings.parallel != "none":
        index = int(os.environ["LOCAL_RANK"]) + int(os.environ.get(FIRST_GPU, "0"))
        device = torch.device("cuda", index % torch.cuda.device_count())
        torch.cuda.set_device(device)
    with workers_of(settings.parallel, device, settings.gather, settings.reduction) as workers:
        _train(arguments, settings, device, workers)


def _launch(arguments: argparse.Namespace, settings: TrainSettings, group: LauncherGroup | None) -> None:
    """Starts the processes of the training: all of them, or those of this task."""
    command = command_of(arguments)
    gpus = torch.cuda.device_count()
    if group is None and (settings.nodes or 1) > 1:
        on_nodes(command, settings.nodes or 1)
        return
    alone = settings.processes or max(1, gpus)
    processes = alone if group is None else _processes_of(settings, group.task, gpus)
    if 0 < gpus < processes:
        raise UserError(f"{processes} processes would share {gpus} GPUs of this node; lower processes, or ask for more")
    launch(command, processes, own_gpus(gpus, processes) if group is None else None, group)


def _processes_of(settings: TrainSettings, task: Task, gpus: int) -> int:
    """How many processes this task of Slurm starts. Raises UserError if settings and Slurm's step do not fit."""
    if settings.parallel == "none":
        raise UserError(SEVERAL)
    if settings.nodes is not None and settings.nodes != task.nodes:
        raise UserError(f"Slurm's step {task.step} has {task.nodes} nodes, but trainings say nodes: {settings.nodes}")
    if settings.processes is None:
        return max(1, gpus) if task.count == task.nodes else 1
    if settings.processes % task.count:
        raise UserError(
            f"Slurm's step {task.step} has {task.count} tasks, but trainings say processes: {settings.processes}; "
            "start one task for each node, or one for each process"
        )
    return settings.processes // task.count


def files_of(arguments: argparse.Namespace) -> TrainFiles:
    """The files that the options name."""
    return TrainFiles(
        model=arguments.model,
        kind=arguments.kind,
        collection=arguments.collection,
        split=arguments.split,
        negatives=arguments.negatives,
        state=arguments.state,
        tokens=arguments.token_cache or arguments.state / "tokens",
        validation_run=arguments.validation_run,
        validation_qrels=arguments.validation_qrels,
    )


def _train(arguments: argparse.Namespace, settings: TrainSettings, device: torch.device, workers: Workers) -> None:
    mean = None
    if settings.validation is not None:
        from ssmrank.evaluation.metrics import mean_metric

        mean = partial(mean_metric, metric=settings.validation.metric, run_name="validation")
    job = Job(files_of(arguments), settings, device, workers, mean)
    model = arguments.model.name
    tags = {"model": model, "collection": settings.collection, "seed": str(settings.seed)}
    name = f"{arguments.output.parent.name}/{model}"
    with (
        track("train", name, tags, settings.model_dump(), resume=job.state.tracking_run())
        if workers.rank == 0
        else nullcontext(Tracked())
    ) as tracked:
        tracked.metrics({"trained_parameters": job.trainable})
        outcome = job.train(
            save_seconds=arguments.save_seconds,
            on_step=lambda step, loss: tracked.metrics({"loss": loss}, step=step),
            on_validation=lambda step, metric, value: tracked.metrics({f"validation {metric}": value}, step=step),
        )
        if workers.rank == 0:
            job.write(arguments.output, outcome, tracked.run_id)
            if outcome["status"] == "ok":
                tracked.metrics({"tokens_per_second": outcome["tokens_per_second"]})
            tracked.artifact_path("checkpoint", arguments.output)
