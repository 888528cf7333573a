"""Where each output came from, kept with the outputs.

Snakemake records the parameters, code and inputs of a job on the machine that ran it, and compares files by their
times. Both are lost when outputs travel. After `dvc pull` or `dvc checkout` the record is missing or describes another
version of the file, and an old output can pass as the result of new parameters.

So Snakemake's record is also written to results/provenance/PHASE.json, with the SHA-256 of each output and of the
inputs it was made from. These files are outputs of the DVC stages and travel with the data. Before Snakemake plans and
after it has run, every output on disk is checked:

- If a job here made the record for this very content, the record is written to the phase's file.
- If the phase's file knows the content, Snakemake gets that record, and the output gets its old time.
- Otherwise, or if an input has changed since, Snakemake is told that the origin is unknown and makes the output again.

A plan sees all this before anything is written; only a run that may start jobs writes it. When a job ends, the files
that it read are compared with those that it was planned with (`reads.py`). If it may have read something else, the
origin of its output is unknown too.

Outputs in storage (`storage.py`) are not read: Snakemake's records here and the times there have to do. A stored output
without a record was made by another folder's jobs, and its origin is unknown.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.contents import TIMESTAMP, Contents, is_digests, is_time, read_json, stamp, write_json
from pipeline.paths import PROVENANCE
from pipeline.reads import Reads
from pipeline.records import UNKNOWN, Records, dump_record, is_readable, observe, parse_record, unknown_record

FOLDER = Path(PROVENANCE)
BOUND = Path(".snakemake/bound.json")
"""For each output, what Snakemake's record is known to describe: content, end time and inputs."""
ENDED = Path(".snakemake/ended.jsonl")
"""A line for each output of a job that has ended since the last pass: its stamp and its inputs' stamps at that time."""

_CLOCK = 0.01
"""Seconds by which two times of a file may differ and still count as the same."""


class Provenance:
    """Keeps Snakemake's records, the phases' files and the outputs on disk in agreement."""

    def __init__(
        self,
        phases: Mapping[str, Iterable[str]],
        contents: Contents,
        is_stored: Callable[[str], bool] = lambda path: False,
    ) -> None:
        """`phases`: the output patterns of each phase's rules, in the order of the workflow.

        is_stored: whether this is the address of an output in storage, or the path of its copy.
        """
        self._phases = {phase: [one for one in made if not is_stored(one)] for phase, made in phases.items()}
        self._contents, self._is_stored = contents, is_stored
        self._reads = Reads(contents)
        self._records: Records | None = None
        self._pass: _Pass | None = None
        self._unknown: set[tuple[str, ...]] = set()
        self._warnings: list[str] = []

    def watch(self) -> None:
        """From now on, Snakemake plans with the known records, and each job is watched."""
        observe(self)

    def plan(self, records: Records) -> None:
        """See `records.Observer`."""
        self._records = records
        self._pass = _Pass(self._phases, self._contents, records)
        records.foresee(self._pass.records, self._pass.times)

    def run(self) -> None:
        """See `records.Observer`."""
        if self._pass is not None and self._records is not None:
            self._pass.save(self._records)
        self._pass = None

    def close(self) -> None:
        """Writes the records of new outputs to the phases' files, after the last job."""
        if self._records is not None:
            _Pass(self._phases, self._contents, self._records).save(self._records)
        for warning in self._warnings:
            print(warning, file=sys.stderr)

    def is_foreign(self, output: str) -> bool:
        """See `records.Observer`."""
        return self._is_stored(output)

    def started(self, outputs: tuple[str, ...], params: list[str], inputs: list[str]) -> None:
        """See `records.Observer`. Copies of stored inputs come and go, so they are not watched."""
        self._reads.begin(outputs, params, [path for path in inputs if not self._is_stored(path)])

    def finished(self, outputs: tuple[str, ...], inputs: list[str], touched: bool) -> bool:
        """See `records.Observer`."""
        # The copy of a stored output may be gone already.
        made = [output for output in outputs if self._is_stored(output) or _exists(Path(output))]
        if not self._reads.is_running(outputs):  # Snakemake may report an end twice
            return outputs not in self._unknown
        changed = self._reads.end(outputs)
        self._unknown.discard(outputs)
        if made and changed:
            self._unknown.add(outputs)
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            warning = (
                f"ssmrank: warning: {made[0]}: {os.path.relpath(changed[0])}{more} changed while it was made; its "
                "origin is unknown, and the next run makes it again"
            )
            self._warnings.append(warning)
            print(warning, file=sys.stderr)
            return False
        read = {path: stamp(Path(path)) for path in inputs if not self._is_stored(path)}
        # A missing output means a failed job. With `--touch`, a missing output is accepted.
        ended = [output for output in (made if touched else outputs) if not self._is_stored(output)]
        lines = [{"output": path, "stamp": stamp(Path(path)), "inputs": read} for path in ended]
        with ENDED.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(line) + "\n" for line in lines)
        return True


class _Pass:
    """One check of all outputs; nothing is written before `save`."""

    def __init__(self, phases: Mapping[str, list[str]], contents: Contents, records: Records) -> None:
        self._contents, self._snakemake = contents, records
        found = {phase: [*_existing(patterns)] for phase, patterns in phases.items()}
        running = records.unfinished(path for paths in found.values() for path in paths)
        outputs = {phase: [path for path in paths if path not in running] for phase, paths in found.items()}
        self._current = {path: contents.sha256(Path(path)) for paths in outputs.values() for path in paths}
        self._old_bound = {path: bound for path, bound in read_json(BOUND).items() if _is_bound(bound)}
        self._bound = dict(self._old_bound)
        self._ended_size = ENDED.stat().st_size if ENDED.is_file() else 0
        self._ended = _read_ended()
        self._files: dict[Path, dict[str, Any]] = {}
        self.records: dict[str, Any] = {}
        """Records that replace Snakemake's own."""
        self.times: dict[str, float] = {}
        """New times of outputs, in seconds since the epoch."""
        for phase, paths in outputs.items():
            self._look_at_phase(FOLDER / f"{phase}.json", paths)
        # Snakemake records a failed job like any other, and then deletes its output.
        for output in self._ended:
            if not os.path.lexists(output):
                self.records.setdefault(output, unknown_record(0.0))

    def save(self, records: Records) -> None:
        """Writes what was found, and removes the list of ended jobs, which is no longer needed."""
        for path, entries in self._files.items():
            write_json(path, dict(sorted(entries.items())))
        for output, record in self.records.items():
            records.write(output, record)
        for output, seconds in self.times.items():
            self._contents.keep_through(Path(output), partial(_set_time, output, seconds))
        if self._bound != self._old_bound:
            write_json(BOUND, self._bound)
        self._contents.save()
        # Another run, of other targets, may have appended to the file since.
        if ENDED.is_file() and ENDED.stat().st_size == self._ended_size:
            ENDED.unlink()

    def _look_at_phase(self, path: Path, outputs: list[str]) -> None:
        old = {output: entry for output, entry in read_json(path).items() if _is_entry(entry)}
        entries = dict(old)
        for output in outputs:
            self._look_at(output, entries)
        for output in old:
            if not os.path.lexists(output):
                self._look_at_missing(output, old[output])
        if entries != old:
            self._files[path] = entries

    def _look_at(self, output: str, entries: dict[str, Any]) -> None:
        content, bound = self._current[output], None
        record, entry = self._snakemake.read(output), entries.get(output)
        known = parse_record(entry["record"]) if entry is not None and entry["sha256"] == content else None
        if record is not None and (bound := self._what_it_speaks_of(record, output)) is not None:
            entries[output] = {"sha256": content, "inputs": bound["inputs"], "record": dump_record(record)}
        elif entry is not None and known is not None and is_readable(known) and is_time(known.endtime):
            # Another machine's clock may be ahead. What is made from this output here must not seem older than it.
            known.endtime = min(known.endtime, time.time())
            bound = {"sha256": content, "endtime": known.endtime, "inputs": entry["inputs"]}
            self.records[output] = known
        if bound is None or self._inputs_differ(bound["inputs"]):
            bound = {"sha256": content, "endtime": _time(output), "inputs": {}}
            self.records[output] = unknown_record(bound["endtime"])
        if abs(_time(output) - bound["endtime"]) > _CLOCK:
            self.times[output] = bound["endtime"]
        self._bound[output] = bound

    def _look_at_missing(self, output: str, entry: dict[str, Any]) -> None:
        """Keeps a missing output's record, so that what was made from it stays valid until its parameters change."""
        record, known = self._snakemake.read(output), parse_record(entry["record"])
        is_wrong = record is None or record.params == UNKNOWN or output in self._ended
        if is_wrong and known is not None and is_readable(known):
            self.records[output] = known

    def _what_it_speaks_of(self, record: Any, output: str) -> dict[str, Any] | None:
        """Content, end time and inputs that Snakemake's record describes; None if it describes another output."""
        if record.params == UNKNOWN or not is_readable(record) or not is_time(record.endtime):
            return None
        bound = self._old_bound.get(output)
        if bound is not None and bound["endtime"] == record.endtime:
            return bound if bound["sha256"] == self._current[output] else None
        # A job has ended since the last pass. A file touched after its end is neither its output nor its input.
        ended = self._ended.get(output)
        if ended is None or stamp(Path(output)) != ended["stamp"]:
            return None
        if any(stamp(Path(path)) != old for path, old in ended["inputs"].items()):
            return None
        inputs = {path: self._current[path] for path in record.input or [] if path in self._current}
        return {"sha256": self._current[output], "endtime": record.endtime, "inputs": inputs}

    def _inputs_differ(self, inputs: Mapping[str, str]) -> bool:
        return any(self._current.get(path, content) != content for path, content in inputs.items())


def _read_ended() -> dict[str, Any]:
    """The last complete line of each output in the list of ended jobs."""
    try:
        lines = ENDED.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        try:
            ended = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(ended, dict) and is_digests(ended.get("inputs")) and isinstance(ended.get("stamp"), str):
            found[str(ended.get("output"))] = ended
    return found


def _is_bound(bound: Any) -> bool:
    if not isinstance(bound, dict) or not is_time(bound.get("endtime")):
        return False
    return isinstance(bound.get("sha256"), str) and is_digests(bound.get("inputs"))


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or parse_record(entry.get("record")) is None:
        return False
    return isinstance(entry.get("sha256"), str) and is_digests(entry.get("inputs"))


def _existing(patterns: Iterable[str]) -> Iterator[str]:
    """Files and folders that match output patterns; a wildcard matches within one part of a path."""
    for pattern in patterns:
        first, *rest = pattern.split("{")
        for path in sorted(Path().glob(first + "".join("*" + part.partition("}")[2] for part in rest))):
            if not path.name.startswith(".") and _exists(path):
                yield path.as_posix()


def _exists(path: Path) -> bool:
    """Whether the path is a file or folder; a dangling link or a pipe is neither."""
    return path.is_file() or path.is_dir()


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
