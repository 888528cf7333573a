"""Strict readers of JSON and YAML that anybody may have written, and checks of their values.

Python's own readers take the last of two equal keys, expand anchors without limit, and fail with various exceptions at
deep nesting or long numbers. Here each of these raises UserError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ssmrank.errors import UserError, shown
from ssmrank.io.files import read_text

DEEPEST = 64
"""The most levels of lists and mappings in settings."""

MOST = 200_000
"""The most values in settings, with aliases expanded."""

_LARGEST_FILE = 8 * 2**20
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is faster, if PyYAML was built with it
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Control characters except tab and line ends, and lone surrogates."""


# ---------------------------------------------------------------- JSON


class _RepeatedKey(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _RepeatedKey(twice)
    return values


class _NoNumber(ValueError):
    pass


def _refuse(constant: str) -> None:
    raise _NoNumber(constant)


_DECODER = json.JSONDecoder(object_pairs_hook=_once)
_FINITE_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_refuse)


def parse_json(text: str, where: str, advice: str = "", finite: bool = False) -> Any:
    """The value of a JSON text; NaN and Infinity are accepted as numbers unless they have to be `finite`.

    Raises UserError for malformed JSON or brackets nested too deep for Python (the message then ends in `advice`), for
    a key that an object has twice, and for whole numbers of more than 4,300 digits.
    """
    try:
        return (_FINITE_DECODER if finite else _DECODER).decode(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: malformed JSON ({error.msg}, column {error.colno}){advice}") from error
    except _RepeatedKey as error:
        raise UserError(f"{where}: key {shown(str(error))} appears twice in one object; keep one") from error
    except _NoNumber as error:
        raise UserError(f"{where}: malformed JSON (it has no {error}; write null){advice}") from error
    except RecursionError:
        raise UserError(f"{where}: malformed JSON (brackets are nested too deep){advice}") from None
    except ValueError as error:
        raise UserError(f"{where}: a whole number has more than 4,300 digits; write it as a string") from error


def read_json(path: str | Path, advice: str) -> dict[str, Any]:
    """The object in a JSON file that a command wrote; raises UserError, which ends in `advice`, if there is none."""
    try:
        values = parse_json(read_text(path, 2**30), str(path))
    except UserError as error:
        raise UserError(f"{error}; {advice}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: is not a JSON object; {advice}")
    return values


# ---------------------------------------------------------------- YAML


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML file, None if it is empty; raises UserError that names the line."""
    return parse_yaml(read_text(path, _LARGEST_FILE), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text, with only the types that JSON has.

    Raises UserError for malformed YAML and for what two people would read differently: a repeated key, a key that is
    not a string, a date, a tag, and a number with a leading zero (octal in YAML) or with colons (base 60). It also
    raises UserError for an anchor that contains itself or expands to too many values.
    """
    try:
        _check_depth(text, where)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            for child in _nodes(node, where):
                _check_node(loader, child, where)
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        place = _place(where, getattr(error, "problem_mark", None))
        parts = [getattr(error, part, None) for part in ("context", "problem")]
        said = " ".join(filter(None, parts)) or str(error).splitlines()[0]
        raise UserError(f"{place}: malformed YAML: {said}") from error
    except ValueError as error:
        raise UserError(f"{where}: malformed YAML: {error}") from error


def _place(where: str, mark: Any) -> str:
    """File, and line if there is a mark."""
    return where if mark is None else f"{where}:{mark.line + 1}"


def _check_depth(text: str, where: str) -> None:
    """Raises UserError for deep nesting.

    It looks at events, because libyaml composes nodes by a recursion without limit.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            place = _place(where, event.start_mark)
            raise UserError(f"{place}: brackets or lists are nested deeper than {DEEPEST} levels")


def _nodes(root: yaml.Node | None, where: str) -> Iterator[yaml.Node]:
    """Every node; what an anchor names comes once for each alias. Raises UserError for too many or too deep ones."""
    waiting = [] if root is None else [(root, 0)]
    count = 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        place = _place(where, node.start_mark)
        if count > MOST:
            raise UserError(f"{place}: more than {MOST:,} values after anchors (&) are expanded; write fewer")
        if depth > DEEPEST:
            raise UserError(
                f"{place}: nested deeper than {DEEPEST} levels through an anchor (&), which may contain itself"
            )
        yield node
        if isinstance(node, yaml.MappingNode):
            waiting += [(child, depth + 1) for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(child, depth + 1) for child in node.value]


_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}
_OCTAL = re.compile(r"[-+]?0[0-9_]+")


def _check_node(loader: yaml.SafeLoader, node: yaml.Node, where: str) -> None:
    place = _place(where, node.start_mark)
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(loader, node, place)
    elif node.tag not in _TAGS:
        raise UserError(f"{place}: the tag {shown(node.tag)} has no meaning here; remove it")
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node, where)


def _check_scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode, place: str) -> None:
    kind, text = node.tag.rpartition(":")[2], node.value
    fits = kind == "str" or loader.resolve(yaml.ScalarNode, text, (True, False)) == node.tag
    if node.tag not in _TAGS or not fits:
        raise UserError(f"{place}: {shown(text)} is read as {kind}, which has no meaning here; put it in quotes")
    if kind in ("int", "float") and (":" in text or (kind == "int" and _OCTAL.fullmatch(text))):
        base = "base 60" if ":" in text else "octal"
        raise UserError(f"{place}: {shown(text)} is read as a number in {base}; write it in decimal, or quote it")
    if kind == "int" and len(text) > 1000:
        raise UserError(f"{place}: a whole number of {len(text):,} digits; write a smaller one, or quote it")


def _check_keys(node: yaml.MappingNode, where: str) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith((":str", ":merge")):
            text = shown(key.value) if isinstance(key, yaml.ScalarNode) else "of brackets"
            raise UserError(f"{where}:{line}: key {text} is not a string; put it in quotes")
        if key.value in seen:
            there = seen[key.value]
            raise UserError(f"{where}:{line}: key {shown(key.value)} is already in line {there}; keep one of them")
        seen[key.value] = line


# ---------------------------------------------------------------- values


def check_plain(values: Any, where: str) -> None:
    """Raises UserError, naming the key, for values that a later step may be unable to write.

    These are values of types that JSON lacks, whole numbers beyond 64 bits, text with control characters or lone
    surrogates, and values that are too deep or too many.
    """
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(values, ())]
    count = 0
    while waiting:
        value, keys = waiting.pop()
        count += 1
        problem = _problem(value, len(keys), count)
        if problem:
            key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in keys[:8]).lstrip(".")
            raise UserError(f"{where}: {_printable(key)}{': ' if key else ''}{problem}")
        if isinstance(value, Mapping):
            waiting += [(key, keys) for key in value] + [(child, (*keys, key)) for key, child in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(child, (*keys, place)) for place, child in enumerate(value)]


def _problem(value: Any, depth: int, count: int) -> str:
    if count > MOST:
        return f"more than {MOST:,} values; write fewer"
    if depth > DEEPEST:
        return f"nested deeper than {DEEPEST} levels, or contains itself"
    if isinstance(value, str):
        odd = _UNWRITABLE.search(value)
        return f"text with the character {odd.group()!r}, which cannot be written; remove it" if odd else ""
    if isinstance(value, int):
        return "" if -(2**63) <= value < 2**63 else "a whole number beyond 64 bits; write a smaller one"
    if value is None or isinstance(value, float | Mapping | list | tuple):
        return ""
    return f"{shown(value)} is a {type(value).__name__}; put it in quotes"


def _printable(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."
