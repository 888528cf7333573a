"""Collections that the library ir_datasets knows by an id."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from ssmrank.collections.source import Document, Judgment, Part, Query, join_fields
from ssmrank.config.collections import Collection, IrDatasetsCollection
from ssmrank.errors import UserError


class IrDatasetsSource:
    """Documents of one ir_datasets id and queries and judgments of others, as a `Source`.

    The text of a document is its `text_fields` if its type has all of them. Otherwise, if `text_fields` is the default,
    it is the library's own default text. The same holds for queries and `query_fields`. ir_datasets downloads missing
    files into its own folder (IR_DATASETS_HOME).
    """

    tolerant = True
    shared_queries = False

    def __init__(
        self, settings: IrDatasetsCollection, text_fields: Sequence[str], query_fields: Sequence[str] = ("text",)
    ) -> None:
        self.settings = settings
        self.text_fields = text_fields
        self.query_fields = query_fields
        self.left_out: dict[str, int] = {}
        self._documents = _load(settings.documents, "docs")
        self._splits = {}
        for split, id in settings.splits.items():
            self._splits[split] = _load(id, "queries")
            if not self._splits[split].has_qrels():
                raise UserError(
                    f"ir_datasets {id}: has no qrels; choose an id with qrels, such as {_like(id, 'qrels')}"
                )

    def documents(self) -> Iterator[Document]:
        """The documents of the id that the key `documents` gives."""
        with_fields: bool | None = None
        for number, record in enumerate(_guarded(self.settings.documents, self._documents.docs_iter), start=1):
            if with_fields is None:
                with_fields = _has_fields(record, "text_fields", self.text_fields, self.settings.documents)
            if with_fields:
                text = join_fields(record._asdict(), self.text_fields, self.where("documents", number))
            else:
                text = record.default_text()
            yield Document(number, record.doc_id, text)

    def queries(self, split: str) -> Iterator[Query]:
        """The queries of the split's id."""
        dataset = self._split(split)
        id, fields = self.settings.splits[split], self.query_fields
        with_fields: bool | None = None
        for number, record in enumerate(_guarded(id, dataset.queries_iter), start=1):
            if with_fields is None:
                with_fields = _has_fields(record, "query_fields", fields, id)
            if with_fields:
                text = join_fields(record._asdict(), fields, self.where("queries", number, split), "query_fields")
            else:
                text = record.default_text()
            yield Query(number, record.query_id, text)

    def judgments(self, split: str) -> Iterator[Judgment]:
        """The qrels of the split's id."""
        dataset = self._split(split)
        for number, record in enumerate(_guarded(self.settings.splits[split], dataset.qrels_iter), start=1):
            yield Judgment(number, record.query_id, record.doc_id, int(record.relevance))

    def where(self, part: Part, number: int, split: str = "") -> str:
        """The ir_datasets id and the position of the record."""
        id = self.settings.documents if part == "documents" else self.settings.splits[split]
        kind = {"documents": "document", "queries": "query", "judgments": "judgment"}[part]
        return f"ir_datasets {id}, {kind} number {number}" if number else f"ir_datasets {id}"

    def _split(self, split: str) -> Any:
        if split not in self._splits:
            raise UserError(
                f"splits: no ir_datasets id is given for split {split!r}, only for {', '.join(self._splits)}; "
                "add it to source.splits"
            )
        return self._splits[split]


def _has_fields(record: Any, key: Literal["text_fields", "query_fields"], fields: Sequence[str], id: str) -> bool:
    """Whether the record has all fields; raises UserError if not and the default text cannot be used instead."""
    missing = [field for field in fields if field not in record._fields]
    default = Collection.model_fields[key].default
    if missing and (list(fields) != default or not hasattr(record, "default_text")):
        kind = "documents" if key == "text_fields" else "queries"
        raise UserError(
            f"ir_datasets {id}: {kind} have no field {missing[0]!r}, only {', '.join(record._fields)}; "
            f"correct {key} in params.yaml"
        )
    return not missing


def _load(id: str, part: str) -> Any:
    # Seconds for each of three tries, so that a server that does not answer costs half a minute at most.
    os.environ.setdefault("IR_DATASETS_DL_TIMEOUT", "8")
    try:
        import ir_datasets
    except ImportError as error:
        raise UserError(f"ir_datasets {id}: the library is not installed; run: pip install ir_datasets") from error
    try:
        dataset = ir_datasets.load(id)
    except KeyError as error:
        raise UserError(f"ir_datasets {id}: no such id; did you mean {_like(id, part)}?") from error
    if not getattr(dataset, f"has_{part}")():
        raise UserError(f"ir_datasets {id}: has no {part}; choose an id with them, such as {_like(id, part)}")
    return dataset


def _like(id: str, part: str) -> str:
    """The most similar id that has this part, quoted, or a hint if there is none."""
    import ir_datasets

    # Close names first: asking each of several hundred ids whether it has the part would load them all.
    close = difflib.get_close_matches(id, [*ir_datasets.registry], n=20, cutoff=0.3)
    children = [name for name in ir_datasets.registry if name.startswith(f"{id}/")]
    fitting = [name for name in close + children if getattr(ir_datasets.registry[name], f"has_{part}")()]
    return repr(fitting[0]) if fitting else "one that `ir_datasets list` prints"


def _guarded(id: str, iterate: Any) -> Iterator[Any]:
    """Iterates; errors of the library (no network, a licence to confirm, a broken file) become a UserError."""
    try:
        yield from iterate()
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"ir_datasets {id}: cannot read: {text if len(text) <= 300 else text[:297] + '...'}; "
            "check the network and the library's folder (IR_DATASETS_HOME)"
        ) from error
