"""A backbone with a linear layer that scores query and document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory
from ssmrank.models.backbones import load_backbone, packed_forward, random_backbone, read_backbone_config
from ssmrank.models.packing import Packed, pack
from ssmrank.models.templates import Kind, Template

_SETTINGS_FILE = "reranker.json"
_WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class RerankerSettings:
    """What a reranker's checkpoint says beside the backbone's config.

    kind: E, ED (first token is pooled) or D (last token); max_length: tokens of a sequence.
    """

    kind: Kind
    max_length: int


class Reranker(nn.Module):
    """Scores pairs of query and document: the backbone's first or last token through a linear layer (Eq. 5 and 6)."""

    backbone: Any

    def __init__(self, backbone: Any, tokenizer: PreTrainedTokenizerBase, settings: RerankerSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.hidden_size, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.settings = settings
        self.tokenizer = tokenizer
        self.template = Template.of(tokenizer, settings.kind)

    def forward(self, packed: Packed) -> torch.Tensor:
        """Scores, float32 [S], of packed sequences that `template.join` made."""
        hidden = packed_forward(self.backbone, packed)
        pooled = hidden.index_select(0, packed.last if self.settings.kind == "D" else packed.first)
        return self.head(pooled).squeeze(-1).float()

    @torch.inference_mode()
    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """Scores of documents for a query, higher is more relevant; for many pairs use `ssmrank rerank`."""
        [query_ids] = self.template.tokenize_queries([query])
        sequences = [
            self.template.join(query_ids, document, self.settings.max_length, repr(query))
            for document in self.template.tokenize_documents(documents)
        ]
        return self(pack(sequences, next(self.parameters()).device)).tolist()

    def save(self, folder: str | Path) -> None:
        """Writes weights (safetensors), config, tokenizer and settings: what `load_reranker` reads."""
        with atomic_directory(folder) as temporary:
            self.write(temporary)

    def write(self, folder: Path) -> None:
        """As `save`, into an existing folder."""
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / _WEIGHTS_FILE)
        self.backbone.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / _SETTINGS_FILE).write_text(json.dumps(asdict(self.settings), indent=2) + "\n")


def new_reranker(folder: str | Path, kind: Kind, max_length: int) -> Reranker:
    """A reranker to be trained: a pretrained checkpoint folder's backbone and tokenizer, a new linear layer."""
    return Reranker(load_backbone(folder), load_tokenizer(folder), RerankerSettings(kind, max_length))


def load_reranker(folder: str | Path) -> Reranker:
    """A trained reranker from its checkpoint folder, float32, in evaluation mode."""
    folder = Path(folder)
    try:
        settings = RerankerSettings(**json.loads((folder / _SETTINGS_FILE).read_text()))
    except OSError as error:
        raise UserError(f"{folder}: holds no {_SETTINGS_FILE}; this is no checkpoint of `ssmrank train`") from error
    reranker = Reranker(random_backbone(read_backbone_config(folder)), load_tokenizer(folder), settings)
    reranker.load_state_dict(load_file(folder / _WEIGHTS_FILE))
    return reranker.eval()


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: holds no tokenizer that transformers can read ({reason})") from error
