"""A corpus of a few made-up texts, its tokenizer and tokens."""

from __future__ import annotations

import json
import lzma
import random
from pathlib import Path

import pytest

from ssmrank.cli import main
from ssmrank.models.architectures import MODEL_TYPES, architecture_of

WORDS = (
    "state space models rank text passages and documents by relevance for a given query with mamba attention "
    "convolution scan recurrent neural networks retrieval index search engine lucene river boat fish mountain snow"
).split()
HELD_OUT = 0.25


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A section of `corpora`: two files of 40 texts, one of them compressed."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = random.Random(1)

    def words(least: int, most: int) -> str:
        return " ".join(generator.choices(WORDS, k=generator.randint(least, most)))

    for number in range(2):
        lines = "".join(
            json.dumps({"_id": f"{number}/{n}", "title": words(2, 6).title(), "text": words(10, 40), "category": "x"})
            + "\n"
            for n in range(40)
        )
        (folder / f"part-{number}.jsonl").write_text(lines)
    with lzma.open(folder / "part-1.jsonl.xz", "wb") as stream:
        stream.write((folder / "part-1.jsonl").read_bytes())
    (folder / "part-1.jsonl").unlink()
    files = ["part-0.jsonl", "part-1.jsonl.xz"]
    return {"title": "Made up", "path": str(folder), "files": files, "held_out": HELD_OUT, "license": "CC0"}


@pytest.fixture(scope="session")
def tokenizer_folder(corpus: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    options = ["--corpus", json.dumps(corpus), "--vocabulary", "384", "--texts", "1000", "--max-length", "64"]
    assert main(["pretrain", "tokenizer", *options, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def tokens_folder(corpus: dict, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens") / "tokens"
    options = ["--corpus", json.dumps(corpus), "--tokenizer", str(tokenizer_folder), "--max-length", "64"]
    assert main(["pretrain", "tokens", *options, "--output", str(folder)]) == 0
    return folder


_USUAL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_HYBRID = {**_USUAL, "num_key_value_heads": 1, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16}
_CONFIGS = {
    "bamba": {**_HYBRID, "attn_layer_indices": [1]},
    "falcon_h1": {**_HYBRID, "mamba_d_ssm": 48, "mamba_n_heads": 3, "ssm_multipliers": [0.5, 0.8, 1.2, 0.7, 0.8]},
    "granitemoehybrid": {
        **_HYBRID,
        "num_local_experts": 0,
        "shared_intermediate_size": 64,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "gemma3_text": {
        **_USUAL,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "jamba": {
        **_USUAL,
        "num_key_value_heads": 1,
        "num_experts": 1,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
    },
    "qwen3_5_text": {
        **_USUAL,
        **{"num_key_value_heads": 1, "head_dim": 16, "linear_key_head_dim": 8, "linear_value_head_dim": 16},
        **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
        "layer_types": ["linear_attention", "full_attention"],
    },
    "gated_deltanet": {
        **{"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64},
        **{"num_heads": 2, "head_dim": 8, "attn": {"layers": [1], "num_heads": 2}},
    },
    "qwen3": {**_USUAL, "num_key_value_heads": 1, "head_dim": 16},
    "electra": {**_USUAL, "embedding_size": 16},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 64,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "expand": 2},
    "mamba3": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 16, "head_dim": 16, "chunk_size": 16},
    "mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 16,
        "expand": 2,
        "head_dim": 16,
        "num_heads": 4,
        "n_groups": 1,
        "chunk_size": 16,
    },
}
_CONFIGS["nemotron_h"] = {
    **{key: _HYBRID[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads")},
    "head_dim": 16,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 1,
    "layers_block_type": ["linear_attention", "full_attention"],
}
_CONFIGS["zamba2"] = {
    **_USUAL,
    **{"num_hidden_layers": 3, "mamba_d_state": 16, "n_mamba_heads": 4, "adapter_rank": 16},
    "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
}
CAUSAL = [name for name in MODEL_TYPES if architecture_of(name).causal]
MASKED = [name for name in MODEL_TYPES if name not in CAUSAL and architecture_of(name).masked_head is not None]
CONFIGS = {name: _CONFIGS.get(name, _USUAL) for name in (*CAUSAL, *MASKED)}


def settings(model_type: str, **changes) -> dict:
    """Settings of a pretraining of a few steps."""
    values = {
        "corpus": "made-up",
        "vocabulary": 384,
        "max_length": 64,
        "tokens": 256 * 12,
        "step_tokens": 256,
        "token_budget": 256,
        "held_out_tokens": 500,
        "held_out_measurements": 3,
        "precision": "fp32",
        "config": {"model_type": model_type, **CONFIGS[model_type]},
    }
    return values | changes
