"""Tokens of a request's texts: counted, and checked against or cut to what the model reads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ssmrank.errors import UserError
from ssmrank.models.reranker import Reranker


@dataclass(frozen=True)
class Truncation:
    """What happens to a pair that is too long.

    allowed: whether the document may be cut, otherwise the pair is an error; left: whether a document loses its first
    tokens, otherwise its last; name: what the request calls its documents, for errors.
    """

    allowed: bool = True
    left: bool = False
    name: str = "documents"


class Measured(NamedTuple):
    """A document as it is to be scored, and the tokens of its sequence with the query."""

    text: str
    tokens: int


class LengthChecker:
    """Measures documents. It has a tokenizer of its own, so that it can run beside the thread that scores."""

    def __init__(self, model: Reranker) -> None:
        self._template = replace(model.template, tokenizer=copy.deepcopy(model.template.tokenizer))
        self._max_length = model.settings.max_length

    def measure(
        self, query: str, documents: Sequence[str], truncation: Truncation, numbers: Sequence[int]
    ) -> list[Measured]:
        """The documents of a query; numbers: their places in the request, for errors.

        Raises UserError if a pair is too long and must not be cut.
        """
        template, longest = self._template, self._max_length
        [whole] = template.tokenize_queries([query])
        if template.cuts(len(whole), longest) and not truncation.allowed:
            raise UserError(
                f"query: its {len(whole)} tokens leave no room for a document in the model's {longest}; shorten it, or "
                "allow truncation"
            )
        [asked] = template.fit_queries([whole], longest, ["of this request"])
        room = template.room(len(asked), longest)
        around = len(template.before) + template.query_copies * len(asked) + len(template.after)
        found = []
        for number, text, tokens in zip(numbers, documents, template.tokenize_documents(documents), strict=True):
            size = len(tokens)
            if size > room and not truncation.allowed:
                raise UserError(
                    f"{truncation.name}[{number}]: {around + size} tokens with the query, but the model reads "
                    f"{longest}; shorten it, or allow truncation"
                )
            if size > room and truncation.left:
                text, size = self._without_beginning(text, size, room)
            found.append(Measured(text, around + min(size, room)))
        return found

    def _without_beginning(self, text: str, size: int, room: int) -> tuple[str, int]:
        """The longest end of a text whose document side has at most `room` tokens, and that number."""
        backend = getattr(self._template.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UserError("truncation_direction: this model's tokenizer cannot cut on the left; leave it out")
        starts = [start for start, _ in backend.encode(text, add_special_tokens=False).offsets]
        dropped = size - room
        while dropped < len(starts):
            end = text[starts[dropped] :]
            [tokens] = self._template.tokenize_documents([end])
            if len(tokens) <= room:
                return end, len(tokens)
            dropped += len(tokens) - room  # a text that begins within a word may have a token more
        return "", len(self._template.tokenize_documents([""])[0])
