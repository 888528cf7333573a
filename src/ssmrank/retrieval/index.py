"""A Lucene index of a collection, built by Anserini."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from ssmrank.config.reading import check
from ssmrank.config.section import Section
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory
from ssmrank.io.collection import documents_file
from ssmrank.io.jsonl import read_jsonl
from ssmrank.io.plain import read_json
from ssmrank.io.sealed import check_seal, seal
from ssmrank.retrieval.java import run_anserini

logger = logging.getLogger(__name__)

Stemmer = Literal["porter", "krovetz", "none"]

_DESCRIPTION = "ssmrank.json"
_MEMORY_MB = 512
"""Lucene's write buffer; it fits into Java's default heap on a machine with 4 GB."""


class IndexDescription(Section):
    """What an index holds; it is written to `ssmrank.json` beside Lucene's files."""

    stemmer: Stemmer
    documents: int = Field(ge=1, description="documents of the collection")
    without_text: int = Field(ge=0, description="documents without text, which the index cannot find")


def build_index(collection: Path, output: Path, *, stemmer: str = "porter", threads: int = 1) -> IndexDescription:
    """Indexes `collection`/documents.jsonl into the folder `output`, which is complete or absent.

    Text is analysed as Anserini does for English: Lucene's standard tokenizer, removal of possessives, lower case,
    Lucene's 33 stop words, then the stemmer. Documents without text are no error. BM25 cannot find them, and they do
    not count in Lucene's number of documents and mean length.

    Raises:
        UserError: for a malformed or empty collection, where no suitable Java is found, or where Lucene did not index
            all documents.
    """
    if stemmer not in get_args(Stemmer):
        raise UserError(f"stemmer {stemmer!r} is unknown; use one of {', '.join(get_args(Stemmer))}")
    if threads < 1:
        raise UserError(f"threads: {threads} is less than 1")
    documents = documents_file(collection)
    counts = {"indexed": 0, "empty": 0}

    def on_message(message: str) -> None:
        complete = re.match(r"Indexing Complete! ([\d,]+) documents indexed", message)
        if complete:
            counts["indexed"] = _number(complete[1])
        elif message.startswith("empty:"):
            counts["empty"] = _number(message.split(":")[1])
        elif "documents indexed" in message and not message.startswith("Total"):
            logger.info("%s: %s", output, message)

    with atomic_directory(output) as folder:
        source = folder / "source"
        total = _write_source(documents, source, files=threads)
        logger.info("%s: indexing %d documents with %d threads, stemmer %s", output, total, threads, stemmer)
        options = {"-collection": "JsonCollection", "-input": source, "-index": folder, "-stemmer": stemmer}
        options |= {"-threads": threads, "-memoryBuffer": _MEMORY_MB}
        # One segment is searched faster, and then the number of threads decides the order of documents alone.
        run_anserini("index.IndexCollection", options, ["-optimize"], on_message)
        if counts["indexed"] + counts["empty"] != total:
            raise UserError(
                f"{output}: Lucene indexed {counts['indexed']} documents and found {counts['empty']} without text, but "
                f"{documents} has {total}; nothing was written"
            )
        if counts["indexed"] == 0:
            raise UserError(f"{documents}: none of the {total} documents has text; check text_fields")
        shutil.rmtree(source)
        description = IndexDescription.model_validate(
            {"stemmer": stemmer, "documents": total, "without_text": counts["empty"]}
        )
        (folder / _DESCRIPTION).write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")
        # Lucene does not delete its lock, an empty file that means nothing once the writer is closed.
        (folder / "write.lock").unlink(missing_ok=True)
        # Lucene does not notice damaged postings: it reads them as other ones.
        seal(folder)
    logger.info("%s: %d documents, %d of them without text", output, total, counts["empty"])
    return description


def read_description(index: Path) -> IndexDescription:
    """Reads the description. Raises UserError where the folder is not from `ssmrank index lucene` or is damaged."""
    path = index / _DESCRIPTION
    if not path.is_file():
        raise UserError(f"{index}: no complete index; build it with `ssmrank index lucene`")
    advice = "build the index again with `ssmrank index lucene`"
    check_seal(index, advice)
    return check(IndexDescription, read_json(path, advice), str(path))


def _write_source(documents: Path, folder: Path, files: int) -> int:
    """Writes the documents in Anserini's format, spread over a file for each thread; returns their number."""
    folder.mkdir()
    total = 0
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context((folder / f"{number:04d}.jsonl").open("w", encoding="utf-8")) for number in range(files)
        ]
        for number, record in read_jsonl(documents):
            try:
                line = json.dumps({"id": record["id"], "contents": record["text"]})
            except KeyError as error:
                raise UserError(f"{documents}:{number}: no key {error}; each line needs `id` and `text`") from error
            streams[total % files].write(line + "\n")
            total += 1
    if total == 0:
        raise UserError(f"{documents}: no documents; an index needs at least one")
    return total


def _number(text: str) -> int:
    return int(text.strip().replace(",", ""))
