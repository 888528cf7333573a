"""What a pretraining and a sweep of learning rates have in common: options, data, model."""

from __future__ import annotations

import argparse
import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ssmrank.config.pretraining import PretrainSettings
from ssmrank.io.checksum import sha256
from ssmrank.models.precision import default_device, resolve_precision
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
from ssmrank.pretraining.tokens import PARTS, CorpusTokens
from ssmrank.tracking import track
from ssmrank.training.state import TrainingState

log = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of both subcommands."""
    parser.add_argument("--settings", required=True, help="pretraining section with one of its models: JSON or a file")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of `ssmrank pretrain tokenizer`")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of `ssmrank pretrain tokens`")
    parser.add_argument(
        "--state", type=Path, required=True, help="folder that keeps what a killed pretraining goes on from"
    )
    parser.add_argument("--save-seconds", type=float, default=300.0, help="how often that is written (default: 300)")
    parser.add_argument("--stop-seconds", type=float, help="write it and stop after so long; the same command goes on")


@dataclass(frozen=True)
class Data:
    """What a model is pretrained and measured on.

    pass_tokens: of all training texts together, with their special tokens; digest: of tokenizer and tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    objective: Objective
    steps: Steps
    held_out: HeldOut
    texts: int
    pass_tokens: int
    digest: str


def read_data(options: argparse.Namespace, settings: PretrainSettings) -> Data:
    """Reads what the options name."""
    tokenizer = load_tokenizer(options.tokenizer)
    train, held_out = (CorpusTokens(options.tokens, part) for part in PARTS)
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    objective = objective_of(
        settings.config.get("model_type", ""),
        settings.masked_share,
        special=len(SPECIAL),
        mask=tokenizer.mask_token_id,
        vocabulary=len(tokenizer),
    )
    measured = Steps(held_out, special, settings.token_budget, settings.seed).one_pass(settings.held_out_tokens)
    files = [options.tokenizer / "tokenizer.json", *(options.tokens / part / "tokens.bin" for part in PARTS)]
    return Data(
        tokenizer,
        objective,
        Steps(train, special, settings.step_tokens, settings.seed),
        HeldOut(measured, objective, settings),
        len(train),
        int(train.lengths.sum()) + 2 * len(train),
        hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest(),
    )


class Job:
    """A pretraining of a model that begins with random weights of the settings' seed."""

    def __init__(self, data: Data, settings: PretrainSettings, learning_rate: float, state: Path) -> None:
        self.data, self.settings, self.learning_rate = data, settings, learning_rate
        self.device = default_device()
        self.precision = resolve_precision(settings.precision, self.device)
        facts = [settings.model_dump_json(), repr(learning_rate), data.digest]
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        self.state = TrainingState(state, self.fingerprint)

    @cached_property
    def model(self) -> LanguageModel:
        """The model; trained once `run` has returned."""
        config = language_model_config(self.settings.config, self.data.tokenizer, self.settings.max_length)
        return new_language_model(config, self.settings.seed)

    @property
    def parameters(self) -> dict[str, int]:
        """Numbers of weights of the backbone."""
        return {
            "parameters": sum(parameter.numel() for parameter in self.model.backbone.parameters()),
            "non_embedding_parameters": non_embedding_parameters(self.model.backbone),
        }

    def run(
        self, rule: str, name: str, save_seconds: float, stop_seconds: float | None
    ) -> tuple[LossCurve, str | None]:
        """Pretrains with losses tracked; the curve, and the id of MLflow's run if there is one."""
        counts = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in self.parameters.items())
        log.info("%s: learning rate %g, %s, %s, %s", name, self.learning_rate, counts, self.device, self.precision)
        tags = {"model": name, "corpus": self.settings.corpus, "seed": str(self.settings.seed)}
        params = self.settings.model_dump() | {"learning_rate": self.learning_rate} | self.parameters
        with track(rule, name, tags, params) as tracked:
            curve = pretrain(
                self.model,
                self.data.steps,
                self.data.held_out,
                self.data.objective,
                self.settings,
                self.learning_rate,
                self.device,
                self.state,
                save_seconds,
                stop_seconds,
                on_loss=lambda loss, step, value: tracked.metrics({loss: value}, step=step),
            )
            tracked.metrics({"tokens_per_second": curve.tokens_per_second})
        log.info("%s: %s tokens/s", name, f"{curve.tokens_per_second:,.0f}")
        return curve, tracked.run_id
