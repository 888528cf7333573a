"""A reranker as a cross-encoder of MTEB 2.

>>> mteb.evaluate(MtebReranker("models/minis/mamba2"), mteb.get_task("AskUbuntuDupQuestions"))
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

try:
    from mteb.models import ModelMeta
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "mteb":
        raise
    from ssmrank.integrations import missing

    raise missing("MTEB", "mteb") from error

from ssmrank.api import PassageWindows, Reranker
from ssmrank.errors import UserError
from ssmrank.integrations.pairs import reranker_of, score_rows


class MtebReranker:
    """A model that `mteb.evaluate` takes for tasks of reranking; it is MTEB's `CrossEncoderProtocol`.

    MTEB hands over all pairs of a task at once, and they are planned together, as `Reranker.rank_many` does.

    Args:
        model: a reranker, or what `Reranker.from_pretrained` takes: a folder or a name on the hub.
        name: OWNER/NAME under which MTEB keeps the results; by default a hub's name, or ssmrank/FOLDER.
        revision: distinguishes versions of the model in MTEB's cache of results; on the hub, also the one to load.
        passages: score a long document by its best window (MaxP); None: cut it.
        options: of `Reranker.from_pretrained`, such as `device` and `precision`.
    """

    def __init__(
        self,
        model: Reranker | str | os.PathLike[str],
        *,
        name: str | None = None,
        revision: str | None = None,
        passages: PassageWindows | None = None,
        **options: Any,
    ) -> None:
        if isinstance(model, Reranker):
            self.reranker = reranker_of(model, options)
            if name is None:
                raise UserError("name: a loaded reranker has none; give OWNER/NAME, under which MTEB keeps the results")
        else:
            self.reranker = reranker_of(model, {"revision": revision, **options})
            name = name or _name_of(model)
        if name.count("/") != 1:
            raise UserError(f"name {name}: MTEB takes OWNER/NAME")
        self.passages = passages
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": name,
                "revision": revision or "local",
                "n_parameters": sum(weight.numel() for weight in self.reranker.model.parameters()),
                "max_tokens": self.reranker.settings.max_length,
                "framework": ["PyTorch"],
                "model_type": ["cross-encoder"],
            }
        )

    def predict(self, inputs1: Iterable[dict[str, Any]], inputs2: Iterable[dict[str, Any]], **_: Any) -> np.ndarray:
        """Scores of the pairs, float32 [P]. inputs1: batches of queries, inputs2: batches of documents (key text)."""
        queries, documents = (_texts(batches) for batches in (inputs1, inputs2))
        return np.array(score_rows(self.reranker, queries, documents, self.passages), dtype=np.float32)


def _texts(batches: Iterable[dict[str, Any]]) -> list[str]:
    texts: list[str] = []
    for batch in batches:
        if "text" not in batch:
            raise UserError(f"a batch of MTEB has {', '.join(batch)} and no text; rerankers here read text alone")
        texts += batch["text"]
    return texts


def _name_of(model: str | os.PathLike[str]) -> str:
    path = Path(model)
    return f"ssmrank/{path.resolve().name}" if path.is_dir() else os.fspath(model)
