"""Which code a job depends on, found by reading the code.

Every module that a command imports, directly or indirectly and also inside functions, is listed with a digest of those
parts of its text that can change a result (source.py). Every package that these modules import is listed with its
version (versions.py). A rule gets these lines as params, so Snakemake runs a job again when its code changes, whatever
the files' times are (a clone, a checkout and a pull change them). The lines are also in the record of an output.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import ssmrank
from pipeline.contents import stamp
from pipeline.paths import STATE
from pipeline.source import definitions, nodes, reachable, strip, used
from pipeline.versions import foreign, version_of, versions

ROOT = Path(ssmrank.__file__).parent.parent

SETTINGS = frozenset({"ssmrank.config"})
"""Modules and their submodules that cannot change a result: settings reach a job as params of their own.

Constants and functions that other modules import from them can change results, and count.
"""

READERS = frozenset({"check", "read_params", "read_settings"})
"""Functions of the settings' modules that only read a job's settings."""

PLUMBING = (
    SETTINGS
    | frozenset({"ssmrank"})
    | frozenset(
        f"ssmrank.{name}"
        for name in (
            *("__main__", "_version", "cli", "errors", "gpus", "lifetime", "snakemake_entry", "tracking"),
            *("io.atomic", "io.leftovers", "io.locks"),
        )
    )
)
"""Modules and their submodules that cannot change a result; the root only re-exports names of other modules."""

TOOLS = frozenset({"ssmrank.io.files", "ssmrank.io.jsonl", "ssmrank.io.plain"})
"""Modules of unrelated functions: each function counts only for the modules that import it."""

STEPS = {
    "encode": "ssmrank.commands.index.vectors",
    "pretrain": "ssmrank.commands.pretrain.run",
    "rerank": "ssmrank.commands.rerank",
    "sweep": "ssmrank.commands.pretrain.sweep",
    "teach": "ssmrank.commands.teach",
    "train": "ssmrank.commands.train",
}
"""Steps that resume after a kill, with the module of each one's command."""


def code(module: str, without: Iterable[str] = ()) -> list[str]:
    """`NAME DIGEST` for each module that `module` needs and each data file beside one; versions of packages.

    `without` names modules that it imports only for other jobs; their submodules are left out too.
    """
    return list(_code(module, frozenset(without), ROOT))


def script_code(path: str, data: Iterable[str] = ()) -> list[str]:
    """`PATH DIGEST` for a script, scripts of its folder that it imports, and data that it reads; versions of packages.

    Empty if the folder itself is missing, so that a copy of the workflow without it plans everything else.
    """
    folder = Path(path).parent
    if not folder.is_dir():
        return []
    waiting, found, packages = [Path(path).stem], dict[str, str](), set[str]()
    while waiting:
        file = folder / f"{waiting.pop()}.py"
        if str(file) not in found:
            found[str(file)] = _digest(strip(_text(file)).encode())
            imported = foreign(_text(file))
            beside = {name for name in imported if (folder / f"{name}.py").is_file()}
            waiting.extend(beside)
            packages |= imported - beside
    found |= {name: _digest(Path(name).read_bytes()) for name in data}
    return [*(f"{name} {digest}" for name, digest in sorted(found.items())), *versions(packages)]


def sources(lines: Iterable[str]) -> dict[str, Path]:
    """The file of each line of `code` or `script_code`; lines of versions are left out."""
    found = {}
    for line in lines:
        name, _, digest = line.rpartition(" ")
        if re.fullmatch("[0-9a-f]{16}", digest) is None:
            continue
        module = name.partition(":")[0]
        if module == "ssmrank" or module.startswith("ssmrank."):
            found[line] = _path(module, ROOT)
        else:
            found[line] = ROOT / name if name.startswith("ssmrank/") else Path(name)
    return found


def outdated(lines: Iterable[str]) -> list[Path]:
    """Files that have changed since the lines were made, apart from comments and the like."""
    wrong = [path for line, path in sources(lines).items() if not _is_planned(path, line.rpartition(" ")[2])]
    return list(dict.fromkeys(wrong))


def _is_planned(path: Path, digest: str) -> bool:
    try:
        return _is_same(path, stamp(path)) if path.suffix == ".py" else _digest(path.read_bytes()) == digest
    except (OSError, ValueError, SyntaxError):
        return False  # removed, or half-edited


@cache
def _is_same(path: Path, stamp: str) -> bool:
    """Whether the file is still the code that its lines were made from; `stamp` is its present one."""
    text = path.read_text(encoding="utf-8")
    return text == _text(path) or strip(text) == strip(_text(path))


def state_of(step: str, without: Iterable[str] = (), own: Iterable[str] = ()) -> str:
    """The folder of killed jobs' states of a step; each version of the step's code has its own.

    without: as for `code`; own: modules that the job needs besides.
    """
    lines = "\n".join([*code(STEPS[step], without), *(line for module in own for line in code(module))])
    return f"{STATE}/{step}-{_digest(lines.encode())}"


@cache
def _code(module: str, without: frozenset[str], root: Path) -> tuple[str, ...]:
    require(without, root)
    uses = _closure(module, root, PLUMBING | without)
    lines, packages, folders = [], set[str](), set[Path]()
    for name, taken in sorted(uses.items()):
        path = _path(name, root)
        if _is_within(name, SETTINGS):
            lines += [f"{name}:{one} {_digest_definition(path, one)}" for one in sorted(taken)]
            continue
        parts = frozenset(taken) if name in TOOLS and "*" not in taken else None
        lines.append(f"{name} {_digest_module(path, parts)}")
        packages |= foreign(_text(path))
        folders.add(path.parent)
    for path in sorted(path for folder in folders for path in _data(folder)):
        lines.append(f"{path.relative_to(root).as_posix()} {_digest(path.read_bytes())}")
    return (*lines, *versions(packages), *release(root, Path(__file__).resolve().parents[3]))


def release(root: Path, tree: Path) -> tuple[str, ...]:
    """A line with the version of the package in `root`; empty if it is the package of the workflow in `tree`."""
    return () if root.resolve() == tree / "src" else (f"ssmrank {ssmrank.__version__} (installed)",)


def require(modules: Iterable[str], root: Path) -> None:
    """Raises ModuleNotFoundError if a list kept by hand names a module that does not exist (any more)."""
    for module in sorted(modules):
        if not _is_module(module, root):
            raise ModuleNotFoundError(f"{module}: no such module under {root}; correct the list that names it")


def imports(path: Path, module: str, root: Path) -> dict[str, frozenset[str]]:
    """Modules under `root` that the file names, in import statements anywhere in it or as a whole string.

    Each has the names that are imported from it; `*` means all of it.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: dict[str, set[str]] = {}
    for node in nodes(_text(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, set()).add("*")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                taken = (inner, "*") if _is_module(inner, root) else (base, alias.name)
                found.setdefault(base, set())
                found.setdefault(taken[0], set()).add(taken[1])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("ssmrank"):
            found.setdefault(node.value, set()).add("*")
    return {name: frozenset(taken) for name, taken in found.items() if _is_module(name, root)}


def _closure(module: str, root: Path, without: frozenset[str]) -> dict[str, set[str]]:
    """All modules that `module` needs, with the names imported from each; of settings' modules, those computed with."""
    require([module], root)
    found: dict[str, set[str]] = {module: {"*"}}
    waiting = [module]
    while waiting:
        module = waiting.pop()
        package = module.rpartition(".")[0]
        named = {**({package: frozenset[str]()} if package else {}), **_imports(module, root)}
        for name, taken in named.items():
            uses = _computing(name, taken, root) if _is_within(name, SETTINGS) else [(name, one) for one in taken]
            for place, one in [*uses, *([] if _is_within(name, SETTINGS) else [(name, "")])]:
                if _is_within(place, without) and not _is_within(place, SETTINGS):
                    continue
                if place not in found and not _is_within(place, SETTINGS):
                    waiting.append(place)
                found.setdefault(place, set()).update([one] if one else [])
    return found


def _computing(module: str, names: Iterable[str], root: Path) -> list[tuple[str, str]]:
    """(module, name) of everything imported from a settings' module that is neither a class nor a reader of settings.

    This includes what the definitions take from other modules.
    """
    text = _text(_path(module, root))
    defined = definitions(text)
    found = []
    for name in defined if "*" in names else names:
        if name in READERS or any(isinstance(node, ast.ClassDef) for node in defined.get(name, ())):
            continue
        if name in defined:
            found.append((module, name))
        outside = used(text, [name]) - defined.keys()
        for other, taken in _imports(module, root).items():
            for one in sorted(outside & taken):
                found += _computing(other, [one], root) if _is_within(other, SETTINGS) else [(other, one)]
    return found


@cache
def _imports(module: str, root: Path) -> dict[str, frozenset[str]]:
    return imports(_path(module, root), module, root)


def _is_within(module: str, names: frozenset[str]) -> bool:
    """Whether the module is one of `names` or inside one; `ssmrank` in `names` means only the root package itself."""
    if module in names:
        return True
    while "." in (module := module.rpartition(".")[0]):
        if module in names:
            return True
    return False


@cache
def _is_module(name: str, root: Path) -> bool:
    first, *rest = name.split(".")
    return (
        first == "ssmrank"
        and all(part.isidentifier() and part.isascii() for part in rest)
        and _path(name, root).is_file()
    )


@cache
def _path(module: str, root: Path) -> Path:
    base = root.joinpath(*module.split("."))
    package = base / "__init__.py"
    return package if package.is_file() else base.with_suffix(".py")


@cache
def _data(folder: Path) -> tuple[Path, ...]:
    suffixes = {".yaml", ".yml", ".json", ".tex", ".java"}
    return tuple(path for path in folder.iterdir() if path.suffix in suffixes and path.is_file())


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _digest_module(path: Path, names: frozenset[str] | None) -> str:
    """The digest of a module, or only of the parts that the names depend on."""
    text = _text(path)
    return _digest(strip(text if names is None else reachable(text, names)).encode())


def _digest_definition(path: Path, name: str) -> str:
    """The digest of a name's definition and what it uses, without the rest of the module."""
    return _digest(strip(reachable(_text(path), [name], alone=True)).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def forget() -> None:
    """Clears the caches, so that changed sources are read again."""
    for cached in (_code, _imports, _is_module, _path, _data, _text, _digest_module, _is_same, version_of):
        cached.cache_clear()


require(PLUMBING | TOOLS, ROOT)
