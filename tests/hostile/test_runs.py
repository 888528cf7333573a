"""TREC runs and judgments."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import NO_FILES, place, run_settings

from ssmrank.errors import UserError
from ssmrank.io.pairs import read_pairs
from ssmrank.io.trec import iterate_run, read_qrels, read_run

GOOD = b"q1 Q0 d1 1 3 t\nq1 Q0 d2 2 2 t\n"

RUNS: dict[str, tuple[bytes | str, str]] = {
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, "run:1: begins with a byte order mark; save the file as UTF-8"),
    "byte order mark of a second file": (GOOD + b"\xef\xbb\xbfq2 Q0 d1 1 3 t\n", "run:3: begins with a byte"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "run:1: byte 1 is not UTF-8; convert the file to UTF-8"),
    "UTF-16 without a mark": (GOOD.decode().encode("utf-16-le"), "run:1: has a byte of value 0; is it a text file?"),
    "Latin-1": (GOOD + "q1 Q0 é 3 1 t\n".encode("latin-1"), "run:3: byte 7 is not UTF-8"),
    "a tail of zeros, as a crash leaves": (GOOD + b"\0" * 4096, "run:3: has a byte of value 0"),
    "a zero within an id": (GOOD + b"q1 Q0 d\x003 3 1 t\n", "run:3: has a byte of value 0"),
    "a letter for a digit": (GOOD + b"q1 Q0 d3 3 1O t\n", "run:3: score '1O' is not a number"),
    "a number as Python writes it": (GOOD + b"q1 Q0 d3 3 1_0 t\n", "run:3: score '1_0' is not a number"),
    "digits of another script": (GOOD + "q1 Q0 d3 3 ١ t\n".encode(), "run:3: score '١' is not a number"),
    "hexadecimal": (GOOD + b"q1 Q0 d3 3 0x1p3 t\n", "run:3: score '0x1p3' is not a number"),
    "a comma": (GOOD + b"q1 Q0 d3 3 1,5 t\n", "run:3: score '1,5' is not a number"),
    "a score of 5,000 letters": (GOOD + b"q1 Q0 d3 3 " + b"x" * 5000 + b" t\n", "run:3: score 'xxx"),
    "NaN": (GOOD + b"q1 Q0 d3 3 NaN t\n", "run:3: score of query q1, document d3 is NaN"),
    "-inf that ties": (GOOD + b"q1 Q0 d3 3 -inf t\nq1 Q0 d4 4 -inf t\n", "run:4: score of query q1, document d4"),
    "a tie in single precision": (GOOD + b"q1 Q0 d3 3 1e39 t\nq1 Q0 d4 4 1e300 t\n", "run:4: score of query"),
    "a digit too many": (GOOD + b"q1 Q0 d3 3 1" + b"0" * 400 + b" t\nq1 Q0 d4 4 inf t\n", "run:4: score of query q1"),
    "a field missing": (GOOD + b"q1 Q0 d3 3 1\n", "run:3: 5 fields, but"),
    "a field too many": (GOOD + b"q1 Q0 d 3 3 1 t\n", "run:3: 7 fields, but"),
    "lines ended by CR alone": (GOOD.replace(b"\n", b"\r"), "run:1: 12 fields, but"),
    "a document twice": (GOOD + b"q1 Q0 d1 3 1 t\n", "run:3: document d1 appears twice in query q1"),
    "JSON": (b'{"q1": {"d1": 3.0}}\n', "run:1: 3 fields, but"),
    "one line of 2 MB": (b"q1" * 2**20, "run:1: the line has 1,048,576 bytes or more; is it the right file?"),
    "an escape sequence as id": (GOOD + b"\x1b[2J Q0 d3 3 x t\n", "run:3: score 'x' is not a number"),
    "an escape sequence as document": (GOOD + b"q1 Q0 \x1b[2J 3 nan t\n", r"run:3: score of query q1, document \x1b"),
    **{kind: (kind, said) for kind, said in NO_FILES.items()},
}

PACKED: dict[str, tuple[bytes, str]] = {
    "no gzip": (GOOD, "run.gz: is not a complete gzip file"),
    "gzip cut off": (gzip.compress(GOOD)[:-9], "run.gz: is not a complete gzip file"),
    "gzip of another checksum": (gzip.compress(GOOD)[:-8] + b"\0" * 8, "run.gz: is not a complete gzip file (CRC"),
    "gzip with damage": (gzip.compress(GOOD)[:14] + b"\xff" * 20, "run.gz: is not a complete gzip file"),
    "zlib without a header": (zlib.compress(GOOD), "run.gz: is not a complete gzip file"),
    "10 MB of one line": (gzip.compress(b"q" * 10_000_000), "run.gz:1: the line has 1,048,576 bytes or more"),
}


def evaluate(path: Path, collection: Path) -> list[object]:
    out = path.parent / "out"
    options = ["--run", path, "--qrels", collection / "splits/test/qrels.txt"]
    return ["evaluate", "--settings", '{"metrics": ["nDCG@10"]}', *options, "--output", out, "--per-query", f"{out}2"]


def negatives(path: Path, collection: Path) -> list[object]:
    options = ["--run", path, "--qrels", collection / "splits/test/qrels.txt", "--collection", collection]
    settings = '{"retriever": "r", "depth": 5, "count": 1}'
    return ["negatives", "--settings", settings, *options, "--output", path.parent / "out"]


def import_run(path: Path, collection: Path) -> list[object]:
    options = ["--collection", collection, "--split", "test", "--output", path.parent / "out"]
    return ["retrieve", "import", "--settings", run_settings(path), *options]


@pytest.mark.parametrize("subcommand", [evaluate, negatives, import_run])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_refused(refused, collection: Path, tmp_path: Path, name: str, subcommand) -> None:
    content, message = RUNS[name]
    path = place(tmp_path / "run", content)
    said = refused(*subcommand(path, collection))
    if subcommand is not import_run or content not in NO_FILES:  # importing checks the digest first
        assert message in said


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_run_is_refused(refused, collection: Path, tmp_path: Path, name: str) -> None:
    content, message = PACKED[name]
    said = refused(*negatives(place(tmp_path / "run.gz", content), collection))
    assert message in said


@pytest.mark.parametrize("score", [b"inf", b"-inf", b"1e39", b"1e-400", b"-0.0", b"+1.", b".5"])
def test_a_score_that_orders_is_taken(tmp_path: Path, score: bytes) -> None:
    path = place(tmp_path / "run", GOOD + b"q1 Q0 d3 3 " + score + b" t\n")
    assert dict(read_run(path)["q1"])["d3"] == float(score)
    assert len(read_pairs(path, 10)) == 3


QRELS: dict[str, tuple[bytes | str, str]] = {
    "byte order mark": (b"\xef\xbb\xbfq1 0 d1 1\n", "qrels:1: begins with a byte order mark"),
    "a letter for a digit": (b"q1 0 d1 O1\n", "qrels:1: grade 'O1' is not a whole number"),
    "a fraction": (b"q1 0 d1 1.5\n", "qrels:1: grade '1.5' is not a whole number"),
    "a power": (b"q1 0 d1 1e30\n", "qrels:1: grade '1e30' is not a whole number"),
    "beyond a million": (b"q1 0 d1 9999999999\n", "qrels:1: grade 1e+10 is beyond 1,000,000"),
    "5,000 digits": (b"q1 0 d1 " + b"9" * 5000 + b"\n", "qrels:1: grade '999"),
    "a number as Python writes it": (b"q1 0 d1 1_0\n", "qrels:1: grade '1_0' is not a whole number"),
    "digits of another script": ("q1 0 d1 ١\n".encode(), "qrels:1: grade '١' is not a whole number"),
    "two grades": (b"q1 0 d1 1\nq1 0 d1 2\n", "qrels:2: document d1 of query q1 already has grade 1; keep one line"),
    "a header": (b"query-id corpus-id score\nq1 0 d1 1\n", "qrels:1: 3 fields, but"),
    "a run": (GOOD, "qrels:1: 6 fields, but"),
    "one line of 2 MB": (b"q1" * 2**20, "qrels:1: the line has 1,048,576 bytes or more"),
    **{kind: (kind, said) for kind, said in NO_FILES.items()},
}


@pytest.mark.parametrize("subcommand", [evaluate, negatives])
@pytest.mark.parametrize("name", QRELS)
def test_judgments_are_refused(refused, collection: Path, tmp_path: Path, name: str, subcommand) -> None:
    content, message = QRELS[name]
    arguments = subcommand(place(tmp_path / "run", GOOD), collection)
    arguments[arguments.index("--qrels") + 1] = place(tmp_path / "qrels", content)
    assert message in refused(*arguments)


FIELDS = st.one_of(
    st.text(max_size=8), st.sampled_from(["q1", "d1", "0", "1", "-inf", "1e400", "nan", "\ufeff", "\x00", "\u2028"])
)
LINES = st.lists(st.lists(FIELDS, max_size=7).map(" ".join), max_size=6).map("\n".join).map(str.encode)
BYTES = st.one_of(st.binary(max_size=200), LINES, LINES.map(gzip.compress))


@pytest.mark.parametrize("name", ["run", "run.gz"])
def test_readers_read_or_refuse(tmp_path: Path, name: str) -> None:
    """For any bytes, the result has all lines or there is a UserError, and all readers of runs agree."""
    path = tmp_path / name

    @given(BYTES)
    def check(content: bytes) -> None:
        path.write_bytes(content)
        outcomes = []
        for read in (read_run, lambda path: read_pairs(path, 1000), read_qrels, lambda path: dict(iterate_run(path))):
            try:
                outcomes.append(read(path))
            except UserError as error:
                outcomes.append(None)
                assert str(error).startswith(str(path))
        run, pairs = outcomes[:2]
        assert (run is None) == (pairs is None)
        if run is not None:
            assert sorted(pairs) == sorted((query, document) for query in run for document, _ in run[query])
        assert json.dumps(outcomes[2]) is not None

    check()
