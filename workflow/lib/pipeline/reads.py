"""The files that running jobs read, so that a change during a job is noticed.

A job's params name its code and files, and its inputs are known. All of them must have the planned content when the
job starts, and must not be touched until the job ends. A change that was undone counts, because the job may have read
the file in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.code import outdated, sources
from pipeline.contents import Contents, stamp


class Reads:
    """Files of running jobs, by the jobs' outputs."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._stamps: dict[tuple[str, ...], dict[Path, str]] = {}
        self._outdated: dict[tuple[str, ...], list[Path]] = {}

    def begin(self, outputs: tuple[str, ...], params: Iterable[str], inputs: Iterable[str]) -> None:
        """Notes the files of a job that starts.

        What a job of a group reads, another job of it may make: those start together, and no others do.
        """
        params = list(params)
        external = {line: path for line in params if (path := self._contents.path_of(line)) is not None}
        paths = [*sources(params).values(), *external.values(), *map(Path, inputs)]
        being_made = {Path(path) for others in self._stamps for path in others}
        self._stamps[outputs] = {path: stamp(path) for path in paths if path not in being_made}
        for stamps in self._stamps.values():
            for output in outputs:
                stamps.pop(Path(output), None)
        self._outdated[outputs] = [
            *outdated(params),
            *(path for line, path in external.items() if self._contents.lines([path]) != [line]),
        ]

    def is_running(self, outputs: tuple[str, ...]) -> bool:
        """Whether a job has started and not ended."""
        return outputs in self._stamps

    def end(self, outputs: tuple[str, ...]) -> list[Path]:
        """Files that a job, which has ended, read or may have read in another state than planned."""
        touched = [path for path, old in self._stamps.pop(outputs).items() if stamp(path) != old]
        return list(dict.fromkeys([*self._outdated.pop(outputs), *touched]))
