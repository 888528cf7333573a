"""params.yaml, overlays and `--settings`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from files_of_settings import FILES
from hypothesis import given
from hypothesis import strategies as st
from places import place

from ssmrank.config.models import ARCHITECTURES
from ssmrank.config.params import read_params
from ssmrank.config.reading import read_settings
from ssmrank.config.retrievers import Bm25
from ssmrank.config.trainings import LOSS_NAMES
from ssmrank.errors import UserError
from ssmrank.io.plain import parse_yaml


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_refused(refused, tmp_path: Path, root: Path, name: str) -> None:
    """The file as an overlay, and as a file of one section."""
    content, message = FILES[name]
    path = place(tmp_path / "mine.yaml", content)
    for arguments in (
        ["params", "check", root / "tests/data/params/tiny.yaml", path],
        ["evaluate", "--settings", path, "--run", "r", "--qrels", "q", "--output", "o", "--per-query", "p"],
    ):
        said = refused(*arguments)
        assert said.startswith(str(path)) and message in said


INLINE: dict[str, tuple[str, str]] = {
    "a key twice": ('{"depth": 5, "depth": 6}', "key 'depth' appears twice in one object; keep one"),
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
        "model_type 'gpt2' is not supported; known: bamba, bart, bert",
    ),
    "a list as architecture": (
        "models/tiny-mamba2/source/config/model_type",
        ["bert"],
        "model_type ['bert'] is not supported; known: bamba, bart, bert",
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
    said = refused("params", "check", tmp_path / "params.yaml")
    assert place in said and message in said


def test_the_names_that_planning_knows_are_all() -> None:
    from ssmrank.models.architectures import MODEL_TYPES, architecture_of
    from ssmrank.training.loss import LOSSES

    assert MODEL_TYPES == ARCHITECTURES == tuple(architecture_of(name).model_type for name in MODEL_TYPES)
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
        return  # it has a key such as "yes"
    assert yaml.safe_dump(found) == text
