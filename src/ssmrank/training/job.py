"""A training from files: its inputs, its state, and the checkpoint folder that it writes."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ssmrank.config.trainings import TrainSettings
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory
from ssmrank.io.checksum import sha256
from ssmrank.io.collection import documents_file, qrels_file, queries_file
from ssmrank.io.model_files import TRAINING_FILE
from ssmrank.io.texts import read_queries
from ssmrank.io.trec import Qrels, Run, read_qrels, read_run
from ssmrank.models.bi_encoder import BiEncoderModel, BiEncoderSettings, new_bi_encoder
from ssmrank.models.origin import origin_of
from ssmrank.models.precision import device_name, resolve_precision
from ssmrank.models.reranker import Kind, Reranker, new_reranker
from ssmrank.models.tokens import TokenStore, token_store
from ssmrank.models.varlen_attention import backend
from ssmrank.training.adapters import FOLDER as ADAPTERS
from ssmrank.training.adapters import add_adapters, merged, write_adapters
from ssmrank.training.gradients import OutOfMemory
from ssmrank.training.groups import Group, GroupSequences, read_groups
from ssmrank.training.loop import train
from ssmrank.training.loss import LOSSES
from ssmrank.training.optimizer import STATE_BYTES
from ssmrank.training.parallel import Workers, trained
from ssmrank.training.progress import History
from ssmrank.training.shared import check_folder, same_for_all
from ssmrank.training.state import TrainingState
from ssmrank.training.texts import TextGroups

if TYPE_CHECKING:
    from ssmrank.training.validation import RerankedMetric

log = logging.getLogger(__name__)

_HeldOut = tuple[Run, Qrels]


@dataclass(frozen=True)
class TrainFiles:
    """The inputs of a training, and the folders for its state and tokens.

    model: checkpoint folder to start from; kind: encoder (E), encoder-decoder (ED) or decoder (D); collection: folder;
    split: the split with the training queries; negatives: groups from `ssmrank negatives`; state: folder, removed after
    the checkpoint is written; tokens: folder of tokenized texts, which trainings may share; validation_run,
    validation_qrels: run and qrels of the validation's split.
    """

    model: Path
    kind: Kind
    collection: Path
    split: str
    negatives: Path
    state: Path
    tokens: Path
    validation_run: Path | None = None
    validation_qrels: Path | None = None

    @property
    def documents(self) -> Path:
        """The collection's texts."""
        return documents_file(self.collection)

    @property
    def qrels(self) -> Path:
        """The judgments of the split with the training queries."""
        return qrels_file(self.collection, self.split)

    def queries(self, split: str) -> Path:
        """The queries of a split."""
        return queries_file(self.collection, split)


class Job:
    """A training in this process, which is one of `workers`. Errors in files and settings raise UserError."""

    def __init__(
        self,
        files: TrainFiles,
        settings: TrainSettings,
        device: torch.device,
        workers: Workers,
        mean: Callable[[Qrels, Run], float] | None = None,
    ) -> None:
        """Reads all inputs, and makes the model as it is before the first step.

        mean: computes the validation's metric of a run against qrels.
        """
        self.files, self.settings, self.device = files, settings, device
        self.precision = resolve_precision(settings.precision, device)
        torch.manual_seed(settings.seed)
        self.reranker = self._new_reranker()
        if settings.lora is not None:
            add_adapters(self.reranker, settings.lora, self.precision)
        moments = STATE_BYTES[settings.optimizer_states]
        self.workers = workers = workers.suited_to(self.reranker, self.precision, device, moments)
        check_folder(files.state, workers)
        self.origin = origin_of(files.model)
        if workers.rank > 0:
            torch.manual_seed(settings.seed + workers.rank)  # the same weights, but other dropout in each process
        groups = _groups(files.negatives, settings)
        self.groups = len(groups)
        held_out = _held_out(files, settings)
        documents = self._tokens(groups, held_out)
        self.data = self._data(groups, documents)
        self.validator = self._validator(held_out, documents, mean)
        self.trainable = sum(parameter.numel() for parameter in trained(self.reranker).values())
        log.info(
            "%d groups, %d parameters%s, %s, %s, attention: %s%s",
            len(groups),
            sum(parameter.numel() for parameter in self.reranker.parameters()),
            f", {self.trainable} of them trained" if settings.lora is not None else "",
            device,
            self.precision,
            backend(device, self.precision),
            f", process {workers.rank} of {workers.size}" if workers.size > 1 else "",
        )
        self.state = TrainingState(files.state, same_for_all(fingerprint(files, settings), workers))
        self.adapters: dict[str, torch.Tensor] = {}

    def train(
        self,
        save_seconds: float,
        on_step: Callable[[int, float], None],
        on_validation: Callable[[int, str, float], None],
    ) -> dict[str, Any]:
        """Trains, or resumes from the state, and returns the outcome. Its status is oom if the model does not fit.

        save_seconds: time between two saves of the state; on_step: takes step and loss; on_validation: takes step, the
        metric's name and its value.
        """
        settings, metric = self.settings, self.settings.validation.metric if self.settings.validation else ""

        def validated(step: int, value: float) -> None:
            log.info("step %d: %s %.4f on held-out queries", step, metric, value)
            on_validation(step, metric, value)

        try:
            history = train(
                self.reranker,
                self.data,
                settings,
                self.device,
                self.state,
                save_seconds,
                on_step=on_step,
                on_validation=validated,
                validator=self.validator,
                workers=self.workers,
            )
            outcome = _summary(history, device_name(self.device), self.precision)
        except (OutOfMemory, torch.OutOfMemoryError):
            name = self.files.model.name
            log.warning("%s: does not fit into the memory of %s; the result is OOM", name, self.device)
            outcome = {"status": "oom", "device": device_name(self.device)}
        if outcome["status"] == "ok":
            self._make_whole()
        return outcome

    def _make_whole(self) -> None:
        """Gives the first process an ordinary model with all trained weights."""
        lora = self.settings.lora
        if lora is None:
            self.reranker = self.workers.whole(self.reranker, self._new_reranker)
            return
        # Adapters are added to the weights that the training began with, which may have been rounded since.
        self.adapters = self.workers.weights(self.reranker)
        if self.workers.rank == 0:
            self.reranker.backbone = None  # its memory is needed
            self.reranker = merged(self.adapters, self._new_reranker(), lora).eval()

    def write(self, output: Path, outcome: dict[str, Any], tracking_run: str | None) -> None:
        """Writes the checkpoint folder and removes the state. tracking_run: id of the MLflow run, for later jobs."""
        with atomic_directory(output) as folder:
            if outcome["status"] == "ok":
                self.reranker.cpu().write(folder)
                self._write_adapters(folder / ADAPTERS)
            (folder / "outcome.json").write_text(json.dumps(outcome, indent=2) + "\n")
            (folder / TRAINING_FILE).write_text(json.dumps(self._provenance(), indent=2) + "\n")
            if tracking_run:
                (folder / "mlflow_run_id").write_text(tracking_run + "\n")
        self.state.clear()

    def _write_adapters(self, folder: Path) -> None:
        if self.settings.lora is None:
            return
        folder.mkdir()
        base = next(iter(self.origin.get("hub", {})), self.files.model.name)
        write_adapters(folder, self.adapters, self.reranker.backbone, self.settings.lora, base)

    def _provenance(self) -> dict[str, Any]:
        """What the model card says of the training; it has names, and no paths."""
        return {
            "model": self.files.model.name,
            "settings": self.settings.model_dump(),
            "groups": self.groups,
            "from": self.origin,
        }

    def _new_reranker(self) -> Reranker | BiEncoderModel:
        chosen, length = self.settings.bi_encoder, self.settings.max_length
        if chosen is None:
            return new_reranker(self.files.model, self.files.kind, length, self.settings.template)
        stored = BiEncoderSettings(
            *(self.files.kind, length, chosen.query_length or length, chosen.pooling, chosen.normalize),
            *(chosen.query_instruction, chosen.document_instruction, tuple(chosen.widths)),
        )
        return new_bi_encoder(self.files.model, stored)

    def _data(self, groups: Sequence[Group], documents: TokenStore) -> GroupSequences | TextGroups:
        files, settings = self.files, self.settings
        queries = read_queries(files.queries(files.split))
        if isinstance(self.reranker, BiEncoderModel):
            return TextGroups(groups, self.reranker, queries, documents, read_qrels(files.qrels))
        data = GroupSequences(
            groups, self.reranker.template, queries, documents, settings.max_length, settings.long_queries
        )
        if data.queries_cut:
            log.warning(
                "%d training queries leave no room for a document in max_length %d; they are cut to half of it",
                *(data.queries_cut, settings.max_length),
            )
        return data

    def _validator(
        self, held_out: _HeldOut | None, documents: TokenStore, mean: Callable[[Qrels, Run], float] | None
    ) -> RerankedMetric | None:
        settings = self.settings
        if held_out is None or settings.validation is None or isinstance(self.reranker, BiEncoderModel):
            return None
        if mean is None:
            raise ValueError("the settings name a validation, so its metric is needed")
        from ssmrank.training.validation import RerankedMetric

        return RerankedMetric(
            settings.validation,
            mean,
            *held_out,
            read_queries(self.files.queries(settings.validation.split)),
            documents,
            self.reranker.template,
            settings.max_length,
            settings.token_budget,
            self.precision,
            settings.long_queries,
        )

    def _tokens(self, groups: Sequence[Group], held_out: _HeldOut | None) -> TokenStore:
        """The tokens of all documents that are read. The first process makes them, the others find them."""
        ids = {document for group in groups for document in group.documents}
        if held_out is not None:
            ids.update(document for ranking in held_out[0].values() for document, _ in ranking)
        named = (self.files.documents, self.reranker.template, self.files.tokens, ids, self.settings.max_length)
        store = None
        if self.workers.rank == 0:
            store = token_store(*named)
        self.workers.wait()
        return store or token_store(*named)


def write_out_of_memory(model: Path, output: Path) -> None:
    """Writes the outcome of a training that starts from a model whose own training ran out of memory."""
    with atomic_directory(output) as folder:
        shutil.copy2(model / "outcome.json", folder)


def fingerprint(files: TrainFiles, settings: TrainSettings) -> str:
    """A digest of the training's settings and of the content of everything that it reads.

    It is the same for any number of processes, so that a training may be resumed with another.
    """
    splits = {settings.split, *([settings.validation.split] if settings.validation else [])}
    texts = [files.documents, *(files.queries(split) for split in sorted(splits))]
    model = sorted(path for path in files.model.rglob("*") if path.is_file())
    parts = [settings.model_dump_json(exclude={"processes", "nodes"}), files.kind, str(files.model)]
    parts += [sha256(path) for path in (files.negatives, *texts, *model)]
    held_out = (files.validation_run, files.validation_qrels) if settings.validation else ()
    parts += [sha256(path) for path in held_out if path is not None]
    parts += [sha256(files.qrels)] if settings.bi_encoder is not None else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _groups(path: Path, settings: TrainSettings) -> list[Group]:
    groups = read_groups(path, settings.negatives_count, distils=LOSSES[settings.loss].distils)
    if settings.groups is None or settings.groups >= len(groups):
        return groups
    drawn = np.random.default_rng(settings.seed).permutation(len(groups))[: settings.groups]
    return [groups[index] for index in sorted(drawn)]


def _held_out(files: TrainFiles, settings: TrainSettings) -> _HeldOut | None:
    if settings.validation is None:
        return None
    if files.validation_run is None or files.validation_qrels is None:
        raise UserError("trainings: validation needs the options --validation-run and --validation-qrels")
    from ssmrank.training.validation import choose_queries

    run, qrels = read_run(files.validation_run), read_qrels(files.validation_qrels)
    return choose_queries(run, qrels, settings.validation, settings.seed)


def _summary(history: History, device: str, precision: str) -> dict[str, Any]:
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
