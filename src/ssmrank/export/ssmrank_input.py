"""Reads pairs of query and document as the reranker of this folder was trained to read them.

`ssmrank export` put this file here. sentence-transformers imports it if `trust_remote_code=True` is given. No file of
settings can say what it does: a document that is too long is cut and keeps the `;` that ends it, and a query that
leaves no room for a document is cut too. It needs nothing but sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer


class PairTransformer(Transformer):
    """sentence-transformers' Transformer with the input of a reranker of ssmrank.

    pair_input: `sides` has the text around a query and around a document, `order` the sides of a sequence ("q" and
    "d"); `before` and `after` are the token ids around the sides, `separator` those that a cut side keeps at its end,
    if it has one; a copy of a cut document that is read twice has a multiple of `copy_step` tokens; `max_length` is the
    most tokens of a sequence.
    """

    config_keys: Sequence[str] = [*Transformer.config_keys, "pair_input"]

    def __init__(self, model_name_or_path: str, *, pair_input: dict[str, Any], **settings: Any) -> None:
        super().__init__(model_name_or_path, **settings)
        self.pair_input = pair_input

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **settings: Any) -> dict[str, Any]:
        """Token ids and attention mask of pairs, int64 [pairs, longest]; padding is on the right."""
        if prompt:
            raise ValueError("this reranker reads no prompt; leave prompt and prompt_name out")
        if any(isinstance(pair, str) or len(pair) != 2 for pair in inputs):
            raise ValueError("this reranker scores pairs of two texts: a query and a document")
        queries = self._sides("q", [query for query, _ in inputs])
        documents = self._sides("d", [document for _, document in inputs])
        rows = [self._sequence(query, document) for query, document in zip(queries, documents, strict=True)]
        ids = torch.full((len(rows), max(map(len, rows), default=0)), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = torch.tensor(row), 1
        return {"input_ids": ids, "attention_mask": mask, "modality": "text"}

    def _sides(self, side: str, texts: list[str]) -> list[list[int]]:
        begin, end = self.pair_input["sides"][side]
        whole = [f"{begin}{text}{end}" for text in texts]
        return self.tokenizer(whole, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]

    def _sequence(self, query: list[int], document: list[int]) -> list[int]:
        own = self.pair_input
        longest, order, separator = own["max_length"], own["order"], own["separator"]
        left = longest - len(own["before"]) - len(own["after"])
        readings, copies = order.count("q"), order.count("d")
        if left - readings * len(query) < copies * (1 + len(separator)):
            query = query[: longest // (2 * readings) - len(separator)] + separator
        room = (left - readings * len(query)) // copies
        if len(document) > room:
            if copies > 1:
                room = room // own["copy_step"] * own["copy_step"] or room
            kept = separator if own["sides"]["d"][1] else []
            document = document[: room - len(kept)] + kept
        sides = [token for side in order for token in (query if side == "q" else document)]
        return [*own["before"], *sides, *own["after"]]
