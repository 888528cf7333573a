"""Documents as tokens, made once and memory-mapped.

`token_store` gives the document side of `models.templates` for the texts of a `documents.jsonl`. Its files are in a
cache folder whose name is a digest of everything that the tokens depend on: tokenizer, template, file, ids and cut. So
models with the same tokenizer share the files, and a training that resumes after a kill finds them.

- `tokens.bin`, int32 [all tokens]: the documents end to end;
- `offsets.npy`, int64 [N + 1]: where each document starts;
- `keys.npy`, uint64 [N]: a 64-bit hash of each id, ascending;
- `rows.npy`, uint32 [N]: the document of each hash.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory, one_at_a_time
from ssmrank.io.texts import TextStore, UnknownId
from ssmrank.lifetime import end_with, myself
from ssmrank.models.templates import Kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

PARALLEL_FROM = 50_000
"""Fewer texts are tokenized in this process, because starting others takes longer."""

_CHUNK = 2_000


class DocumentTokens(Protocol):
    """A template: what makes tokens of documents."""

    @property
    def kind(self) -> Kind:
        """E, ED or D."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""

    def tokenize_documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The uncut tokens of each text, int32 ids."""
        ...


def limit_tokenizer_threads() -> None:
    """Limits the tokenizer to four threads in this process, unless the environment sets a number.

    More threads would slow down the process's other work, which is to feed a GPU. The tokenizer reads the number when
    it starts its threads, so a command calls this before it tokenizes.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", str(min(4, os.cpu_count() or 1)))


class TokenStore:
    """`store[id]` is the document side of a document, int32 ids; `in` and `len` work as in a mapping."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._offsets, self._keys, self._rows = (
            np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in ("offsets", "keys", "rows")
        )
        self._tokens = _map(folder / "tokens.bin", int(self._offsets[-1]))

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self._row(id) is not None

    def __getitem__(self, id: str) -> np.ndarray:
        row = self._row(id)
        if row is None:
            raise UnknownId(f"document {id!r}: not among the tokenized ones; run, groups and collection must fit")
        return self._tokens[self._offsets[row] : self._offsets[row + 1]]

    def _row(self, id: str) -> int | None:
        key = np.uint64(_key(id))
        place = int(np.searchsorted(self._keys, key))
        return int(self._rows[place]) if place < len(self._keys) and self._keys[place] == key else None


def token_store(
    texts: str | Path | TextStore,
    template: DocumentTokens,
    cache: str | Path,
    ids: Iterable[str] | None = None,
    max_tokens: int | None = None,
    processes: int | None = None,
) -> TokenStore:
    """The tokens of documents, read from the cache or made now.

    Args:
        texts: a `documents.jsonl`, or its store.
        template: the model's template; its tokenizer is used.
        cache: folder of token folders, each complete or absent.
        ids: the wanted documents; None: the whole file.
        max_tokens: how many tokens of each document are kept. A model's `max_length` is enough, because its template
            cuts a document of that many tokens anyway, and to the same tokens.
        processes: how many tokenize; None: one for each core, or this process alone below `PARALLEL_FROM` texts.

    Raises UserError for an id that the file does not have.
    """
    store = texts if isinstance(texts, TextStore) else TextStore(texts)
    wanted = sorted(set(ids)) if ids is not None else list(store.ids())
    folder = Path(cache) / _digest(store, template, wanted if ids is not None else None, max_tokens)
    with one_at_a_time(folder):
        # Another process may be making the same tokens: the lock waits for it.
        try:
            return TokenStore(folder)
        except (OSError, ValueError, EOFError, IndexError):  # absent or damaged
            _write(folder, store, template, wanted, max_tokens, processes)
    return TokenStore(folder)


def _write(
    folder: Path,
    store: TextStore,
    template: DocumentTokens,
    wanted: Sequence[str],
    max_tokens: int | None,
    processes: int | None,
) -> None:
    keys = np.fromiter((_key(id) for id in wanted), dtype=np.uint64, count=len(wanted))
    rows = np.argsort(keys, kind="stable").astype(np.uint32)
    if (np.diff(keys[rows]) == 0).any():
        raise UserError(f"{store.path}: two ids have the same 64-bit hash; rename one of them")
    lengths = []
    with atomic_directory(folder) as temporary:
        with (temporary / "tokens.bin").open("wb") as stream:
            for tokens, counts in _tokenize(store, template, wanted, max_tokens, processes):
                tokens.tofile(stream)
                lengths.append(counts)
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
        for name, array in (("offsets", offsets), ("keys", keys[rows]), ("rows", rows)):
            np.save(temporary / f"{name}.npy", array)
    log.info("%d documents, %d tokens in %s", len(wanted), offsets[-1], folder)


_Chunk = tuple[np.ndarray, np.ndarray]
"""Tokens of some documents end to end, int32, and how many each has, int64."""


def _tokenize(
    store: TextStore, template: DocumentTokens, ids: Sequence[str], max_tokens: int | None, processes: int | None
) -> Iterator[_Chunk]:
    processes = processes or (1 if len(ids) < PARALLEL_FROM else os.cpu_count() or 1)
    chunks = _chunks(ids)
    if processes == 1:
        yield from (_tokenize_chunk(store, template, chunk, max_tokens) for chunk in chunks)
        return
    # Not fork: a forked copy of a process with running threads (torch's, the tokenizer's) may deadlock.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(processes, _start_worker, (myself(), store, template, max_tokens)) as pool:
        yield from pool.imap(_work, chunks)


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    remaining = iter(ids)
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk


def _tokenize_chunk(store: TextStore, template: DocumentTokens, ids: Sequence[str], max_tokens: int | None) -> _Chunk:
    documents = [tokens[:max_tokens] for tokens in template.tokenize_documents([store[id] for id in ids])]
    counts = np.array([len(tokens) for tokens in documents], dtype=np.int64)
    return np.concatenate([np.empty(0, dtype=np.int32), *documents]), counts


_worker: tuple[TextStore, DocumentTokens, int | None]


def _start_worker(starter: str, store: TextStore, template: DocumentTokens, max_tokens: int | None) -> None:
    global _worker
    end_with(starter)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _worker = store, template, max_tokens


def _work(ids: list[str]) -> _Chunk:
    store, template, max_tokens = _worker
    return _tokenize_chunk(store, template, ids, max_tokens)


def _digest(texts: TextStore, template: DocumentTokens, ids: Sequence[str] | None, max_tokens: int | None) -> str:
    tokenizer = template.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    # The tokens of a few sample texts identify what the template puts around a text.
    shown = [tokens.tolist() for tokens in template.tokenize_documents(["", "a", "The 1st; text."])]
    chosen = None if ids is None else hashlib.sha256("\n".join(ids).encode()).hexdigest()
    facts = [type(tokenizer).__name__, described, template.kind, shown, texts.digest, chosen, max_tokens]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _key(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode("utf-8"), digest_size=8).digest(), "little")


def _map(path: Path, tokens: int) -> np.ndarray:
    """Maps a file of int32 tokens. Raises ValueError if its size does not match their number."""
    if path.stat().st_size != 4 * tokens:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, expected {4 * tokens}")
    if tokens == 0:
        return np.empty(0, dtype=np.int32)
    # A plain view, because slicing an np.memmap costs several times as much as slicing an ndarray.
    return np.memmap(path, dtype=np.int32, mode="r").view(np.ndarray)
