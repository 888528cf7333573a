"""Where each output came from, kept with the outputs.

Snakemake records on the machine that ran a job which parameters, code and inputs it ran with, and compares files by
their times. Both are lost when outputs travel: after `dvc pull` or `dvc checkout` the record is missing or speaks of
another version of the file, and an old output can pass as the result of new parameters.

So what Snakemake recorded is also written to results/provenance/PHASE.json, bound to the SHA-256 of each output and of
the inputs it was made from. These files are outputs of the DVC stages and travel with the data. Before Snakemake plans
and after it has run, `reconcile` looks at every output on disk:

- its record was made by a job here, for this very content: it is written to the phase's file;
- the content is the one that the phase's file knows: that record is given to Snakemake, and the file its old time;
- otherwise, or where an input is no longer the one that it was made from: Snakemake is told that the origin is unknown,
  and makes it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord  # type: ignore[import-untyped]
from snakemake.persistence.file import FilePersistence  # type: ignore[import-untyped]

from ssmrank.io.atomic import atomic_file

FOLDER = Path("results/provenance")
TIMESTAMP = ".snakemake_timestamp"
UNKNOWN = ["'an output of unknown origin'"]
"""Stands for the params of an output of which nothing is known, so that they differ from any job's."""

_CLOCK = 0.01
"""Seconds within which two times of a file are the same."""


def reconcile(phases: Mapping[str, Iterable[str]]) -> None:
    """Brings Snakemake's records, the phases' files and the outputs on disk into agreement.

    `phases` gives for each phase, in the order of the workflow, the output patterns of its rules.
    """
    ledger = _Ledger({phase: [*_existing(patterns)] for phase, patterns in phases.items()})
    for phase in phases:
        ledger.reconcile(phase)
    ledger.save()


def digests(paths: Iterable[Path]) -> list[str]:
    """`PATH SHA-256` of files that the workflow reads but does not make; missing ones are left out."""
    contents = _Contents()
    lines = [f"{path} {contents.sha256(path)}" for path in paths if path.is_file()]
    contents.save()
    return lines


class _Contents:
    """Digests of files and folders, computed again only where size, time or inode has changed."""

    def __init__(self) -> None:
        self._path = Path(".snakemake/contents.json")
        self._known: dict[str, list[Any]] = _read(self._path)
        self._changed = False

    def sha256(self, path: Path) -> str:
        """Of a file's bytes; of a folder's files with their names, without Snakemake's own."""
        if path.is_dir():
            lines = [f"{file.relative_to(path).as_posix()} {self._file(file)}" for file in _files(path)]
            return hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return self._file(path)

    def save(self) -> None:
        if self._changed:
            _write(self._path, {path: known for path, known in self._known.items() if os.path.exists(path)})

    def _file(self, path: Path) -> str:
        status = path.stat()
        key = [status.st_size, status.st_mtime_ns, status.st_ino]
        known = self._known.get(str(path))
        if known is None or known[:3] != key:
            with path.open("rb") as stream:
                known = [*key, hashlib.file_digest(stream, "sha256").hexdigest()]
            self._known[str(path)] = known
            self._changed = True
        return known[3]


class _Ledger:
    """One pass over all outputs."""

    def __init__(self, outputs: Mapping[str, list[str]]) -> None:
        self._snakemake = FilePersistence()
        self._bound_path = Path(".snakemake/bound.json")
        self._bound: dict[str, dict[str, Any]] = _read(self._bound_path)
        """For each output what Snakemake's record is known to speak of: content, end time and inputs."""
        self._bound_before = json.dumps(self._bound)
        running = self._snakemake._filter_incomplete_keys([path for paths in outputs.values() for path in paths])
        self._outputs = {phase: [path for path in paths if path not in running] for phase, paths in outputs.items()}
        contents = _Contents()
        self._current = {path: contents.sha256(Path(path)) for paths in self._outputs.values() for path in paths}
        contents.save()

    def save(self) -> None:
        if json.dumps(self._bound) != self._bound_before:
            _write(self._bound_path, self._bound)

    def reconcile(self, phase: str) -> None:
        path = FOLDER / f"{phase}.json"
        entries = _read(path)
        before = json.dumps(entries)
        for output in self._outputs[phase]:
            self._reconcile_output(output, entries)
        if json.dumps(entries) != before:
            _write(path, dict(sorted(entries.items())))

    def _reconcile_output(self, output: str, entries: dict[str, Any]) -> None:
        content = self._current[output]
        record = self._snakemake._read_record(output)
        if record is not None and (bound := self._what_it_speaks_of(record, output)) is not None:
            facts = record.model_dump(exclude={"job_hash", "external_jobid"})
            entries[output] = {"sha256": content, "inputs": bound["inputs"], "record": facts}
        elif entries.get(output, {}).get("sha256") == content and _is_readable(entries[output]["record"]):
            record = MetadataRecord.model_validate(entries[output]["record"])
            # Another machine's clock may be ahead; what is made from this output here must not seem older than it.
            record.endtime = min(record.endtime, time.time())
            bound = {"sha256": content, "endtime": record.endtime, "inputs": entries[output]["inputs"]}
            self._snakemake._write_record(output, record)
        else:
            bound = None
        if bound is None or self._inputs_differ(bound["inputs"]):
            bound = {"sha256": content, "endtime": _time(output), "inputs": {}}
            unknown = MetadataRecord(params=UNKNOWN, record_format_version=RECORD_FORMAT_VERSION, incomplete=False)
            unknown.endtime = bound["endtime"]
            self._snakemake._write_record(output, unknown)
        if abs(_time(output) - bound["endtime"]) > _CLOCK:
            _set_time(output, bound["endtime"])
        self._bound[output] = bound

    def _what_it_speaks_of(self, record: MetadataRecord, output: str) -> dict[str, Any] | None:
        """Content, end time and inputs that Snakemake's record speaks of; None if it does not speak of this output."""
        if record.params == UNKNOWN or not _is_readable(record.model_dump()):
            return None
        bound = self._bound.get(output)
        if bound is not None and bound["endtime"] == record.endtime:
            return bound if bound["sha256"] == self._current[output] else None
        # A job has ended since the last pass. What is newer than its end is not its output.
        times = [file.stat().st_mtime for file in _files(Path(output))] if os.path.isdir(output) else []
        if abs(_time(output) - record.endtime) > _CLOCK or max(times, default=0.0) > record.endtime + _CLOCK:
            return None
        inputs = {path: self._current[path] for path in record.input or [] if path in self._current}
        return {"sha256": self._current[output], "endtime": record.endtime, "inputs": inputs}

    def _inputs_differ(self, inputs: Mapping[str, str]) -> bool:
        return any(self._current.get(path, content) != content for path, content in inputs.items())


def _is_readable(record: Mapping[str, Any]) -> bool:
    """Whether this Snakemake compares with the record; parameters in an older format it takes as unchanged."""
    return record["endtime"] is not None and record["record_format_version"] == RECORD_FORMAT_VERSION


def _existing(patterns: Iterable[str]) -> Iterator[str]:
    """Files and folders that match output patterns; a wildcard stands for one part of a path or of a name."""
    for pattern in patterns:
        first, *rest = pattern.split("{")
        for path in sorted(Path().glob(first + "".join("*" + part.partition("}")[2] for part in rest))):
            if not path.name.startswith("."):
                yield path.as_posix()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.name != TIMESTAMP and path.is_file())


def _time(output: str) -> float:
    """The time by which Snakemake compares an output."""
    timestamp = Path(output, TIMESTAMP)
    return (timestamp if timestamp.exists() else Path(output)).lstat().st_mtime


def _set_time(output: str, seconds: float) -> None:
    if os.path.isdir(output) and not os.path.islink(output):
        timestamp = Path(output, TIMESTAMP)
        timestamp.touch()
        os.utime(timestamp, (seconds, seconds))
        return
    os.utime(output, (seconds, seconds))
    if os.path.islink(output):
        os.utime(output, (seconds, seconds), follow_symlinks=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with atomic_file(path) as stream:
        stream.write(json.dumps(values, indent=1) + "\n")
