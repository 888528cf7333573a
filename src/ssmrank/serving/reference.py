"""The page at /docs: the OpenAPI description as plain HTML, without a script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { border-top: 1px solid #ccc; padding-top: 1rem; }
code { background: #f3f3f3; padding: 0 .2em; }
table { border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; }
"""


def reference_page(openapi: Mapping[str, Any]) -> str:
    """The routes of an OpenAPI description with the fields of their requests and answers."""
    info = openapi["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>",
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info['description'])} As a file: <a href=openapi.json>openapi.json</a>.</p>",
    ]
    for path, methods in openapi["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(route['summary'])}.</p>")
            parts.extend(_request(route, openapi))
            parts.extend(_answers(route, openapi))
    return "\n".join(parts) + "\n"


def _request(route: Mapping[str, Any], openapi: Mapping[str, Any]) -> Iterator[str]:
    if "requestBody" in route:
        yield "<h3>Request</h3>"
        yield _fields(route["requestBody"]["content"]["application/json"]["schema"], openapi)


def _answers(route: Mapping[str, Any], openapi: Mapping[str, Any]) -> Iterator[str]:
    for status, answer in route["responses"].items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        if status == "200" and schema:
            yield "<h3>Answer</h3>"
            yield _fields(schema, openapi)
    errors = [status for status in route["responses"] if status != "200"]
    if errors:
        yield f"<p>Errors: {', '.join(errors)}, each with a message of one line.</p>"


def _fields(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> str:
    if schema.get("type") == "array":
        return "<p>A list of:</p>" + _fields(schema["items"], openapi)
    known = _resolved(schema, openapi)
    rows = [
        f"<tr><td><code>{escape(name)}</code><td>{escape(_kind(field, openapi))}"
        f"<td>{'required' if name in known.get('required', ()) else ''}<td>{escape(field.get('description', ''))}"
        for name, field in known.get("properties", {}).items()
    ]
    return f"<p>{escape(known.get('description', ''))}</p><table>{''.join(rows)}</table>"


def _kind(field: Mapping[str, Any], openapi: Mapping[str, Any]) -> str:
    """The types of a field, for people."""
    if "$ref" in field:
        return ", ".join(_resolved(field, openapi).get("properties", {}))
    if "anyOf" in field:
        return " or ".join(_kind(form, openapi) for form in field["anyOf"])
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if field.get("type") == "array":
        return f"list of {_kind(field['items'], openapi)}"
    if field.get("type") == "object" and "properties" in field:
        return "object with " + ", ".join(field["properties"])
    return str(field.get("const", field.get("type", "any")))


def _resolved(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    return openapi["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
