"""Packed forward and backward, compared with transformers on each sequence alone and without padding."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    PreTrainedModel,
)
from transformers.utils import logging

from ssmrank.errors import UserError
from ssmrank.models.architectures import MODEL_TYPES, architecture_of
from ssmrank.models.backbones import (
    load_backbone,
    longest_input,
    output_width,
    packed_forward,
    pooled_forward,
    random_backbone,
    read_backbone_config,
)
from ssmrank.models.packing import pack
from tiny_models import HYBRIDS, SHAPES, is_causal


def on_gpu(test):
    """Marks a test of the GPU's packed path against the CPU's in float32, which is tested against transformers."""
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")(test))


LENGTHS = [5, 17, 1, 33, 8, 8, 30, 9]


def reference_model(folder):
    attends = architecture_of(read_backbone_config(folder).model_type).attention
    options = {"attn_implementation": "eager"} if attends else {}
    return AutoModel.from_pretrained(folder, dtype=torch.float32, **options)


def sequences(vocabulary):
    generator = np.random.default_rng(3)
    return [generator.integers(4, vocabulary, length) for length in LENGTHS]


def run_reference(model, batch):
    return torch.cat([model(input_ids=torch.tensor(ids)[None]).last_hidden_state[0] for ids in batch])


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_forward_equals_each_sequence_alone(tiny_model, shape):
    folder = tiny_model(shape)
    packed_model, reference = load_backbone(folder).eval(), reference_model(folder).eval()
    batch = sequences(packed_model.config.vocab_size)
    with torch.no_grad():
        difference = packed_forward(packed_model, pack(batch)) - run_reference(reference, batch)
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_gradients_equal_each_sequence_alone(tiny_model, shape):
    folder = tiny_model(shape)
    packed_model, reference = load_backbone(folder).eval(), reference_model(folder).eval()
    batch = sequences(packed_model.config.vocab_size)
    weights = torch.randn(sum(LENGTHS), output_width(packed_model.config), generator=torch.Generator().manual_seed(0))
    (packed_forward(packed_model, pack(batch)) * weights).sum().backward()
    (run_reference(reference, batch) * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    compared = 0
    for name, parameter in packed_model.named_parameters():
        if gradients.get(name) is None:
            assert parameter.grad is None, name
            continue
        scale = gradients[name].abs().max().clamp(min=1.0)
        assert (parameter.grad - gradients[name]).abs().max() / scale < 1e-5, name
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_stays_within_the_noise_of_bf16(tiny_model, shape):
    folder = tiny_model(shape)
    packed_model, reference = load_backbone(folder).eval(), reference_model(folder).eval()
    batch = sequences(packed_model.config.vocab_size)
    with torch.no_grad():
        exact = run_reference(reference, batch)
        with torch.autocast("cpu", torch.bfloat16):
            theirs, ours = run_reference(reference, batch).float(), packed_forward(packed_model, pack(batch)).float()
    noise = (theirs - exact).norm() / exact.norm()
    assert (ours - exact).norm() / exact.norm() < 2 * noise + 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sequence_does_not_see_its_neighbours(tiny_model, shape):
    model = load_backbone(tiny_model(shape)).eval()
    batch = sequences(model.config.vocab_size)
    with torch.no_grad():
        before = packed_forward(model, pack(batch))
        batch[1] = np.full_like(batch[1], 5)
        after = packed_forward(model, pack(batch))
    start, end = LENGTHS[0], LENGTHS[0] + LENGTHS[1]
    assert torch.equal(before[:start], after[:start])
    assert not torch.equal(before[start:end], after[start:end])
    assert (before[end:] - after[end:]).abs().max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_pooled_states_are_rows_of_the_packed_forward(tiny_model, shape):
    model = load_backbone(tiny_model(shape)).eval()
    packed = pack(sequences(model.config.vocab_size))
    with torch.no_grad():
        rows = packed_forward(model, packed)
        first, last, mean = (pooled_forward(model, packed, pooling) for pooling in ("first", "last", "mean"))
    assert (first - rows[packed.first]).abs().max() < 1e-5
    assert torch.equal(last, rows[packed.last])
    expected = torch.stack([part.mean(0) for part in rows.split(packed.lengths)])
    assert (mean - expected).abs().max() < 1e-5


def test_threads_that_load_at_once_leave_transformers_as_it_was(tiny_model):
    """transformers replaces a method of all its models while it loads one; BART's embeddings need that method."""
    folder, level = tiny_model("bart"), logging.get_verbosity()
    ties = PreTrainedModel.tie_weights
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(lambda _: load_backbone(folder), range(40)))
    assert PreTrainedModel.tie_weights is ties
    assert logging.get_verbosity() == level
    assert all(backbone.encoder.embed_tokens.weight is backbone.shared.weight for backbone in loaded)


def test_the_text_part_of_a_model_of_text_and_images(tiny_model, tmp_path):
    text = AutoConfig.from_pretrained(tiny_model("qwen3_5_text")).to_dict()
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    whole = AutoModelForImageTextToText.from_config(
        AutoConfig.for_model("qwen3_5", text_config=text, vision_config=eyes), attn_implementation="eager"
    ).eval()
    whole.save_pretrained(tmp_path)
    model = load_backbone(tmp_path).eval()
    batch = sequences(model.config.vocab_size)
    with torch.no_grad():
        difference = packed_forward(model, pack(batch)) - run_reference(whole.model, batch)
    assert difference.abs().max() < 1e-5
    model.save_pretrained(tmp_path / "text")
    assert read_backbone_config(tmp_path / "text").model_type == "qwen3_5_text"
    assert load_backbone(tmp_path / "text").norm.weight.equal(model.norm.weight)


def test_the_pooled_state_of_bart_is_the_decoders_on_its_start_token_alone(tiny_model):
    folder = tiny_model("bart")
    model, reference = load_backbone(folder).eval(), reference_model(folder).eval()
    batch = sequences(model.config.vocab_size)
    start = torch.tensor([[reference.config.decoder_start_token_id]])
    with torch.no_grad():
        pooled = pooled_forward(model, pack(batch), "first")
        for row, ids in zip(pooled, batch, strict=True):
            ids = torch.tensor(ids)[None]
            whole = reference(input_ids=ids).last_hidden_state[0, 0]
            one_token = reference(input_ids=ids, decoder_input_ids=start).last_hidden_state[0, 0]
            assert (row - whole).abs().max() < 1e-5
            assert (row - one_token).abs().max() < 1e-5
    # It reads the whole input through cross attention, so no two rows are equal.
    distances = torch.cdist(pooled, pooled) + torch.eye(len(batch))
    assert distances.min() > 1e-3


def test_gradients_of_barts_pooled_state_equal_those_of_the_whole_decoder(tiny_model):
    folder = tiny_model("bart")
    short, whole = load_backbone(folder).eval(), load_backbone(folder).eval()
    packed = pack(sequences(short.config.vocab_size))
    weights = torch.randn(len(LENGTHS), 32, generator=torch.Generator().manual_seed(0))
    (pooled_forward(short, packed, "first") * weights).sum().backward()
    (packed_forward(whole, packed)[packed.first] * weights).sum().backward()
    for (name, parameter), other in zip(short.named_parameters(), whole.parameters(), strict=True):
        assert (parameter.grad - other.grad).abs().max() <= 1e-5 * other.grad.abs().max().clamp(min=1.0), name


def test_width_of_projected_states_and_reach_of_positions(tiny_model):
    configs = {shape: read_backbone_config(tiny_model(shape)) for shape in SHAPES}
    assert output_width(configs["opt-350m"]) == 16
    assert output_width(configs["opt"]) == output_width(configs["bart"]) == 32
    # RoBERTa has 514 positions; those up to the padding token's id are never used.
    assert {
        shape: longest_input(configs[shape])
        for shape in ("bert", "roberta", "bart", "opt", "llama", "mamba", "modernbert")
    } == {
        "bert": 512,
        "roberta": 512,
        "bart": 1024,
        "opt": 2048,
        "llama": None,
        "mamba": None,
        "modernbert": None,
    }


def test_the_longest_input_runs(tiny_model):
    for shape in ("roberta", "bert"):
        model = load_backbone(tiny_model(shape)).eval()
        with torch.no_grad():
            hidden = packed_forward(model, pack([[5] * longest_input(model.config)]))
        assert torch.isfinite(hidden).all()


def test_missing_weights_are_named(tiny_model, tmp_path):
    for file in tiny_model("bert").iterdir():
        shutil.copy(file, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = [name for name in weights if name.startswith("encoder.layer.1.attention.self.key")]
    save_file({name: tensor for name, tensor in weights.items() if name not in lost}, tmp_path / "model.safetensors")
    with pytest.raises(
        UserError, match=r"lack 2 that config.json asks for, such as encoder\.layer\.1\.attention\.self"
    ):
        load_backbone(tmp_path)


@pytest.mark.parametrize("shape", MODEL_TYPES)
def test_the_backbone_of_a_language_models_checkpoint_is_read(tiny_model, tmp_path, shape):
    auto = AutoModelForCausalLM if is_causal(shape) else AutoModelForMaskedLM
    whole = auto.from_config(AutoConfig.from_pretrained(tiny_model(shape)))
    whole.save_pretrained(tmp_path)
    if shape == "gpt_neox":  # Pythia's files have constants among their weights
        weights = load_file(tmp_path / "model.safetensors")
        for layer in range(2):
            of_layer = f"gpt_neox.layers.{layer}.attention."
            weights |= {f"{of_layer}{name}": torch.ones(4) for name in ("bias", "masked_bias", "rotary_emb.inv_freq")}
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    theirs = whole.base_model.state_dict()
    own = load_backbone(tmp_path).state_dict()
    assert own and all(torch.equal(theirs[name], tensor) for name, tensor in own.items())


def test_weights_of_another_shape_are_one_line(tiny_model, tmp_path):
    for file in tiny_model("bert").iterdir():
        shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(UserError, match="transformers cannot load its weights") as error:
        load_backbone(tmp_path)
    assert "\n" not in str(error.value)


def test_loading_is_silent(tiny_model, capfd):
    folder = tiny_model("llama")
    capfd.readouterr()
    load_backbone(folder)
    assert capfd.readouterr() == ("", "")


def test_a_limit_on_time_steps_is_refused():
    config = AutoConfig.for_model("mamba2", hidden_size=32, head_dim=16, num_heads=4, time_step_limit=(0.0, 0.1))
    with pytest.raises(UserError, match="time_step_limit"):
        random_backbone(config)


def test_unknown_architecture_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UserError, match=r"config\.json: model_type 't5' is not supported; known: bamba, bart, bert"):
        read_backbone_config(tmp_path)


def test_folder_without_config_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        read_backbone_config(tmp_path)


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The relative distance, in the norm of all elements."""
    return ((found.float().cpu() - exact).norm() / exact.norm()).item()


def gradient_distance(model, on_cpu) -> float:
    """The relative distance of all gradients together, because some (of key biases) are only rounding noise."""
    exact = {name: parameter.grad for name, parameter in on_cpu.named_parameters() if parameter.grad is not None}
    found = {name: parameter.grad for name, parameter in model.named_parameters() if name in exact}
    squared = sum((found[name].float().cpu() - exact[name]).pow(2).sum() for name in exact)
    return (squared / sum(gradient.pow(2).sum() for gradient in exact.values())).sqrt().item()


@on_gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_fp32_on_the_gpu(tiny_model, shape):
    folder = tiny_model(shape)
    model, on_cpu = load_backbone(folder).eval().cuda(), load_backbone(folder).eval()
    batch = sequences(model.config.vocab_size)
    weights = torch.randn(sum(LENGTHS), output_width(model.config), generator=torch.Generator().manual_seed(0))
    found = packed_forward(model, pack(batch, "cuda"))
    exact = packed_forward(on_cpu, pack(batch))
    # Products of the state space kernels run in TF32.
    bound = 2e-3 if shape.startswith("mamba") or shape in HYBRIDS else 1e-5
    assert distance(found.detach(), exact.detach()) < bound
    (found * weights.cuda()).sum().backward()
    (exact * weights).sum().backward()
    assert gradient_distance(model, on_cpu) < 10 * bound


@on_gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_on_the_gpu_stays_within_the_noise_of_bf16(tiny_model, shape):
    folder = tiny_model(shape)
    model, on_cpu = load_backbone(folder).eval(), load_backbone(folder).eval()
    batch = sequences(model.config.vocab_size)
    with torch.no_grad():
        exact = packed_forward(on_cpu, pack(batch))
        with torch.autocast("cpu", torch.bfloat16):
            noise = distance(packed_forward(on_cpu, pack(batch)), exact)
        with torch.autocast("cuda", torch.bfloat16):
            found = distance(packed_forward(model.cuda(), pack(batch, "cuda")), exact)
    assert found < 2 * noise + 1e-3


@on_gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_gradients_on_the_gpu(tiny_model, shape):
    folder = tiny_model(shape)
    model, on_cpu = load_backbone(folder).eval().cuda(), load_backbone(folder).eval()
    batch = sequences(model.config.vocab_size)
    weights = torch.randn(sum(LENGTHS), output_width(model.config), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cuda", torch.bfloat16):
        found = packed_forward(model, pack(batch, "cuda"))
    (found.float() * weights.cuda()).sum().backward()
    (packed_forward(on_cpu, pack(batch)) * weights).sum().backward()
    assert gradient_distance(model, on_cpu) < 0.1
