"""What is special of models with both Mamba-2 and attention; the suites of all architectures test the rest."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from ssmrank.errors import UserError
from ssmrank.kernels import dispatch
from ssmrank.kernels.norms.reference import Unscaled
from ssmrank.models import load_reranker
from ssmrank.models.architectures import architecture_of
from ssmrank.models.backbones import load_backbone, packed_forward, random_backbone, scored_forward
from ssmrank.models.float8 import Float8Linear, to_float8
from ssmrank.models.hybrid import PackedMixer
from ssmrank.models.mamba import fold_norms
from ssmrank.models.packing import Packed, mapped, pack
from ssmrank.models.prefix_sharing import pack_shared
from ssmrank.models.reranker import new_reranker
from ssmrank.training.memory import layers_of

SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "mamba_n_heads": 8,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "vocab_size": 300,
}
"""Heads and states as in the published models, for which a Hopper GPU has a scan that gates."""

KINDS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [2]},
    "granitemoehybrid": {
        "num_local_experts": 0,
        "shared_intermediate_size": 256,
        "residual_multiplier": 0.3,
        "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    },
    "zamba2": {
        "n_mamba_heads": 8,
        "num_hidden_layers": 3,
        "layers_block_type": ["hybrid", "hybrid", "linear_attention"],
        "adapter_rank": 16,
        "time_step_min": 0.05,
    },
}


def model(kind: str, **changes: Any) -> Any:
    """A random model whose norms have weights and whose states last."""
    torch.manual_seed(1)
    backbone = random_backbone(AutoConfig.for_model(kind, **(SIZES | KINDS.get(kind, {}) | changes))).eval()
    with torch.no_grad():
        for mixer in mixers(backbone):
            for weight in mixer.norm.parameters():
                weight.copy_(1 + torch.randn_like(weight) / 4)
            mixer.dt_bias.uniform_(-4, 0)
    return backbone


def mixers(backbone: Any) -> list[Any]:
    return [module for module in backbone.modules() if isinstance(module, PackedMixer)]


def batches() -> list[Packed]:
    """Sequences of mixed lengths one by one, and others that share prefixes."""
    generator = np.random.default_rng(0)
    apart = pack([generator.integers(4, 300, length) for length in (1, 30, 64, 65, 130, 3)])
    lengths = np.array([70, 3, 65, 1])
    tokens = generator.integers(4, 300, int(lengths.sum())).astype(np.int32)
    return [apart, pack_shared(tokens, lengths, np.array([-1, 0, 0, 1]))[0]]


def relative(got: torch.Tensor, exact: torch.Tensor) -> float:
    return float((got.float().cpu() - exact).norm() / exact.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_a_prepared_model_is_the_same_function(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = model(kind)
    prepared = copy.deepcopy(backbone)
    architecture_of(kind).prepare(prepared)
    assert all(map(torch.equal, backbone.state_dict().values(), prepared.state_dict().values()))  # a CPU
    monkeypatch.setattr(dispatch, "mamba2_gates_on", lambda *values: True)
    architecture_of(kind).prepare(prepared)
    assert len(mixers(prepared)) == 3
    assert all(torch.equal(mixer.norm.weight, torch.ones(512)) for mixer in mixers(prepared))
    for batch in batches():
        with torch.inference_mode():
            exact = scored_forward(backbone, batch, "last")
            assert relative(scored_forward(prepared, batch, "last"), exact) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mamba_proj_bias": True},
        {"mamba_rms_norm": True, "mamba_norm_before_gate": False},
        {"mamba_rms_norm": True, "mamba_norm_before_gate": True},
    ],
)
def test_multipliers_become_part_of_a_projection_once(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "mamba2_gates_on", lambda *values: True)
    multipliers = {"ssm_in_multiplier": 0.7, "ssm_multipliers": [0.3, 0.5, 1.2, 0.7, 0.8]}
    backbone = model("falcon_h1", num_hidden_layers=2, mamba_d_ssm=512, **multipliers, **changes)
    prepared = copy.deepcopy(backbone)
    architecture_of("falcon_h1").prepare(prepared)
    assert not torch.equal(mixers(prepared)[0].in_proj.weight, mixers(backbone)[0].in_proj.weight)
    kept = copy.deepcopy(prepared.state_dict())
    architecture_of("falcon_h1").prepare(prepared)
    assert all(map(torch.equal, kept.values(), prepared.state_dict().values()))
    for batch in batches():
        with torch.inference_mode():
            exact = scored_forward(backbone, batch, "last")
            assert relative(scored_forward(prepared, batch, "last"), exact) < 1e-5


@pytest.mark.parametrize("kind", ["bamba", "granitemoehybrid", "falcon_h1", "nemotron_h", "zamba2"])
def test_a_pretraining_begins_with_mixers_like_mamba2s(kind: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "falcon_h1": {"mamba_d_ssm": 512},
        "nemotron_h": {
            **{"mamba_num_heads": 8, "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 1, "head_dim": 64},
            "layers_block_type": ["linear_attention", "full_attention", "linear_attention"],
        },
    }
    backbone = model(kind, **changes.get(kind, {}))
    torch.manual_seed(5)
    architecture_of(kind).initialize(backbone)
    sizes = {"hidden_size": 256, "num_heads": 8, "head_dim": 64, "state_size": 128, "n_groups": 1, "expand": 2}
    [peer] = random_backbone(AutoConfig.for_model("mamba2", num_hidden_layers=1, vocab_size=300, **sizes)).layers
    for mixer in mixers(backbone):
        steps = torch.nn.functional.softplus(mixer.dt_bias)
        assert 0.001 <= steps.min() < steps.max() <= 0.1001
        for name in ("conv1d.weight", "out_proj.weight", "A_log", "D"):
            own, theirs = mixer.get_parameter(name), peer.mixer.get_parameter(name)
            assert own.shape == theirs.shape
            assert own.std().item() == pytest.approx(theirs.std().item(), rel=0.05), name
    assert not torch.equal(mixers(backbone)[0].dt_bias, mixers(backbone)[1].dt_bias)


def test_rows_are_scaled_in_place() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, squares = torch.randn(5, 16, generator=generator).bfloat16(), torch.rand(3, 5, generator=generator)
    unscaled = Unscaled(rows, squares, 12, 1e-5)
    expected = unscaled.scaled().bfloat16()
    scaled = unscaled.scale_()
    assert scaled.data_ptr() == rows.data_ptr() and torch.equal(scaled, expected)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("granitemoehybrid", {"num_local_experts": 8}, "num_local_experts 8: experts are not supported"),
        ("granitemoehybrid", {"time_step_limit": (0.0, 0.1)}, "time_step_limit"),
        ("bamba", {"time_step_limit": (0.0, 0.1)}, "time_step_limit"),
        ("bamba", {"hidden_act": "gelu"}, "activation gelu"),
        ("bamba", {"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 4"),
        ("jamba", {"num_experts": 4}, "num_experts 4: experts are not supported"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is not supported"),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 8}, "use_sliding_window"),
        ("nemotron_h", {"layers_block_type": ["linear_attention", "moe"]}, "layers with experts are not supported"),
        ("falcon_h1", {"mamba_d_ssm": 512, "time_step_limit": (0.0, 0.1)}, "time_step_limit"),
        ("zamba2", {"n_mamba_heads": 7}, "n_mamba_heads 7 does not divide the width of Mamba-2's mixers, 512"),
        ("zamba2", {"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 4"),
        ("zamba2", {"use_shared_attention_adapter": True}, "needs as many num_key_value_heads .2. as num_att"),
    ],
)
def test_what_is_not_supported_is_one_line(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        model(kind, **changes)
    assert "\n" not in str(error.value)


def blocks(backbone: Any) -> list[Any]:
    """Zamba2's blocks of attention and MLP, one for each use."""
    return [layer.shared_transformer for layer in backbone.layers if hasattr(layer, "shared_transformer")]


def test_layers_that_share_weights_share_modules(tiny_model, tmp_path) -> None:
    torch.manual_seed(0)
    reranker = new_reranker(tiny_model("zamba2"), "D", 32).eval()
    reranker.save(tmp_path / "checkpoint")
    read = load_reranker(tmp_path / "checkpoint")
    for backbone in (reranker.backbone, read.backbone):
        first, other, again = blocks(backbone)
        assert first is again is not other
        assert first.self_attn.q_proj.weight is not other.self_attn.q_proj.weight
        assert len(layers_of(backbone)) == 4  # a layer with a block has a layer within
    to_float8(read.backbone, architecture_of("zamba2"))
    first, _, again = blocks(read.backbone)
    assert first is again and type(first.self_attn.q_proj) is Float8Linear


def test_weights_that_a_checkpoint_has_for_each_layer_are_not_shared(tiny_model, tmp_path) -> None:
    config = AutoConfig.from_pretrained(tiny_model("zamba2"), tie_word_embeddings=False)
    torch.manual_seed(0)
    random_backbone(config).save_pretrained(tmp_path)
    backbone, reference = load_backbone(tmp_path).eval(), AutoModel.from_pretrained(tmp_path).eval()
    first, _, third = blocks(backbone)
    assert not torch.equal(first.self_attn.q_proj.weight, third.self_attn.q_proj.weight)
    ids = torch.arange(5, 25)
    with torch.no_grad():
        difference = packed_forward(backbone, pack([ids.numpy()])) - reference(ids[None]).last_hidden_state[0]
    assert difference.abs().max() < 1e-5


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("float8", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_that_gates_is_as_exact_as_without(kind: str, float8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssmrank.kernels.mixers import mamba2

    served, own = [], mamba2._gated
    monkeypatch.setattr(mamba2, "_gated", lambda *values: served.append(values) or own(*values))
    exact, plain = model(kind), model(kind).cuda()
    fused = copy.deepcopy(plain)
    fold_norms(mixers(fused))
    if float8:
        for backbone in (plain, fused):
            to_float8(backbone, architecture_of(kind))
    for batch, apart in zip(batches(), (True, False), strict=True):
        served.clear()
        moved = mapped(batch, torch.Tensor.cuda)
        with torch.inference_mode():
            right = scored_forward(exact, batch, "last")
            with torch.autocast("cuda", torch.bfloat16):
                noise = relative(scored_forward(plain, moved, "last"), right)
                assert not served
                error = relative(scored_forward(fused, moved, "last"), right)
        assert len(served) == (2 if apart else 0)  # the last layer projects scored tokens alone
        assert error < 1.5 * noise
