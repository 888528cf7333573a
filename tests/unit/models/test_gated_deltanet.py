"""Gated DeltaNet against flash-linear-attention itself; the suites of all architectures test the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import fla_kernels
from ssmrank.errors import UserError
from ssmrank.kernels import dispatch
from ssmrank.kernels.dispatch import Implementation
from ssmrank.models import gated_deltanet
from ssmrank.models.backbones import (
    load_backbone,
    new_config,
    packed_forward,
    random_backbone,
    read_backbone_config,
    scored_forward,
)
from ssmrank.models.packing import moved, pack
from ssmrank.models.prefix_sharing import pack_shared
from tiny_models import DELTA_NETS, tiny_config

SHAPES = [shape for shape in DELTA_NETS if shape.startswith("gated_deltanet")]
LENGTHS = [5, 1, 70]
VOCABULARY = 50
DEVICE = "cpu" if fla_kernels.INTERPRETED else "cuda"


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's kernels run."""
    if not fla_kernels.INTERPRETED and not torch.cuda.is_available():
        pytest.skip("no GPU, and not interpreted")
    fla_kernels.ready(monkeypatch)


@pytest.fixture
def fla(kernels: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library's module of Gated DeltaNet; its attention asks for flash-attn, whose place torch's takes."""
    pytest.importorskip("fla.layers", reason="needs flash-linear-attention, not only fla-core")
    from fla.layers import attn
    from fla.models import gated_deltanet

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, window_size: Any) -> torch.Tensor:
        assert causal
        seen = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device).tril()
        if window_size[0] >= 0:
            seen = seen.triu(-window_size[0])
        heads = (part.transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(*heads, attn_mask=seen, enable_gqa=True).transpose(1, 2)

    monkeypatch.setattr(attn, "flash_attn_func", attention)
    return gated_deltanet


def theirs(fla: Any, shape: str, folder: Path) -> Any:
    """A language model of the library with random weights, saved in the folder."""
    values = {name: value for name, value in tiny_config(shape).items() if name != "model_type"}
    values["norm_eps"] = 1e-3  # norms of numbers near zero would make rounding errors large
    torch.manual_seed(0)
    model = fla.GatedDeltaNetForCausalLM(fla.GatedDeltaNetConfig(**values, vocab_size=VOCABULARY, use_cache=False))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("dt_bias"):
                parameter.uniform_(-4.0, 1.0)
            elif parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.to(DEVICE).eval()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkpoint_of_the_library_gives_its_states_and_gradients(fla: Any, shape: str, tmp_path: Path) -> None:
    whole, own = theirs(fla, shape, tmp_path), load_backbone(tmp_path).eval()
    generator = np.random.default_rng(3)
    batch = [generator.integers(4, VOCABULARY, length) for length in LENGTHS]
    weights = torch.randn(sum(LENGTHS), own.config.hidden_size, generator=torch.Generator().manual_seed(0))
    found = packed_forward(own, pack(batch))
    expected = [whole.model(torch.tensor(ids)[None].to(DEVICE)).last_hidden_state[0].cpu() for ids in batch]
    assert (found - torch.cat(expected)).abs().max() < 2e-5
    (found * weights).sum().backward()
    (torch.cat(expected) * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in whole.model.named_parameters()}
    assert gradients.keys() == dict(own.named_parameters()).keys()
    for name, parameter in own.named_parameters():
        scale = gradients[name].abs().max().clamp(min=1.0)
        # Within a chunk the library subtracts sums of decays' logarithms, which float32 rounds where decays are strong.
        bound = 1e-3 if name.endswith(("A_log", "dt_bias", "a_proj.weight")) else 1e-4
        assert (parameter.grad - gradients[name].cpu()).abs().max() / scale < bound, name


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shape", ["gated_deltanet", "gated_deltanet-attends-last"])
def test_a_mixer_is_the_librarys_operations(tiny_model: Any, shape: str) -> None:
    """As the library's own layer puts them together, with decays, rates and norms computed inside of its kernels."""
    from fla.modules.causal_conv1d import causal_conv1d
    from fla.modules.norm.fused_norm_gate import rms_norm_gated
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    mixer = load_backbone(tiny_model(shape)).layers[0].attn.to(DEVICE)
    x = torch.randn(1, 70, 32, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    options = {"A_log": mixer.A_log, "dt_bias": mixer.dt_bias, "allow_neg_eigval": mixer.largest_rate == 2}
    inside = ("use_gate_in_kernel", "use_beta_sigmoid_in_kernel", "use_qk_l2norm_in_kernel")
    with torch.no_grad():
        convolved = []
        for part, size in (("q", mixer.head_k_dim), ("k", mixer.head_k_dim), ("v", mixer.head_v_dim)):
            filters = getattr(mixer, f"{part}_conv1d").weight.squeeze(1)
            y, _ = causal_conv1d(getattr(mixer, f"{part}_proj")(x), filters, activation="silu", backend="triton")
            convolved.append(y.unflatten(-1, (-1, size)))
        steps = mixer.a_proj(x), mixer.b_proj(x)
        y, _ = chunk_gated_delta_rule(*convolved, *steps, **options, **dict.fromkeys(inside, True))
        gate = mixer.g_proj(x).unflatten(-1, y.shape[-2:])
        activation = tiny_config(shape).get("output_gate_activation", "swish")
        y = rms_norm_gated(y, gate, mixer.o_norm.weight, None, activation=activation, eps=mixer.o_norm.eps)
        expected = mixer.o_proj(y.flatten(-2))
        found = mixer(x, packed=pack([np.zeros(70, np.int64)], DEVICE))
    assert (found - expected).abs().max() < (2e-5 if fla_kernels.INTERPRETED else 1e-2)


@pytest.mark.usefixtures("kernels")
def test_the_librarys_kernel_serves_sequences_that_share_prefixes(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, lengths = load_backbone(tiny_model("gated_deltanet")).eval(), np.array([20, 3, 9, 1])
    tokens = np.random.default_rng(0).integers(4, VOCABULARY, int(lengths.sum())).astype(np.int32)
    batch, _ = pack_shared(tokens, lengths, np.array([-1, 0, 0, 1]))
    with torch.no_grad():
        expected = scored_forward(backbone, batch, "last")
        monkeypatch.setattr(dispatch, "delta_rule", lambda *_, **__: Implementation.LIBRARY)
        found = scored_forward(backbone.to(DEVICE), moved(batch, DEVICE), "last").cpu()
    assert (found - expected).norm() / expected.norm() < (1e-5 if fla_kernels.INTERPRETED else 1e-2)


def test_our_checkpoint_is_read_by_the_library(fla: Any, tiny_model: Any) -> None:
    folder = tiny_model("gated_deltanet")
    model, report = fla.GatedDeltaNetModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.config.allow_neg_eigval and model.config.num_v_heads == 4


@pytest.mark.parametrize(("shape", "model"), [("gated_deltanet", "GatedDeltaNetModel"), ("mamba2", "Mamba2Model")])
def test_models_are_the_same_whatever_another_package_told_transformers(
    tiny_model: Any, shape: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """flash-linear-attention puts its own Mamba-2 and Gated DeltaNet into transformers' Auto classes."""

    class Theirs(PreTrainedConfig):
        model_type = shape

    folder = tiny_model(shape)
    monkeypatch.setitem(CONFIG_MAPPING._extra_content, shape, Theirs)
    assert type(AutoConfig.for_model(shape)) is Theirs
    gated_deltanet.register()
    assert type(AutoConfig.for_model(shape)) is Theirs
    assert type(load_backbone(folder)).__name__ == model
    assert type(random_backbone(new_config(**tiny_config(shape)))).__name__ == model


def test_the_mlps_width_follows_from_hidden_ratio(fla: Any) -> None:
    for values in ({}, {"hidden_ratio": 3}, {"hidden_ratio": None}, {"intermediate_size": 72}):
        sizes = {"hidden_size": 160, "num_hidden_layers": 1, "num_heads": 1, "head_dim": 8, "vocab_size": 8}
        own = random_backbone(new_config("gated_deltanet", **sizes, **values))
        [layer] = fla.GatedDeltaNetModel(fla.GatedDeltaNetConfig(**sizes, **values)).layers
        assert own.layers[0].mlp.down_proj.weight.shape == layer.mlp.down_proj.weight.shape


def test_a_skip_connection_that_early_versions_stored_is_left_out(tiny_model: Any, tmp_path: Path) -> None:
    folder = tiny_model("gated_deltanet")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"layers.0.attn.D": torch.ones(4)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert torch.equal(load_backbone(tmp_path).norm.weight, weights["norm.weight"])
    odd = weights | {"layers.0.attn.q_conv1d.bias": torch.ones(16)}
    save_file(odd, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"no place for 1 of its weights, such as layers\.0\.attn\.q_conv1d\.bias"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attnres_block_size": 2}, "attnres_block_size .* is not supported"),
        ({"hidden_act": "powlu"}, "hidden_act powlu is not supported; only swish is"),
        ({"output_gate_activation": "tanh"}, "output_gate_activation tanh is unknown; known: swish, silu, sigmoid"),
        ({"conv_size": 5}, "conv_size 5 is not supported; only 1 to 4 are"),
        ({"num_v_heads": 3}, "num_heads 2 does not divide num_v_heads 3"),
        ({"expand_v": 1.3}, "head_dim 16 times expand_v 1.3 is no whole number"),
        ({"attn": {"layers": [1]}}, "attn.num_heads is None, but must be a positive integer"),
        ({"attn": {"layers": [2], "num_heads": 2}}, "attn.layers has 2, but layers are numbered 0 to 1"),
        ({"attn": {"layers": [1, 1], "num_heads": 2}}, "attn.layers has 1 twice"),
        ({"attn": {"layers": 1, "num_heads": 2}}, "attn.layers is 1, but must be a list"),
        ({"attn": {"layers": [1], "num_heads": 3}}, "num_heads 3 must divide hidden_size 32"),
        ({"attn": {"layers": [1], "num_heads": 2, "window_size": 0}}, "attn.window_size is 0, but must be"),
        ({"attn": {"layers": [1], "num_heads": 2, "rope_theta": "x"}}, "attn.rope_theta is 'x', but must be"),
        ({"num_heads": "two"}, "num_heads"),
        ({"num_heads": 0}, "num_heads is 0, but must be a positive integer"),
    ],
)
def test_what_a_config_cannot_say_is_one_line(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config("gated_deltanet") | values))
    with pytest.raises(UserError, match=message) as error:
        read_backbone_config(tmp_path)
    assert "\n" not in str(error.value) and "config.json" in str(error.value)
