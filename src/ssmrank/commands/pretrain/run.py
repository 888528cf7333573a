"""`ssmrank pretrain run`: pretrains a language model and writes its backbone as a checkpoint folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from ssmrank.config.pretraining import PretrainSettings
from ssmrank.config.reading import read_settings
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory
from ssmrank.models.backbones import is_causal
from ssmrank.models.precision import device_name
from ssmrank.models.quiet import quiet_transformers
from ssmrank.pretraining.job import Job, add_options, read_data
from ssmrank.pretraining.loop import LossCurve


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    add_options(parser)
    rate = parser.add_mutually_exclusive_group(required=True)
    rate.add_argument("--learning-rate", type=float, help="the highest of the schedule")
    rate.add_argument("--sweep", type=Path, help="file of `ssmrank pretrain sweep`, whose choice is taken")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes weights in bfloat16, config, tokenizer and pretraining.json: settings, numbers, the curve."""
    settings = read_settings(PretrainSettings, arguments.settings)
    learning_rate = arguments.learning_rate or _chosen(arguments.sweep)
    job = Job(read_data(arguments, settings), settings, learning_rate, arguments.state)
    curve, run_id = job.run("pretrain", arguments.output.name, arguments.save_seconds, arguments.stop_seconds)
    facts = _facts(job, curve)
    backbone = job.model.backbone.cpu().to(torch.bfloat16)
    with atomic_directory(arguments.output) as folder:
        with quiet_transformers():
            backbone.save_pretrained(folder)
            job.data.tokenizer.save_pretrained(folder)
        (folder / "pretraining.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
        if run_id:
            (folder / "mlflow_run_id").write_text(run_id + "\n")
    job.state.clear()


def _facts(job: Job, curve: LossCurve) -> dict:
    return {
        "settings": job.settings.model_dump(mode="json"),
        "objective": "next token" if is_causal(job.model.backbone.config) else "masked tokens",
        "learning_rate": job.learning_rate,
        "parameters": job.parameters,
        "training_texts": job.data.texts,
        "held_out_tokens": job.data.held_out.tokens,
        "passes": curve.tokens / job.data.pass_tokens,
        "device": device_name(job.device),
        "precision": job.precision,
        "tokens_per_second": round(curve.tokens_per_second, 1),
        "curve": vars(curve),
    }


def _chosen(path: Path) -> float:
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["learning_rate"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no file of `ssmrank pretrain sweep` ({error})") from error
