from __future__ import annotations

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from ssmrank.config.models import Model
from ssmrank.errors import UserError
from ssmrank.io.model_files import wanted_files
from ssmrank.models.backbones import load_backbone, packed_forward
from ssmrank.models.packed_model import load_tokenizer
from ssmrank.models.packing import pack
from ssmrank.models.sources import write_model


def model(**changes):
    return Model(**({"label": "Tiny", "kind": "D", "size": "1M"} | changes))


def folder_source(path):
    return {"kind": "folder", "path": str(path)}


def test_only_the_needed_files_of_a_repository_are_taken():
    tokenizer = ["tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    others = ["README.md", "tf_model.h5", "onnx/config.json", "original/params.json", "rust_model.ot", ".gitattributes"]
    safe, pickled = ["model.safetensors"], ["pytorch_model.bin"]
    assert wanted_files([*others, "config.json", *pickled, *safe, *tokenizer], True) == [
        "config.json",
        *safe,
        *tokenizer,
    ]
    assert wanted_files([*others, "config.json", *pickled, *tokenizer], True) == ["config.json", *pickled, *tokenizer]
    assert wanted_files(["config.json", *safe, *tokenizer, *others], False) == tokenizer
    sharded = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]
    assert wanted_files([*sharded, "flax_model.msgpack"], True) == sharded
    assert wanted_files(["model.Q4_1.gguf", "__init__.py"], True) == ["model.Q4_1.gguf"]


def test_pickled_weights_become_safetensors_of_the_same_numbers(tiny_model, tmp_path):
    """As in OPT's and ELECTRA's repositories: a language model's state dict in pytorch_model.bin."""
    for name, auto in [("opt", AutoModelForCausalLM), ("electra", AutoModelForMaskedLM)]:
        source = tmp_path / name
        shutil.copytree(tiny_model(name), source)
        whole = auto.from_pretrained(source, attn_implementation="eager").half()
        torch.save(whole.state_dict(), source / "pytorch_model.bin")
        (source / "model.safetensors").unlink()
        write_model(model(source=folder_source(source)), tmp_path / f"{name}-model", tmp_path)
        names = {file.name for file in (tmp_path / f"{name}-model").iterdir()}
        assert "model.safetensors" in names
        assert "pytorch_model.bin" not in names
        loaded = load_backbone(tmp_path / f"{name}-model").eval()
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
        base = whole.base_model.float().eval()
        with torch.no_grad():
            expected = base(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state[0]
            assert (packed_forward(loaded, pack([[5, 6, 7]])) - expected).abs().max() < 1e-5


def test_the_tokenizer_may_come_from_another_place(tiny_model, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny_model("llama"), source)
    for file in source.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match=r"Tiny: its source has no tokenizer; name one under tokenizer"):
        write_model(model(source=folder_source(source)), tmp_path / "model", tmp_path)
    assert not (tmp_path / "model").exists()
    other = folder_source(tiny_model("bert"))
    write_model(model(source=folder_source(source), tokenizer=other), tmp_path / "model", tmp_path)
    assert load_tokenizer(tmp_path / "model").sep_token == "[SEP]"
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "llama"


def test_random_weights_follow_the_seed(tiny_model, tmp_path):
    source = {
        "kind": "random",
        "tokenizer": "tiny",
        "config": {"model_type": "bart", "d_model": 16, "encoder_layers": 1},
    }
    source["config"] |= {"decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        write_model(model(source=source), tmp_path / name, tmp_path, tokenizer_from=tiny_model("bert"), seed=seed)
    weights = [load_file(tmp_path / name / "model.safetensors")["shared.weight"] for name in "abc"]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert load_backbone(tmp_path / "a").config.decoder_start_token_id == 2


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no such folder; correct the model's path"):
        write_model(model(source=folder_source(tmp_path / "nothing")), tmp_path / "model", tmp_path)


@pytest.mark.parametrize("absent", [{"gguf"}, {"accelerate"}, {"gguf", "accelerate"}])
def test_all_packages_that_reading_gguf_lacks_are_named(tmp_path, monkeypatch, absent):
    find = importlib.util.find_spec
    present = {"gguf", "accelerate"} - absent
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in absent else object() if name in present else find(name)
    )
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.gguf").write_bytes(b"")
    names = " ".join(name for name in ("gguf", "accelerate") if name in absent)
    with pytest.raises(UserError, match=rf"a\.gguf: reading GGUF needs {names}; .* pip install {names}$"):
        write_model(model(source=folder_source(source)), tmp_path / "model", tmp_path)


def test_several_or_damaged_gguf_files_are_one_line(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.gguf").write_bytes(b"GGUF, or is it?")
    with pytest.raises(UserError, match=r"a\.gguf: (transformers cannot read this GGUF file|reading GGUF needs)"):
        write_model(model(source=folder_source(source)), tmp_path / "model", tmp_path)
    (source / "b.gguf").write_bytes(b"")
    with pytest.raises(UserError, match=r"Tiny: its source has 2 GGUF files; give a folder with one"):
        write_model(model(source=folder_source(source)), tmp_path / "model", tmp_path)
    assert not (tmp_path / "model").exists()
