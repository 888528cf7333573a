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
import operator
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch

from ssmrank.config.rerankings import Deterministic
from ssmrank.errors import UserError, reason_of
from ssmrank.io.atomic import atomic_directory
from ssmrank.io.model_files import PROVENANCE_FILES
from ssmrank.io.pairs import Pairs, pairs_of
from ssmrank.io.sizes import parse_bytes
from ssmrank.io.trec import Run, sort_ranking
from ssmrank.kernels.dispatch import is_available
from ssmrank.models.card import CARD_FILE, Scores, model_card
from ssmrank.models.precision import Precision, default_device, device_name, resolve_precision
from ssmrank.models.quiet import quiet_transformers
from ssmrank.models.reranker import Reranker as Model
from ssmrank.models.reranker import RerankerSettings, load_reranker, stored_precision
from ssmrank.models.upload import upload
from ssmrank.reranking.document_states import Loading, StateScorer, state_scorer
from ssmrank.reranking.engine import PassageWindows, check_scores, plan_work, scores_of_pairs
from ssmrank.reranking.passages import PassageTokens, best_passage
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
    to rounding: the other sequences of a batch decide the order of some sums. With `deterministic="batch"` they do not.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        precision: Precision,
        token_budget: int,
        name: str | None = None,
        state_cache: int = 0,
        state_folder: Path | None = None,
        state_loading: Loading = "measured",
        deterministic: Deterministic | None = None,
    ) -> None:
        self._folder, self._name = folder, name or str(folder)
        self.device, self.precision = device, precision
        self.token_budget = token_budget
        self.deterministic = deterministic
        self._scorer = Scorer(load_reranker(folder), precision, device, deterministic=deterministic)
        self._called = False
        self.document_states: StateScorer | None = None
        if state_cache:
            self.document_states = state_scorer(
                self._scorer, folder, token_budget, state_cache, state_folder, loading=state_loading, name=self._name
            )

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        precision: Literal["auto"] | Precision = "auto",
        revision: str | None = None,
        token_budget: int = 16384,
        state_cache: int | str = 0,
        state_folder: str | os.PathLike[str] | None = None,
        state_loading: Loading = "measured",
        deterministic: Deterministic | None = None,
    ) -> Reranker:
        """A reranker from a folder that `ssmrank train` wrote, or from a repository of the Hugging Face hub.

        device: torch's name of it; "auto" is a GPU if there is one. precision: "auto" is bf16 if the device has
        instructions for it, else fp32. revision: that of the repository. token_budget: the most tokens in one forward
        pass; a larger budget takes more memory. state_cache: bytes, such as "2GB", for the states of documents and
        passages: one that is given again, to any call, costs only its query's tokens; 0: none are kept. state_folder:
        where `ssmrank states` wrote states, which are loaded instead of computed. state_loading: "measured" loads a
        state where that is faster, as measured when the reranker is made; or "always", or "never". deterministic:
        "batch" gives a pair the same score, to the last bit, whatever else is scored, in this call or in others.
        Raises UserError if there is no such model or it is damaged.
        """
        if precision not in ("auto", *get_args(Precision)):
            raise UserError(f"precision {precision}: give auto, {', '.join(get_args(Precision))}")
        if deterministic not in (None, *get_args(Deterministic)):
            raise UserError(f"deterministic {deterministic}: give {', '.join(get_args(Deterministic))} or None")
        if token_budget < 1:
            raise UserError(f"token_budget {token_budget}: give at least one token, such as 16384")
        cache = parse_bytes(state_cache, "state_cache")
        if cache and deterministic is not None:
            raise UserError("state_cache: scores from kept states depend on where they were cut; set no deterministic")
        if state_folder is not None and not cache:
            raise UserError("state_folder: needs memory that states are loaded into; give state_cache, such as 2GB")
        if state_loading not in get_args(Loading):
            raise UserError(f"state_loading {state_loading}: give {', '.join(get_args(Loading))}")
        folder = checkpoint_folder(model, revision)
        place = default_device() if device == "auto" else _device(device)
        with quiet_transformers():
            return cls(
                folder,
                place,
                resolve_precision(precision, place),
                token_budget,
                os.fspath(model),
                cache,
                None if state_folder is None else Path(state_folder),
                state_loading,
                deterministic,
            )

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
        documents: Iterable[str],
        *,
        passages: PassageWindows | None = None,
        progress: Progress | None = None,
    ) -> list[float]:
        """Scores of the documents for the query, in the order given; higher is more relevant.

        Equal documents get equal scores. A document that is too long is cut; with `passages` its score is that of its
        best window (MaxP). A query that leaves no room for a document is cut to half of the longest input. With
        `state_cache` documents of earlier calls are not computed again. Raises UserError if `query` or one of
        `documents` is no text.
        """
        texts = _texts(query, documents)
        # A text that is given twice is scored once: the other sequences of a batch decide the last bits of a score.
        ids = {text: str(number) for number, text in enumerate(dict.fromkeys(texts))}
        asked = Pairs.of(("query", id) for id in ids.values())
        by_id = {id: text for text, id in ids.items()}
        scores = self._scored(asked, {"query": query}, by_id, passages, progress).tolist()
        return [scores[int(ids[text])] for text in texts]

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        *,
        passages: PassageWindows | None = None,
        progress: Progress | None = None,
    ) -> list[Ranked]:
        """The documents, most relevant first; documents of equal score keep their order.

        top_k: at most how many are returned; None: all. Raises UserError as `score` does.
        """
        _check_count("top_k", top_k)
        texts = _texts(query, documents)
        scores = self.score(query, texts, passages=passages, progress=progress)
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[:top_k]
        return [Ranked(index, scores[index], texts[index]) for index in best]

    def rank_many(
        self,
        queries: Mapping[str, str],
        candidates: Mapping[str, Iterable[str]],
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
            {query: [(id, 0.0) for id in _ids(query, ids)] for query, ids in candidates.items()},
            queries,
            documents,
            passages=passages,
            progress=progress,
        )

    def rerank_run(
        self,
        run: Mapping[str, Iterable[tuple[str, float]]],
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
        _check_count("depth", depth)
        rankings = {query: list(ranking) for query, ranking in run.items()}
        deepest = max(map(len, rankings.values()), default=0)
        pairs = pairs_of(rankings, deepest if depth is None else depth)
        _check_ids(pairs, queries, documents)
        scores = self._scored(pairs, queries, documents, passages, progress).tolist()
        ranked: dict[str, list[tuple[str, float]]] = {query: [] for query in rankings}
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
            f"Reranker({self._name!r}, {shape}, max_length={self.settings.max_length}, "
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

    @contextmanager
    def _first_call(self) -> Iterator[None]:
        """Logs around a first call what takes longer in it."""
        first, began = not self._called, time.perf_counter()
        if first:
            _say_first_call(self.device)
        yield
        if first:
            self._called = True
            log.info("first call: done after %.1f s", time.perf_counter() - began)

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
        if self.document_states is not None and self.document_states.keeps_states:
            with self._first_call():
                return self._from_states(self.document_states, pairs, queries, documents, passages, progress)
        template = self.model.template
        sides = template.tokenize_documents([documents[id] for id in pairs.documents])
        tokens = dict(zip(pairs.documents, sides, strict=True))
        budget, key = self.token_budget, self.deterministic
        work = plan_work(self.model, pairs, queries, tokens, budget, passages, deterministic=key)
        found = np.full(len(work.sequences), np.nan, dtype=np.float32)
        done = 0
        with self._first_call():
            for batch in self._scorer.run(enumerate(work.batches)):
                found[batch.pairs] = batch.scores
                done += len(batch.pairs)
                if progress is not None:
                    progress(done * len(pairs) // len(work.sequences), len(pairs))
        scores = scores_of_pairs(work, found)
        check_scores(pairs, scores)
        return scores

    def _from_states(
        self,
        states: StateScorer,
        pairs: Pairs,
        queries: Mapping[str, str],
        documents: Mapping[str, str],
        passages: PassageWindows | None,
        progress: Progress | None,
    ) -> np.ndarray:
        """The same with the states of documents or passages."""
        asked = states.queries([queries[id] for id in pairs.queries])
        texts = [documents[id] for id in pairs.documents]
        parts, owners = pairs, np.arange(len(pairs))
        if passages is None:
            found = states.documents(texts)
        else:
            sides = dict(zip(pairs.documents, states.document_sides(texts), strict=True))
            windows = PassageTokens(self.model.template, sides, passages.length, passages.stride)
            parts, owners = windows.expand(pairs)
            found = states.documents_of([windows[id] for id in parts.documents])

        def report(done: int, count: int) -> None:
            if progress is not None:
                progress(done * len(pairs) // count, len(pairs))

        places = zip(parts.query.tolist(), parts.document.tolist(), strict=True)
        scored = states.score_sides([(asked[query], found[document]) for query, document in places], report)
        scores = np.array([pair.score for pair in scored], dtype=np.float32)
        return scores if passages is None else best_passage(scores, owners, len(pairs))


def checkpoint_folder(model: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of a model that `from_pretrained` is given; one of the hub is downloaded.

    Raises UserError if there is none.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    name = os.fspath(model)
    if not _REPOSITORY.fullmatch(name):
        raise UserError(f"model {name}: no such folder; give one that `ssmrank train` wrote, or OWNER/NAME of the hub")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except Exception as error:  # the hub's client raises exceptions of many types
        raise UserError(
            f"model {name}: no such folder, and it cannot be downloaded from the hub ({reason_of(error)}); "
            "check the name and the network"
        ) from error


def _say_first_call(device: torch.device) -> None:
    """Says before a first call why it takes longer. What compiles for a CPU says so itself."""
    name = device_name(device)
    if device.type == "cuda" and is_available("triton"):
        from triton import knobs

        folder = Path(knobs.cache.dir)
        if not folder.is_dir() or not any(folder.iterdir()):
            log.warning("compiling kernels for %s, once: takes up to a minute (kept in %s)", name, folder)
            return
    log.info("first call on %s: loading the code of the kernels", name)


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name}: torch has no device of this name; give cpu, cuda, cuda:N or auto") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device {name}: {torch.cuda.device_count()} GPUs are available; give cpu or auto")
    return device


def _texts(query: str, documents: Iterable[str]) -> list[str]:
    """The documents as a list. Raises UserError if one of them, or the query, is no text."""
    if not isinstance(query, str):
        raise UserError(f"query: {_kind(query)}; give one text, and many queries to rank_many")
    if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable):
        raise UserError(f"documents: {_kind(documents)}; give a list of texts, also for one text")
    texts = list(documents)
    _check_text("query", query)
    for index, text in enumerate(texts):
        _check_text(f"documents[{index}]", text)
    return texts


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise UserError(f"{name}: {_kind(text)}; give a text")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{name}: character {error.start} is half of a pair (a surrogate); decode it again"
            ) from error


def _kind(value: object) -> str:
    """The type of a value, for a message."""
    return "None" if value is None else f"of type {type(value).__name__}"


def _check_count(name: str, count: int | None) -> None:
    if count is None:
        return
    try:
        valid = operator.index(count) >= 0
    except TypeError:
        valid = False
    if not valid:
        raise UserError(f"{name} {count}: give a whole number of documents, or None for all")


def _ids(query: str, ids: Iterable[str]) -> list[str]:
    if isinstance(ids, str):
        raise UserError(f"query {query}: its candidates are one text; give a list of document ids")
    return list(ids)


def _check_ids(pairs: Pairs, queries: Mapping[str, str], documents: Mapping[str, str]) -> None:
    for kind, ids, texts in (("query", pairs.queries, queries), ("document", pairs.documents, documents)):
        for id in ids:
            if id not in texts:
                raise UserError(f"{kind} {id}: no text is given for it")
            _check_text(f"{kind} {id}", texts[id])
    seen: set[tuple[int, int]] = set()
    for place, pair in enumerate(zip(pairs.query.tolist(), pairs.document.tolist(), strict=True)):
        if pair in seen:
            query, document = pairs[place]
            raise UserError(f"query {query}: document {document} is listed twice; give it once")
        seen.add(pair)
