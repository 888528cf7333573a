"""Reads and validates settings from files and from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ssmrank.config.section import NoNumber, suggest
from ssmrank.errors import UserError, shown
from ssmrank.io.plain import check_plain, parse_json, read_yaml

_CODE_KEY = "__use_yte__"
"""In a file that Snakemake reads as `--configfile`, this key makes it run expressions in the values as Python."""

S = TypeVar("S", bound=BaseModel)


def check(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    """Validates `values`; raises UserError with one line that names the first wrong key and says what to do."""
    check_plain(values, where)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(kind, values, error)}") from error


def read_settings(kind: type[S], text: str) -> S:
    """Settings from inline JSON, or from a YAML or JSON file if `text` is its path."""
    if text.lstrip().startswith("{"):
        return check(kind, parse_json(text, "--settings"), "--settings")
    return check(kind, read_sections(text), text)


def read_sections(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. It is checked only for what no file of settings may contain."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: has no keys; see params.yaml for the sections")
    check_plain(values, str(path))
    if _CODE_KEY in values:
        raise UserError(
            f"{path}: key {_CODE_KEY} makes Snakemake run Python code from the file; remove it and write the values out"
        )
    return values


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """The values of both, merged key by key at every depth; those of the overlay win."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _explain(kind: type[BaseModel], values: Mapping[str, Any], error: ValidationError) -> str:
    # An unknown key is the likeliest cause of the other errors: a misspelt key is also reported as missing.
    details = error.errors()
    first = next((detail for detail in details if detail["type"] == "extra_forbidden"), details[0])
    location = first["loc"]
    key = _key(location, values)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}{suggest(str(location[-1]), _siblings(kind, location, values))}"
    if first["type"] == "missing":
        return f"key {key} is missing; add it"
    if first["type"] == "value_error":
        wrong = first["ctx"]["error"]
        if isinstance(wrong, NoNumber):
            name = f"{key}.{wrong}" if key else str(wrong)
            return f"{name}: input should be a number; in YAML yes, no, on and off are true and false"
        return f"{key}: {wrong}" if key else str(wrong)
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]} (found {shown(first['input'])})"


def _key(location: tuple[int | str, ...], values: Any) -> str:
    """The dotted path of an error, without the names that pydantic adds for members of a union."""
    parts: list[str] = []
    union: Any = None
    for part in location:
        if isinstance(values, Mapping) and values is not union and values.get("kind") == part:
            union = values
            continue
        if str(part).startswith("("):  # the tag of one of several forms that a value can have
            continue
        name = str(part)[:60]
        parts.append(f"[{name}]" if isinstance(part, int) else f".{name}" if parts else name)
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
    return "".join(parts)


def _siblings(kind: type[BaseModel], location: tuple[int | str, ...], values: Any) -> list[str]:
    """The known keys of the section that has the wrong key."""
    schema = kind.model_json_schema()
    node: Any = schema
    for part in location[:-1]:
        node = _resolve(node, schema)
        if "discriminator" in node and part in node["discriminator"]["mapping"]:
            node = _resolve({"$ref": node["discriminator"]["mapping"][part]}, schema)
        elif str(part).startswith("("):
            node = next(form for form in node["anyOf"][0]["oneOf"] if "$ref" in form)
        elif isinstance(part, int):
            node = node.get("items", {})
        else:
            node = (
                node.get("properties", {}).get(part)
                or node.get("additionalProperties")
                or next(iter(node.get("patternProperties", {}).values()), {})
            )
    return list(_resolve(node, schema).get("properties", {}))


def _resolve(node: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    while isinstance(node, Mapping) and "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node if isinstance(node, dict) else {}
