"""Snakemake's records of outputs. Only this module uses parts of Snakemake that are not its public API.

`version.py` refuses every Snakemake that this was not tried with. These parts are used: the names under which
`snakemake.workflow` finds its classes of records; their methods that read and write a record, mark a job's start and
end, and drop caches; and the cache of files' times that a plan uses.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import snakemake.workflow  # type: ignore[import-untyped]
from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord  # type: ignore[import-untyped]
from snakemake_interface_storage_plugins.io import Mtime  # type: ignore[import-untyped]

UNKNOWN = ["'an output of unknown origin'"]
"""The params of an output of unknown origin; they differ from any job's."""


class Observer(Protocol):
    """What is told about changes of records."""

    def plan(self, records: Records) -> None:
        """Snakemake is about to plan; nothing may be written yet, because it may run no job."""
        ...

    def run(self) -> None:
        """Snakemake has locked its outputs and is about to run jobs, or has found that there are none."""
        ...

    def is_foreign(self, output: str) -> bool:
        """Whether an output that has no record here may have been made by jobs of another folder.

        output: its path, or its address in storage
        """
        ...

    def started(self, outputs: tuple[str, ...], params: list[str], inputs: list[str]) -> None:
        """A job has started."""
        ...

    def finished(self, outputs: tuple[str, ...], inputs: list[str], touched: bool) -> bool:
        """A job has ended, successfully or not. False if its output may differ from what its record would say.

        touched: the job did not run, but its output is to be accepted as it is.
        """
        ...


def observe(observer: Observer) -> None:
    """From now on, Snakemake's records pass through the observer."""
    for name in ("FilePersistence", "DbPersistence"):
        base = getattr(snakemake.workflow, name)
        base = base.__bases__[1] if issubclass(base, Records) else base
        setattr(snakemake.workflow, name, type(name, (Records, base), {"observer": observer}))


def unknown_record(endtime: float | None) -> MetadataRecord:
    """The record of an output of unknown origin."""
    record = MetadataRecord(params=UNKNOWN, record_format_version=RECORD_FORMAT_VERSION, incomplete=False)
    record.endtime = endtime
    return record


def is_readable(record: MetadataRecord) -> bool:
    """Whether this Snakemake compares with the record; it takes parameters in an older format as unchanged."""
    return record.endtime is not None and record.record_format_version == RECORD_FORMAT_VERSION


def parse_record(facts: Any) -> MetadataRecord | None:
    """A record from what `dump_record` returned; None if the value is no record."""
    try:
        return MetadataRecord.model_validate(facts) if isinstance(facts, dict) else None
    except ValueError:
        return None


def dump_record(record: MetadataRecord) -> dict[str, Any]:
    """The parts of a record that hold on every machine."""
    return record.model_dump(exclude={"job_hash", "external_jobid"})


class Records:
    """A mixin before one of Snakemake's classes of records.

    A plan sees foreseen records and times of outputs in place of those on disk, before they are written.
    """

    observer: Observer

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._foreseen: dict[str, MetadataRecord] = {}
        super().__init__(*arguments, **options)
        self.observer.plan(self)

    def read(self, output: str) -> MetadataRecord | None:
        """The record of an output."""
        return self._read_record(output)

    def write(self, output: str, record: MetadataRecord) -> None:
        """Replaces the record of an output."""
        self._write_record(output, record)

    def unfinished(self, outputs: Iterable[str]) -> set[str]:
        """Those of the outputs whose jobs have started and not ended."""
        return self._filter_incomplete_keys(outputs)  # type: ignore[attr-defined]

    def foresee(self, records: Mapping[str, MetadataRecord], times: Mapping[str, float]) -> None:
        """Makes the plan see these records and these times of outputs (seconds) instead of those on disk."""
        self._foreseen = dict(records)
        for output, seconds in times.items():
            self.dag.workflow.iocache.mtime[output] = Mtime(local=seconds)  # type: ignore[attr-defined]

    def deactivate_cache(self) -> None:
        """Snakemake calls this when it has planned and holds its lock, except in a dry run."""
        self._foreseen = {}
        self.observer.run()
        super().deactivate_cache()  # type: ignore[misc]

    def started(self, job: Any, external_jobid: str | None = None) -> None:
        """Snakemake calls this when it has started a job."""
        super().started(job, external_jobid)  # type: ignore[misc]
        self.observer.started(tuple(map(str, job.output)), _texts(self._params(job)), list(map(str, job.input)))  # type: ignore[attr-defined]

    async def finished(self, job: Any) -> None:
        """Snakemake calls this when a job has ended, to write its record."""
        touched = self.dag.workflow.touch  # type: ignore[attr-defined]
        if self.observer.finished(tuple(map(str, job.output)), list(map(str, job.input)), touched):
            await super().finished(job)  # type: ignore[misc]
            return
        for output in map(self._get_key, job.output):  # type: ignore[attr-defined]
            self._write_record(output, unknown_record(None))
            self._unmark_incomplete(output)  # type: ignore[attr-defined]
        self._clear_cache()  # type: ignore[attr-defined]

    def _read_record(self, key: str) -> MetadataRecord | None:
        if key in self._foreseen:
            return self._foreseen[key]
        try:
            record = super()._read_record(key)  # type: ignore[misc]
        except (ValueError, TypeError, RecursionError):
            record = None  # the file holds something else
        return unknown_record(0.0) if record is None and self.observer.is_foreign(key) else record

    def _write_record(self, key: str, record: MetadataRecord) -> None:
        super()._write_record(key, record)  # type: ignore[misc]
        self._clear_cache()  # type: ignore[attr-defined]


def _texts(params: Iterable[Any]) -> list[str]:
    """All strings in params, which Snakemake records as Python literals."""
    found: list[str] = []
    for param in params:
        try:
            value = ast.literal_eval(param)
        except (ValueError, SyntaxError, TypeError):
            continue
        found.extend(item for item in (value if isinstance(value, list | tuple) else [value]) if isinstance(item, str))
    return found
