"""The command `ssmrank`: one verb for each step of the pipeline.

Each phase has a `command.py` with `SUMMARY`, `configure(parser)` and `run(arguments)`; it is imported only when its
verb is asked for, so that `ssmrank --help` and the light verbs start at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import signal
import sys
from pathlib import Path

from ssmrank import __version__, lifetime
from ssmrank.errors import UserError, one_line

VERBS = {
    "download-collection": ("ssmrank.collections.command", "fetch a collection and write it in canonical form"),
    "download-model": ("ssmrank.models.command", "fetch a checkpoint, or make one with random weights"),
    "corpus-tokenizer": ("ssmrank.pretraining.tokenizer_command", "train the tokenizer of a pretraining"),
    "corpus-tokens": ("ssmrank.pretraining.tokens_command", "tokenize a corpus"),
    "pretrain": ("ssmrank.pretraining.command", "pretrain a language model"),
    "pretrain-sweep": ("ssmrank.pretraining.sweep_command", "short pretrainings with several learning rates"),
    "publish-model": ("ssmrank.pretraining.publish_command", "a pretrained model as a folder with a model card"),
    "pretraining-figure": ("ssmrank.pretraining.figure_command", "loss on held-out text against tokens"),
    "index": ("ssmrank.retrieval.index_command", "build a Lucene index of a collection"),
    "retrieve": ("ssmrank.retrieval.retrieve_command", "first-stage retrieval to a TREC run"),
    "encode": ("ssmrank.retrieval.encode_command", "vectors of a collection's documents by a bi-encoder"),
    "vector-index": ("ssmrank.retrieval.vector_index_command", "build an approximate index of vectors"),
    "retrieve-dense": ("ssmrank.retrieval.dense_command", "first-stage retrieval by a bi-encoder"),
    "import-run": ("ssmrank.retrieval.run_file_command", "take a TREC run from elsewhere as first stage"),
    "negatives": ("ssmrank.negatives.command", "sample negatives for each relevant document"),
    "teach": ("ssmrank.teaching.command", "a teacher's scores of the documents of training groups"),
    "train": ("ssmrank.training.command", "fine-tune a reranker"),
    "rerank": ("ssmrank.reranking.command", "rerank a TREC run"),
    "fuse": ("ssmrank.fusion.command", "one TREC run from several"),
    "fuse-weights": ("ssmrank.fusion.weights_command", "fit the weights of fused runs on judged queries"),
    "evaluate": ("ssmrank.evaluation.command", "metrics of a TREC run"),
    "significance": ("ssmrank.evaluation.significance_command", "paired tests between the rows of a table"),
    "table": ("ssmrank.reporting.command", "a table in LaTeX, CSV and Markdown"),
    "costs": ("ssmrank.reporting.costs_command", "what the rerankers of a table cost"),
    "rerank-speed": ("ssmrank.reranking.speed_command", "pairs a second with and without document reuse"),
    "overview": ("ssmrank.reporting.overview_command", "a table of models or of trainings"),
    "pdf": ("ssmrank.reporting.pdf_command", "a table in LaTeX as a PDF page"),
    "table5": ("ssmrank.reporting.efficiency_tables_command", "inference speed beside the paper's"),
    "table6": ("ssmrank.reporting.efficiency_tables_command", "complexity, with measured exponents"),
    "efficiency": ("ssmrank.reporting.efficiency_command", "quality against speed, with document reuse and without"),
    "differences": ("ssmrank.reporting.differences_command", "a figure of per-query differences"),
    "curves": ("ssmrank.reporting.curves_command", "a figure of training curves"),
    "figure1": ("ssmrank.reporting.figure_command", "training throughput against batch size"),
    "tracking-store": ("ssmrank.tracking.command", "create the MLflow store"),
    "check": ("ssmrank.check_command", "check params.yaml with overlays, without running what they say"),
    "digest": ("ssmrank.digest_command", "SHA-256 of files, as params.yaml takes it"),
    "schema": ("ssmrank.config.schema", "print the JSON schema of params.yaml"),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status: 0, or 2 with one line on standard error for what a user can mend."""
    package, planned = str(Path(__file__).resolve().parent), os.environ.get("SSMRANK_PACKAGE")
    if planned and planned != package:
        print(f"ssmrank: error: {package} runs, but the workflow was planned with {planned}", file=sys.stderr)
        return 2
    if arguments is None:
        lifetime.begin()
        arguments = sys.argv[1:]
    parser = argparse.ArgumentParser(prog="ssmrank", description="State space models as text rerankers.")
    parser.add_argument("--version", action="version", version=f"ssmrank {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, (module_name, summary) in VERBS.items():
        asked_for = bool(arguments) and arguments[0] == verb
        verb_parser = verbs.add_parser(verb, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if asked_for:
            module = importlib.import_module(module_name)
            module.configure(verb_parser)
            verb_parser.set_defaults(run_verb=module.run)
    parsed = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stderr)
    try:
        parsed.run_verb(parsed)
        sys.stdout.flush()  # here, and not when Python ends, is where a reader that is gone is no error
    except UserError as error:
        print(f"ssmrank {parsed.verb}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # Ctrl-C ends who reads this, too
            print(f"ssmrank {parsed.verb}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None:
            raise
        print(f"ssmrank {parsed.verb}: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0
