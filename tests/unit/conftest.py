"""A tiny tokenizer and tiny models, made here so that tests need no download."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import fla_kernels
from ssmrank.kernels import dispatch
from ssmrank.models.backbones import new_config, random_backbone
from tiny_models import VARIED, tiny_config

fla_kernels.forget_models()  # it may be imported by now, with all architectures of `tiny_models`

WORDS = (
    "state space models rank text passages and documents by relevance for a given query with mamba attention "
    "convolution scan recurrent neural networks retrieval index search engine lucene river boat fish mountain snow"
).split()


@pytest.fixture(autouse=True)
def transformers_own_classes() -> None:
    """A test before, or a kernel on its way, may have imported flash-linear-attention."""
    fla_kernels.forget_models()


@pytest.fixture
def hopper() -> None:
    """Skips a test where no GPU has the scan of Mamba-2 that gates."""
    on_gpu = torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1"
    if not (on_gpu and dispatch.mamba2_gates_on(torch.device("cuda"), 4, 64, 128, 1)):
        pytest.skip("needs a Hopper GPU")


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
    """A function that returns the checkpoint folder of the tiny random model of a shape (`tiny_models.SHAPES`)."""
    folders: dict[str, Path] = {}

    def folder_of(shape: str) -> Path:
        if shape not in folders:
            folder = tmp_path_factory.mktemp(f"tiny-{shape}")
            config = new_config(**({"vocab_size": len(tiny_tokenizer)} | tiny_config(shape)))
            # Random numbers of a test must not depend on whether it is the first to ask for a model.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                backbone = random_backbone(config)
                if shape in VARIED:
                    vary_constants(backbone)
                backbone.save_pretrained(folder)
            tiny_tokenizer.save_pretrained(folder)
            folders[shape] = folder
        return folders[shape]

    return folder_of


def vary_constants(backbone: torch.nn.Module) -> None:
    """Changes what all models begin with alike, such as norms' weights of one: equal norms could be interchanged."""
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith(("dt_bias", "dt_proj.bias")):
                parameter.uniform_(-4.0, 1.0)  # states that last, and states that fade
            elif parameter.ndim == 1 or name.endswith(("B_bias", "C_bias")):
                parameter.add_(0.2 * torch.randn_like(parameter))


BYTE_LEVEL_TOKENIZERS = {
    # Tokenizers as each family's published repositories describe them: model type, special tokens in the order of their
    # ids, tokenizer_config.json, and whether there is a tokenizer.json beside vocab.json and merges.txt.
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
    """A function that returns a family's tiny tokenizer: byte-level BPE, read from files like its repository's."""

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
