"""Which code a job depends on, found by reading it.

Each module that a command imports, also inside functions and through others, is named with a digest of its text
without comments, docstrings and blank lines. Handed to a rule as params, the digests make Snakemake run a job again
when its code changes, whatever the times of the files are (a clone, a checkout and a pull all change those).
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import ssmrank

ROOT = Path(ssmrank.__file__).parent.parent

PLUMBING = frozenset(
    f"ssmrank{name}"
    for name in (
        *("", ".__main__", ".cli", ".config", ".config_schema", ".errors", ".tracking"),
        *(".io.atomic", ".io.leftovers", ".io.locks", ".lifetime"),
        *(".overview_settings", ".table_settings"),
    )
)
"""Modules, with those inside them, that cannot change a result: settings reach a job as params of their own."""

STEPS = {
    "encode": "ssmrank.retrieval.encode_command",
    "pretrain": "ssmrank.pretraining.command",
    "rerank": "ssmrank.reranking.command",
    "sweep": "ssmrank.pretraining.sweep_command",
    "teach": "ssmrank.teaching.command",
    "train": "ssmrank.training.command",
}
"""Steps that go on after a kill, with the module of each one's command."""


def code(module: str, without: Iterable[str] = ()) -> list[str]:
    """`MODULE DIGEST` for each module, and each file of data beside one, that `module` needs; sorted.

    `without` names modules, with those inside them, that it imports for other verbs' sake.
    """
    needed = sorted(_closure(module, ROOT, PLUMBING | frozenset(without)))
    lines = [f"{module} {_digest_module(_path(module, ROOT))}" for module in needed]
    folders = {_path(module, ROOT).parent for module in needed}
    for path in sorted(path for folder in folders for path in folder.iterdir() if _is_data(path)):
        lines.append(f"{path.relative_to(ROOT).as_posix()} {_digest(path.read_bytes())}")
    return lines


def state_of(step: str) -> str:
    """The folder of what killed jobs of a step have done already, another one for another version of its code."""
    lines = "\n".join(code(STEPS[step]))
    return f"results/state/{step}-{_digest(lines.encode())}"


def imports(path: Path, module: str, root: Path) -> set[str]:
    """Modules under `root` that the file names: by import statements anywhere in it, or whole in a string."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isascii():
            found.add(node.value)
    return {name for name in found if _is_module(name, root)}


def strip(text: str) -> str:
    """Python source without comments, docstrings, and blank lines and ends of lines outside of texts."""
    lines = dict(enumerate(text.splitlines(), start=1))
    inside_texts: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            lines[row] = lines[row][:column].rstrip()
        elif token.end[0] > row:
            inside_texts.update(range(row, token.end[0] + 1))
    for first, last in _docstrings(ast.parse(text)):
        for row in range(first, last + 1):
            del lines[row]
    kept = (line if row in inside_texts else line.rstrip() for row, line in lines.items())
    return "\n".join(line for row, line in zip(lines, kept, strict=True) if line or row in inside_texts)


def _docstrings(tree: ast.AST) -> Iterator[tuple[int, int]]:
    """First and last line of strings that stand as statements of their own; nothing else stands on these lines."""
    for node in ast.walk(tree):
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


def _closure(module: str, root: Path, without: frozenset[str]) -> set[str]:
    waiting, found = [module], set()
    while waiting:
        module = waiting.pop()
        if module in found or _is_within(module, without):
            continue
        if not _is_module(module, root):
            raise ModuleNotFoundError(f"{module}: no such module under {root}")
        found.add(module)
        package = module.rpartition(".")[0]
        waiting.extend([package] if package else [])
        waiting.extend(_imports(module, root))
    return found


@cache
def _imports(module: str, root: Path) -> frozenset[str]:
    return frozenset(imports(_path(module, root), module, root))


def _is_within(module: str, names: frozenset[str]) -> bool:
    """Whether the module is one of `names` or inside one; the root package stands for itself alone."""
    return any(module == name or ("." in name and module.startswith(f"{name}.")) for name in names)


def _is_module(name: str, root: Path) -> bool:
    first, *rest = name.split(".")
    return first == "ssmrank" and all(part.isidentifier() for part in rest) and _path(name, root).is_file()


def _path(module: str, root: Path) -> Path:
    base = root.joinpath(*module.split("."))
    package = base / "__init__.py"
    return package if package.is_file() else base.with_suffix(".py")


def _is_data(path: Path) -> bool:
    return path.is_file() and path.suffix in {".yaml", ".yml", ".json", ".tex", ".java"}


@cache
def _digest_module(path: Path) -> str:
    return _digest(strip(path.read_text(encoding="utf-8")).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
