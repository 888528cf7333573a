"""Checkpoints in mamba_ssm's layout: names, shapes, round trips, and the same numbers as transformers'."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import AutoConfig, Mamba2Model, MambaModel, PreTrainedTokenizerFast

from ssmrank.config.models import Model
from ssmrank.errors import UserError
from ssmrank.models import mamba_ssm_format
from ssmrank.models.backbones import load_backbone, packed_forward, random_backbone, read_backbone_config
from ssmrank.models.packing import pack
from ssmrank.models.sources import write_model

ORIGINAL_CONFIGS = {
    # The keys of the published config.json files, with small numbers.
    "mamba": {
        "d_model": 24,
        "n_layer": 2,
        "vocab_size": 50,
        "ssm_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
    },
    "mamba2": {
        "d_model": 64,
        "d_intermediate": 0,
        "n_layer": 2,
        "vocab_size": 50,
        "ssm_cfg": {"layer": "Mamba2", "headdim": 16, "d_state": 32, "ngroups": 2, "chunk_size": 8},
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 16,
        "tie_embeddings": True,
    },
}


def layout(model_type):
    """Names and shapes of mamba_ssm's MambaLMHeadModel for `ORIGINAL_CONFIGS`, derived from its constructors."""
    if model_type == "mamba":  # inner width 48, state 16, rank ceil(24 / 16) = 2, vocabulary 50 padded to 56
        vocabulary, width = 56, 24
        mixer = {
            "A_log": (48, 16),
            "D": (48,),
            "in_proj.weight": (96, 24),
            "conv1d.weight": (48, 1, 4),
            "conv1d.bias": (48,),
            "x_proj.weight": (34, 48),
            "dt_proj.weight": (48, 2),
            "dt_proj.bias": (48,),
            "out_proj.weight": (24, 48),
        }
    else:  # inner width 128, 8 heads of 16, 2 groups of state 32, vocabulary 50 padded to 64
        vocabulary, width = 64, 64
        mixer = {
            "dt_bias": (8,),
            "A_log": (8,),
            "D": (8,),
            "in_proj.weight": (2 * 128 + 2 * 2 * 32 + 8, 64),
            "conv1d.weight": (128 + 2 * 2 * 32, 1, 4),
            "conv1d.bias": (128 + 2 * 2 * 32,),
            "norm.weight": (128,),
            "out_proj.weight": (64, 128),
        }
    shapes = {"backbone.embedding.weight": (vocabulary, width)}
    for layer in range(2):
        shapes |= {f"backbone.layers.{layer}.mixer.{name}": shape for name, shape in mixer.items()}
        shapes[f"backbone.layers.{layer}.norm.weight"] = (width,)
    return shapes | {"backbone.norm_f.weight": (width,), "lm_head.weight": (vocabulary, width)}


def random_state(model_type):
    generator = torch.Generator().manual_seed(1)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in layout(model_type).items()}
    state["lm_head.weight"] = state["backbone.embedding.weight"]
    return state


def write_original(folder, model_type, state=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(ORIGINAL_CONFIGS[model_type]))
    torch.save(state or random_state(model_type), folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("model_type", ORIGINAL_CONFIGS)
def test_converted_names_and_shapes_are_those_of_transformers(model_type):
    config = mamba_ssm_format.to_transformers_config(ORIGINAL_CONFIGS[model_type])
    theirs = {name: tuple(tensor.shape) for name, tensor in random_backbone(config).state_dict().items()}
    ours = mamba_ssm_format.to_transformers_state(random_state(model_type))
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == theirs


@pytest.mark.parametrize("model_type", ORIGINAL_CONFIGS)
def test_names_and_shapes_written_are_those_of_mamba_ssm(model_type):
    config = mamba_ssm_format.to_transformers_config(ORIGINAL_CONFIGS[model_type])
    written = mamba_ssm_format.from_transformers_state(random_backbone(config).state_dict())
    assert {name: tuple(tensor.shape) for name, tensor in written.items()} == layout(model_type)


@pytest.mark.gpu
@pytest.mark.parametrize("model_type", ORIGINAL_CONFIGS)
def test_layout_is_that_of_the_installed_mamba_ssm(model_type):
    mixer = pytest.importorskip("mamba_ssm.models.mixer_seq_simple")
    config = pytest.importorskip("mamba_ssm.models.config_mamba").MambaConfig(**ORIGINAL_CONFIGS[model_type])
    state = mixer.MambaLMHeadModel(config, device="cuda").state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == layout(model_type)


@pytest.mark.parametrize("model_type", ORIGINAL_CONFIGS)
def test_state_dict_round_trip(model_type):
    state = random_state(model_type)
    back = mamba_ssm_format.from_transformers_state(mamba_ssm_format.to_transformers_state(state))
    assert list(sorted(back)) == sorted(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("model_type", ["mamba", "mamba2"])
def test_config_round_trip(model_type):
    config = mamba_ssm_format.to_transformers_config(ORIGINAL_CONFIGS[model_type])
    again = mamba_ssm_format.to_transformers_config(mamba_ssm_format.from_transformers_config(config))
    assert again.to_dict() == config.to_dict()


def test_settings_that_ssm_cfg_leaves_out_are_mamba_ssms_defaults():
    config = mamba_ssm_format.to_transformers_config(
        {
            "d_model": 768,
            "n_layer": 24,
            "vocab_size": 50277,
            "ssm_cfg": {"layer": "Mamba2"},
            "pad_vocab_size_multiple": 16,
        }
    )
    assert (config.state_size, config.head_dim, config.num_heads, config.n_groups) == (128, 64, 24, 1)
    assert (config.vocab_size, config.chunk_size, config.conv_kernel) == (50288, 256, 4)
    config = mamba_ssm_format.to_transformers_config({"d_model": 768, "n_layer": 24, "vocab_size": 50277})
    assert (config.state_size, config.time_step_rank, config.intermediate_size) == (16, 48, 1536)
    assert (config.vocab_size, config.model_type) == (50280, "mamba")


@pytest.mark.parametrize("model_type", ORIGINAL_CONFIGS)
def test_forward_equals_transformers_with_the_same_weights(tmp_path, model_type):
    """The reference copies mamba_ssm's tensors one by one, not through our conversion."""
    state = random_state(model_type)
    backbone = load_backbone(write_original(tmp_path / "original", model_type, state))
    settings = {
        "mamba": {"hidden_size": 24, "num_hidden_layers": 2, "vocab_size": 56},
        "mamba2": {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "vocab_size": 64,
            "state_size": 32,
            "head_dim": 16,
            "num_heads": 8,
            "n_groups": 2,
            "chunk_size": 8,
        },
    }[model_type]
    config = AutoConfig.for_model(model_type, **settings)
    reference = (MambaModel if model_type == "mamba" else Mamba2Model)(config).eval()
    with torch.no_grad():
        reference.embeddings.weight.copy_(state["backbone.embedding.weight"])
        reference.norm_f.weight.copy_(state["backbone.norm_f.weight"])
        for number, layer in enumerate(reference.layers):
            prefix = f"backbone.layers.{number}."
            layer.norm.weight.copy_(state[prefix + "norm.weight"])
            for name, parameter in layer.mixer.named_parameters():
                parameter.copy_(state[f"{prefix}mixer.{name}"])
        batch = [np.random.default_rng(length).integers(0, 50, length) for length in (7, 1, 20)]
        expected = torch.cat([reference(input_ids=torch.tensor(ids)[None]).last_hidden_state[0] for ids in batch])
        found = packed_forward(backbone, pack(batch))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1.0)


@pytest.mark.parametrize("model_type", ORIGINAL_CONFIGS)
def test_what_is_saved_loads_again(tmp_path, model_type):
    backbone = load_backbone(write_original(tmp_path / "original", model_type))
    mamba_ssm_format.save(backbone, tmp_path)
    again = load_backbone(tmp_path)
    for (name, before), after in zip(backbone.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(before, after), name


@pytest.fixture
def small_tokenizer(tmp_path):
    """A folder with a tokenizer that has fewer tokens than the original checkpoints have embeddings."""
    pieces = ["[PAD]", "[UNK]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz:;"]
    tokenizer = Tokenizer(WordLevel({piece: id for id, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", sep_token="[SEP]")
    fast.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.mark.parametrize("model_type", ORIGINAL_CONFIGS)
def test_a_model_folder_is_made_of_an_original_checkpoint(tmp_path, small_tokenizer, model_type):
    state = {name: tensor.half() for name, tensor in random_state(model_type).items()}
    original = write_original(tmp_path / "original", model_type, state)
    model = Model(
        label="Mamba",
        kind="D",
        size="1M",
        source={"kind": "folder", "path": str(original)},
        tokenizer={"kind": "folder", "path": str(small_tokenizer)},
    )
    write_model(model, tmp_path / "model", tmp_path / "archives")
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert read_backbone_config(tmp_path / "model").model_type == model_type
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert torch.equal(weights["norm_f.weight"], state["backbone.norm_f.weight"])  # still float16
    before, after = load_backbone(original), load_backbone(tmp_path / "model")
    packed = pack([[1, 2, 3], [4, 5]])
    with torch.no_grad():
        assert torch.equal(packed_forward(before, packed), packed_forward(after, packed))


def test_safetensors_in_the_original_layout_load_too(tmp_path):
    state = random_state("mamba2")
    write_original(tmp_path, "mamba2")
    (tmp_path / "pytorch_model.bin").unlink()
    del state["lm_head.weight"]
    save_file(state, tmp_path / "model.safetensors")
    assert torch.equal(load_backbone(tmp_path).norm_f.weight, state["backbone.norm_f.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ssm_cfg": {"layer": "Mamba3"}}, "ssm_cfg.layer 'Mamba3' is unknown"),
        ({"attn_layer_idx": [1]}, "attention layers"),
        ({"d_intermediate": 64}, "attention layers and MLPs"),
        ({"rms_norm": False}, "LayerNorm"),
        ({"ssm_cfg": {"layer": "Mamba2", "D_has_hdim": True}}, "ssm_cfg.D_has_hdim: True is not supported"),
        ({"ssm_cfg": {"layer": "Mamba2", "dt_limit": [0.0, 0.1]}}, "ssm_cfg.dt_limit"),
        ({"ssm_cfg": {"layer": "Mamba1", "headdim": 64}}, "ssm_cfg.headdim is unknown"),
    ],
)
def test_what_cannot_be_converted_is_named(tmp_path, change, message):
    (tmp_path / "config.json").write_text(json.dumps(ORIGINAL_CONFIGS["mamba2"] | change))
    with pytest.raises(UserError, match=message):
        read_backbone_config(tmp_path)


def test_missing_and_misshapen_weights_are_named(tmp_path):
    state = random_state("mamba")
    del state["backbone.layers.1.mixer.D"]
    with pytest.raises(UserError, match=r"lack 1, such as backbone\.layers\.1\.mixer\.D"):
        load_backbone(write_original(tmp_path / "a", "mamba", state))
    state = random_state("mamba") | {"backbone.norm_f.weight": torch.ones(7)}
    with pytest.raises(UserError, match=r"backbone\.norm_f\.weight is \(7,\), config\.json asks for \(24,\)"):
        load_backbone(write_original(tmp_path / "b", "mamba", state))


def test_a_folder_without_weights_or_with_a_damaged_file_is_one_line(tmp_path):
    write_original(tmp_path, "mamba")
    (tmp_path / "pytorch_model.bin").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"torch cannot read tensors"):
        load_backbone(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"has neither pytorch_model\.bin nor model\.safetensors"):
        load_backbone(tmp_path)
