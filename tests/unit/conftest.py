"""Tiny tokenizer and models, made here so that tests need no download."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

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
    "roberta": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "initializer_range": 0.2,
    },
    "bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "init_std": 0.2,
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
    # OPT-350m's: norms behind the layers, word embeddings narrower than the layers.
    "opt-350m": {
        "model_type": "opt",
        "hidden_size": 32,
        "word_embed_proj_dim": 16,
        "do_layer_norm_before": False,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "init_std": 0.2,
    },
    # Llama-3.2's: grouped heads, tied embeddings, rotary frequencies stretched at long wavelengths.
    "llama-3.2": {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 16,
        },
        "initializer_range": 0.2,
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
    "mamba2-wide": {
        "model_type": "mamba2",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "state_size": 64,
        "expand": 2,
        "head_dim": 64,
        "num_heads": 2,
        "n_groups": 1,
    },
}
"""One small shape for each architecture, and for members of its family that are built differently."""


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
    """A function that gives the checkpoint folder of the tiny random model with one of `TINY_CONFIGS`' shapes."""
    folders: dict[str, Path] = {}

    def folder_of(shape: str) -> Path:
        if shape not in folders:
            folder = tmp_path_factory.mktemp(f"tiny-{shape}")
            config = AutoConfig.for_model(
                **({"model_type": shape, "vocab_size": len(tiny_tokenizer)} | TINY_CONFIGS[shape])
            )
            # The first test that asks must not see other random numbers afterwards than those that follow.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                random_backbone(config).save_pretrained(folder)
            tiny_tokenizer.save_pretrained(folder)
            folders[shape] = folder
        return folders[shape]

    return folder_of


BYTE_LEVEL_TOKENIZERS = {
    # How the published repositories of each family describe theirs: the model type, special tokens in the order of
    # their ids, tokenizer_config.json, and whether there is a tokenizer.json beside vocab.json and merges.txt.
    "roberta": ("roberta", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], {"model_max_length": 512}, False),
    "bart": ("bart", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], {"model_max_length": 1024}, False),
    "opt": (
        "opt",
        ["<s>", "<pad>", "</s>", "<unk>"],
        {
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": "</s>",
            "eos_token": "</s>",
            "unk_token": "</s>",
            "pad_token": "<pad>",
            "add_bos_token": True,
            "add_prefix_space": False,
        },
        False,
    ),
    "gpt-neox": (
        "mamba2",
        ["<|endoftext|>", "<|padding|>"],
        {
            "tokenizer_class": "GPTNeoXTokenizer",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "add_prefix_space": False,
        },
        True,
    ),
    "llama-3.2": (
        "llama",
        ["<|begin_of_text|>", "<|end_of_text|>"],
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|end_of_text|>",
            "clean_up_tokenization_spaces": True,
        },
        True,
    ),
}


@pytest.fixture(scope="session")
def byte_level_tokenizer(tmp_path_factory):
    """A function that gives a tiny tokenizer of the family: byte-level BPE read from files as its repository has."""

    def tokenizer_of(family: str):
        model_type, special, settings, fast = BYTE_LEVEL_TOKENIZERS[family]
        folder = tmp_path_factory.mktemp(f"tokenizer-{family}")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([" ".join(WORDS), " document: query: document: query:"], trainer)
        if family == "llama-3.2":
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{special[0]} $A", special_tokens=[(special[0], 0)]
            )
        if fast:
            tokenizer.save(str(folder / "tokenizer.json"))
        else:
            tokenizer.model.save(str(folder))
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        return AutoTokenizer.from_pretrained(folder)

    return tokenizer_of
