"""The command `snakemake` of this project's environment, which allows targets after `--resources gpu=1`.

Snakemake's options that take KEY=VALUE words take every word that follows, including targets, and fail on those. Here
the first word after the option is its value; a later word that cannot be one is a target.

Files of settings (`--configfile`) are first read as data. Snakemake would run Python code in files with a certain key,
and would never finish reading some others.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from ssmrank.config.reading import read_sections
from ssmrank.errors import UserError, one_line
from ssmrank.startup import importing


def _is_pair(word: str) -> bool:
    return "=" in word or word.startswith("base64//")


def _is_settings_file(word: str) -> bool:
    return word.endswith((".yaml", ".yml", ".json"))


def _is_deployment(word: str) -> bool:
    return word in ("apptainer", "conda", "env-modules")


GREEDY: dict[str, Callable[[str], bool]] = {
    **dict.fromkeys(["--resources", "--res", "--default-resources", "--default-res", "--set-resources"], _is_pair),
    **dict.fromkeys(["--set-threads", "--set-scatter", "--set-resource-scopes", "--consider-ancient"], _is_pair),
    **dict.fromkeys(["--config", "-C"], _is_pair),
    **dict.fromkeys(["--configfile", "--configfiles"], _is_settings_file),
    **dict.fromkeys(["--software-deployment-method", "--deployment-method", "--deployment", "--sdm"], _is_deployment),
}
"""Options that take all words up to the next option; for each a test whether a word can be its value."""


def separate_targets(words: Sequence[str]) -> list[str]:
    """The words of a command line; targets that follow a greedy option are moved to the end, after `--`."""
    end = words.index("--") if "--" in words else len(words)
    kept: list[str] = []
    targets: list[str] = []
    is_value: Callable[[str], bool] | None = None
    for word in words[:end]:
        if word.startswith("-"):
            is_value = GREEDY.get(word)
        elif is_value is not None and not kept[-1].startswith("-") and not is_value(word):
            targets.append(word)
            continue
        kept.append(word)
    return [*kept, *(["--"] if targets or end < len(words) else []), *targets, *words[end + 1 :]]


def config_files(words: Sequence[str]) -> list[Path]:
    """The files that Snakemake would read as `--configfile`, from the command line or a profile."""
    from snakemake.cli import parse_args  # type: ignore[import-untyped]

    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            _, options = parse_args(list(words))
        except (SystemExit, Exception):
            return []  # Snakemake prints the error, or its help, itself
    return [Path(file) for file in options.configfile or []]


def check_overlays(paths: Sequence[Path]) -> None:
    """Raises UserError if a file holds code that Snakemake would run, or is not plain YAML."""
    for path in paths:
        read_sections(path)


def main() -> None:
    """Runs Snakemake on the command line, unless a file of settings holds code that it would run.

    Snakemake handles Ctrl-C while jobs run. Before and after that, one line takes the place of a traceback.
    """
    sys.argv[1:] = separate_targets(sys.argv[1:])
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _run()
    except KeyboardInterrupt:
        print("ssmrank: interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def _run() -> None:
    try:
        with importing():
            from snakemake.cli import main as snakemake

        check_overlays(config_files(sys.argv[1:]))
    except UserError as error:
        print(f"ssmrank: error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except ModuleNotFoundError:
        raise SystemExit("ssmrank: error: Snakemake is not installed here; `pip install snakemake`") from None
    snakemake()
