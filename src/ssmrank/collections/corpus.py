"""The texts of a corpus, and which of them are held out."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from ssmrank.config.corpora import Corpus
from ssmrank.errors import UserError
from ssmrank.io.jsonl import parse_line


class Text(NamedTuple):
    """One text; `number` is its line in its file, from 1."""

    number: int
    id: str
    title: str
    text: str


def corpus_files(corpus: Corpus) -> list[Path]:
    """The files of the corpus. Raises UserError if one is missing."""
    folder = Path(corpus.path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; put the corpus there, or correct its path in section corpora")
    files = [folder / name for name in corpus.files]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise UserError(f"{missing}: no such file; put it there, or correct files in section corpora")
    return files


def read_texts(path: Path) -> Iterator[Text]:
    """The texts of one file, in order. It has JSON lines, compressed if its name ends in .xz.

    Raises UserError for a damaged file and for a line whose `_id`, `title` or `text` is missing, empty or not a string.
    """
    with _open(path) as stream:
        number = 0
        try:
            for number, raw in enumerate(stream, start=1):
                record = parse_line(path, number, raw)
                if record is not None:
                    yield Text(number, *(_field(record, key, f"{path}:{number}") for key in ("_id", "title", "text")))
        except (lzma.LZMAError, EOFError) as error:
            raise UserError(f"{path}: damaged after line {number} ({error}); fetch it again") from error


def is_held_out(id: str, share: float) -> bool:
    """Whether the text is excluded from training. This depends only on a hash of the id, so it never changes."""
    return fraction(id, "held out") < share


def fraction(id: str, purpose: str) -> float:
    """A number in [0, 1) that depends only on id and purpose, uniform over ids."""
    digest = hashlib.blake2b(f"{purpose}\n{id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def language_model_text(text: Text) -> str:
    """What a language model reads of a text: the body, then the title.

    It thus learns to predict the title from the body. A decoder that reads the document before the query needs the same
    skill.
    """
    return f"{text.text}\n{text.title}"


def _open(path: Path) -> IO[bytes]:
    try:
        return lzma.open(path, "rb") if path.suffix == ".xz" else path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error


def _field(record: dict, key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f'{where}: key "{key}" is missing, empty or not a string; each line needs _id, title and text')
    return value
