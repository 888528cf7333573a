"""Mamba-3 against flash-linear-attention's format; the suites of all architectures test the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

import fla_kernels
from ssmrank.errors import UserError
from ssmrank.models import mamba3_modules
from ssmrank.models.backbones import load_backbone, new_config, random_backbone, read_backbone_config
from tiny_models import tiny_config

SHAPES = ["mamba3", "mamba3-normed"]
VOCABULARY = 50


@pytest.fixture
def fla(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library's module of Mamba-3."""
    fla_kernels.ready(monkeypatch)
    pytest.importorskip("fla.layers", reason="needs flash-linear-attention, not only fla-core")
    from fla.models import mamba3

    return mamba3


@pytest.mark.parametrize("shape", SHAPES)
def test_checkpoints_of_the_library_and_ours_are_the_same(
    fla: Any, shape: str, tiny_model: Any, tmp_path: Path
) -> None:
    """Its forward pass needs a GPU and mamba_ssm; `test_trapezoid.py` compares with the latter."""
    values = {name: value for name, value in tiny_config(shape).items() if name != "model_type"}
    whole = fla.Mamba3ForCausalLM(fla.Mamba3Config(**values, vocab_size=VOCABULARY))
    whole.save_pretrained(tmp_path)
    own = load_backbone(tmp_path)
    theirs = whole.backbone.state_dict()
    assert own.state_dict().keys() == theirs.keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in own.state_dict().items())
    assert {name: getattr(own.config, name) for name in values} == values
    model, report = fla.Mamba3Model.from_pretrained(tiny_model(shape), output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.config.is_outproj_norm == values.get("is_outproj_norm", False)


def test_defaults_are_those_of_the_library(fla: Any) -> None:
    theirs, own = fla.Mamba3Config().to_dict(), mamba3_modules.Mamba3Config().to_dict()
    ours_alone = set(own) - set(theirs)
    assert not ours_alone
    assert all(theirs[name] == value for name, value in own.items() if name != "transformers_version")


def test_models_are_ours_whatever_the_library_told_transformers(fla: Any, tiny_model: Any) -> None:
    AutoConfig.register("mamba3", fla.Mamba3Config, exist_ok=True)
    AutoModel.register(fla.Mamba3Config, fla.Mamba3Model, exist_ok=True)
    try:
        assert type(load_backbone(tiny_model("mamba3"))) is mamba3_modules.Mamba3Model
        assert type(random_backbone(AutoConfig.for_model(**tiny_config("mamba3")))) is mamba3_modules.Mamba3Model
        mamba3_modules.register()
        assert type(AutoConfig.for_model("mamba3")) is fla.Mamba3Config
    finally:
        fla_kernels.forget_models()


def test_weights_begin_as_the_authors_do() -> None:
    model = random_backbone(new_config("mamba3", hidden_size=64, num_hidden_layers=4, vocab_size=8, head_dim=16))
    steps = torch.cat([F.softplus(layer.mixer.dt_bias) for layer in model.layers])
    assert 1e-3 < steps.min() < 1e-2 < steps.max() < 0.1
    for layer in model.layers:
        bound = 1 / (4 * 128) ** 0.5
        assert 0.9 * bound < layer.mixer.out_proj.weight.abs().max() <= bound
        assert all((vector == 1).all() for vector in (layer.mixer.D, layer.mixer.B_bias, layer.mixer.C_bias))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"is_mimo": True}, "is_mimo: true .* is not supported; only false is"),
        ({"hidden_act": "gelu"}, "hidden_act gelu is not supported; only silu is"),
        ({"rope_fraction": 0.25}, "rope_fraction 0.25 is not supported; only 0.5 and 1.0 are"),
        ({"n_groups": 3}, "n_groups 3 does not divide the number of heads 4"),
        ({"head_dim": 24}, "head_dim 24 does not divide expand · hidden_size 64"),
        ({"head_dim": 0}, "head_dim is 0, but must be a positive integer"),
        ({"state_size": 2}, "state_size 2 is too small for rope_fraction 0.5"),
        ({"state_size": "many"}, "state_size is 'many', but must be a positive integer"),
        ({"expand": -1}, "expand is -1, but must be a positive number"),
    ],
)
def test_what_a_config_cannot_say_is_one_line(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config("mamba3") | values))
    with pytest.raises(UserError, match=message) as error:
        read_backbone_config(tmp_path)
    assert "\n" not in str(error.value) and "config.json" in str(error.value)
