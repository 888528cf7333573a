"""The rerankers of the benchmarks: ours, unmodified transformers, sentence-transformers, llama.cpp."""

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
import peers
import torch
from measure import first_line
from shapes import Shape
from torch import nn

from ssmrank.kernels.dispatch import is_available
from ssmrank.models.backbones import new_config
from ssmrank.models.precision import Precision, autocast
from ssmrank.models.reranker import Reranker, RerankerSettings
from ssmrank.reranking.batches import Batch, plan_batches
from ssmrank.reranking.scoring import Scorer
from ssmrank.reranking.sequences import PairSequences

Step = Callable[[], None]


def padded_batch(device: torch.device, longest: int = 512) -> int:
    """Pairs in a padded batch: few on a CPU, where more gain nothing; on a GPU up to 65,536 tokens."""
    return 4 if device.type == "cpu" else min(128, max(1, 65536 // longest))


class _RandomReranker(Reranker):
    """A reranker with random weights, without a tokenizer."""

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

    def __init__(
        self, shape: Shape, max_length: int, precision: Precision, device: torch.device, fused: bool = True
    ) -> None:
        with torch.device(device):
            self.reranker = _RandomReranker(shape, max_length).eval()
        self.precision, self.device, self.fused = precision, device, fused

    def step(self, sequences: PairSequences, token_budget: int, share: bool) -> tuple[Step, int]:
        """A pass over all pairs, including planning, and the number of tokens that it computes."""
        scorer = Scorer(self.reranker, self.precision, self.device, self.fused)
        batches = plan_batches(sequences, token_budget, share)
        tokens = sum(batch.tokens for batch in batches)
        if self.device.type == "cuda":
            # Kernels are compiled at first use, so use them before a pass over a whole workload is timed.
            for _ in scorer.run(enumerate([*batches[:3], *batches[-2:]])):
                pass

        def run() -> None:
            for _ in scorer.run(enumerate(plan_batches(sequences, token_budget, share))):
                pass

        return run, tokens

    def step_by_count(self, sequences: PairSequences, count: int) -> tuple[Step, int]:
        """As `step`, in batches of `count` pairs, as the paper measures."""
        scorer = Scorer(self.reranker, self.precision, self.device, self.fused)
        order = np.argsort(-sequences.lengths, kind="stable")
        batches = [
            Batch(sequences, chosen, (), int(sequences.lengths[chosen].sum()))
            for chosen in (order[start : start + count] for start in range(0, len(order), count))
        ]

        def run() -> None:
            for _ in scorer.run(enumerate(batches)):
                pass

        return run, int(sequences.lengths.sum())


class Theirs:
    """transformers' own model in float32 or bf16; bf16 is autocast on a CPU, and bf16 weights on a GPU."""

    def __init__(self, shape: Shape, precision: Precision, device: torch.device) -> None:
        with torch.device(device):
            self.model, self.shape = shape.theirs().eval(), shape
        self.precision, self.device = precision, device
        if device.type == "cuda" and precision == "bf16":
            # Weights in bf16 avoid autocast's copies; this is users' fastest option.
            self.model.to(torch.bfloat16)
            self.precision = "fp32"

    def padded(self, sequences: PairSequences) -> tuple[Step, int]:
        """A pass over whole pairs, sorted by length, in right-padded batches, and the tokens that it computes."""
        order = np.argsort(-sequences.lengths, kind="stable").tolist()
        size = padded_batch(self.device, int(sequences.lengths.max()))
        if expands_states(self.shape, self.device):
            size = max(1, 2048 // int(sequences.lengths.max()))
        batches = [
            self._padded([sequences[pair] for pair in order[start : start + size]])
            for start in range(0, len(order), size)
        ]
        rows = torch.arange(size, device=self.device)

        def run() -> None:
            for ids, mask, last in batches:
                with torch.inference_mode(), autocast(self.precision, self.device):
                    states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
                    pooled = states[:, 0] if self.shape.pools_first else states[rows[: len(ids)], last]
                    pooled.float().cpu()

        return run, sum(ids.numel() for ids, _, _ in batches)

    def cached(self, sequences: PairSequences) -> tuple[Step, int] | None:
        """A pass that reads each document once, then its queries in padded batches from transformers' cache.

        None if that fails. A query's tokens are read all at once if the cache takes several, otherwise one by one: with
        several tokens, Mamba-1's cache starts the scan anew, and so do CUDA kernels for Mamba-2.
        """
        groups = []
        by_document = groupby(np.argsort(sequences.document, kind="stable").tolist(), lambda p: sequences.document[p])
        size = 64 if self.device.type == "cpu" else 512
        for _, members in by_document:
            pairs = list(members)
            kept = int(sequences.whole[pairs].min())
            whole = [sequences[pair] for pair in pairs]
            prefix = torch.from_numpy(whole[0][:kept].astype(np.int64))[None].to(self.device)
            rest = sorted((ids[kept:] for ids in whole), key=len)
            parts = [rest[start : start + size] for start in range(0, len(rest), size)]
            groups.append((prefix, [self._padded(part) for part in parts]))

        def run() -> None:
            for prefix, parts in groups:
                for ids, _, last in parts:
                    self._continued(prefix, ids, last, at_once).float().cpu()

        prefix, [(ids, _, last), *_] = groups[0]
        exact = self._recomputed(prefix, ids, last)
        for at_once in (True, False):
            try:
                found = self._continued(prefix, ids, last, at_once)
            except Exception as error:
                print(f"transformers, own cache, {_way(at_once)}: fails ({first_line(error)})", flush=True)
                continue
            likeness = torch.cosine_similarity(found.float(), exact.float()).min().item()
            if likeness > 0.98:
                print(f"transformers, own cache: {_way(at_once)}", flush=True)
                break
            print(f"transformers, own cache, {_way(at_once)}: wrong (cosine {likeness:.2f})", flush=True)
        else:
            return None
        return run, sum(
            len(parts) * prefix.numel() + sum(ids.numel() for ids, _, _ in parts) for prefix, parts in groups
        )

    def _recomputed(self, prefix: torch.Tensor, ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([prefix.expand(len(ids), -1), ids], dim=1)
        rows = torch.arange(len(ids), device=self.device)
        with torch.inference_mode(), autocast(self.precision, self.device):
            return self.model(input_ids=whole).last_hidden_state[rows, prefix.shape[1] + last]

    def _continued(self, prefix: torch.Tensor, ids: torch.Tensor, last: torch.Tensor, at_once: bool) -> torch.Tensor:
        """States of each row's last token, from a cache that the prefix has filled."""
        name = "cache_params" if self.shape.config["model_type"] in ("mamba", "mamba2") else "past_key_values"
        with torch.inference_mode(), autocast(self.precision, self.device):
            cache = getattr(self.model(input_ids=prefix, use_cache=True), name)
            cache.reorder_cache(torch.zeros(len(ids), dtype=torch.int64, device=self.device))
            states = [
                self.model(input_ids=part, use_cache=True, **{name: cache}).last_hidden_state
                for part in ([ids] if at_once else ids.split(1, dim=1))
            ]
            return torch.cat(states, dim=1)[torch.arange(len(ids), device=self.device), last]

    def _padded(self, rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Ids [rows, longest], their mask (None if nothing is padded), and the index of each row's last token."""
        longest = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.from_numpy(row.astype(np.int64))
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(longest)[None] < lengths[:, None]).long().to(self.device)
        padded = bool((lengths < longest).any())
        return ids.to(self.device), mask if padded else None, (lengths - 1).to(self.device)


def _way(at_once: bool) -> str:
    return "a query at once" if at_once else "token by token"


def mixer_model(
    shape: Shape, sequences: PairSequences, precision: Precision, device: torch.device
) -> tuple[Step, int] | None:
    """mamba_ssm's MixerModel over sequences of one length, in bf16 on a GPU; None if it has no such model."""
    if shape.config["model_type"] not in ("mamba", "mamba2"):
        return None
    if device.type != "cuda" or not is_available("mamba_ssm"):
        print("mamba_ssm: not installed or no GPU, MixerModel left out", flush=True)
        return None
    model = peers.mixer_model(shape, device).eval()
    if precision == "bf16":
        model.to(torch.bfloat16)
    ids = torch.from_numpy(np.stack([sequences[pair] for pair in range(len(sequences))]).astype(np.int64)).to(device)
    batches = ids.split(padded_batch(device, ids.shape[1]))

    def run() -> None:
        for batch in batches:
            with torch.inference_mode():
                model(batch)[:, -1].float().cpu()

    return run, ids.numel()


def lacks_kernels(shape: Shape, device: torch.device) -> bool:
    """Whether transformers would run this model on a GPU without mamba_ssm's kernels, which is far too slow."""
    wanted = ("mamba_ssm", "causal_conv1d")
    recurrent = shape.config["model_type"] in ("mamba", "mamba2")
    if device.type != "cuda" or not recurrent or all(is_available(package) for package in wanted):
        return False
    print(f"transformers, {shape.name}: left out, {' or '.join(wanted)} is not installed", flush=True)
    return True


def expands_states(shape: Shape, device: torch.device) -> bool:
    """Whether transformers' hybrid runs without mamba_ssm's kernels: its tensors of a few sequences fill a GPU then."""
    hybrid = shape.config["model_type"] == "granitemoehybrid"
    return hybrid and device.type == "cuda" and not is_available("mamba_ssm")


def cross_encoder(shape: Shape, sequences: PairSequences, precision: Precision, device: torch.device) -> Step | None:
    """sentence-transformers' CrossEncoder over as many words; None if it is not installed."""
    if importlib.util.find_spec("sentence_transformers") is None:
        print("sentence-transformers: not installed, left out (pip install sentence-transformers)", flush=True)
        return None
    from sentence_transformers import CrossEncoder
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    folder = tempfile.mkdtemp()
    torch.manual_seed(0)
    config = new_config(**(shape.config | {"num_labels": 1}))
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
    model = CrossEncoder(folder, device=str(device), max_length=sequences.max_length, model_kwargs={"dtype": dtype})
    texts, longest = [], int(sequences.lengths.max())
    for pair in range(len(sequences)):
        whole = [f"w{number}" for number in (sequences[pair] % 29000 + 4).tolist()]
        cut = len(whole) - int(sequences.whole[pair])
        # The three special tokens take the place of three tokens of the sequence.
        texts.append((" ".join(whole[: max(1, cut - 2)]), " ".join(whole[cut + 1 :])))
    return lambda: model.predict(texts, batch_size=padded_batch(device, longest), show_progress_bar=False)


def llama_cpp(shape: Shape, kind: str, tokens: int, python: str | None) -> Step | None:
    """llama.cpp's pass over `tokens` tokens with a random model of this shape; None if it is not installed.

    It runs in its own process, which answers when a pass is done.
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
