"""What reranks in the benchmarks: ours, transformers as it comes, sentence-transformers, llama.cpp."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from shapes import Shape
from torch import nn

from ssmrank.models.precision import Precision, autocast
from ssmrank.models.reranker import Reranker, RerankerSettings
from ssmrank.reranking.batches import Batch, plan_batches
from ssmrank.reranking.scoring import Scorer
from ssmrank.reranking.sequences import PairSequences

Step = Callable[[], None]
PADDED_BATCH = 16


class _RandomReranker(Reranker):
    """A reranker of random weights, without a tokenizer."""

    def __init__(self, shape: Shape, max_length: int) -> None:
        nn.Module.__init__(self)
        longer = {"max_position_embeddings": max_length} if shape.config["model_type"] in ("bert", "opt") else {}
        kept = shape.config.get("max_position_embeddings", 512)
        self.backbone = shape.ours(**({key: max(value, kept) for key, value in longer.items()}))
        config = self.backbone.config
        width = config.word_embed_proj_dim if config.model_type == "opt" else config.hidden_size
        self.head = nn.Linear(width, 1)
        self.settings = RerankerSettings("E" if shape.pools_first else "D", max_length)


class Ours:
    """This project's engine: plans, packs and scores."""

    def __init__(self, shape: Shape, max_length: int, precision: Precision, device: torch.device) -> None:
        self.reranker = _RandomReranker(shape, max_length).eval()
        self.precision, self.device = precision, device

    def step(self, sequences: PairSequences, token_budget: int, share: bool) -> tuple[Step, int]:
        """A pass over all pairs, planning included, and the tokens that it computes."""
        scorer = Scorer(self.reranker, sequences, self.precision, self.device)
        tokens = sum(batch.tokens(sequences) for batch in plan_batches(sequences, token_budget, share))

        def run() -> None:
            for _ in scorer.run(enumerate(plan_batches(sequences, token_budget, share))):
                pass

        return run, tokens

    def step_by_count(self, sequences: PairSequences, count: int) -> tuple[Step, int]:
        """As `step`, in batches of so many pairs, as the paper measures."""
        scorer = Scorer(self.reranker, sequences, self.precision, self.device)
        order = np.argsort(-sequences.lengths, kind="stable")
        batches = [
            Batch(order[start : start + count], (), int(sequences.lengths[order[start : start + count]].sum()))
            for start in range(0, len(order), count)
        ]

        def run() -> None:
            for _ in scorer.run(enumerate(batches)):
                pass

        return run, int(sequences.lengths.sum())


class Theirs:
    """transformers' own model, in float32 or in bf16 by autocast."""

    def __init__(self, shape: Shape, precision: Precision, device: torch.device) -> None:
        self.model, self.shape = shape.theirs().to(device).eval(), shape
        self.precision, self.device = precision, device

    def padded(self, sequences: PairSequences) -> tuple[Step, int]:
        """Every pair whole, sorted by length, in batches padded at the right; and the tokens that it computes."""
        order = np.argsort(-sequences.lengths, kind="stable").tolist()
        batches = [
            self._padded([sequences[pair] for pair in order[start : start + PADDED_BATCH]])
            for start in range(0, len(order), PADDED_BATCH)
        ]

        def run() -> None:
            for ids, mask, last in batches:
                with torch.inference_mode(), autocast(self.precision, self.device):
                    states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
                    states[torch.arange(len(ids)), 0 if self.shape.pools_first else last].float().cpu()

        return run, sum(ids.numel() for ids, _, _ in batches)

    def cached(self, sequences: PairSequences) -> tuple[Step, int] | None:
        """Each document once, then its queries in padded batches from transformers' cache; None where that is wrong.

        Mamba-1's cache begins the scan anew with several tokens (its scores are then wrong).
        """
        if self.shape.config["model_type"] == "mamba":
            print("transformers, own cache: left out for Mamba-1, whose cache does not take several tokens", flush=True)
            return None
        groups = []
        by_document = groupby(np.argsort(sequences.document, kind="stable").tolist(), lambda p: sequences.document[p])
        for _, members in by_document:
            pairs = list(members)
            kept = int(sequences.whole[pairs].min())
            whole = [sequences[pair] for pair in pairs]
            prefix = torch.from_numpy(whole[0][:kept].astype(np.int64))[None].to(self.device)
            rest = sorted((ids[kept:] for ids in whole), key=len)
            parts = [rest[start : start + 64] for start in range(0, len(rest), 64)]
            groups.append((prefix, [self._padded(part) for part in parts]))

        def run() -> None:
            for prefix, parts in groups:
                with torch.inference_mode(), autocast(self.precision, self.device):
                    for ids, _, last in parts:
                        cache = _filled_cache(self.model, prefix, self.shape)
                        cache.reorder_cache(torch.zeros(len(ids), dtype=torch.int64, device=self.device))
                        states = self.model(input_ids=ids, use_cache=True, **{_cache_name(self.shape): cache})
                        states.last_hidden_state[torch.arange(len(ids)), last].float().cpu()

        try:
            run()
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            print(f"transformers, own cache: left out ({str(error).splitlines()[0]})", flush=True)
            return None
        return run, sum(
            len(parts) * prefix.numel() + sum(ids.numel() for ids, _, _ in parts) for prefix, parts in groups
        )

    def _padded(self, rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        longest = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.from_numpy(row.astype(np.int64))
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(longest)[None] < lengths[:, None]).long()
        return ids.to(self.device), mask.to(self.device), (lengths - 1).to(self.device)


def _cache_name(shape: Shape) -> str:
    return "cache_params" if shape.config["model_type"] == "mamba2" else "past_key_values"


def _filled_cache(model: nn.Module, prefix: torch.Tensor, shape: Shape):
    return getattr(model(input_ids=prefix, use_cache=True), _cache_name(shape))


def cross_encoder(shape: Shape, sequences: PairSequences, precision: Precision, device: torch.device) -> Step | None:
    """sentence-transformers' CrossEncoder over as many words; None where it is not installed."""
    if importlib.util.find_spec("sentence_transformers") is None:
        print("sentence-transformers: not installed, left out (pip install sentence-transformers)", flush=True)
        return None
    from sentence_transformers import CrossEncoder
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

    folder = tempfile.mkdtemp()
    torch.manual_seed(0)
    config = AutoConfig.for_model(**(shape.config | {"num_labels": 1}))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    words = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3} | {f"w{number}": number for number in range(4, 30000)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = CrossEncoder(
        folder, device=str(device), max_length=sequences.max_length, model_kwargs={"torch_dtype": dtype}
    )
    texts = []
    for pair in range(len(sequences)):
        whole = [f"w{number}" for number in (sequences[pair] % 29000 + 4).tolist()]
        cut = len(whole) - int(sequences.whole[pair])
        # The three special tokens stand for as many of the sequence's.
        texts.append((" ".join(whole[: max(1, cut - 2)]), " ".join(whole[cut + 1 :])))
    return lambda: model.predict(texts, batch_size=PADDED_BATCH, show_progress_bar=False)


def llama_cpp(shape: Shape, kind: str, tokens: int, python: str | None) -> Step | None:
    """llama.cpp's pass over so many tokens of a random model of this shape; None where it is not installed.

    It runs in a process of its own, which answers when a pass is done.
    """
    script = Path(__file__).parent / "llama_process.py"
    command = [python or sys.executable, str(script), json.dumps(shape.config), kind, str(tokens)]
    command.append(str(torch.get_num_threads()))
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    answer = stdout.readline().strip()
    if answer != "ready":
        print(f"llama.cpp: left out ({answer or 'its process ended'})", flush=True)
        return None

    def run() -> None:
        stdin.write("run\n")
        stdin.flush()
        if stdout.readline().strip() != "done":
            raise RuntimeError("llama.cpp's process ended")

    return run
