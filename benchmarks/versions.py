"""Compares this checkout's speed with another revision's: both run the same benchmark in turns.

    python benchmarks/versions.py --before e66966e --rounds 7 --output benchmarks/results/versions-cpu.csv -- \\
        reranking.py --suite shapes --size 4M --ours-only --runs 3
    python benchmarks/versions.py --before e66966e --rounds 9 \\
        --output benchmarks/results/versions-training-cpu.csv -- \\
        training.py --suite figure1 --batches 4 --runs 7

Each round runs the command once in each checkout; which one comes first changes from round to round. The CSV has, for
each row of the benchmark that is ours, the medians over rounds and their ratio. The other revision is checked out into
a temporary git worktree.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ssmrank.io.atomic import atomic_file

ROOT = Path(__file__).resolve().parents[1]

KEY = ("benchmark", "model", "implementation", "precision", "batch")
"""The columns that name a row."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, metavar="REVISION", help="git revision to compare with")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each checkout (default: 3)")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- a script of benchmarks/ and its options")
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        parser.error("name a script of benchmarks/ after --")
    speeds: dict[str, dict[tuple[str, ...], list[float]]] = {"before": {}, "after": {}}
    with checkout(arguments.before) as before:
        checkouts = {"before": before, "after": ROOT}
        for turn in range(arguments.rounds):
            for name in sorted(checkouts, reverse=turn % 2 == 0):
                for key, speed in _run(checkouts[name], command):
                    speeds[name].setdefault(key, []).append(speed)
                print(f"round {turn + 1}, {name} done", flush=True)
            _write(arguments.output, arguments.before, speeds)
    for line in arguments.output.read_text(encoding="utf-8").splitlines():
        print(line)


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A temporary git worktree of a revision."""
    with TemporaryDirectory() as folder:
        place = Path(folder) / "checkout"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", place, revision], check=True)
        try:
            yield place
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", place], check=True)


def environment(checkout: Path) -> dict[str, str]:
    """Variables of a process that imports the package of a checkout; the caller's other folders stay on the path."""
    others = [Path(folder).resolve() for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [checkout / "src", *others]))}


def _run(checkout: Path, command: list[str]) -> Iterator[tuple[tuple[str, ...], float]]:
    """The names and the tokens per second of the benchmark's rows that are ours."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "rows.csv"
        script, *options = command
        subprocess.run(
            [sys.executable, checkout / "benchmarks" / script, *options, "--output", output],
            check=True,
            cwd=checkout,
            env=environment(checkout),
            stdout=subprocess.DEVNULL,
        )
        with output.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                if row["implementation"].startswith("ssmrank") and row["tokens_per_second"]:
                    yield tuple(row[column] for column in KEY), float(row["tokens_per_second"])


def _write(output: Path, revision: str, speeds: dict[str, dict[tuple[str, ...], list[float]]]) -> None:
    with atomic_file(output, "w") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*KEY, "revision", "rounds", "before", "after", "ratio"])
        for key, after in speeds["after"].items():
            if before := speeds["before"].get(key):
                medians = statistics.median(before), statistics.median(after)
                numbers = [f"{median:.1f}" for median in medians]
                writer.writerow([*key, revision, len(after), *numbers, f"{medians[1] / medians[0]:.3f}"])


if __name__ == "__main__":
    main()
