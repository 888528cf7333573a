"""Checkpoints in llama.cpp's one-file format, read once by transformers and written in its layout."""

from __future__ import annotations

import struct
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from ssmrank.errors import UserError
from ssmrank.models.quiet import quiet_transformers


def convert_gguf(file: Path, folder: Path) -> None:
    """Writes config, tokenizer and weights (float32; quantized ones as what they stand for) into an existing folder.

    Raises UserError where the `gguf` package is missing or transformers cannot read the file.
    """
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            read = AutoModel.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
            # Its config says "quantized", which the weights are no more.
            values = read.config.to_dict()
            values.pop("quantization_config", None)
            config = type(read.config)(**values)
            with torch.device("meta"):
                plain = type(read)(config)
            plain.load_state_dict(read.state_dict(), assign=True)
            plain.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except ImportError as error:
        raise UserError(
            f"{file}: reading GGUF needs a package more; install it with: python -m pip install gguf"
        ) from error
    except (OSError, ValueError, KeyError, NotImplementedError, struct.error) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file}: transformers cannot read this GGUF file: {reason}") from error
