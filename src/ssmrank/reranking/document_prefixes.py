"""Splits the sequence of a pair into the document's part, which others share, and the rest.

The prefix ends after the document and what all queries begin with, ` query:`. If a document is cut, where it ends
depends on the query's length. Its prefix then ends at a multiple of `CUT_STEP` tokens, so that queries of similar
lengths share it, and the document's last tokens belong to the rest. A query may also use a prefix that is some steps
shorter. The prefix of a document that is read twice holds both copies, of lengths that queries of similar lengths share
too (`templates.COPY_STEP`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from ssmrank.models.templates import Template

CUT_STEP = 16
"""Where prefixes of cut documents end. A longer step keeps fewer states, and makes sequences after them longer."""

MOST_STEPS = 2
"""By how many steps the prefix of a long document may be shorter than the query needs."""

_REMEMBERED = 2**26
"""Bytes of tokens that are remembered, so that a document is not tokenized again."""

_ENTRY = 400
"""Bytes that an entry takes beside its tokens."""


class Prefix(NamedTuple):
    """The beginning of a sequence, int32 ids; key: a digest of them."""

    key: bytes
    tokens: np.ndarray


class SplitPair(NamedTuple):
    """A pair's sequence: the prefix and what follows, int32 ids of at least one token.

    long: whether the document is cut, or would be beside a query that is a few steps longer.
    """

    prefix: Prefix
    suffix: np.ndarray
    long: bool


@dataclass
class Document:
    """A document's tokens, and the prefixes made of them.

    tokens: the document side, at most `max_length` ids; size: how many it has uncut; prefixes: those that were made, by
    their parts' lengths; remembered: whether a splitter still has it.
    """

    tokens: np.ndarray
    size: int
    prefixes: dict[tuple[int, int], Prefix] = field(default_factory=dict)
    remembered: bool = False


class PairSplitter:
    """Makes the sequences that `Template.join` makes of texts, in two parts. It remembers documents' tokens.

    For several threads: while one tokenizes, others split pairs.
    """

    def __init__(self, template: Template, max_length: int) -> None:
        self.template, self.max_length = template, max_length
        self._before = np.array(template.before, dtype=np.int32)
        self._after = np.array(template.after, dtype=np.int32)
        self._separator = np.array(template.separator, dtype=np.int32)
        self._head = template.query_head()
        self._documents: OrderedDict[bytes, Document] = OrderedDict()
        self._bytes = 0
        self._tokenizing, self._remembering = threading.Lock(), threading.Lock()

    def queries(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The query side of each text, int32 ids, cut as `Template.fit_queries` cuts it."""
        names = [repr(text[:60]) for text in texts]
        with self._tokenizing:
            sides = self.template.tokenize_queries(texts)
        return self.template.fit_queries(sides, self.max_length, names)

    def documents(self, texts: Sequence[str]) -> list[Document]:
        """The document side of each text; texts that were seen are not tokenized again."""
        keys = [_digest(text.encode()) for text in texts]
        return self._found(keys, lambda places: self.document_sides([texts[place] for place in places]))

    def document_sides(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The uncut document side of each text, int32 ids; none is remembered."""
        with self._tokenizing:
            return self.template.tokenize_documents(texts)

    def documents_of(self, sides: Sequence[np.ndarray]) -> list[Document]:
        """Documents of document sides, int32 ids, that were made otherwise, such as a long document's passages."""
        keys = [_digest(b"tokens " + side.tobytes()) for side in sides]
        return self._found(keys, lambda places: [sides[place] for place in places])

    def _found(self, keys: list[bytes], make: Callable[[list[int]], list[np.ndarray]]) -> list[Document]:
        """The documents of these keys; `make` gives the sides at the places of those that are not remembered."""
        with self._remembering:
            found = {key: self._documents[key] for key in keys if key in self._documents}
        new = {key: place for place, key in enumerate(keys) if key not in found}
        made = {
            key: Document(side[: self.max_length].copy(), len(side))
            for key, side in zip(new, make(list(new.values())), strict=True)
        }
        with self._remembering:
            for key in dict.fromkeys(keys):
                document = found.get(key) or self._documents.get(key) or made[key]
                found[key] = document
                if not document.remembered:
                    self._documents[key] = document
                    self._bytes += _bytes_of(document)
                    document.remembered = True
                self._documents.move_to_end(key)
            while self._bytes > _REMEMBERED and len(self._documents) > len(keys):
                _, oldest = self._documents.popitem(last=False)
                self._bytes -= _bytes_of(oldest)
                oldest.remembered = False
        return [found[key] for key in keys]

    def split(self, query: np.ndarray, document: Document, steps: int = 0) -> SplitPair:
        """The sequence of a query side and a document; steps: by how many the prefix of a long document is shorter."""
        room = self.template.room(len(query), self.max_length)
        whole = len(document.tokens)
        if self.template.document_copies > 1:
            shared = self._shared(query)
            prefix = self._prefix(document, int(self.template.kept(whole, room)), shared)
            return SplitPair(prefix, np.concatenate([query[shared:], self._after]), False)
        if whole <= room and steps:
            end = self._boundary(whole, steps - 1)
            rest = document.tokens[end:]
            return SplitPair(self._prefix(document, end, 0), np.concatenate([rest, query, self._after]), True)
        if whole <= room:
            shared = self._shared(query)
            prefix = self._prefix(document, whole, shared)
            return SplitPair(
                prefix, np.concatenate([query[shared:], self._after]), whole > room - MOST_STEPS * CUT_STEP
            )
        kept = room - len(self._separator)
        end = self._boundary(kept, steps)
        rest = document.tokens[end:kept]
        suffix = np.concatenate([rest, self._separator, query, self._after])
        return SplitPair(self._prefix(document, end, 0), suffix, True)

    def longest_prefix(self, document: Document, query_tokens: int) -> Prefix:
        """The prefix that queries of so many tokens have, without knowing them."""
        room, whole = self.template.room(query_tokens, self.max_length), len(document.tokens)
        if self.template.document_copies > 1:
            return self._prefix(document, int(self.template.kept(whole, room)), len(self._head))
        if whole <= room:
            return self._prefix(document, whole, len(self._head))
        return self._prefix(document, self._boundary(room - len(self._separator)), 0)

    def _shared(self, query: np.ndarray) -> int:
        """How many tokens of the template a query side begins with, if it is not one of the few where they join."""
        return len(self._head) if np.array_equal(query[: len(self._head)], self._head) else 0

    def _boundary(self, kept: int, steps: int = 0) -> int:
        """How many of a cut document's `kept` tokens belong to the prefix."""
        end = ((len(self._before) + kept) // CUT_STEP - steps) * CUT_STEP - len(self._before)
        return end if end > 0 else kept

    def _prefix(self, document: Document, end: int, shared: int) -> Prefix:
        """The beginning of a sequence with `end` tokens of the document, or twice as many of one that is read twice."""
        found = document.prefixes.get((end, shared))
        if found is None:
            twice = self.template.document_copies > 1
            read = self.template.copies(document.tokens, end) if twice else document.tokens[:end]
            tokens = np.concatenate([self._before, read, self._head[:shared]])
            found = Prefix(_digest(tokens.tobytes()), tokens)
            with self._remembering:
                if document.remembered and (end, shared) not in document.prefixes:
                    self._bytes += _ENTRY + tokens.nbytes
                document.prefixes[end, shared] = found
        return found


def _bytes_of(document: Document) -> int:
    prefixes = sum(_ENTRY + prefix.tokens.nbytes for prefix in document.prefixes.values())
    return _ENTRY + document.tokens.nbytes + prefixes


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()
