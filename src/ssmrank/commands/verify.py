"""`ssmrank verify`: computes a sample of a reranked run again in other batches, and compares the scores."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from ssmrank.config.reading import read_settings
from ssmrank.config.rerankings import Reranking
from ssmrank.errors import UserError
from ssmrank.io.atomic import scratch_directory
from ssmrank.io.collection import documents_file, queries_file
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import Run, read_run, write_run
from ssmrank.models.precision import default_device
from ssmrank.models.reranker import load_reranker
from ssmrank.models.tokens import limit_tokenizer_threads, token_store
from ssmrank.reranking.verification import sample_of, verify


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("run_file", metavar="RUN", type=Path, help="a run that `ssmrank rerank` wrote")
    parser.add_argument("--settings", required=True, help="its section of rerankings: inline JSON, or a file")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the reranker that made it")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--split", required=True, help="split whose queries the run answers")
    parser.add_argument("--pairs", type=int, default=500, help="about how many pairs are computed (default: 500)")
    parser.add_argument("--processes", type=int, default=1, help="also compute the sample in so many (default: 1)")


def run(arguments: argparse.Namespace) -> None:
    """Prints one line. The status is 1 if `deterministic: batch` was promised and scores differ."""
    limit_tokenizer_threads()
    if arguments.pairs < 1 or arguments.processes < 1:
        raise UserError("--pairs and --processes: give at least 1")
    settings = read_settings(Reranking, arguments.settings)
    sample, others = sample_of(read_run(arguments.run_file), settings, arguments.pairs)
    reranker = load_reranker(arguments.checkpoint)
    queries = read_queries(queries_file(arguments.collection, arguments.split))
    with scratch_directory() as folder:
        if arguments.processes > 1:
            _compare_processes(arguments, settings, sample, folder)
        ids = list(dict.fromkeys(id for run in (sample, others) for ranking in run.values() for id, _ in ranking))
        longest = None if settings.passages else reranker.settings.max_length
        texts = TextStore(documents_file(arguments.collection))
        documents = token_store(texts, reranker.template, folder / "tokens", ids, longest)
        found = verify(reranker, settings, sample, queries, documents, default_device(), others)
    print(found.line())
    if settings.deterministic == "batch" and not found.equal:
        raise SystemExit(1)
    if settings.deterministic is None and not found.equal:
        print("nothing else was promised: `deterministic: batch` in the reranking makes them equal", file=sys.stderr)


def _compare_processes(arguments: argparse.Namespace, settings: Reranking, sample: Run, folder: Path) -> None:
    """Reranks the sample in several processes, and ends with status 1 if its scores are not those of the run."""
    own = settings.model_copy(update={"processes": arguments.processes, "remainder": "dropped"})
    write_run(folder / "sample.trec", sample, "sample")
    command = [sys.executable, "-m", "ssmrank", "rerank", "--settings", json.dumps(own.model_dump())]
    for option in ("checkpoint", "collection", "split"):
        command += [f"--{option}", str(getattr(arguments, option))]
    command += ["--run", str(folder / "sample.trec"), "--output", str(folder / "again.trec")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"reranking in {arguments.processes} processes failed: {done.stderr.strip().splitlines()[-1]}")
    if settings.deterministic == "batch" and read_run(folder / "again.trec") != sample:
        print(f"{arguments.processes} processes make other scores than those in the run")
        raise SystemExit(1)
