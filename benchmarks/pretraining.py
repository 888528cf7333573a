"""Steps of the minis' pretraining on a GPU, with and without CUDA graphs.

    python benchmarks/pretraining.py

The models of params/minis.yaml on random texts of about the corpus' lengths: forward, backward, clipping and AdamW on
32,768 tokens, bf16. Prints milliseconds per step and tokens/s, the mean of 24 steps.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from ssmrank.config.params import read_params
from ssmrank.config.pretraining import PretrainSettings
from ssmrank.jobs import pretrain_settings
from ssmrank.models.reranker import load_tokenizer
from ssmrank.pretraining.model import language_model_config, new_language_model
from ssmrank.pretraining.objectives import objective_of, on_device
from ssmrank.pretraining.passes import Passes, filled_up
from ssmrank.pretraining.steps import Steps
from ssmrank.pretraining.tokenizer import SPECIAL
from ssmrank.training.optimizer import decay_groups

ROOT = Path(__file__).resolve().parents[1]
STEPS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", help="names under pretraining.minis.models (default: all)")
    arguments = parser.parse_args()
    params = read_params(ROOT / "params.yaml", ROOT / "params/minis.yaml")
    for model in arguments.models or params.pretraining["minis"].models:
        settings = pretrain_settings(params, "minis", model)
        for graphs in (False, True):
            seconds = _seconds(settings, graphs)
            how = "CUDA graphs" if graphs else "eager"
            print(f"{model:8} {how:12} {1e3 * seconds:6.2f} ms  {settings.step_tokens / seconds:11,.0f} tokens/s")


def _seconds(settings: PretrainSettings, graphs: bool) -> float:
    device = torch.device("cuda")
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.normal(265, 90, 4000), 20, settings.max_length - 2).astype(int)
    texts = [generator.integers(len(SPECIAL), settings.vocabulary, length).astype(np.uint16) for length in lengths]
    tokenizer = load_tokenizer(ROOT / "models/minis/bert")
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    steps = Steps(texts, special, settings.step_tokens, settings.seed)
    objective = objective_of(
        settings.config["model_type"], settings.masked_share, len(SPECIAL), tokenizer.mask_token_id, len(tokenizer)
    )
    tasks = [filled_up(objective(steps[number], np.random.default_rng(number))) for number in range(STEPS)]
    parts = [on_device(task, device) for task in tasks]
    model = new_language_model(language_model_config(settings.config, tokenizer, settings.max_length), 1)
    model.to(device).train()
    optimizer = torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=1e-3, fused=True)
    passes = Passes(model, "bf16", device, settings.max_length, graphs=graphs)

    def step(number: int) -> None:
        passes(*parts[number], share=1e-4)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=not passes.uses_graphs)

    # A shape's graph is replayed only after the shape has come twice.
    for _ in range(2):
        for number in range(STEPS):
            step(number)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for number in range(STEPS):
        step(number)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / STEPS


if __name__ == "__main__":
    main()
