"""Tokens of a request's texts: counted, and checked against or cut to what the model reads."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import NamedTuple

from ssmrank.errors import UserError
from ssmrank.models.reranker import Reranker

_REMEMBERED = 100_000
"""How many documents' sizes are remembered, so that those are not tokenized again."""

_CHARACTERS = 64
"""Of a text, this many characters for each token that the model reads are tokenized, if they are tokens enough."""

_AROUND = 4
"""How many tokens earlier than by their count the end of a text is looked for."""

_STATE_TOKENS = 24
"""The tokens of a batch that stand for a document whose state is kept."""


@dataclass(frozen=True)
class Truncation:
    """What happens to a pair that is too long.

    allowed: whether the document may be cut, otherwise the pair is an error; left: whether a document loses its first
    tokens, otherwise its last; name: what the request calls its documents, for errors.
    """

    allowed: bool = True
    left: bool = False
    name: str = "documents"


class Asked(NamedTuple):
    """A query as it is to be scored, and the tokens of its side, cut as the model reads it."""

    text: str
    tokens: int


class Measured(NamedTuple):
    """A document as it is to be scored.

    tokens: of its sequence with the query; cost: those that will probably be computed.
    """

    text: str
    tokens: int
    cost: int


class LengthChecker:
    """Measures documents, beside the thread that scores.

    It has a tokenizer of its own. sizes: gives the tokens of documents if they are remembered for scoring, so that they
    are tokenized once. keeps_states: whether a document that was seen costs its query's tokens only.
    """

    def __init__(
        self,
        model: Reranker,
        keeps_states: bool,
        sizes: Callable[[Sequence[str]], list[int] | None] = lambda texts: None,
    ) -> None:
        self._template = replace(model.template, tokenizer=copy.deepcopy(model.template.tokenizer))
        self._max_length, self._keeps_states = model.settings.max_length, keeps_states
        self._sizes_of = sizes
        self._sizes: OrderedDict[bytes, int] = OrderedDict()

    def ask(self, query: str, truncation: Truncation) -> Asked:
        """A request's query. Raises UserError if it leaves no room for a document and must not be cut."""
        template, longest = self._template, self._max_length
        text = self._part(query, left=False)
        [whole] = template.tokenize_queries([text])
        if len(text) < len(query) and len(whole) < 2 * longest:
            text = query
            [whole] = template.tokenize_queries([text])
        if template.cuts(len(whole), longest) and not truncation.allowed:
            raise UserError(
                f"query: its {len(whole)} tokens leave no room for a document in the model's {longest}; shorten it, or "
                "allow truncation"
            )
        [asked] = template.fit_queries([whole], longest, ["of this request"])
        return Asked(text, len(asked))

    def measure(
        self, query: Asked, documents: Sequence[str], truncation: Truncation, numbers: Sequence[int]
    ) -> list[Measured]:
        """The documents of a query; numbers: their places in the request, for errors.

        Raises UserError if a pair is too long and must not be cut.
        """
        template, longest = self._template, self._max_length
        room = template.room(query.tokens, longest)
        around = len(template.before) + template.query_copies * query.tokens + len(template.after)
        most, found = template.longest(room), []
        for number, (text, size, seen) in zip(numbers, self._measured(documents, truncation.left), strict=True):
            if size > most and not truncation.allowed:
                whole = around + template.document_copies * size
                raise UserError(
                    f"{truncation.name}[{number}]: {whole} tokens or more with the query, but the model reads "
                    f"{longest}; shorten it, or allow truncation"
                )
            if size > most and truncation.left:
                text, size = self._without_beginning(text, size, most)
            tokens = template.length(query.tokens, size, longest)
            found.append(Measured(text, tokens, min(tokens, around + _STATE_TOKENS) if seen else tokens))
        return found

    def _measured(self, documents: Sequence[str], left: bool) -> list[tuple[str, int, bool]]:
        """For each document what matters of it, its tokens, and whether its state is probably kept."""
        texts = [self._part(text, left) for text in documents]
        keys = [blake2b(text.encode(), digest_size=16).digest() for text in texts]
        seen = {key for key in keys if key in self._sizes}
        known = self._sizes_of(texts)
        if known is None:
            new = {key: text for key, text in zip(keys, texts, strict=True) if key not in seen}
            sides = self._template.tokenize_documents(list(new.values()))
            self._sizes.update(zip(new, map(len, sides), strict=True))
        else:
            self._sizes.update(zip(keys, known, strict=True))
        found = []
        for key, text, whole in zip(keys, texts, documents, strict=True):
            size = self._sizes[key]
            self._sizes.move_to_end(key)
            if len(text) < len(whole) and size < 2 * self._max_length:
                text, size = whole, self._size(whole)
            found.append((text, size, self._keeps_states and key in seen))
        while len(self._sizes) > _REMEMBERED:
            self._sizes.popitem(last=False)
        return found

    def _part(self, text: str, left: bool) -> str:
        """The end of a long text, or its beginning.

        A text of millions of characters takes seconds to tokenize, and the model reads a few hundred tokens of it. The
        part has twice as many, so its last ones, which may differ from the text's own, are not read.
        """
        most = _CHARACTERS * self._max_length
        return text if len(text) <= most else text[-most:] if left else text[:most]

    def _without_beginning(self, text: str, size: int, most: int) -> tuple[str, int]:
        """The longest end of a text whose document side has at most `most` tokens, and that number."""
        backend = getattr(self._template.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UserError("truncation_direction: this model's tokenizer cannot cut on the left; leave it out")
        starts = [start for start, _ in backend.encode(text, add_special_tokens=False).offsets]
        # The first word of a text that is cut may have a token more or less than in the whole one.
        for start in starts[max(0, size - most - _AROUND) :]:
            size = self._size(text[start:])
            if size <= most:
                return text[start:], size
        return "", self._size("")

    def _size(self, text: str) -> int:
        known = self._sizes_of([text])
        return len(self._template.tokenize_documents([text])[0]) if known is None else known[0]
