"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ssmrank.serving.batcher import BatchRecord
from ssmrank.serving.scorers import StateStats

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """Counters of one server, with a registry of their own.

    stats: documents whose states were found or computed; None where no states are kept.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, stats: Callable[[], StateStats | None]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(_StateCollector(stats))
        self.requests = Counter(
            "ssmrank_requests", "Requests answered, and those whose client has gone (499).", ["route", "status"],
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "ssmrank_request_seconds", "Seconds from a request's first byte to its answer.", ["route"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.queued = Histogram(
            "ssmrank_queue_seconds", "Seconds that a request waited for its first batch.", buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.documents = Histogram(
            "ssmrank_request_documents", "Documents of a request.", buckets=_COUNTS, registry=registry
        )
        self.tokens = Counter(
            "ssmrank_tokens", "Tokens of the pairs that were answered, computed or not.", registry=registry
        )
        self.waiting = Gauge("ssmrank_requests_waiting", "Requests that wait or are computed.", registry=registry)
        self.pairs_waiting = Gauge("ssmrank_pairs_waiting", "Pairs that wait for a batch.", registry=registry)
        self._pairs = Counter(
            "ssmrank_pairs", "Pairs that were scored, by whether their document was found or computed.", ["document"],
            registry=registry,
        )  # fmt: skip
        for document in ("cached", "computed"):
            self._pairs.labels(document)
        self._batch_pairs = Histogram("ssmrank_batch_pairs", "Pairs of a batch.", buckets=_COUNTS, registry=registry)
        self._batch_requests = Histogram(
            "ssmrank_batch_requests", "Requests that share a batch.", buckets=_COUNTS, registry=registry
        )
        self._batch_seconds = Histogram(
            "ssmrank_batch_seconds", "Seconds that a batch took.", buckets=_SECONDS, registry=registry
        )

    def add_batch(self, record: BatchRecord) -> None:
        """Counts a batch."""
        self._pairs.labels("cached").inc(record.cached)
        self._pairs.labels("computed").inc(record.pairs - record.cached)
        self._batch_pairs.observe(record.pairs)
        self._batch_requests.observe(record.requests)
        self._batch_seconds.observe(record.seconds)

    def written(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _StateCollector:
    """Reads the document states' counters when Prometheus asks."""

    def __init__(self, stats: Callable[[], StateStats | None]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """The metrics; none where no states are kept."""
        stats = self._stats()
        if stats is None:
            return
        counts = (
            ("found", "Documents whose state was in memory.", stats.hits),
            ("loaded", "Documents whose state was loaded from disk.", stats.loads),
            ("computed", "Documents whose state was computed.", stats.misses),
            ("evicted", "Document states that had to go.", stats.evictions),
        )
        for name, meaning, count in counts:
            counter = CounterMetricFamily(f"ssmrank_document_states_{name}", meaning)
            counter.add_metric([], count)
            yield counter
        sizes = (
            ("bytes", "Bytes of the document states in memory.", stats.bytes),
            ("budget_bytes", "The most bytes that the document states may have.", stats.budget),
        )
        for name, meaning, size in sizes:
            gauge = GaugeMetricFamily(f"ssmrank_document_states_{name}", meaning)
            gauge.add_metric([], size)
            yield gauge
