"""A corpus as tokens on disk, memory-mapped.

A folder has two parts, `train` and `held-out`. Each has two files:

    tokens.bin    uint16 [all tokens], texts laid end to end, without special tokens
    offsets.npy   int64 [texts + 1], where each text starts, and the number of tokens
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from ssmrank.collections.corpus import Text, corpus_files, is_held_out, language_model_text, read_texts
from ssmrank.config.corpora import Corpus
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory
from ssmrank.lifetime import end_with, myself
from ssmrank.models.packed_model import load_tokenizer

log = logging.getLogger(__name__)

Part = Literal["train", "held-out"]
PARTS: tuple[Part, Part] = ("train", "held-out")

_CHUNK = 4096


class CorpusTokens:
    """`tokens[i]` is the ids of text i, uint16; `lengths` is the texts' lengths, int64 [texts]."""

    def __init__(self, folder: Path, part: Part) -> None:
        try:
            self._offsets = np.load(folder / part / "offsets.npy")
            path = folder / part / "tokens.bin"
            if path.stat().st_size != 2 * self._offsets[-1]:
                raise UserError(
                    f"{path}: its length does not fit offsets.npy; make it again with `ssmrank pretrain tokens`"
                )
        except OSError as error:
            raise UserError(f"{folder}: has no tokens; make them with `ssmrank pretrain tokens`") from error
        self.lengths: np.ndarray = np.diff(self._offsets)
        # A plain view, because each slice of a np.memmap costs several times that of an ndarray.
        self._tokens = np.memmap(path, dtype=np.uint16, mode="r").view(np.ndarray)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._tokens[self._offsets[index] : self._offsets[index + 1]]


def write_tokens(corpus: Corpus, tokenizer: Path, max_tokens: int, output: Path, processes: int | None = None) -> None:
    """Tokenizes the corpus and keeps at most `max_tokens` of each text.

    Files are tokenized in parallel, by a process for each core or by `processes`. Texts keep the order of the files and
    of the lines in each. Raises UserError where a part has no text.
    """
    files = corpus_files(corpus)
    cores = len(os.sched_getaffinity(0))
    processes = min(len(files), processes or cores)
    threads = max(1, cores // processes)
    facts: dict[str, dict[str, int]] = {}
    with atomic_directory(output) as folder:
        jobs = [(file, corpus.held_out, tokenizer, max_tokens, folder / f"file{n}") for n, file in enumerate(files)]
        # A fork would copy locks that threads of torch may hold.
        context = multiprocessing.get_context("spawn")
        with context.Pool(processes, _start_worker, (myself(), threads)) as pool:
            pool.starmap(_write_file, jobs, chunksize=1)
        for part in PARTS:
            facts[part] = _join([job[-1] / part for job in jobs], folder / part)
            if not facts[part]["texts"]:
                raise UserError(f"{corpus.path}: no text in part {part}; change held_out in section corpora")
            log.info("%s: %s texts, %s tokens", part, *(f"{facts[part][key]:,}" for key in ("texts", "tokens")))
        for job in jobs:
            job[-1].rmdir()
        (folder / "statistics.json").write_text(json.dumps(facts, indent=2) + "\n")


def _start_worker(starter: str, threads: int) -> None:
    end_with(starter)
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


def _write_file(file: Path, held_out: float, tokenizer: Path, max_tokens: int, output: Path) -> None:
    encode = load_tokenizer(tokenizer).backend_tokenizer.encode_batch_fast
    lengths: dict[Part, list[int]] = {part: [] for part in PARTS}
    for part in PARTS:
        (output / part).mkdir(parents=True)
    with (output / PARTS[0] / "tokens.bin").open("wb") as train, (output / PARTS[1] / "tokens.bin").open("wb") as held:
        streams = dict(zip(PARTS, (train, held), strict=True))
        for texts in _chunks(read_texts(file)):
            encoded = encode([language_model_text(text) for text in texts], add_special_tokens=False)
            for text, encoding in zip(texts, encoded, strict=True):
                part = PARTS[is_held_out(text.id, held_out)]
                ids = np.asarray(encoding.ids[:max_tokens], dtype=np.uint16)
                streams[part].write(ids.tobytes())
                lengths[part].append(len(ids))
    for part in PARTS:
        np.save(output / part / "lengths.npy", np.asarray(lengths[part], dtype=np.int64))


def _chunks(texts: Iterator[Text]) -> Iterator[list[Text]]:
    while chunk := list(islice(texts, _CHUNK)):
        yield chunk


def _join(sources: list[Path], target: Path) -> dict[str, int]:
    target.mkdir()
    lengths = []
    with (target / "tokens.bin").open("wb") as stream:
        for source in sources:
            lengths.append(np.load(source / "lengths.npy"))
            stream.write((source / "tokens.bin").read_bytes())
            for name in ("lengths.npy", "tokens.bin"):
                (source / name).unlink()
            source.rmdir()
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    np.save(target / "offsets.npy", offsets)
    return {"texts": len(offsets) - 1, "tokens": int(offsets[-1])}
