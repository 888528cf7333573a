"""What trained models have in common: a backbone on packed sequences, a tokenizer and a checkpoint folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import nn

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory
from ssmrank.models.backbones import longest_input
from ssmrank.models.packing import Packed
from ssmrank.models.quiet import quiet_transformers
from ssmrank.models.reading import NO_CODE, read_tensors, reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHTS_FILE = "model.safetensors"
_BACKBONE, _HEAD = "backbone.", "head."
"""Prefixes of the names of a model's weights; no backbone has a part named head."""


class PackedModel(nn.Module):
    """A backbone with its tokenizer, which is trained on packed sequences and saved as a checkpoint folder.

    settings: a dataclass with `max_length`; settings_file: the file in the folder that stores it, which also says what
    the checkpoint is.
    """

    backbone: Any
    settings: Any
    settings_file: ClassVar[str]

    def __init__(self, backbone: Any, tokenizer: PreTrainedTokenizerBase, settings: Any) -> None:
        super().__init__()
        self.backbone = backbone
        longest = longest_input(backbone.config)
        if longest is not None and settings.max_length > longest:
            raise UserError(
                f"max_length {settings.max_length}: this model ({backbone.config.model_type}) has position embeddings "
                f"for {longest} tokens; train it in a section of trainings with at most that max_length"
            )
        self.settings = settings
        self.tokenizer = tokenizer

    def forward(self, packed: Packed) -> torch.Tensor:
        """What the loss is computed from, float32, with one row for each sequence."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Writes weights (safetensors), config, tokenizer and settings, for loading."""
        with atomic_directory(folder) as temporary:
            self.write(temporary)

    def write(self, folder: Path) -> None:
        """Like `save`, into an existing folder.

        The backbone's weights have transformers' names, so that `AutoModel.from_pretrained` finds them.
        """
        weights = {name.removeprefix(_BACKBONE): tensor.contiguous() for name, tensor in self._weights().items()}
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        with quiet_transformers():
            self.backbone.config.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        settings = {name: value for name, value in asdict(self.settings).items() if name != "head" or value is not None}
        (folder / self.settings_file).write_text(json.dumps(settings, indent=2) + "\n")

    def read(self, folder: Path) -> None:
        """Loads the weights that `write` wrote. Raises UserError if names or shapes differ."""
        own = self._weights()
        # Files of earlier versions have the prefix in their names.
        weights = {
            name if name.startswith((_BACKBONE, _HEAD)) else _BACKBONE + name: tensor
            for name, tensor in read_tensors(folder / WEIGHTS_FILE).items()
        }
        odd = sorted(set(own) ^ set(weights)) + [n for n in own if n in weights and own[n].shape != weights[n].shape]
        if odd:
            raise UserError(
                f"{folder / WEIGHTS_FILE}: does not fit config.json in {len(odd)} weights, such as {odd[0]}"
            )
        self.load_state_dict(weights, strict=False)

    def _weights(self) -> dict[str, torch.Tensor]:
        # A parameter with several names (BART's embeddings) is taken once: safetensors allows no shared memory.
        names = {name for name, _ in self.named_parameters()} | {name for name, _ in self.named_buffers()}
        return {name: tensor for name, tensor in self.state_dict().items() if name in names}


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder."""
    from transformers import AutoTokenizer

    with reading(f"{folder}: has no tokenizer that transformers can read; get its files again"):
        return AutoTokenizer.from_pretrained(folder, **NO_CODE)
