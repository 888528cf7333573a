"""Reads the files of a checkpoint folder, and turns the many errors of libraries into UserErrors."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ssmrank.errors import UserError
from ssmrank.models.quiet import quiet_transformers

NO_CODE = {"trust_remote_code": False}
"""For every `from_pretrained` of transformers: a repository's Python files are refused, without asking."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns any error that a library raises inside into a UserError of one line that starts with `what`.

    transformers and tokenizers raise some twenty kinds of errors for damaged files, plain `Exception` among them.
    """
    try:
        with quiet_transformers():
            yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            reason = "a pickle that is damaged or holds more than tensors"  # torch's text is advice to run it
        elif "ignore_mismatched_sizes" in reason:
            reason = "weights are of other shapes than config.json says"  # transformers' text points to a log
        raise UserError(f"{what} ({reason if len(reason) <= 300 else reason[:297] + '...'})") from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file. Raises UserError if it is absent, damaged or of another format."""
    with reading(f"{path}: is not a complete safetensors file; get it again"):
        return load_file(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if the file cannot be read or holds something else."""
    with reading(f"{path}: cannot be read as JSON; get it again"):
        values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise UserError(f"{path}: is a {type(values).__name__}, but must be a JSON object; get it again")
    return values


def check_finite(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises UserError if a weight is NaN or infinite."""
    odd = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if odd:
        raise UserError(f"{folder}: NaN or infinity in {len(odd)} of its weights, such as {odd[0]}; get another model")
