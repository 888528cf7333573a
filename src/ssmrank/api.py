"""Reranking from Python: texts in, a ranking out.

    >>> from ssmrank import Reranker
    >>> reranker = Reranker.from_pretrained("models/minis/mamba2")
    >>> reranker.rank("how do fish breathe", ["Snow falls.", "Gills take oxygen from water."], top_k=1)
    [Ranked(index=1, score=..., document='Gills take oxygen from water.')]

For many queries call `rank_many` once. It plans batches over all of them, and a causal model then computes a document
that several queries share only once.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import numpy as np
import torch

from ssmrank.errors import UserError, reason_of
from ssmrank.io.atomic import atomic_directory
from ssmrank.io.model_files import PROVENANCE_FILES
from ssmrank.io.pairs import Pairs, pairs_of
from ssmrank.io.trec import Run, sort_ranking
from ssmrank.models.card import CARD_FILE, Scores, model_card
from ssmrank.models.precision import Precision, default_device, device_name, resolve_precision
from ssmrank.models.quiet import quiet_transformers
from ssmrank.models.reranker import Reranker as Model
from ssmrank.models.reranker import RerankerSettings, load_reranker, stored_precision
from ssmrank.models.upload import upload
from ssmrank.reranking.engine import PassageWindows, check_scores, plan_work, scores_of_pairs
from ssmrank.reranking.scoring import Scorer

__all__ = ["PassageWindows", "Ranked", "Reranker"]

log = logging.getLogger("ssmrank")

Progress = Callable[[int, int], None]
"""Called after each batch with the number of pairs scored so far and the number of pairs in the call."""

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "README.md"]


class Ranked(NamedTuple):
    """A document of a ranking. index: its position in the given list, from 0."""

    index: int  # type: ignore[assignment]  # tuples have a method of this name
    score: float
    document: str


class Reranker:
    """A trained reranker on a device.

    `from_pretrained` loads one. Scores are comparable only within one query. Two calls score the same pair equally up
    to rounding: the other sequences of a batch decide the order of some sums.
    """

    def __init__(self, folder: Path, device: torch.device, precision: Precision, token_budget: int) -> None:
        self._folder, self.device, self.precision = folder, device, precision
        self.token_budget = token_budget
        self._scorer = Scorer(load_reranker(folder), precision, device)
        self._called = False

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        precision: Literal["auto"] | Precision = "auto",
        revision: str | None = None,
        token_budget: int = 16384,
    ) -> Reranker:
        """A reranker from a folder that `ssmrank train` wrote, or from a repository of the Hugging Face hub.

        device: torch's name of it; "auto" is a GPU if there is one. precision: "auto" is bf16 if the device has
        instructions for it, else fp32. revision: that of the repository. token_budget: the most tokens in one forward
        pass; a larger budget takes more memory. Raises UserError if there is no such model or it is damaged.
        """
        folder = _folder_of(model, revision)
        place = default_device() if device == "auto" else _device(device)
        with quiet_transformers():
            return cls(folder, place, resolve_precision(precision, place), token_budget)

    @property
    def settings(self) -> RerankerSettings:
        """Kind, longest input in tokens, template and pooling of the checkpoint."""
        return self.model.settings

    @property
    def model(self) -> Model:
        """The torch module. Its matrices are in `precision`; `from_pretrained` read them in float32."""
        return self._scorer.reranker

    def score(
        self,
        query: str,
        documents: Sequence[str],
        *,
        passages: PassageWindows | None = None,
        progress: Progress | None = None,
    ) -> list[float]:
        """Scores of the documents for the query, in the order given; higher is more relevant.

        A document that is too long is cut; with `passages` its score is that of its best window (MaxP). A query that
        leaves no room for a document is cut to half of the longest input. Raises UserError if `documents` is a single
        string.
        """
        _check_texts(query, documents)
        ids = [str(number) for number in range(len(documents))]
        pairs = Pairs.of(("query", id) for id in ids)
        texts = dict(zip(ids, documents, strict=True))
        return self._scored(pairs, {"query": query}, texts, passages, progress).tolist()

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        *,
        passages: PassageWindows | None = None,
        progress: Progress | None = None,
    ) -> list[Ranked]:
        """The documents, most relevant first; documents of equal score keep their order.

        top_k: how many are returned; None: all. Raises UserError as `score` does.
        """
        if top_k is not None and top_k < 0:
            raise UserError(f"top_k {top_k}: give a number of documents, or None for all")
        scores = self.score(query, documents, passages=passages, progress=progress)
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[:top_k]
        return [Ranked(index, scores[index], documents[index]) for index in best]

    def rank_many(
        self,
        queries: Mapping[str, str],
        candidates: Mapping[str, Sequence[str]],
        documents: Mapping[str, str],
        *,
        passages: PassageWindows | None = None,
        progress: Progress | None = None,
    ) -> Run:
        """A ranking for each query of `candidates`: its document ids with scores, best first.

        queries, documents: texts by id. candidates: ids of the documents to rank, by query id. Ties are in trec_eval's
        order, by descending id. Raises UserError for an id without a text and for a document that a query lists twice.
        """
        return self.rerank_run(
            {query: [(id, 0.0) for id in ids] for query, ids in candidates.items()},
            queries,
            documents,
            passages=passages,
            progress=progress,
        )

    def rerank_run(
        self,
        run: Mapping[str, Sequence[tuple[str, float]]],
        queries: Mapping[str, str],
        documents: Mapping[str, str],
        depth: int | None = None,
        *,
        passages: PassageWindows | None = None,
        progress: Progress | None = None,
    ) -> Run:
        """The run with new scores, cut to `depth` documents for each query.

        run: as `ssmrank.io.trec.read_run` returns it. depth: None: all documents. Queries without documents keep an
        empty ranking. Raises UserError as `rank_many` does.
        """
        deepest = max((len(ranking) for ranking in run.values()), default=0)
        cut = {query: list(ranking) for query, ranking in run.items()}
        pairs = pairs_of(cut, deepest if depth is None else depth)
        _check_ids(pairs, queries, documents)
        scores = self._scored(pairs, queries, documents, passages, progress).tolist()
        ranked: dict[str, list[tuple[str, float]]] = {query: [] for query in run}
        for pair, score in zip(pairs, scores, strict=True):
            ranked[pair.query].append((pair.document, score))
        return {query: sort_ranking(ranking) for query, ranking in ranked.items()}

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, scores: Scores | None = None, license: str | None = None
    ) -> None:
        """Writes the checkpoint, its model card and what records its training to a folder for `from_pretrained`.

        The weights have the precision of the file that they were read from, whatever this reranker computes in.
        scores, license: as for `push_to_hub`. Raises UserError if the folder cannot be written.
        """
        with atomic_directory(Path(folder)) as temporary:
            self._write(temporary, scores, license)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str = "Upload a reranker",
        scores: Scores | None = None,
        license: str | None = None,
    ) -> str:
        """Uploads what `save_pretrained` writes to the Hugging Face hub, and returns the address of the commit.

        The repository is created if there is none. Its model card says what is known of the architecture, the training
        and its data; a checkpoint that has a README.md keeps it.

        repo_id: OWNER/NAME, or NAME for one's own account. token: by default that of `hf auth login` or HF_TOKEN.
        private: whether a new repository is. revision: an existing branch; None: the main one. create_pr: propose the
        files as a pull request. scores: values of metrics from 0 to 1 for the card, by test and metric, such as
        `{"SciFact, test": {"nDCG@10": 0.587}}`. license: an identifier that the hub knows, such as apache-2.0.

        Raises UserError if there is no token, if it must not write there, or if the hub cannot be reached.
        """
        with TemporaryDirectory() as folder:
            return upload(
                lambda target: self._write(target, scores, license),
                Path(folder),
                repo_id,
                token=token,
                private=private,
                revision=revision,
                create_pr=create_pr,
                message=commit_message,
            )

    def __repr__(self) -> str:
        shape = self.model.backbone.config.model_type
        return (
            f"Reranker({str(self._folder)!r}, {shape}, max_length={self.settings.max_length}, "
            f"device={str(self.device)!r}, precision={self.precision!r})"
        )

    def _write(self, folder: Path, scores: Scores | None, license: str | None) -> None:
        """Writes everything that belongs to the checkpoint into an existing folder."""
        model = load_reranker(self._folder)
        model.to(stored_precision(self._folder)).write(folder)
        for name in PROVENANCE_FILES:
            if (self._folder / name).is_file():
                shutil.copyfile(self._folder / name, folder / name)
        (folder / CARD_FILE).write_text(model_card(self._folder, model, scores, license), encoding="utf-8")

    def _scored(
        self,
        pairs: Pairs,
        queries: Mapping[str, str],
        documents: Mapping[str, str],
        passages: PassageWindows | None,
        progress: Progress | None,
    ) -> np.ndarray:
        """Scores of pairs, float32 [P]."""
        if not len(pairs):
            return np.empty(0, dtype=np.float32)
        template = self.model.template
        sides = template.tokenize_documents([documents[id] for id in pairs.documents])
        tokens = dict(zip(pairs.documents, sides, strict=True))
        work = plan_work(self.model, pairs, queries, tokens, self.token_budget, passages)
        found = np.full(len(work.sequences), np.nan, dtype=np.float32)
        began, done = time.perf_counter(), 0
        if not self._called:
            log.info("first call on %s: the code of the kernels is loaded, or compiled once", device_name(self.device))
        for batch in self._scorer.run(enumerate(work.batches)):
            found[batch.pairs] = batch.scores
            done += len(batch.pairs)
            if progress is not None:
                progress(done * len(pairs) // len(work.sequences), len(pairs))
        if not self._called:
            self._called = True
            log.info("first call: done after %.1f s", time.perf_counter() - began)
        scores = scores_of_pairs(work, found)
        check_scores(pairs, scores)
        return scores


def _folder_of(model: str | os.PathLike[str], revision: str | None) -> Path:
    folder = Path(model)
    if folder.is_dir():
        return folder
    name = os.fspath(model)
    if not _REPOSITORY.fullmatch(name):
        raise UserError(f"model {name}: no such folder; give one that `ssmrank train` wrote, or OWNER/NAME of a hub")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except Exception as error:  # the hub's client raises exceptions of many types
        raise UserError(
            f"model {name}: neither a folder nor to be had from the hub ({reason_of(error)}); "
            "check the name and the network"
        ) from error


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name}: torch knows none of this name; give cpu, cuda or cuda:N, or auto") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device {name}: {torch.cuda.device_count()} GPUs are at hand; give cpu or auto")
    return device


def _check_texts(query: str, documents: Sequence[str]) -> None:
    if not isinstance(query, str):
        raise UserError(f"query: a {type(query).__name__}; give one text, and many queries to rank_many")
    if isinstance(documents, str):
        raise UserError("documents is one text; give a list of texts, if only of one")
    odd = next((index for index, document in enumerate(documents) if not isinstance(document, str)), None)
    if odd is not None:
        raise UserError(f"documents[{odd}]: a {type(documents[odd]).__name__}; give texts")


def _check_ids(pairs: Pairs, queries: Mapping[str, str], documents: Mapping[str, str]) -> None:
    for kind, ids, texts in (("query", pairs.queries, queries), ("document", pairs.documents, documents)):
        unknown = next((id for id in ids if id not in texts), None)
        if unknown is not None:
            raise UserError(f"{kind} {unknown}: no text is given for it")
    asked: set[tuple[int, int]] = set()
    for place, pair in enumerate(zip(pairs.query.tolist(), pairs.document.tolist(), strict=True)):
        if pair in asked:
            raise UserError(f"query {pairs[place].query}: document {pairs[place].document} stands twice; give it once")
        asked.add(pair)
