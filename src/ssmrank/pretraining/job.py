"""What a pretraining and a trial of a learning rate have in common: options, data, model."""

from __future__ import annotations

import argparse
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from ssmrank.config import PretrainSettings, read_settings
from ssmrank.io.checksum import sha256
from ssmrank.models.precision import Precision, default_device, resolve_precision
from ssmrank.models.reranker import load_tokenizer
from ssmrank.pretraining.loop import HeldOut, LossCurve, pretrain
from ssmrank.pretraining.model import (
    LanguageModel,
    language_model_config,
    new_language_model,
    non_embedding_parameters,
)
from ssmrank.pretraining.objectives import Objective, objective_of
from ssmrank.pretraining.steps import Steps
from ssmrank.pretraining.tokenizer import SPECIAL
from ssmrank.pretraining.tokens import CorpusTokens
from ssmrank.tracking import track
from ssmrank.training.state import TrainingState

log = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of both verbs."""
    parser.add_argument("--settings", required=True, help="pretraining section with one of its models: JSON or a file")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of `ssmrank corpus-tokenizer`")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of `ssmrank corpus-tokens`")
    parser.add_argument(
        "--state", type=Path, required=True, help="folder that keeps what a killed pretraining goes on from"
    )
    parser.add_argument("--save-seconds", type=float, default=300.0, help="how often that is written (default: 300)")
    parser.add_argument("--stop-seconds", type=float, help="write it and stop after so long; the same command goes on")


@dataclass
class Job:
    """A pretraining that is ready to run."""

    settings: PretrainSettings
    tokenizer: PreTrainedTokenizerBase
    model: LanguageModel
    steps: Steps
    held_out: HeldOut
    objective: Objective
    training_texts: int
    training_tokens: int
    """Of all texts together with their special tokens: one pass."""
    device: torch.device
    precision: Precision
    state: TrainingState
    options: argparse.Namespace

    @property
    def parameters(self) -> dict[str, int]:
        """Numbers of weights of the backbone."""
        return {
            "parameters": sum(parameter.numel() for parameter in self.model.backbone.parameters()),
            "non_embedding_parameters": non_embedding_parameters(self.model.backbone),
        }

    def run(self, rule: str, name: str, learning_rate: float) -> tuple[LossCurve, str | None]:
        """Pretrains with losses tracked; the curve, and the id of MLflow's run if there is one."""
        log.info("%s: %s, %s, %s", name, self.parameters, self.device, self.precision)
        tags = {"model": name, "corpus": self.settings.corpus, "seed": str(self.settings.seed)}
        params = self.settings.model_dump() | {"learning_rate": learning_rate} | self.parameters
        with track(rule, name, tags, params) as tracked:
            curve = pretrain(
                self.model,
                self.steps,
                self.held_out,
                self.objective,
                self.settings,
                learning_rate,
                self.device,
                self.state,
                self.options.save_seconds,
                self.options.stop_seconds,
                on_loss=lambda loss, step, value: tracked.metrics({loss: value}, step=step),
            )
            tracked.metrics({"tokens_per_second": curve.tokens_per_second})
        log.info("%s: %s tokens/s", name, f"{curve.tokens_per_second:,.0f}")
        return curve, tracked.run_id


def prepare(options: argparse.Namespace, learning_rate: float, tokens: int | None = None) -> Job:
    """Reads what the options name; `tokens` replaces the settings' number."""
    settings = read_settings(PretrainSettings, options.settings)
    if tokens is not None:
        settings = settings.model_copy(update={"tokens": tokens})
    tokenizer = load_tokenizer(options.tokenizer)
    train, held_out = (CorpusTokens(options.tokens, part) for part in ("train", "held-out"))
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    steps = Steps(train, special, settings.step_tokens, settings.seed)
    held_out_steps = Steps(held_out, special, settings.token_budget, settings.seed).one_pass(settings.held_out_tokens)
    config = language_model_config(settings.config, tokenizer, settings.max_length)
    model = new_language_model(config, settings.seed)
    objective = objective_of(
        config.model_type,
        settings.masked_share,
        special=len(SPECIAL),
        mask=tokenizer.mask_token_id,
        vocabulary=len(tokenizer),
    )
    device = default_device()
    return Job(
        settings,
        tokenizer,
        model,
        steps,
        HeldOut(held_out_steps, objective, settings),
        objective,
        len(train),
        int(train.lengths.sum()) + 2 * len(train),
        device,
        resolve_precision(settings.precision, device),
        TrainingState(options.state, _fingerprint(options, settings, learning_rate)),
        options,
    )


def _fingerprint(options: argparse.Namespace, settings: PretrainSettings, learning_rate: float) -> str:
    files = [options.tokenizer / "tokenizer.json", options.tokens / "train" / "offsets.npy"]
    parts = [settings.model_dump_json(), repr(learning_rate), *map(sha256, files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
