"""A backbone with a linear layer that scores a query and a document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter
from safetensors import safe_open

from ssmrank.errors import UserError
from ssmrank.io.model_files import BI_ENCODER_FILE, TRAINED_FILE
from ssmrank.models.backbones import (
    Pooling,
    is_causal,
    load_backbone,
    output_width,
    pooled_forward,
    read_backbone_config,
    scored_forward,
    unread_backbone,
)
from ssmrank.models.cross_encoder import is_cross_encoder, read_cross_encoder
from ssmrank.models.heads import HeadSettings, new_head
from ssmrank.models.packed_model import WEIGHTS_FILE, PackedModel, load_tokenizer
from ssmrank.models.packing import Packed, pack
from ssmrank.models.reading import read_json, reading
from ssmrank.models.templates import PAIR, Kind, Order, Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INPUT_FILE = "reranker_input.json"
"""In a model's folder: the template and pooling that params.yaml sets, if they are not the defaults of its kind."""

_SHOWN = 60
"""How many characters of a query a message shows."""


@dataclass(frozen=True)
class RerankerSettings:
    """What a reranker's checkpoint stores besides the backbone's config.

    kind: E, ED or D; max_length: limit of tokens in a sequence; template: order of the input, by default the query
    first for E and ED and the document first for D; pooling: the token that is scored, or the mean of all, by default
    the first for E and ED and the last for D; head: the layers before the linear one that scores, by default none.
    """

    kind: Kind
    max_length: int
    template: Order | None = None
    pooling: Pooling | None = None
    head: HeadSettings | None = None

    @property
    def pooled(self) -> Pooling:
        """The pooling, or the default of the kind if none is set."""
        return self.pooling or ("last" if self.kind == "D" else "first")


class Reranker(PackedModel):
    """Scores pairs of query and document: a linear layer over the backbone's pooled state (Eq. 5 and 6).

    A cross-encoder of another library keeps the layers that it has before the linear one.
    """

    settings: RerankerSettings
    settings_file = TRAINED_FILE

    def __init__(self, backbone: Any, tokenizer: PreTrainedTokenizerBase, settings: RerankerSettings) -> None:
        super().__init__(backbone, tokenizer, settings)
        self.head = new_head(output_width(backbone.config), settings.head)
        self.template = Template.of(tokenizer, settings.kind, settings.template)

    def forward(self, packed: Packed) -> torch.Tensor:
        """Scores, float32 [S], of packed sequences from `template.join`."""
        return self.head(pooled_forward(self.backbone, packed, self.settings.pooled)).squeeze(-1).float()

    @torch.inference_mode()
    def scores(self, packed: Packed) -> torch.Tensor:
        """The same scores as `forward`, without gradients and faster.

        If `can_share_prefixes`, the batch may have shared prefixes; there is then one score for each leaf.
        """
        states = scored_forward(self.backbone, packed, self.settings.pooled)
        with torch.autocast(states.device.type, enabled=False):
            # bfloat16 has only 128 values between 1 and 2, so many of a query's documents would tie.
            return self.head(states.to(next(self.head.parameters()).dtype)).squeeze(-1).float()

    @property
    def can_share_prefixes(self) -> bool:
        """Whether sequences can share the computation of a prefix: if the model is causal and scores the last token."""
        return is_causal(self.backbone.config) and self.settings.pooled == "last"

    @torch.inference_mode()
    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """Scores of documents for a query; higher is more relevant. For many pairs use `ssmrank rerank`.

        A query that leaves no room for a document is cut, as in `ssmrank rerank`. Raises UserError if `documents` is
        one text.
        """
        if isinstance(documents, str):
            raise UserError("score: documents is one text; give a list of texts, also for one text")
        if not documents:
            return []
        name, max_length = repr(query if len(query) <= _SHOWN else query[:_SHOWN] + "…"), self.settings.max_length
        [query_ids] = self.template.fit_queries(self.template.tokenize_queries([query]), max_length, [name])
        sequences = [
            self.template.join(query_ids, document, max_length, name)
            for document in self.template.tokenize_documents(documents)
        ]
        return self.scores(pack(sequences, next(self.parameters()).device)).tolist()


def new_reranker(folder: str | Path, kind: Kind, max_length: int, template: Order | None = None) -> Reranker:
    """A reranker to be trained: the backbone and tokenizer of a pretrained checkpoint folder, and a new linear layer.

    From a folder that `ssmrank train` wrote, the linear layer is kept too; `max_length` may differ. template: the order
    that it is trained to read; None: the folder's own.
    """
    if (Path(folder) / TRAINED_FILE).is_file():
        trained = load_reranker(folder)
        own = trained.settings
        settings = replace(own, max_length=max_length, template=template or own.template)
        reranker = Reranker(trained.backbone, trained.tokenizer, settings)
        reranker.head.load_state_dict(trained.head.state_dict())
        return reranker
    settings = _with_input_of(Path(folder), RerankerSettings(kind, max_length))
    settings = replace(settings, template=template or settings.template)
    return Reranker(load_backbone(folder), load_tokenizer(folder), settings)


def _with_input_of(folder: Path, settings: RerankerSettings) -> RerankerSettings:
    """The settings with the template and pooling that params.yaml sets for the folder's model."""
    path = folder / INPUT_FILE
    own: dict[str, Any] = read_json(path) if path.is_file() else {}
    return replace(settings, **own)


def ran_out_of_memory(folder: Path) -> bool:
    """Whether the training of this checkpoint ran out of memory; it then has no weights."""
    outcome = folder / "outcome.json"
    return outcome.is_file() and json.loads(outcome.read_text(encoding="utf-8"))["status"] == "oom"


def load_reranker(folder: str | Path) -> Reranker:
    """A trained reranker from its checkpoint folder, float32, in evaluation mode.

    The folder may be a cross-encoder of transformers or sentence-transformers, with one label.
    """
    folder = Path(folder)
    file = folder / TRAINED_FILE
    if (folder / BI_ENCODER_FILE).is_file():
        raise UserError(
            f"{folder}: is a bi-encoder ({BI_ENCODER_FILE}), which retrieves but does not rerank; name it in "
            "retrievers.NAME.trained, and give a reranker here"
        )
    if not file.is_file() and is_cross_encoder(folder):
        return imported_reranker(folder)
    if not file.is_file():
        raise UserError(
            f"{folder}: has no head that scores (no {TRAINED_FILE}); train it, or give a folder that "
            "`ssmrank train` wrote"
        )
    with reading(f"{file}: was not written by `ssmrank train`"):
        settings = _with_input_of(folder, TypeAdapter(RerankerSettings).validate_python(read_json(file)))
    reranker = Reranker(unread_backbone(read_backbone_config(folder)), load_tokenizer(folder), settings)
    reranker.read(folder)
    return reranker.eval()


def stored_precision(folder: str | Path) -> torch.dtype:
    """The dtype of the weights in a reranker's checkpoint; float32 if they have several, or are in several files."""
    file = Path(folder) / WEIGHTS_FILE
    if not file.is_file():
        return torch.float32
    with reading(f"{file}: is not a complete safetensors file; get it again"), safe_open(file, "pt") as weights:
        found = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    return {("BF16",): torch.bfloat16, ("F16",): torch.float16}.get(tuple(found), torch.float32)


def imported_reranker(folder: Path, max_length: int | None = None) -> Reranker:
    """A reranker with the layers, pooling and input of a cross-encoder of another library, in evaluation mode.

    max_length: the most tokens of a sequence; None: what the cross-encoder says. Raises UserError if the folder has
    none that is known.
    """
    tokenizer = load_tokenizer(folder)
    found = read_cross_encoder(folder, tokenizer)
    config = found.backbone.config
    if not hasattr(config, "type_vocab_size"):  # transformers ignores types of tokens here
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    settings = RerankerSettings(found.kind, max_length or found.max_length, PAIR, found.pooling, found.head)
    reranker = Reranker(found.backbone, tokenizer, settings)
    reranker.head.load_state_dict(found.weights)
    after = reranker.template.after
    if found.kind == "D" and after and after[-1] == config.pad_token_id:
        raise UserError(f"{folder}: a pair ends with the token for padding; transformers scores the one before it")
    if reranker.template.document_type >= getattr(config, "type_vocab_size", 1):
        raise UserError(f"{folder}: its tokenizer gives types of tokens that config.json has no embeddings for")
    return reranker.eval()
