"""The parts of a Python source that can change what it computes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

ERRORS = frozenset({"UserError"})
"""Exceptions that only end a job with a line for people: their wording changes no result."""


_COMMENT_OR_TEXT = re.compile(
    r"""#[^\n]*|\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)
"""A comment or a string literal without its prefix; `tokenize` finds the same in ten times the time."""


@cache
def nodes(text: str) -> tuple[ast.AST, ...]:
    """The nodes of the source's syntax tree, level by level from its top, without contexts; cached."""
    found: list[ast.AST] = [ast.parse(text)]
    for node in found:  # ast.walk takes twice as long
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                found += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context):
                found.append(value)
    return tuple(found)


@cache
def strip(text: str) -> str:
    """Python source without comments, docstrings, errors' wording, and blank lines and line ends outside of strings."""
    lines = dict(enumerate(text.splitlines(), start=1))
    inside_texts: set[int] = set()
    row, end = 1, 0
    for match in _COMMENT_OR_TEXT.finditer(text):
        row += text.count("\n", end, match.start())
        end = match.start()
        if text[end] == "#":
            lines[row] = lines[row][: end - text.rfind("\n", 0, end) - 1].rstrip()
        elif (breaks := match[0].count("\n")) > 0:
            inside_texts.update(range(row, row + breaks + 1))
    for first, last in _docstrings(nodes(text)):
        for row in range(first, last + 1):
            del lines[row]
    for (first, start), (last, end) in sorted(_wordings(nodes(text)), reverse=True):
        lines[first] = (lines[first].encode()[:start] + b"()" + lines[last].encode()[end:]).decode()
        for row in range(first + 1, last + 1):
            del lines[row]
        inside_texts -= {*range(first, last + 1)}
    kept = (line if row in inside_texts else line.rstrip() for row, line in lines.items())
    return "\n".join(line for row, line in zip(lines, kept, strict=True) if line or row in inside_texts)


def reachable(text: str, names: Iterable[str], alone: bool = False) -> str:
    """The lines of a source on which the names depend: their definitions and all that these use.

    Statements other than definitions always run, so they are kept too unless `alone` is true.
    """
    defined = definitions(text)
    optional = {id(node) for nodes in defined.values() for node in nodes}
    kept = [] if alone else [node for node in _statements(text) if id(node) not in optional]
    found = used(text, [*names, *(name for node in kept for name in _names(node))])
    kept += [node for name in found for node in defined.get(name, ())]
    rows = {row for node in kept for row in _rows(node)}
    return "\n".join(line for row, line in enumerate(text.splitlines(), start=1) if row in rows)


def used(text: str, names: Iterable[str]) -> set[str]:
    """The names and all that their definitions in the source use, directly or indirectly."""
    defined = definitions(text)
    waiting, found = [*names], set[str]()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(inner for node in defined.get(name, ()) for inner in _names(node))
    return found


@cache
def definitions(text: str) -> Mapping[str, list[ast.stmt]]:
    """The top-level statements that define each name."""
    found: dict[str, list[ast.stmt]] = {}
    for node in _statements(text):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            # An assignment to an attribute or an item changes another object, so it is no definition.
            plain = all(isinstance(target, ast.Name) for target in targets)
            names = [target.id for target in targets if isinstance(target, ast.Name)] if plain else []
        else:
            names = []
        for name in names:
            found.setdefault(name, []).append(node)
    return found


def _statements(text: str) -> list[ast.stmt]:
    tree = nodes(text)[0]
    assert isinstance(tree, ast.Module)
    return tree.body


def _names(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id


def _rows(node: ast.stmt) -> range:
    decorators = [decorator.lineno for decorator in getattr(node, "decorator_list", [])]
    return range(min([node.lineno, *decorators]), (node.end_lineno or node.lineno) + 1)


def _wordings(tree: Iterable[ast.AST]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Start and end of the arguments of raised errors, each as row and column in bytes."""
    for node in tree:
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ERRORS:
            assert call.func.end_lineno and call.func.end_col_offset and call.end_lineno and call.end_col_offset
            yield (call.func.end_lineno, call.func.end_col_offset), (call.end_lineno, call.end_col_offset)


def _docstrings(tree: Iterable[ast.AST]) -> Iterator[tuple[int, int]]:
    """First and last line of strings that are statements of their own; nothing else is on these lines."""
    for node in tree:
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for number, child in enumerate(body):
            if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
                continue
            neighbours = body[max(number - 1, 0) : number] + body[number + 1 : number + 2]
            alone = all(other.end_lineno < child.lineno or other.lineno > child.end_lineno for other in neighbours)
            if isinstance(child.value.value, str) and alone and child.lineno != getattr(node, "lineno", None):
                yield child.lineno, child.end_lineno or child.lineno
