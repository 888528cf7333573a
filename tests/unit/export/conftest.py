"""Tiny rerankers to export."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from ssmrank.models.backbones import random_backbone
from ssmrank.models.packed_model import load_tokenizer
from ssmrank.models.reranker import Reranker, RerankerSettings
from tiny_models import kind_of, tiny_config


@pytest.fixture
def checkpoint(tiny_model, tmp_path: Path):
    """A function that returns the folder of a tiny trained reranker, whose scores differ from text to text."""

    def make(shape: str, tokenizer=None, max_length: int = 48, spread: float = 5.0, **settings) -> Path:
        folder = tmp_path / f"checkpoint-{shape}"
        shutil.rmtree(folder, ignore_errors=True)
        tokenizer = tokenizer or load_tokenizer(tiny_model(shape))
        own = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        config = AutoConfig.for_model(**tiny_config(shape) | own)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            settings = RerankerSettings(kind_of(shape), max_length, **settings)
            reranker = Reranker(random_backbone(config), tokenizer, settings)
            # The states of random models differ little from text to text.
            torch.nn.init.normal_(reranker.head.weight, std=spread)
            torch.nn.init.normal_(reranker.head.bias, std=spread / 5)
        reranker.save(folder)
        return folder

    return make
