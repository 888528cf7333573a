"""A pretraining job, shared by pretraining proper and the sweep of learning rates."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from ssmrank.config.pretraining import PretrainSettings
from ssmrank.io.atomic import atomic_directory
from ssmrank.io.checksum import sha256
from ssmrank.models.backbones import is_causal
from ssmrank.models.packed_model import load_tokenizer
from ssmrank.models.precision import default_device, device_name, resolve_precision
from ssmrank.models.quiet import quiet_transformers
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


@dataclass(frozen=True)
class Data:
    """What a model is pretrained and measured on.

    texts: number of training texts. pass_tokens: tokens of all training texts, special tokens included. digest: digest
    of tokenizer and tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    objective: Objective
    steps: Steps
    held_out: HeldOut
    texts: int
    pass_tokens: int
    digest: str


def read_data(tokenizer_folder: Path, tokens: Path, settings: PretrainSettings) -> Data:
    """Reads the folders of `ssmrank pretrain tokenizer` and `ssmrank pretrain tokens`."""
    tokenizer = load_tokenizer(tokenizer_folder)
    train, held_out = (CorpusTokens(tokens, part) for part in PARTS)
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    objective = objective_of(
        settings.config.get("model_type", ""),
        settings.masked_share,
        special=len(SPECIAL),
        mask=tokenizer.mask_token_id,
        vocabulary=len(tokenizer),
    )
    measured = Steps(held_out, special, settings.token_budget, settings.seed).one_pass(settings.held_out_tokens)
    files = [tokenizer_folder / "tokenizer.json", *(tokens / part / "tokens.bin" for part in PARTS)]
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
    """Pretrains a model from random weights, drawn from the settings' seed."""

    def __init__(self, data: Data, settings: PretrainSettings, learning_rate: float, state: Path) -> None:
        self.data, self.settings, self.learning_rate = data, settings, learning_rate
        self.device = default_device()
        self.precision = resolve_precision(settings.precision, self.device)
        facts = [settings.model_dump_json(), repr(learning_rate), data.digest]
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        self.state = TrainingState(state, self.fingerprint)

    @cached_property
    def model(self) -> LanguageModel:
        """The model; it is trained after `run` has returned."""
        config = language_model_config(self.settings.config, self.data.tokenizer, self.settings.max_length)
        return new_language_model(config, self.settings.seed)

    @property
    def parameters(self) -> dict[str, int]:
        """Number of the backbone's weights, with and without embeddings."""
        return {
            "parameters": sum(parameter.numel() for parameter in self.model.backbone.parameters()),
            "non_embedding_parameters": non_embedding_parameters(self.model.backbone),
        }

    def run(
        self, rule: str, name: str, save_seconds: float, stop_seconds: float | None
    ) -> tuple[LossCurve, str | None]:
        """Pretrains and tracks the losses; returns the curve and the tracked run's id (None without tracking).

        `save_seconds` and `stop_seconds` are as in `pretrain`, and so are the errors.
        """
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

    def write(self, output: Path, curve: LossCurve, tracking_run: str | None) -> None:
        """Writes the checkpoint folder of the trained backbone and removes the state.

        The folder has weights in bfloat16, config, tokenizer, and pretraining.json with settings, counts and the curve.
        """
        facts = self._facts(curve)
        backbone = self.model.backbone.cpu().to(torch.bfloat16)
        with atomic_directory(output) as folder:
            with quiet_transformers():
                backbone.save_pretrained(folder)
                self.data.tokenizer.save_pretrained(folder)
            (folder / "pretraining.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
            if tracking_run:
                (folder / "mlflow_run_id").write_text(tracking_run + "\n")
        self.state.clear()

    def _facts(self, curve: LossCurve) -> dict:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "objective": "next token" if is_causal(self.model.backbone.config) else "masked tokens",
            "learning_rate": self.learning_rate,
            "parameters": self.parameters,
            "training_texts": self.data.texts,
            "held_out_tokens": self.data.held_out.tokens,
            "passes": curve.tokens / self.data.pass_tokens,
            "device": device_name(self.device),
            "precision": self.precision,
            "tokens_per_second": round(curve.tokens_per_second, 1),
            "curve": vars(curve),
        }
