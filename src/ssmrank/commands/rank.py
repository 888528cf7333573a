"""`ssmrank rank`: ranks the lines of a file or of standard input for a query."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ssmrank.api import Reranker
from ssmrank.errors import UserError
from ssmrank.io.files import BYTE_ORDER_MARK, decode, lines_up_to, open_file
from ssmrank.io.jsonl import LONGEST_LINE, parse_line


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--model", required=True, help="folder of a trained reranker, or OWNER/NAME of the hub")
    parser.add_argument("--query", required=True)
    parser.add_argument("--top-k", type=int, help="number of lines to print (default: all)")
    parser.add_argument(
        "--jsonl", action="store_true", help="each line is an object with a text under `text` (default: by .jsonl)"
    )
    parser.add_argument(
        "--device", default="auto", help="the device, as torch names it (default: a GPU if there is one)"
    )
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp8"], default="auto")
    parser.add_argument("file", metavar="FILE", help="texts, one on each line; - is standard input")


def run(arguments: argparse.Namespace) -> None:
    """Prints score and text, separated by a tab, best first; for JSONL it prints the objects with their `score`."""
    objects, texts = _read(arguments.file, arguments.jsonl or arguments.file.endswith(".jsonl"))
    reranker = Reranker.from_pretrained(arguments.model, device=arguments.device, precision=arguments.precision)
    for ranked in reranker.rank(arguments.query, texts, arguments.top_k):
        if objects:
            print(json.dumps(objects[ranked.index] | {"score": ranked.score}, ensure_ascii=False))
        else:
            print(f"{ranked.score:.4f}\t{ranked.document}")


def _read(file: str, jsonl: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects (empty unless `jsonl`) and the texts; blank lines are left out."""
    name = "standard input" if file == "-" else file
    objects, texts = [], []
    with sys.stdin.buffer if file == "-" else open_file(file) as stream:
        for number, raw in lines_up_to(stream, name, LONGEST_LINE):
            if not jsonl:
                line = decode(raw, f"{name}:{number}").removeprefix(BYTE_ORDER_MARK).rstrip("\r\n")
                if line.strip():
                    texts.append(line)
            elif (record := parse_line(name, number, raw)) is not None:
                if not isinstance(record.get("text"), str):
                    raise UserError(f'{name}:{number}: has no "text"; each object needs a text under this key')
                objects.append(record)
                texts.append(record["text"])
    return objects, texts
