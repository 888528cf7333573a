"""Converts checkpoints in GGUF, llama.cpp's one-file format, to transformers' layout."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from ssmrank.errors import UserError
from ssmrank.models.backbones import is_causal, read_gguf_config
from ssmrank.models.reading import NO_CODE, reading

_PACKAGES = ("gguf", "accelerate")


def convert_gguf(file: Path, folder: Path) -> None:
    """Writes config, tokenizer and weights (float32, quantized ones dequantized) into an existing folder.

    Raises UserError if a package that transformers needs for it is missing, or if it cannot read the file.
    """
    missing = " ".join(package for package in _PACKAGES if importlib.util.find_spec(package) is None)
    if missing:
        raise UserError(f"{file}: reading GGUF needs {missing}; install it with: python -m pip install {missing}")
    with reading(f"{file}: transformers cannot read this GGUF file; get it again"):
        config = read_gguf_config(file)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, **NO_CODE)
        options = {"config": config, "gguf_file": file.name, "dtype": torch.float32, **NO_CODE}
        # transformers finds the weights of Mamba by the names that its language model gives them.
        models: Any = AutoModelForCausalLM if is_causal(config) else AutoModel
        whole, report = models.from_pretrained(file.parent, output_loading_info=True, **options)
        read = whole.base_model
        absent = sorted(name for name in report["missing_keys"] if not name.startswith("lm_head"))
        if absent:
            raise UserError(f"{file}: lacks {len(absent)} weights, such as {', '.join(absent[:3])}; get it again")
        # Its config still says "quantized", but the weights are no longer.
        values = read.config.to_dict()
        values.pop("quantization_config", None)
        config = type(read.config)(**values)
        with torch.device("meta"):
            plain = type(read)(config)
        plain.load_state_dict(read.state_dict(), assign=True)
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
