"""Bi-encoders in the format of sentence-transformers, which encode texts in packed batches."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssmrank.config.encoders import Encoder
from ssmrank.errors import UserError
from ssmrank.io.checksum import sha256
from ssmrank.io.model_files import BI_ENCODER_FILE, TRAINED_FILE
from ssmrank.models.backbones import Pooling, load_backbone, longest_input, output_width, pooled_forward
from ssmrank.models.bi_encoder import BiEncoderModel, load_bi_encoder, vectors_of
from ssmrank.models.fast_products import fast_products
from ssmrank.models.packed_model import load_tokenizer
from ssmrank.models.packing import Packed, pack
from ssmrank.models.precision import autocast, default_device, resolve_precision
from ssmrank.models.reranker import ran_out_of_memory
from ssmrank.models.token_budget import budget_batches

log = logging.getLogger(__name__)

_REPORT_SECONDS = 10.0

_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}


class BiEncoder:
    """A model and how its token states become one vector.

    width: numbers in a vector.
    pooling: which token's state is the vector, or the mean over tokens.
    normalize: whether vectors are scaled to length 1.
    max_length: tokens of a text, special tokens included; longer texts are truncated at the end.
    """

    def __init__(self, folder: Path, settings: Encoder, device: torch.device | None = None) -> None:
        """Loads a checkpoint folder. Raises UserError where neither it nor the settings name a pooling and a length."""
        self.settings = settings
        self.device = device or default_device()
        self.precision = resolve_precision(settings.precision, self.device)
        self._products = fast_products(self.precision, self.device)
        self._trained = _trained(folder, settings)
        if self._trained is not None:
            own = self._trained.to(self.device)
            self.pooling, self.normalize, self.max_length = own.pooling, own.settings.normalize, own.settings.max_length
            self.width = _width(own.width, settings)
            return
        if settings.pooling is None and (folder / TRAINED_FILE).is_file():
            raise UserError(
                f"{folder}: is a reranker ({TRAINED_FILE}), which makes no vectors; name a training with bi_encoder in "
                "retrievers.NAME.trained, or set pooling to use its backbone as it is"
            )
        backbone: Any = load_backbone(folder)
        self.backbone = backbone.to(self.device).eval()
        self.tokenizer = load_tokenizer(folder)
        own_pooling, own_normalize = read_modules(folder)
        pooling = settings.pooling or own_pooling
        if pooling is None:
            raise UserError(
                f"{folder}: has no modules.json that names a pooling; set pooling in the section of encoders"
            )
        self.pooling = pooling
        self.normalize = own_normalize if settings.normalize is None else settings.normalize
        self.width = _width(output_width(self.backbone.config), settings)
        self.max_length = self._longest(folder)
        if self.tokenizer.is_fast:
            self.tokenizer.backend_tokenizer.no_padding()

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of queries, [texts, width]; the query instruction is put before each text."""
        if self._trained is not None:
            return self._encode(self._trained.query_sequences(texts))
        return self._encode(self._tokenized([self.settings.query_instruction + text for text in texts]))

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of documents, [texts, width]; the document instruction is put before each text."""
        if self._trained is not None:
            return self._encode(self._trained.document_sequences(texts))
        return self._encode(self._tokenized([self.settings.document_instruction + text for text in texts]))

    def _longest(self, folder: Path) -> int:
        wanted, reach = self.settings.max_length, longest_input(self.backbone.config)
        if wanted is not None and reach is not None and wanted > reach:
            raise UserError(f"encoders: max_length {wanted}: the model accepts at most {reach} tokens")
        known = [limit for limit in (wanted or _max_seq_length(folder), reach) if limit is not None]
        if not known:
            raise UserError(f"{folder}: does not say the longest input; set max_length in the section of encoders")
        return min(known)

    def _tokenized(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        encoded = self.tokenizer([text.strip() for text in texts], truncation=True, max_length=self.max_length)
        return [np.asarray(ids, dtype=np.int64) for ids in encoded["input_ids"]]

    def _states(self, packed: Packed) -> torch.Tensor:
        if self._trained is not None:
            return self._trained.vectors(packed)
        return pooled_forward(self.backbone, packed, self.pooling).float()

    @torch.inference_mode()
    def _encode(self, sequences: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        vectors = np.empty((len(sequences), self.width), dtype=np.float32)
        start = last_report = time.monotonic()
        done = 0
        for batch in budget_batches([len(sequence) for sequence in sequences], self.settings.token_budget):
            packed = pack([sequences[index] for index in batch], self.device)
            with autocast(self.precision, self.device), self._products:
                states = self._states(packed)
            vectors[batch] = vectors_of(states, self.width, self.normalize).cpu().numpy()
            done += len(batch)
            now = time.monotonic()
            if now - last_report >= _REPORT_SECONDS:
                last_report = now
                log.info("%d/%d texts, %.0f a second", done, len(sequences), done / (now - start))
        return vectors


def _trained(folder: Path, settings: Encoder) -> BiEncoderModel | None:
    """The bi-encoder of a folder that `ssmrank train` wrote; None for another folder."""
    if ran_out_of_memory(folder):
        raise UserError(f"{folder}: its training ran out of memory, so it has no weights; train a smaller model")
    if not (folder / BI_ENCODER_FILE).is_file():
        return None
    own = ("query_instruction", "document_instruction", "pooling", "normalize", "max_length")
    given = next((key for key in own if getattr(settings, key) not in ("", None)), None)
    if given is not None:
        raise UserError(
            f"encoders: {given}: {folder} was trained here and has its own ({BI_ENCODER_FILE}); leave it out"
        )
    return load_bi_encoder(folder)


def _width(full: int, settings: Encoder) -> int:
    if settings.width is not None and settings.width > full:
        raise UserError(f"retrievers: width {settings.width} is more than the model's, {full}; lower it")
    return settings.width or full


def fingerprint(encoder: BiEncoder, folder: Path, documents: Path) -> str:
    """A digest of all that decides the vectors of a file's documents: settings, device, checkpoint and texts."""
    facts = [encoder.settings.model_dump_json(), str(encoder.device), encoder.precision]
    facts += [sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()]
    facts.append(sha256(documents))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def read_modules(folder: Path) -> tuple[Pooling | None, bool]:
    """Reads the pooling, and whether vectors are normalized, from modules.json; (None, False) where there is none.

    Raises UserError for a module or a pooling that is not supported.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None, False
    pooling: Pooling | None = None
    normalize = False
    for module in _read(path):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _pooling(folder / module["path"] / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise UserError(
                f"{path}: module {kind or module} is not supported; supported: Transformer, Pooling, Normalize"
            )
    if pooling is None:
        raise UserError(f"{path}: has no Pooling module; set pooling in the section of encoders")
    return pooling, normalize


def _pooling(path: Path) -> Pooling:
    values = _read(path)
    chosen = [name for name, value in values.items() if name.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        found = " and ".join(chosen) or "none"
        raise UserError(f"{path}: pooling {found} is not supported; {', '.join(_POOLINGS)} are")
    return _POOLINGS[chosen[0]]


def _max_seq_length(folder: Path) -> int | None:
    path = folder / "sentence_bert_config.json"
    return _read(path).get("max_seq_length") if path.is_file() else None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); get the whole model again") from error
