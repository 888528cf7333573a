"""Transformer++ in mamba_ssm's layout, against attention and MLPs written out from mamba_ssm's own modules."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from ssmrank.config.models import Model
from ssmrank.errors import UserError
from ssmrank.models.backbones import load_backbone, packed_forward, read_backbone_config
from ssmrank.models.packing import pack
from ssmrank.models.sources import write_model

WIDTH, LAYERS, HEADS, SIZE, MLP = 24, 3, 4, 8, 128

CONFIG = {
    "d_model": WIDTH,
    "d_intermediate": 100,  # rounded up to 128
    "n_layer": LAYERS,
    "vocab_size": 500,
    "ssm_cfg": {},
    "attn_layer_idx": [0, 1, 2],
    "attn_cfg": {
        "causal": True,
        "d_conv": 0,
        "head_dim": SIZE,
        "num_heads": HEADS,
        "num_heads_kv": 2,
        "out_proj_bias": False,
        "qkv_proj_bias": False,
        "rotary_emb_dim": SIZE,
    },
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 16,
    "tie_embeddings": True,
}


def random_state() -> dict[str, torch.Tensor]:
    """The names and shapes of mamba_ssm's MambaLMHeadModel with this config."""
    shapes = {"backbone.embedding.weight": (512, WIDTH), "backbone.norm_f.weight": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {
            f"backbone.layers.{layer}.norm.weight": (WIDTH,),
            f"backbone.layers.{layer}.norm2.weight": (WIDTH,),
            f"backbone.layers.{layer}.mixer.in_proj.weight": ((HEADS + 2 * 2) * SIZE, WIDTH),
            f"backbone.layers.{layer}.mixer.out_proj.weight": (WIDTH, HEADS * SIZE),
            f"backbone.layers.{layer}.mixer.rotary_emb.inv_freq": (SIZE // 2,),
            f"backbone.layers.{layer}.mlp.fc1.weight": (2 * MLP, WIDTH),
            f"backbone.layers.{layer}.mlp.fc2.weight": (WIDTH, MLP),
        }
    generator = torch.Generator().manual_seed(1)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return state | {"lm_head.weight": state["backbone.embedding.weight"]}


def reference(state: dict[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
    """Last hidden states [tokens, WIDTH] of one sequence."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * state[f"backbone.{name}.weight"]

    angles = torch.arange(len(ids))[:, None] * 10000.0 ** (-torch.arange(0, SIZE, 2) / SIZE)
    cos, sin = (part.repeat(1, 2)[:, None] for part in (angles.cos(), angles.sin()))

    def rotated(x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-right, left], dim=-1) * sin

    hidden = state["backbone.embedding.weight"][ids]
    for layer in range(LAYERS):
        own = f"backbone.layers.{layer}"
        projected = norm(hidden, f"layers.{layer}.norm") @ state[f"{own}.mixer.in_proj.weight"].T
        q, k, v = projected.unflatten(1, (-1, SIZE)).split([HEADS, 2, 2], dim=1)
        q, k = rotated(q), rotated(k)
        k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) / SIZE**0.5
        scores += torch.full_like(scores[0], float("-inf")).triu(1)
        attended = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)
        hidden = hidden + attended @ state[f"{own}.mixer.out_proj.weight"].T
        fed = norm(hidden, f"layers.{layer}.norm2") @ state[f"{own}.mlp.fc1.weight"].T
        value, gate = fed.chunk(2, dim=-1)
        hidden = hidden + (value * F.silu(gate)) @ state[f"{own}.mlp.fc2.weight"].T
    return norm(hidden, "norm_f")


def write_original(folder, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    torch.save(random_state(), folder / "pytorch_model.bin")
    return folder


def test_a_transformer_of_mamba_ssm_is_a_llama(tmp_path) -> None:
    backbone = load_backbone(write_original(tmp_path / "original"))
    assert (backbone.config.model_type, backbone.config.intermediate_size) == ("llama", 128)
    batch = [[3, 1, 4, 1, 5, 9, 2], [6], [*range(20)]]
    with torch.no_grad():
        found = packed_forward(backbone, pack(batch))
    expected = torch.cat([reference(random_state(), ids) for ids in batch])
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_model_folder_is_made_of_it(tmp_path, tiny_tokenizer) -> None:
    original = write_original(tmp_path / "original")
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    model = Model(
        label="Transformer++",
        kind="D",
        size="1M",
        source={"kind": "folder", "path": str(original)},
        tokenizer={"kind": "folder", "path": str(tmp_path / "tokenizer")},
    )
    write_model(model, tmp_path / "model", tmp_path / "archives")
    assert read_backbone_config(tmp_path / "model").model_type == "llama"
    packed = pack([[1, 2, 3], [4, 5]])
    with torch.no_grad():
        before, after = (packed_forward(load_backbone(one), packed) for one in (original, tmp_path / "model"))
    assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_layer_idx": [0, 1]}, "attention layers and MLPs .* unless every layer has both"),
        ({"d_intermediate": 0}, "attention layers and MLPs .* unless every layer has both"),
        ({"attn_cfg": CONFIG["attn_cfg"] | {"d_conv": 4}}, "attn_cfg.d_conv: 4 is not supported; only 0 is"),
        ({"attn_cfg": CONFIG["attn_cfg"] | {"rotary_emb_dim": 4}}, "attn_cfg.rotary_emb_dim: 4 is not supported"),
        ({"attn_cfg": CONFIG["attn_cfg"] | {"out_proj_bias": True}}, "attn_cfg.out_proj_bias: True is not supported"),
        ({"attn_cfg": {"num_heads": 4}}, "attn_cfg.causal: False is not supported; only True is"),
        ({"attn_cfg": {"causal": True}}, "attn_cfg.num_heads is missing"),
        ({"attn_cfg": CONFIG["attn_cfg"] | {"window": 4}}, "attn_cfg.window is unknown"),
        ({"n_layer": 2, "attn_layer_idx": [0, 1]}, "no such weight"),
    ],
)
def test_what_llama_does_not_have_is_named(tmp_path, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        load_backbone(write_original(tmp_path / "original", **changes))
