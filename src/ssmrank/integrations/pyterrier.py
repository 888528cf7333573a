"""A reranker as a transformer of PyTerrier 1.0 and newer.

>>> bm25 >> pt.text.get_text(dataset, "text") >> SsmReranker("models/minis/mamba2")
"""

from __future__ import annotations

import os
from typing import Any

try:
    import pyterrier as pt
except ModuleNotFoundError as error:
    if error.name != "pyterrier":
        raise
    from ssmrank.integrations import missing

    raise missing("PyTerrier", "pyterrier") from error

import pandas as pd

from ssmrank.api import PassageWindows, Progress, Reranker
from ssmrank.errors import UserError
from ssmrank.integrations.pairs import reranker_of, score_rows
from ssmrank.io.trec import single_precision


class SsmReranker(pt.Transformer):
    """Gives the documents of each query new scores and ranks.

    All queries of a frame are planned together: batches are filled across queries, and a causal model computes a text
    that several queries have only once. Call it with many queries at a time; `batch_size` of `pt.Experiment` only
    makes it slower.

    Args:
        model: a reranker, or what `Reranker.from_pretrained` takes: a folder or a name on the hub.
        text_field: column with the documents' texts.
        passages: score a long document by its best window (MaxP); None: cut it.
        progress: called after each batch with the pairs scored so far and the pairs of the frame.
        options: of `Reranker.from_pretrained`, such as `device` and `precision`.
    """

    def __init__(
        self,
        model: Reranker | str | os.PathLike[str],
        *,
        text_field: str = "text",
        passages: PassageWindows | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        self.reranker = reranker_of(model, options)
        self.text_field, self.passages, self.progress = text_field, passages, progress

    def transform_inputs(self) -> list[list[str]]:
        """The columns that a frame must have."""
        return [["qid", "query", "docno", self.text_field]]

    def transform_outputs(self, input_columns: list[str]) -> list[str]:
        """The columns of the result: those of the frame, and score and rank."""
        self._check_columns(input_columns)
        return [*(name for name in input_columns if name not in ("score", "rank")), "score", "rank"]

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """The rows with `score` and `rank` (from 0), each query's best first; queries keep their order.

        Equal scores are ordered as by trec_eval, by descending docno. Raises UserError for a row without a text, and
        PyTerrier's InputValidationError for a missing column.
        """
        self._check_columns(inp.columns)
        for column in ("query", self.text_field):
            _check_texts(inp, column)
        found = inp.drop(columns=["score", "rank"], errors="ignore")
        queries, texts = inp["query"].tolist(), inp[self.text_field].tolist()
        found["score"] = score_rows(self.reranker, queries, texts, self.passages, self.progress)
        order = pd.DataFrame(
            {
                "query": pd.factorize(inp["qid"])[0],
                "score": -single_precision(found["score"].to_numpy()),
                "docno": -pd.factorize(inp["docno"], sort=True)[0],
            }
        )
        found = found.iloc[order.sort_values(["query", "score", "docno"]).index].reset_index(drop=True)
        found["rank"] = found.groupby("qid", sort=False).cumcount()
        return found

    def __repr__(self) -> str:
        return f"SsmReranker({self.reranker!r})"

    def _check_columns(self, columns: Any) -> None:
        pt.validate.result_frame(list(columns), extra_columns=["query", self.text_field], context=self)


def _check_texts(frame: pd.DataFrame, column: str) -> None:
    for number, value in enumerate(frame[column]):
        if not isinstance(value, str):
            row = frame.iloc[number]
            raise UserError(
                f"column {column!r}: query {row['qid']}, document {row['docno']} has no text but {value!r}; load texts "
                "before the reranker, as pt.text.get_text does"
            )
