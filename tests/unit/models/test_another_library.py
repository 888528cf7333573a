"""Models are of transformers or ours where flash-linear-attention is imported, which has classes of their names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SHAPES = ("mamba", "mamba2", "gated_deltanet", "mamba3")

IMPORTS = {
    "before": "import fla\nfrom ssmrank.models import backbones, gated_deltanet, mamba3_modules",
    "after": "from ssmrank.models import backbones, gated_deltanet, mamba3_modules\nimport fla",
}

MODELS = """
import sys
from transformers import AutoConfig
from ssmrank.errors import UserError
from ssmrank.models.packed_model import load_tokenizer

for folder in sys.argv[1:]:
    config = backbones.read_backbone_config(folder)
    theirs = AutoConfig.for_model(config.model_type)
    assert type(theirs).__module__.startswith("fla."), theirs
    values = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    again = backbones.new_config(config.model_type, **values)
    models = backbones.load_backbone(folder), backbones.random_backbone(again), backbones.unread_backbone(config)
    for model in (*models, config, again):
        assert type(model).__module__.startswith(("transformers.", "ssmrank.")), type(model)
    assert len(load_tokenizer(folder)) == config.vocab_size
    if config.model_type in ("mamba", "mamba2"):
        try:
            backbones.random_backbone(theirs)
        except UserError as error:
            assert "is not transformers' class" in str(error)
        else:
            raise AssertionError("a config of flash-linear-attention was taken")
"""


@pytest.mark.parametrize("order", IMPORTS)
def test_models_are_not_those_of_another_library(order: str, tiny_model: Any) -> None:
    pytest.importorskip("fla", reason="needs flash-linear-attention")
    folders: list[Path] = [tiny_model(shape) for shape in SHAPES]
    command = [sys.executable, "-c", f"{IMPORTS[order]}\n{MODELS}", *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
