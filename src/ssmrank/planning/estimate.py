"""What one job takes: tokens, hours and disk. What was not measured is left open, never guessed.

Encoders compute all tokens of each pair. Decoders that read the document first compute a document once for all queries
that share it. Before a first stage has run, nobody knows which do. The documents of a query count as drawn at random:
of N documents of which each query gets D, N (1 - (1 - D/N)^queries) are different. Real queries share more. Decoders
that read the query first compute it once for all its documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssmrank.config.models import SIDES, Model
from ssmrank.config.params import Params
from ssmrank.config.retrievers import Dense, HnswIndex, IvfPqIndex
from ssmrank.config.trainings import NO_TRAINING, TRAINED_SIGN
from ssmrank.planning.dag import PlannedJob
from ssmrank.planning.lengths import BYTES_PER_WORD, Lengths, lengths_of
from ssmrank.planning.speeds import SHORT, Speeds, parameters

WEIGHT_BYTES = 4
"""Of a parameter of a checkpoint in float32; repositories that keep half precision take half."""

RUN_LINE_BYTES = 45
"""Of a run's line: 36 with short ids of one digit to four, 52 with long ones, in runs of this repository."""

SPEED_REPEATS = 4
"""How often `ssmrank measure speed` reranks in each way."""

INDEX_BYTES = 0.14
"""Of a Lucene index, for each byte of documents.jsonl: 0.13 for arXiv's abstracts, 0.15 for NFCorpus and SciFact."""

LUCENE_BYTES_PER_SECOND = 405 * 2**20 / 31.4
"""Indexing on two cores (benchmarks/results/collection-size.txt)."""

SMALL = frozenset(
    {"evaluate", "evaluate_first_stage", "evaluate_fused", "significance", "table", "overview", "costs"}
    | {"negatives", "fuse", "fuse_weights", "fuse_first_stage", "fuse_first_stage_weights", "import_run"}
    | {"tables_pdf", "table_pdf", "comparison", "differences", "training_curves", "rerank_tokens", "tokens"}
)
"""Rules whose jobs take seconds to minutes of a CPU."""


@dataclass(frozen=True)
class Estimate:
    """What a job or several take. None is unknown.

    tokens: of all sequences; computed: what is left of them where a document is computed once; gpu_seconds and
    cpu_seconds: time of one GPU, and of two CPU cores; written: bytes that stay on disk.
    """

    tokens: float | None = 0.0
    computed: float | None = 0.0
    gpu_seconds: float | None = 0.0
    cpu_seconds: float | None = 0.0
    written: float | None = 0.0

    @property
    def values(self) -> tuple[float | None, ...]:
        """All of them in order."""
        return self.tokens, self.computed, self.gpu_seconds, self.cpu_seconds, self.written


UNKNOWN = Estimate(None, None, None, None, None)

ON_GPU = replace(UNKNOWN, cpu_seconds=0.0)
"""Of a job whose time is that of a GPU, of which nothing else is known."""


def distinct_documents(documents: int, depth: int, queries: int) -> float:
    """The expected number of different documents if each query gets `depth` of them at random."""
    return documents * (1 - (1 - min(depth / documents, 1)) ** queries)


class Estimator:
    """Estimates of the jobs of an experiment."""

    def __init__(self, params: Params, speeds: Speeds, workloads: Path) -> None:
        self.params, self.speeds, self.workloads = params, speeds, workloads
        self._rules: Mapping[str, Callable[..., Estimate]] = {
            "download_collection": self._collection,
            "download_model": self._download,
            "index": self._index,
            "encode": self._encode,
            "vector_index": self._vector_index,
            "retrieve": self._first_stage,
            "retrieve_dense": self._first_stage,
            "train": self._train,
            "rerank": self._rerank,
            "rerank_speed": self._rerank_speed,
        }

    def estimate(self, job: PlannedJob) -> Estimate:
        """What the job takes; unknown for rules of which nothing was measured."""
        if job.rule in SMALL:
            return Estimate()
        rule = self._rules.get(job.rule)
        return rule(**job.wildcards) if rule else UNKNOWN

    def models(self, jobs: Sequence[PlannedJob]) -> list[str]:
        """Names of the models that the jobs run on a GPU, in the order of params.yaml."""
        names = {job.wildcards["model"] for job in jobs if job.rule in ("train", "rerank")}
        names |= {self.params.encoder(job.wildcards["encoder"]).model for job in jobs if job.rule == "encode"}
        return [name for name in self.params.models if name in names]

    def place(self, rule: str) -> tuple[int, str]:
        """Sorts rules: first those with costs, in the order of the workflow, then the others by name."""
        known = [*self._rules]
        return known.index(rule) if rule in known else len(known), rule

    # ---------------------------------------------------------------- collections and models

    def _lengths(self, collection: str) -> Lengths | None:
        return lengths_of(collection, self.workloads)

    def _documents(self, collection: str) -> int | None:
        return self.params.collections[collection].expected.documents

    def _queries(self, collection: str, split: str) -> int | None:
        expected = self.params.collections[collection].expected.splits.get(split)
        return expected.queries if expected else None

    def _text_bytes(self, collection: str) -> float | None:
        lengths, documents = self._lengths(collection), self._documents(collection)
        return documents * lengths.document_words * BYTES_PER_WORD if lengths and documents else None

    def _collection(self, collection: str) -> Estimate:
        return Estimate(cpu_seconds=None, written=self._text_bytes(collection))

    def _weights(self, model: str) -> float | None:
        count = parameters(self.params.models[model].size)
        return None if count is None else WEIGHT_BYTES * count

    def _download(self, model: str) -> Estimate:
        return Estimate(cpu_seconds=None, written=self._weights(model))

    # ---------------------------------------------------------------- first stages

    def _index(self, collection: str, **_: str) -> Estimate:
        size = self._text_bytes(collection)
        if size is None:
            return Estimate(cpu_seconds=None, written=None)
        return Estimate(cpu_seconds=size / LUCENE_BYTES_PER_SECOND, written=INDEX_BYTES * size)

    def _width(self, model: Model) -> int | None:
        """The hidden size of BERT's models of about this size."""
        count = parameters(model.size)
        return None if count is None else 1024 if count > 250e6 else 768 if count > 60e6 else 384

    def _encode(self, collection: str, encoder: str) -> Estimate:
        section, documents, lengths = (
            self.params.encoder(encoder),
            self._documents(collection),
            self._lengths(collection),
        )
        model = self.params.models[section.model]
        width = section.width or self._width(model)
        if documents is None or lengths is None or width is None:
            return ON_GPU
        longest = section.max_length or self._trained_length(encoder) or SHORT
        each = replace(lengths, query_words=0.0).document(longest)
        speed = self.speeds.inference(model, each)
        tokens = documents * each
        seconds = tokens / speed if speed else None
        size = {"float16": 2, "float32": 4}[section.vectors]
        return Estimate(tokens, tokens, seconds, 0.0, float(documents * width * size))

    def _trained_length(self, encoder: str) -> int | None:
        """The tokens of a document by which a retriever's own bi-encoder was trained."""
        section = self.params.retrievers.get(encoder.removesuffix(TRAINED_SIGN))
        trained = section.trained if isinstance(section, Dense) else None
        return self.params.training(trained.training).max_length if trained is not None else None

    def _vector_index(self, collection: str, retriever: str) -> Estimate:
        section, documents = self.params.retrievers[retriever], self._documents(collection)
        assert isinstance(section, Dense)
        encoder = self.params.encoder(self.params.encoder_of(retriever))
        width = encoder.width or self._width(self.params.models[encoder.model])
        if documents is None or width is None:
            return UNKNOWN
        each = section.index.bytes if isinstance(section.index, IvfPqIndex) else 4 * width
        each += 8 * section.index.links if isinstance(section.index, HnswIndex) else 0
        return Estimate(cpu_seconds=None, written=float(documents * each))

    def _first_stage(self, collection: str, split: str, retriever: str) -> Estimate:
        queries, depth = self._queries(collection, split), getattr(self.params.retrievers[retriever], "depth", None)
        lines = queries * depth * RUN_LINE_BYTES if queries and depth else None
        return Estimate(cpu_seconds=None, written=lines)

    # ---------------------------------------------------------------- rerankers

    def _train(self, training: str, model: str) -> Estimate:
        section, entry = self.params.training(training), self.params.models[model]
        own = {key: value for key, value in dict(entry.training).items() if value is not None}
        section = section.model_copy(update=own)
        lengths = self._lengths(section.collection)
        groups = section.groups or self._queries(section.collection, section.split)
        if lengths is None or groups is None:
            return replace(ON_GPU, written=self._weights(model))
        order = self.params.order(training, model)
        each = lengths.document(section.max_length, order) + SIDES[order].count("q") * lengths.query()
        documents = 1 + self.params.negatives[section.negatives].count
        of_group = each * documents
        if section.bi_encoder is not None:  # reads the query once
            each = replace(lengths, query_words=0.0).document(section.max_length)
            of_group = each * documents + lengths.query()
        tokens = groups * section.epochs * of_group
        in_pass = min(section.batch_groups * of_group, section.token_budget)
        speed = self.speeds.training(entry, each, in_pass)
        return Estimate(tokens, tokens, tokens / speed if speed else None, 0.0, self._weights(model))

    def _rerank(self, collection: str, split: str, reranking: str, training: str, model: str) -> Estimate:
        section, entry = self.params.rerankings[reranking], self.params.models[model]
        work = self._pairs(collection, split, reranking, training, model)
        if work is None:
            return ON_GPU
        pairs, tokens, computed = work
        if section.precision == "fp8":  # another speed, which is known for a few models alone
            return Estimate(tokens, computed, None, 0.0, float(pairs * RUN_LINE_BYTES))
        seconds = self._seconds(entry, tokens / pairs, tokens, computed)
        return Estimate(tokens, computed, seconds, 0.0, float(pairs * RUN_LINE_BYTES))

    def _rerank_speed(self, collection: str, split: str, reranking: str, training: str, model: str) -> Estimate:
        """A reranking that is repeated, with document reuse and without, on some of the pairs."""
        work = self._pairs(collection, split, reranking, training, model)
        if work is None:
            return ON_GPU
        pairs, tokens, computed = work
        entry, part = self.params.models[model], SPEED_REPEATS * min(self._timed_pairs(collection, split) / pairs, 1.0)
        whole = self._seconds(entry, tokens / pairs, tokens, tokens)
        reuse = self._seconds(entry, tokens / pairs, tokens, computed) if _shares(entry) else 0.0
        ways = 2 if _shares(entry) else 1
        every = tokens + computed if _shares(entry) else tokens
        seconds = None if whole is None or reuse is None else part * (whole + reuse)
        return Estimate(part * ways * tokens, part * every, seconds, 0.0, 0.0)

    def _pairs(
        self, collection: str, split: str, reranking: str, training: str, model: str
    ) -> tuple[int, float, float] | None:
        """Pairs of a reranking, their tokens, and those that are computed; None if one of them is unknown."""
        section, lengths = self.params.rerankings[reranking], self._lengths(collection)
        queries, documents = self._queries(collection, split), self._documents(collection)
        if lengths is None or queries is None or documents is None or section.passages is not None:
            return None
        pairs = queries * min(section.depth, documents)
        max_length = SHORT if training == NO_TRAINING else self.params.training(training).max_length
        order = self.params.order(training, model)
        sides, document, query = SIDES[order], lengths.document(max_length, order), lengths.query()
        tokens = computed = pairs * (document + sides.count("q") * query)
        if not _shares(self.params.models[model]):
            return pairs, tokens, computed
        if sides.startswith("q"):
            return pairs, tokens, computed - (pairs - queries) * query
        return pairs, tokens, distinct_documents(documents, section.depth, queries) * document + pairs * query

    def _timed_pairs(self, collection: str, split: str) -> float:
        """The pairs that tables let be timed on this split; infinite for all of them."""
        costs = [table.costs.speed for table in self.params.tables.values() if table.costs is not None]
        pairs = [one.pairs for one in costs if one is not None and (one.collection, one.split) == (collection, split)]
        return float("inf") if not pairs or None in pairs else max(filter(None, pairs))

    def _seconds(self, model: Model, length: float, tokens: float, computed: float) -> float | None:
        speed = self.speeds.inference(model, length, computed / tokens)
        return None if speed is None else computed / speed


def _shares(model: Model) -> bool:
    """Whether what a sequence begins with does not depend on what follows."""
    return model.kind == "D"
