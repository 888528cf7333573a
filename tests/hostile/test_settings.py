"""params.yaml, overlays and `--settings`."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from places import NO_FILES, place

from ssmrank.config import ARCHITECTURES, LOSS_NAMES, Bm25, read_params, read_settings
from ssmrank.errors import UserError
from ssmrank.io.plain import parse_yaml


def bomb(letters: str = "abcdefghij", alias: str = "[{}]") -> bytes:
    """Each value is nine of the one before it."""
    lines = [f"{letters[0]}: &{letters[0]} {{x: 1}}"]
    for before, letter in pairwise(letters):
        lines.append(f"{letter}: &{letter} " + alias.format(", ".join([f"*{before}"] * 9)))
    return "\n".join(lines).encode()


FILES: dict[str, tuple[bytes | str, str]] = {
    "a section twice": (b"retrievers: {}\ntables: {}\nretrievers: {}\n", ":3: key 'retrievers' stands in line 1"),
    "a key twice": (b"a:\n  depth: 5\n  depth: 6\n", ":3: key 'depth' stands in line 2 already; keep one of them"),
    "a key twice in brackets": (b"a: {depth: 5, depth: 6}\n", ":1: key 'depth' stands in line 1 already"),
    "a key twice in quotes": (b"a:\n  depth: 5\n  'depth': 6\n", ":3: key 'depth' stands in line 2 already"),
    "yes as a key": (b"yes: 1\n", ":1: key 'yes' is no string; put it in quotes"),
    "a number as a key": (b"2019: 1\n", ":1: key '2019' is no string; put it in quotes"),
    "null as a key": (b"~: 1\n", ":1: key '~' is no string; put it in quotes"),
    "a list as a key": (b"? [a]\n: 1\n", ":1: key of brackets is no string; put it in quotes"),
    "an anchor that holds itself": (b"a: &a [*a]\n", ":1: nested deeper than 64 levels by an anchor (&), which may"),
    "a mapping that holds itself": (b"a: &a\n  b: *a\n", ": nested deeper than 64 levels by an anchor"),
    "two anchors that hold each other": (b"a: &a [&b [*a, *b]]\n", ":1: nested deeper than 64 levels by an anchor"),
    "a bomb": (bomb(), ": more than 200,000 values with what anchors (&) stand for; write fewer"),
    "a bomb of merges": (bomb(alias="{{<<: [{}]}}"), ": more than 200,000 values with what anchors (&) stand for"),
    "a chain of anchors": (
        b"a0: &a0 [x]\n" + b"".join(b"a%d: &a%d [*a%d]\n" % (n + 1, n + 1, n) for n in range(1000)),
        ": nested deeper than 64 levels by an anchor (&), which may hold itself",
    ),
    "100,000 brackets": (b"a: " + b"[" * 100_000, ":1: brackets or lists are nested deeper than 64 levels"),
    "100,000 braces": (b"{a: " * 100_000, ":1: brackets or lists are nested deeper than 64 levels"),
    "100,000 dashes": (b"- " * 100_000, ":1: brackets or lists are nested deeper than 64 levels"),
    "5,000 digits": (b"a: " + b"9" * 5000, ":1: a whole number of 5,000 digits; write a smaller one, or quote it"),
    "5,000 hexadecimal digits": (b"a: 0x" + b"f" * 5000, ":1: a whole number of 5,002 digits"),
    "a number beyond 64 bits": (b"a: {b: [1, 99999999999999999999]}", ": a.b[1]: a whole number beyond 64 bits"),
    "octal": (b"a: 010", ":1: '010' is read as a number in octal; write it in decimal, or quote it"),
    "base 60": (b"a: 1:30", ":1: '1:30' is read as a number in base 60; write it in decimal, or quote it"),
    "a fraction in base 60": (b"a: 1:30.5", ":1: '1:30.5' is read as a number in base 60"),
    "no binary digit": (b"a: 0b_", ": malformed YAML: invalid literal for int()"),
    "a date": (b"a: 2001-01-01", ":1: '2001-01-01' is read as timestamp, which has no meaning here"),
    "a date that is none": (b"a: 2001-99-99", ":1: '2001-99-99' is read as timestamp"),
    "a set": (b"a: !!set {x}", ":1: the tag 'tag:yaml.org,2002:set' has no meaning here; remove it"),
    "bytes": (b"a: !!binary aGk=", ":1: 'aGk=' is read as binary, which has no meaning here; put it in quotes"),
    "an object of Python": (b"a: !!python/object/apply:os.system [echo]", ":1: the tag 'tag:yaml.org,2002:python"),
    "a tag that does not fit": (b"a: !!float abc", ":1: 'abc' is read as float, which has no meaning here"),
    "a tag of its own": (b"a: !mine x", ":1: 'x' is read as !mine, which has no meaning here; put it in quotes"),
    "half a surrogate pair": (rb'a: "\ud800"', ":1: malformed YAML: while parsing a quoted scalar found invalid"),
    "NUL": (rb'a: {b: "x\0"}', r": a.b: text with the character '\x00', which cannot be written; remove it"),
    "an escape sequence": (rb'a: "\x1b[2J"', r": a: text with the character '\x1b', which cannot be written"),
    "an escape sequence in a key": (rb'{"\x1b[2J": 1}', r": text with the character '\x1b', which cannot be written"),
    "a bare NUL": (b"a: \0", ": malformed YAML: unacceptable character"),
    "two documents": (b"a: 1\n---\nb: 2\n", ":2: malformed YAML: expected a single document in the stream but found"),
    "an alias of nothing": (b"a: *b\n", ":1: malformed YAML: found undefined alias"),
    "a tab": (b"a:\n\t- b\n", ":2: malformed YAML: while scanning for the next token found character"),
    "no mapping": (b"5", ": holds no keys; see params.yaml for the sections"),
    "9 MB": (b"#" * 9_000_000, ": has more than 8,388,608 bytes; is it the right file?"),
    "a merge of no mapping": (b"a: {<<: 5}", ":1: malformed YAML: while constructing a mapping expected a mapping"),
    "Latin-1": ("a: é".encode("latin-1"), ": byte 4 is not UTF-8; convert the file to UTF-8"),
    "a zip file": (b"PK\x03\x04\xff\xfe\xfd", ": byte 5 is not UTF-8"),
    **{kind: (kind, said) for kind, said in NO_FILES.items()},
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_refused(refused, tmp_path: Path, root: Path, name: str) -> None:
    """As overlay, and as file of one section."""
    content, message = FILES[name]
    path = place(tmp_path / "mine.yaml", content)
    for arguments in (
        ["check", root / "tests/data/params/tiny.yaml", path],
        ["evaluate", "--settings", path, "--run", "r", "--qrels", "q", "--output", "o", "--per-query", "p"],
    ):
        said = refused(*arguments)
        assert said.startswith(str(path)) and message in said


INLINE: dict[str, tuple[str, str]] = {
    "a key twice": ('{"depth": 5, "depth": 6}', "key 'depth' stands twice in one object; keep one"),
    "100,000 brackets": ('{"a": ' + "[" * 50_000, "malformed JSON (brackets are nested too deep)"),
    "80 brackets": ('{"a": ' + "[" * 80 + "]" * 80 + "}", "a[0][0][0][0][0][0][0]: nested deeper than 64 levels"),
    "5,000 digits": ('{"depth": ' + "9" * 5000 + "}", "a whole number has more than 4,300 digits"),
    "beyond 64 bits": ('{"depth": ' + "9" * 50 + "}", "depth: a whole number beyond 64 bits; write a smaller one"),
    "half a surrogate pair": (r'{"label": "\ud800"}', r"label: text with the character '\ud800', which cannot be"),
    "NUL": (r'{"label": "\u0000"}', r"label: text with the character '\x00', which cannot be written"),
    "true for a number": ('{"kind": "bm25", "depth": true}', "depth: input should be a number; in YAML yes, no, on"),
    "infinity": ('{"kind": "bm25", "k1": Infinity}', "k1: input should be a finite number (found inf)"),
    "NaN": ('{"kind": "bm25", "k1": NaN}', "k1: input should be a finite number (found nan)"),
    "too large for a float": ('{"kind": "bm25", "k1": 1e999}', "k1: input should be a finite number (found inf)"),
    "a second value": ('{"kind": "bm25"} {}', "malformed JSON (Extra data, column 18)"),
    "60 kB of text": ('{"kind": "bm25", "depth": "' + "x" * 60_000 + '"}', "depth: input should be a valid integer"),
    "a key of 60 kB": ('{"' + "x" * 60_000 + '": 1}', "unknown key xxx"),
}


@pytest.mark.parametrize("name", INLINE)
def test_inline_settings_are_refused(name: str) -> None:
    text, message = INLINE[name]
    with pytest.raises(UserError) as caught:
        read_settings(Bm25, text)
    assert str(caught.value).startswith(f"--settings: {message}")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["", ".", "[1]", "x\0y", "x" * 5000, "/dev/zero", "~"])
def test_what_is_no_settings_at_all(text: str) -> None:
    with pytest.raises(UserError):
        read_settings(Bm25, text)


@pytest.fixture(scope="module")
def tiny(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "tests/data/params/tiny.yaml").read_text())


WRONG: dict[str, tuple[str, Any, str]] = {
    "yes for a depth": ("negatives/bm25-top20/depth", True, "input should be a number; in YAML yes, no, on and"),
    "no for a count": ("negatives/bm25-top20/count", False, "input should be a number; in YAML yes, no, on and"),
    "on for a fraction": ("retrievers/bm25/k1", True, "input should be a number; in YAML yes, no, on and off are"),
    "yes for a rate": ("trainings/firstp/learning_rate", True, "input should be a number; in YAML yes, no, on"),
    "yes in a list of seeds": ("trainings/firstp/seeds", [1, True], "input should be a number; in YAML yes, no, on"),
    "yes for what may be null": ("trainings/firstp/groups", True, "input should be a number; in YAML yes, no, on"),
    "yes for a text": ("models/tiny-bert/label", True, "input should be a valid string (found True)"),
    "a number for a text": ("models/tiny-bert/label", 5, "input should be a valid string (found 5)"),
    "infinity": ("trainings/firstp/learning_rate", float("inf"), "input should be a finite number (found inf)"),
    "NaN": ("trainings/firstp/learning_rate", float("nan"), "input should be a finite number (found nan)"),
    "infinite epochs": ("trainings/firstp/epochs", float("inf"), "input should be a finite number (found inf)"),
    "half a step": ("trainings/firstp/batch_groups", 1.5, "input should be a valid integer"),
    "a seed below 0": ("negatives/bm25-top20/seed", -1, "input should be greater than or equal to 0"),
    "a seed beyond 32 bits": ("trainings/firstp/seed", 2**40, "input should be less than or equal to 2147483647"),
    "a cutoff of 20 digits": ("evaluation/metrics", ["nDCG@" + "9" * 20], "unknown metric 'nDCG@999"),
    "a misspelt loss": ("trainings/firstp/loss", "cross_entopy", "loss 'cross_entopy' is unknown; known: cross_"),
    "an unknown architecture": (
        "models/tiny-mamba2/source/config/model_type",
        "gpt2",
        "model_type 'gpt2' has no packed forward; known: bert",
    ),
    "no architecture": ("models/tiny-mamba2/source/config", {"hidden_size": 8}, "has no model_type; known: bert"),
    "a list as architecture": (
        "models/tiny-mamba2/source/config/model_type",
        ["bert"],
        "model_type ['bert'] has no packed forward; known: bert",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_is_refused(refused, tiny: dict[str, Any], tmp_path: Path, name: str) -> None:
    keys, value, message = WRONG[name]
    values = copy.deepcopy(tiny)
    section = values
    *path, last = keys.split("/")
    for key in path:
        section = section[key]
    section[last] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    place = f"{tmp_path}/params.yaml: {keys.replace('/', '.').removesuffix('.model_type')}"
    said = refused("check", tmp_path / "params.yaml")
    assert place in said and message in said


def test_the_names_that_planning_knows_are_all() -> None:
    from ssmrank.models.backbones import FORWARDS
    from ssmrank.training.loss import LOSSES

    assert tuple(FORWARDS) == ARCHITECTURES
    assert tuple(LOSSES) == LOSS_NAMES


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_settings_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"

    texts = st.one_of(VALUES.map(json.dumps), VALUES.map(yaml.dump)).map(str.encode)

    @given(st.binary(max_size=100) | texts)
    def check(content: bytes) -> None:
        path.write_bytes(content)
        for read in (read_params, lambda path: read_settings(Bm25, str(path))):
            try:
                read(path)
            except UserError as error:
                assert str(error).startswith(str(path))

    check()


@given(st.dictionaries(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1), VALUES, max_size=4))
def test_what_yaml_writes_is_read_as_it_was(values: dict[str, Any]) -> None:
    text = yaml.safe_dump(values)
    try:
        found = parse_yaml(text, "file")
    except UserError:
        return  # a key such as "yes" within
    assert yaml.safe_dump(found) == text
