"""Tiny tokenizer and models, made here so that tests need no download."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from ssmrank.models.backbones import random_backbone

WORDS = (
    "state space models rank text passages and documents by relevance for a given query with mamba attention "
    "convolution scan recurrent neural networks retrieval index search engine lucene river boat fish mountain snow"
).split()

TINY_CONFIGS = {
    "bert": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        # 0.02 is made for widths of many hundreds; at this one attention would hardly learn.
        "initializer_range": 0.2,
    },
    "electra": {
        "hidden_size": 32,
        "embedding_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    },
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 64,
    },
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "expand": 2},
    "mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 16,
        "expand": 2,
        "head_dim": 16,
        "num_heads": 4,
        "n_groups": 1,
        "chunk_size": 8,
    },
}
"""One small shape for each architecture."""


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over a few words and all ASCII letters, with BERT's special tokens."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [chr(code) for code in range(33, 127)]
    pieces = special + letters + [f"##{letter}" for letter in letters] + WORDS + ["document", "query"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tiny_tokenizer):
    """A function that gives the checkpoint folder of a model type's tiny random model."""
    folders: dict[str, Path] = {}

    def folder_of(model_type: str) -> Path:
        if model_type not in folders:
            folder = tmp_path_factory.mktemp(f"tiny-{model_type}")
            torch.manual_seed(0)
            config = AutoConfig.for_model(model_type, vocab_size=len(tiny_tokenizer), **TINY_CONFIGS[model_type])
            random_backbone(config).save_pretrained(folder)
            tiny_tokenizer.save_pretrained(folder)
            folders[model_type] = folder
        return folders[model_type]

    return folder_of
