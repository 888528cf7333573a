"""How a query and a document become the tokens of one sequence (section 3 of the paper).

Decoders read `document: {d}; query: {q}; [EOS]`, encoders `[CLS]; query: {q}; document: {d}`. Each can read the other's
order instead, and both can read the query on both sides, `query: {q}; document: {d}; query: {q};`, with the same
special tokens. A recurrent state then knows what to keep of the document (Arora et al. 2024, "Just read twice").
Decoders can also read the document twice, `document: {d}; document: {d}; query: {q};`. Training and reranking build
their sequences here.

The query side and the document side are tokenized separately. They are split after a `;`, so the tokens are those of
the joint text. If a sequence would be too long, the document loses its last tokens; of a document that is read twice,
both copies lose the same ones. The query is only cut if it leaves no room for a document at all (`fit_queries`).
Special tokens come from the template alone: `</s>` within a text is read as these four characters.

A cross-encoder of another library reads what its tokenizer makes of a sentence pair, `[CLS] {q} [SEP] {d} [SEP]`. There
the second text may have tokens of another type. A token's type is kept in the bits of its id above `TYPE_SHIFT`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ssmrank.config.models import ONLY_DECODERS
from ssmrank.errors import UserError
from ssmrank.models.packing import TYPE_SHIFT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Kind = Literal["E", "ED", "D"]
Order = Literal["query-first", "document-first", "query-document-query", "document-document-query", "sentence-pair"]
PAIR: Order = "sentence-pair"
"""The input of cross-encoders of other libraries. The others are ours."""
TWICE: Order = "document-document-query"
"""For decoders: an encoder sees the whole document at its first token."""
COPY_STEP = 8
"""A copy of a cut document has a multiple of this many tokens, so that queries of similar lengths share both copies."""
LongQueries = Literal["cut", "error"]
"""How a query that leaves no room for a document is treated: cut to half of the sequence, or an error."""


@dataclass(frozen=True)
class Template:
    """The token ids around and between query and document, for one tokenizer and kind of model.

    order: order of the sides; before: ids at the start of every sequence; after: ids at its end; separator: ids of the
    `;` that a cut document keeps if a query follows; for a sentence pair those between its texts, which end the query
    side; document_type: the type of a document's tokens. A document's room is what a sequence leaves for its copies.
    """

    kind: Kind
    order: Order
    tokenizer: PreTrainedTokenizerBase
    before: tuple[int, ...]
    after: tuple[int, ...]
    separator: tuple[int, ...]
    document_type: int = 0

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, kind: Kind, order: Order | None = None) -> Template:
        """The template of this kind of model: the paper's, unless `order` says otherwise.

        [EOS] is the tokenizer's end of sequence ([SEP] for BERT). [CLS] is its class token (<s> for BART and RoBERTa).
        If a decoder's tokenizer starts every text with a token (OPT: </s>, Llama: <|begin_of_text|>), it is kept.
        Raises UserError if the tokenizer lacks such a token, or an encoder is to read the document twice.
        """
        if order == TWICE and kind != "D":
            raise UserError(f"template {TWICE}: {ONLY_DECODERS}")
        if order == PAIR:
            return cls(kind, order, tokenizer, *_around_a_pair(tokenizer))
        before: tuple[int, ...]
        after: tuple[int, ...]
        separator = tuple(tokenizer.encode(";", add_special_tokens=False))
        if kind == "D":
            before, after = start_of_texts(tokenizer), (special_token(tokenizer, "eos", "sep"),)
        else:
            before, after = (special_token(tokenizer, "cls", "bos"),), ()
        order = order or ("document-first" if kind == "D" else "query-first")
        if order == "query-document-query" and kind != "D":
            before += separator  # in other orders it is part of the query side, but here both query sides are the same
        return cls(kind, order, tokenizer, before, after, separator)

    def tokenize_documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The uncut document side of each text, int32 ids."""
        begin, end = self.around_document
        sides = self._tokenize([f"{begin}{text}{end}" for text in texts])
        return [typed(side, self.document_type) for side in sides] if self.document_type else sides

    @property
    def around_document(self) -> tuple[str, str]:
        """The text before and after a document's own."""
        if self.order == PAIR:
            return "", ""
        begin = "document: " if self.order == "document-first" else " document: "
        return begin, ";" if self.query_follows else ""

    @property
    def around_query(self) -> tuple[str, str]:
        """The text before and after a query's own."""
        if self.order == PAIR:
            return "", ""
        return " query: " if self.query_follows else "; query: ", ";"

    @property
    def query_follows(self) -> bool:
        """Whether a query side follows the document side."""
        return self.order not in ("query-first", PAIR)

    @property
    def query_leads(self) -> bool:
        """Whether a query side precedes the document side."""
        return self.order in ("query-first", "query-document-query", PAIR)

    @property
    def query_copies(self) -> int:
        """How many times a sequence contains the query side."""
        return 2 if self.order == "query-document-query" else 1

    @property
    def document_copies(self) -> int:
        """How many times a sequence contains the document side."""
        return 2 if self.order == TWICE else 1

    def document_head(self) -> np.ndarray:
        """The tokens that start every document side, int32 ids."""
        if self.order == PAIR:
            return np.empty(0, dtype=np.int32)
        return self._tokenize(["document:" if self.order == "document-first" else " document:"])[0]

    def query_head(self) -> np.ndarray:
        """The tokens that start most query sides, int32 ids; those of a few queries join with the query's first."""
        begin = self.around_query[0].rstrip()
        return self._tokenize([begin])[0] if begin else np.empty(0, dtype=np.int32)

    def tokenize_queries(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The query side of each text, int32 ids."""
        begin, end = self.around_query
        sides = self._tokenize([f"{begin}{text}{end}" for text in texts])
        if self.order != PAIR:
            return sides
        return [np.concatenate([side, self.separator]).astype(np.int32) for side in sides]

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
        read = self.read(document, self.room(len(query), max_length, query_id))
        first = query if self.query_leads else ()
        last = query if self.query_follows else ()
        return np.concatenate([self.before, first, read, last, self.after]).astype(np.int32)

    def read(self, document: np.ndarray, room: int) -> np.ndarray:
        """What a sequence has of a document side: all its copies, cut to fit into its room."""
        return self.copies(document, int(self.kept(len(document), room)))

    def copies(self, document: np.ndarray, kept: int) -> np.ndarray:
        """The copies of a document side, each cut to `kept` tokens."""
        copy = document if len(document) <= kept else self._cut(document, kept)
        return copy if self.document_copies == 1 else np.concatenate([copy, copy])

    def kept(self, sizes: np.ndarray | int, rooms: np.ndarray | int) -> np.ndarray:
        """How many tokens each copy of document sides with so many tokens has, int64; rooms: of each document."""
        longest = self.longest(rooms)
        if self.document_copies == 1:
            return np.minimum(sizes, longest)
        steps = longest // COPY_STEP * COPY_STEP
        return np.where(np.less_equal(sizes, longest), sizes, np.where(np.greater(steps, 0), steps, longest))

    def longest(self, rooms: Any) -> Any:
        """How many tokens a document side may have that is read whole, of one room or of an array of them."""
        return rooms // self.document_copies

    def length(self, query_tokens: int, document_tokens: int, max_length: int) -> int:
        """How many tokens `join` makes of sides with so many tokens."""
        read = self.document_copies * int(self.kept(document_tokens, self._room(query_tokens, max_length)))
        return len(self.before) + self.query_copies * query_tokens + read + len(self.after)

    def room(self, query_tokens: int, max_length: int, query_id: str = "") -> int:
        """How many tokens a document's copies may have beside a query of `query_tokens`.

        Raises UserError if they have no room.
        """
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
        """The least number of tokens of a document's copies."""
        return self.document_copies * (1 + len(self.separator))

    def _cut(self, document: np.ndarray, kept: int) -> np.ndarray:
        if not self.query_follows:
            return document[:kept]
        return np.concatenate([document[: kept - len(self.separator)], self.separator])

    def _tokenize(self, texts: list[str]) -> list[np.ndarray]:
        return tokenize(self.tokenizer, texts)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[np.ndarray]:
    """The tokens of each text, int32 ids, without special tokens; those within a text are read as characters."""
    if not texts:
        return []
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # The fast method leaves out the tokens' offsets in the text, which take a third of the time.
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
    encoded = tokenizer(
        texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
    )
    return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]


def start_of_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token that a decoder's tokenizer starts every text with (OPT: </s>, Llama: <|begin_of_text|>), if any."""
    start = tokenizer.encode("a")[0]
    return (start,) if tokenizer.bos_token_id is not None and start == tokenizer.bos_token_id else ()


def typed(ids: np.ndarray, types: np.ndarray | int) -> np.ndarray:
    """Token ids with their types, int32."""
    return (ids | (types << TYPE_SHIFT)).astype(np.int32)


def _around_a_pair(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """The ids before, after and between the texts of a sentence pair, and the type of the second text's tokens.

    Raises UserError if the tokenizer does not put the first text first, or gives it tokens of more than one type.
    """
    wrong = UserError(
        f"tokenizer {tokenizer.name_or_path}: makes no sentence pair of a query and a document in this order; give the "
        "tokenizer of a cross-encoder, with tokenizer.json"
    )
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise wrong
    encoded = tokenizer("a", "a")
    owners, ids = encoded.sequence_ids(0), np.array(encoded["input_ids"])
    types = np.array(encoded.get("token_type_ids", np.zeros_like(ids)))
    first, second = (np.flatnonzero([owner == side for owner in owners]) for side in (0, 1))
    whole = all(len(side) and side[-1] - side[0] + 1 == len(side) for side in (first, second))
    if not whole or first[-1] > second[0] or types[: second[0]].any() or len(set(types[second])) > 1:
        raise wrong
    coded = typed(ids, types)
    before, between, after = coded[: first[0]], coded[first[-1] + 1 : second[0]], coded[second[-1] + 1 :]
    return tuple(before.tolist()), tuple(after.tolist()), tuple(between.tolist()), int(types[second[0]])


def special_token(tokenizer: PreTrainedTokenizerBase, *names: str) -> int:
    """The id of the first of these special tokens that the tokenizer has. Raises UserError if it has none."""
    for name in names:
        token = getattr(tokenizer, f"{name}_token_id")
        if token is not None:
            return token
    raise UserError(
        f"tokenizer {tokenizer.name_or_path}: has no {' or '.join(names)} token; name one in its tokenizer_config.json"
    )
