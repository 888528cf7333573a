"""Collections in BEIR's layout, and the groups that trainings read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import BEIR, NO_FILES, place

from ssmrank.collections import canonical
from ssmrank.errors import UserError
from ssmrank.io.jsonl import read_jsonl
from ssmrank.io.texts import TextStore
from ssmrank.training.groups import read_groups

SECOND = b'{"_id": "d1", "text": "one"}\n'
DIGITS = b"9" * 5000

LINES: dict[str, tuple[bytes | str, str]] = {
    "5,000 digits as id": (b'{"_id": ' + DIGITS + b', "text": "a"}\n', ":2: a whole number has more than 4,300 digits"),
    "5,000 digits unused": (b'{"_id": "x", "text": "a", "n": ' + DIGITS + b"}\n", ":2: a whole number has more than"),
    "100,000 brackets": (b'{"_id": "x", "text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", ":2: malformed JSON (br"),
    "100,000 open brackets": (b"[" * 100_000, ":2: malformed JSON (brackets are nested too deep); each line"),
    "100,000 objects": (b'{"a":' * 100_000, ":2: malformed JSON (brackets are nested too deep)"),
    "half a pair in the id": (rb'{"_id": "\ud800", "text": "a"}', r":2: ITEM id '\ud800' contains a character that"),
    "NUL in the id": (rb'{"_id": "x\u0000", "text": "a"}', r":2: ITEM id 'x\x00' contains a character that files"),
    "escape in the id": (rb'{"_id": "\u001b[2J", "text": "a"}', r":2: ITEM id '\x1b[2J' contains a character"),
    "byte order mark in the id": (rb'{"_id": "\ufeffx", "text": "a"}', r":2: ITEM id '\ufeffx' contains a character"),
    "an id of 9,000 characters": (b'{"_id": "' + b"x" * 9000 + b'", "text": "a"}', ":2: ITEM id 'xxx"),
    "an id of blanks": (b'{"_id": "  ", "text": "a"}', ":2: ITEM id '  ' contains white space"),
    "a boolean id": (b'{"_id": true, "text": "a"}', ':2: key "_id" is missing or not a string'),
    "a list as id": (b'{"_id": ["x"], "text": "a"}', ':2: key "_id" is missing or not a string'),
    "a fraction as id": (b'{"_id": 1.5, "text": "a"}', ':2: key "_id" is missing or not a string'),
    "two ids": (b'{"_id": "x", "_id": "y", "text": "a"}', ":2: key '_id' appears twice in one object; keep one"),
    "two texts": (b'{"_id": "x", "text": "y", "text": "a"}', ":2: key 'text' appears twice in one object; keep one"),
    "NaN for a text": (b'{"_id": "x", "text": NaN}', ":2: field 'text' is nan, not a text; write null or a string"),
    "infinity for a text": (b'{"_id": "x", "text": 1e999}', ":2: field 'text' is inf, not a text"),
    "an object for a text": (b'{"_id": "x", "text": {"a": "b"}}', ":2: field 'text' is an object where text is needed"),
    "no object": (b'"x"\n', ":2: is a str, but must be a JSON object"),
    "two objects in a line": (SECOND.rstrip() + SECOND, ":2: malformed JSON (Extra data, column"),
    "an object over two lines": (b'{"_id":\n"x", "text": "a"}', ":2: malformed JSON ("),
    "a bare control character": (b'{"_id": "x", "text": "a\x00"}', ":2: malformed JSON (Invalid control character"),
    "single quotes": (b"{'_id': 'x', 'text': 'a'}", ":2: malformed JSON (Expecting property name"),
    "Latin-1": ('{"_id": "x", "text": "é"}'.encode("latin-1"), ":2: byte 23 is not UTF-8"),
    "a surrogate in UTF-8": (b'{"_id": "x", "text": "\xed\xa0\x80"}', ":2: byte 23 is not UTF-8"),
    "a tail of zeros": (b"\0" * 4096, ":2: malformed JSON (Expecting value"),
    "a byte order mark in the middle": (b'\xef\xbb\xbf{"_id": "x", "text": "a"}', ":2: begins with a byte order mark"),
}
"""Second lines of corpus.jsonl and queries.jsonl."""

WHOLE: dict[str, tuple[bytes | str, str]] = {
    "a byte order mark": (b"\xef\xbb\xbf" + SECOND, ":1: begins with a byte order mark; save the file as UTF-8"),
    "UTF-16": (SECOND.decode().encode("utf-16"), ":1: byte 1 is not UTF-8"),
    "UTF-16 without a mark": (SECOND.decode().encode("utf-16-le"), ":1: malformed JSON"),
    "one list of all": (b"[" + SECOND.strip() + b"]", ":1: is a list, but must be a JSON object"),
    "a gzip file": (b"\x1f\x8b\x08\x00", ":1: byte 2 is not UTF-8"),
    **{kind: (kind, said) for kind, said in NO_FILES.items()},
}

QRELS: dict[str, tuple[bytes | str, str]] = {
    "a letter for a digit in the first line": (b"q1\td1\tO1\nq2\td2\t1\n", ":1: score 'O1' is not a whole number"),
    "letters alone": (b"q1\td1\tO\nq2\td2\t1\n", ":1: score 'O' is not a whole number"),
    "a header in the second line": (b"q1\td1\t1\nquery-id\tcorpus-id\tscore\n", ":2: score 'score' is not"),
    "a byte order mark": (b"\xef\xbb\xbfq1\td1\t1\n", ":1: begins with a byte order mark"),
    "a power": (b"q1\td1\t1\nq2\td2\t1e30\n", ":2: score '1e30' is not a whole number"),
    "beyond a million": (b"q1\td1\t1\nq2\td2\t9999999999\n", ":2: grade 1e+10 is beyond 1,000,000"),
    "below minus a million": (b"q1\td1\t1\nq2\td2\t-9999999999\n", ":2: grade -1e+10 is beyond 1,000,000"),
    "5,000 digits": (b"q1\td1\t1\nq2\td2\t" + DIGITS + b"\n", ":2: score '999"),
    "a number as Python writes it": (b"q1\td1\t1\nq2\td2\t1_0\n", ":2: score '1_0' is not a whole number"),
    "a fraction": (b"q1\td1\t1\nq2\td2\t1.5\n", ":2: score '1.5' is not a whole number"),
    "digits of another script": ("q1\td1\t1\nq2\td2\t١\n".encode(), ":2: score '١' is not a whole number"),
    "one line of 2 MB": (b"q1" * 2**20, ":1: the line has 1,048,576 bytes or more"),
    **{kind: (kind, said) for kind, said in NO_FILES.items() if kind != "missing"},
}


def download(beir: Path) -> list[object]:
    settings = {"title": "T", "source": {"kind": "folder", "path": str(beir)}, "splits": ["test"]}
    folders = ["--archives", beir.parent / "archives", "--output", beir.parent / "out/tiny"]
    return ["download", "collection", "--settings", json.dumps(settings), *folders]


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize("name", LINES)
def test_a_line_is_refused(refused, beir: Path, name: str, file: str) -> None:
    content, message = LINES[name]
    place(beir / file, BEIR[file].splitlines(keepends=True)[0] + content)
    assert f"{beir / file}{message}".replace("ITEM", "document" if file == "corpus.jsonl" else "query") in refused(
        *download(beir)
    )


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_file_is_refused(refused, beir: Path, name: str, file: str) -> None:
    content, message = WHOLE[name]
    place(beir / file, content)
    said = refused(*download(beir))
    assert str(beir / file) in said and message in said


@pytest.mark.parametrize("name", QRELS)
def test_judgments_are_refused(refused, beir: Path, name: str) -> None:
    content, message = QRELS[name]
    place(beir / "qrels/test.tsv", content)
    said = refused(*download(beir))
    assert str(beir / "qrels/test.tsv") in said and message in said


@pytest.mark.parametrize("header", ["query-id\tcorpus-id\tscore", "qid docid Relevance", "q\td\tlabel"])
def test_a_header_is_none_of_them(beir: Path, tmp_path: Path, header: str) -> None:
    from ssmrank.cli import main

    place(beir / "qrels/test.tsv", f"{header}\nq1\td1\t1\nq2\td2\t1.0\n".encode())
    assert main(list(map(str, download(beir)))) == 0
    assert (tmp_path / "out/tiny/splits/test/qrels.txt").read_text() == "q1 0 d1 1\nq2 0 d2 1\n"


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl"])
def test_a_text_that_no_index_takes_is_refused_with_its_line(
    refused, beir: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setattr(canonical, "LONGEST_TEXT", 1000)  # of 10 million
    place(beir / file, BEIR[file] + b'{"_id": "x", "text": "' + b"word " * 2000 + b'"}\n')
    assert f"{beir / file}:3: a text of 9,999 characters; no index accepts more than 1,000" in refused(*download(beir))


def test_what_can_be_written_is_taken(beir: Path, tmp_path: Path) -> None:
    from ssmrank.cli import main

    strange = {"_id": "é\u200d😀", "title": None, "text": "a\u0000b\ud800c \u202e \ufeff", "metadata": {"a": [[[1]]]}}
    place(beir / "corpus.jsonl", BEIR["corpus.jsonl"] + json.dumps(strange).encode() + b"\r\n\r\n")
    assert main(list(map(str, download(beir)))) == 0
    text = TextStore(tmp_path / "out/tiny/documents.jsonl")["é\u200d😀"]
    assert text.startswith("a\0b") and text.endswith("\u202e \ufeff")


GROUP = {"query": "q", "positive": "d1", "negatives": ["d2", "d3"], "scores": [3, 2, 1]}

GROUPS: dict[str, tuple[object, str]] = {
    "a number as query": (GROUP | {"query": 5}, '"query" and "positive" must be strings'),
    "a list as query": (GROUP | {"query": []}, '"query" and "positive" must be strings'),
    "null as positive": (GROUP | {"positive": None}, '"query" and "positive" must be strings'),
    "text for a list": (GROUP | {"negatives": "d2"}, '"negatives" a list of strings'),
    "an object for a list": (GROUP | {"negatives": {"d2": 1, "d3": 1}}, '"negatives" a list of strings'),
    "null for a list": (GROUP | {"negatives": None}, '"negatives" a list of strings'),
    "a number in the list": (GROUP | {"negatives": ["d2", 3]}, '"negatives" a list of strings'),
    "no negatives": ({"query": "q", "positive": "d1"}, "key 'negatives' is missing; make the file with `ssmrank"),
    "too few": (GROUP | {"negatives": ["d2"]}, "1 negatives, but the settings say 2"),
    "no object": (["q"], "is a list, but must be a JSON object"),
    "a boolean score": (GROUP | {"scores": [True, 2, 1]}, '"scores" must be a list of 3 finite numbers'),
    "NaN": (GROUP | {"scores": [math.nan, 2, 1]}, '"scores" must be a list of 3 finite numbers'),
    "-inf": (GROUP | {"scores": [3, 2, -math.inf]}, '"scores" must be a list of 3 finite numbers'),
    "beyond single precision": (GROUP | {"scores": [1e39, 2, 1]}, '"scores" must be a list of 3 finite numbers'),
    "400 digits": (GROUP | {"scores": [10**400, 2, 1]}, '"scores" must be a list of 3 finite numbers'),
    "text": (GROUP | {"scores": "321"}, '"scores" must be a list of 3 finite numbers'),
    "too few scores": (GROUP | {"scores": [3, 2]}, '"scores" must be a list of 3 finite numbers'),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_training_group_is_refused(tmp_path: Path, name: str) -> None:
    record, message = GROUPS[name]
    path = tmp_path / "negatives.jsonl"
    path.write_text(json.dumps(GROUP) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(UserError) as caught:
        read_groups(path, 2, distils=True)
    assert str(caught.value).startswith(f"{path}:2: ") and message in str(caught.value)


VALUES = st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5)
RECORDS = st.dictionaries(st.sampled_from(["_id", "text", "query", "positive", "negatives", "scores"]), VALUES)
CONTENTS = st.one_of(st.binary(max_size=200), st.lists(RECORDS.map(json.dumps)).map("\n".join).map(str.encode))


def test_readers_read_or_refuse(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"

    @given(CONTENTS)
    def check(content: bytes) -> None:
        path.write_bytes(content)
        for read in (lambda path: list(read_jsonl(path)), lambda path: read_groups(path, 2, distils=True), TextStore):
            try:
                read(path)
            except UserError as error:
                assert str(error).startswith(str(path))

    check()
