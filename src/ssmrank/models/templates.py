"""How a query and a document become the tokens of one sequence (section 3 of the paper).

Decoders read `document: {d}; query: {q}; [EOS]`, encoders `[CLS]; query: {q}; document: {d}`. Both can instead read the
query on both sides, `query: {q}; document: {d}; query: {q};`, with the same special tokens. A recurrent state then
knows what to keep of the document (Arora et al. 2024, "Just read twice"). Training and reranking build their sequences
here.

The query side and the document side are tokenized separately. They are split after a `;`, so the tokens are those of
the joint text. If a sequence would be too long, the document loses its last tokens. The query is only cut if it leaves
no room for a document at all (`fit_queries`). Special tokens come from the template alone: `</s>` within a text is read
as these four characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ssmrank.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Kind = Literal["E", "ED", "D"]
Order = Literal["query-first", "document-first", "query-document-query"]
LongQueries = Literal["cut", "error"]
"""How a query that leaves no room for a document is treated: cut to half of the sequence, or an error."""


@dataclass(frozen=True)
class Template:
    """The token ids around and between query and document, for one tokenizer and kind of model.

    order: order of the sides; before: ids at the start of every sequence; after: ids at its end; separator: ids of the
    `;` that a cut document keeps if a query follows.
    """

    kind: Kind
    order: Order
    tokenizer: PreTrainedTokenizerBase
    before: tuple[int, ...]
    after: tuple[int, ...]
    separator: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, kind: Kind, order: Order | None = None) -> Template:
        """The template of this kind of model: the paper's, unless `order` says otherwise.

        [EOS] is the tokenizer's end of sequence ([SEP] for BERT). [CLS] is its class token (<s> for BART and RoBERTa).
        If a decoder's tokenizer starts every text with a token (OPT: </s>, Llama: <|begin_of_text|>), it is kept.
        Raises UserError if the tokenizer lacks such a token.
        """
        before: tuple[int, ...]
        after: tuple[int, ...]
        separator = tuple(tokenizer.encode(";", add_special_tokens=False))
        if kind == "D":
            start = tokenizer.encode("a")[0]
            before = (start,) if tokenizer.bos_token_id is not None and start == tokenizer.bos_token_id else ()
            after = (_special(tokenizer, "eos", "sep"),)
        else:
            before, after = (_special(tokenizer, "cls", "bos"),), ()
        order = order or ("document-first" if kind == "D" else "query-first")
        if order == "query-document-query" and kind != "D":
            before += separator  # in other orders it is part of the query side, but here both query sides are the same
        return cls(kind, order, tokenizer, before, after, separator)

    def tokenize_documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The uncut document side of each text, int32 ids."""
        begin, end = self.around_document
        return self._tokenize([f"{begin}{text}{end}" for text in texts])

    @property
    def around_document(self) -> tuple[str, str]:
        """The text before and after a document's own."""
        begin = "document: " if self.order == "document-first" else " document: "
        return begin, ";" if self.query_follows else ""

    @property
    def around_query(self) -> tuple[str, str]:
        """The text before and after a query's own."""
        return " query: " if self.query_follows else "; query: ", ";"

    @property
    def query_follows(self) -> bool:
        """Whether a query side follows the document side."""
        return self.order != "query-first"

    @property
    def query_copies(self) -> int:
        """How many times a sequence contains the query side."""
        return 2 if self.order == "query-document-query" else 1

    def document_head(self) -> np.ndarray:
        """The tokens that start every document side, int32 ids."""
        return self._tokenize(["document:" if self.order == "document-first" else " document:"])[0]

    def tokenize_queries(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The query side of each text, int32 ids."""
        begin, end = self.around_query
        return self._tokenize([f"{begin}{text}{end}" for text in texts])

    def fit_queries(
        self, queries: Sequence[np.ndarray], max_length: int, names: Sequence[str], long: LongQueries = "cut"
    ) -> list[np.ndarray]:
        """The query sides. One that leaves no room for a document is cut to half of `max_length`.

        If the query is read twice, it is cut to a quarter. It keeps the separator at its end. names: ids for error
        messages. Raises UserError if a query must not be cut (long: error), or if cutting does not help.
        """
        fitted = []
        for query, name in zip(queries, names, strict=True):
            if long == "cut" and self.cuts(len(query), max_length):
                share = max_length // (2 * self.query_copies)
                query = np.concatenate([query[: share - len(self.separator)], self.separator])
                query = query.astype(np.int32)
            self.room(len(query), max_length, name)
            fitted.append(query)
        return fitted

    def count_long(self, queries: Sequence[np.ndarray], max_length: int) -> int:
        """How many of the query sides leave no room for a document."""
        return sum(self.cuts(len(query), max_length) for query in queries)

    def cuts(self, query_tokens: int, max_length: int) -> bool:
        """Whether a query side of `query_tokens` leaves no room for a document."""
        return self._room(query_tokens, max_length) < self._least

    def join(self, query: np.ndarray, document: np.ndarray, max_length: int, query_id: str = "") -> np.ndarray:
        """One sequence of at most `max_length` ids, int32, with the document cut to fit.

        Raises UserError if the query leaves no room for a token of the document.
        """
        room = self.room(len(query), max_length, query_id)
        if len(document) > room:
            document = self._cut(document, room)
        first = () if self.order == "document-first" else query
        last = query if self.query_follows else ()
        return np.concatenate([self.before, first, document, last, self.after]).astype(np.int32)

    def room(self, query_tokens: int, max_length: int, query_id: str = "") -> int:
        """How many tokens a document may have beside a query of `query_tokens`. Raises UserError if it has no room."""
        room = self._room(query_tokens, max_length)
        if room < self._least:
            raise UserError(
                f"query {query_id}: its {query_tokens} tokens leave no room for a document in max_length {max_length}; "
                "raise max_length in section trainings, shorten the query or set long_queries: cut"
            )
        return room

    def _room(self, query_tokens: int, max_length: int) -> int:
        return max_length - len(self.before) - self.query_copies * query_tokens - len(self.after)

    @property
    def _least(self) -> int:
        """The least number of tokens of a document side."""
        return 1 + len(self.separator)

    def _cut(self, document: np.ndarray, room: int) -> np.ndarray:
        if not self.query_follows:
            return document[:room]
        return np.concatenate([document[: room - len(self.separator)], self.separator])

    def _tokenize(self, texts: list[str]) -> list[np.ndarray]:
        if not texts:
            return []
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            # The fast method leaves out the tokens' offsets in the text, which take a third of the time.
            backend.no_truncation()
            backend.no_padding()
            backend.encode_special_tokens = True
            encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
            return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        encoded = self.tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )
        return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]


def _special(tokenizer: PreTrainedTokenizerBase, *names: str) -> int:
    for name in names:
        token = getattr(tokenizer, f"{name}_token_id")
        if token is not None:
            return token
    raise UserError(
        f"tokenizer {tokenizer.name_or_path}: has no {' or '.join(names)} token; name one in its tokenizer_config.json"
    )
