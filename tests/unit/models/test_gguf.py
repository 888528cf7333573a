"""Mamba-1 in a GGUF file; transformers writes none, so the package gguf does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ssmrank.errors import UserError
from ssmrank.models.backbones import load_backbone, new_config, random_backbone
from ssmrank.models.gguf import convert_gguf


def write_mamba(gguf: Any, model: Any, file: Path, *, left_out: str = "") -> None:
    config, writer = model.config, gguf.GGUFWriter(str(file), "mamba")
    writer.add_context_length(100)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_vocab_size(config.vocab_size)
    writer.add_ssm_conv_kernel(config.conv_kernel)
    writer.add_ssm_inner_size(config.intermediate_size)
    writer.add_ssm_state_size(config.state_size)
    writer.add_ssm_time_step_rank(config.time_step_rank)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*"abcde", "ab", "cd", "<unk>"])
    writer.add_token_merges(["a b", "c d"])
    writer.add_unk_token_id(7)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MAMBA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == left_out:
            continue
        tensor = -tensor.exp() if name.endswith("A_log") else tensor.squeeze(1) if "conv1d.weight" in name else tensor
        theirs = names.get_name(f"backbone.{name}", try_suffixes=(".weight", ".bias"))
        writer.add_tensor(theirs, tensor.numpy().copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_weights_of_mamba_are_read(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="needs the package gguf")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "time_step_rank": 2, "state_size": 16}
    model = random_backbone(new_config("mamba", num_hidden_layers=2, vocab_size=8, **sizes))
    write_mamba(gguf, model, tmp_path / "model.gguf")
    convert_gguf(tmp_path / "model.gguf", tmp_path)
    found = load_backbone(tmp_path).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.allclose(found[name], tensor, atol=1e-5), name

    write_mamba(gguf, model, tmp_path / "model.gguf", left_out="layers.1.mixer.in_proj.weight")
    with pytest.raises(UserError, match=r"model\.gguf: lacks 1 weights, such as .*layers\.1\.mixer\.in_proj\.weight"):
        convert_gguf(tmp_path / "model.gguf", tmp_path)
