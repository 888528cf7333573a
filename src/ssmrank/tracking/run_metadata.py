"""A description of each run in a file beside it, after ir_metadata 0.2 (Breuer, Keller and Schaer, SIGIR 2022).

The schema follows PRIMAD: platform, research goal, implementation, method, actor, data; 0.2 adds resources. Nothing in
it names a person or a machine.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import resource
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from ssmrank._version import __version__
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.io.checksum import sha256
from ssmrank.io.collection import queries_file, split_folder
from ssmrank.io.model_files import TRAINING_FILE
from ssmrank.io.plain import read_json, read_yaml
from ssmrank.tracking.journal import git_revision

log = logging.getLogger(__name__)

SUFFIX = ".ir-metadata.yaml"

_LIBRARIES = {
    **{name: name for name in ("numpy", "numba", "scipy", "tokenizers", "torch", "transformers", "triton")},
    "faiss": "faiss-cpu",
}
"""Packages that compute, by module; those that the process has imported are listed."""


@dataclass
class RunMethod:
    """How a run was made, and on what.

    step: `name`, `method` and parameters. reads: other runs, whose own descriptions are taken over. relation: what the
    step does with them, `reranks` or `interpolates`. toolkit: package with the retrieval toolkit.
    """

    step: Mapping[str, Any]
    collection: Path | None = None
    split: str | None = None
    reads: Sequence[Path] = ()
    relation: str | None = None
    indexing: Mapping[str, Any] = field(default_factory=dict)
    training_data: Sequence[str] = ()
    toolkit: str | None = None


def metadata_file(run: Path) -> Path:
    """The file that describes a run."""
    return run.with_suffix(SUFFIX)


def trained_on(checkpoint: Path) -> list[str]:
    """COLLECTION/SPLIT of the queries that a checkpoint was trained on; empty where it was not trained here."""
    try:
        settings = read_json(checkpoint / TRAINING_FILE, "")["settings"]
        return [f"{settings['collection']}/{settings['split']}"]
    except (UserError, LookupError, TypeError):
        return []


@contextmanager
def described(arguments: argparse.Namespace, method: RunMethod) -> Iterator[None]:
    """Describes the run `arguments.output`, which the block writes.

    If the block raises, an old run keeps its description, and none stays without a run. An error in writing the
    description is logged, because the run is sound.
    """
    run = Path(arguments.output)
    file = metadata_file(run)
    before, began = os.times(), time.perf_counter()
    try:
        yield
    except BaseException:
        if not run.exists():
            file.unlink(missing_ok=True)
        raise
    try:
        record = _record(run, arguments, method)
        record["resources"] = _resources(before, time.perf_counter() - began)
        with atomic_file(file) as stream:
            yaml.safe_dump(record, stream, sort_keys=False, allow_unicode=True, width=120)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        with suppress(OSError):
            file.unlink(missing_ok=True)  # an old run's
        log.warning("%s: not written (%s: %s); the run is complete without it", file, type(error).__name__, reason)


def _record(run: Path, arguments: argparse.Namespace, method: RunMethod) -> dict[str, Any]:
    inputs = [_read(file) for file in method.reads]
    data = _data(method) or next((found["data"] for found in inputs if "data" in found), {})
    collection = data.get("test collection", {}).get("name", "a collection")
    name = method.step["name"]
    return {
        "schema version": 0.2,
        "tag": name,
        "run": {"file": run.name, "sha256": sha256(run)},
        "actor": {"role": "experimenter"},
        "platform": _platform(method),
        "research goal": {"description": f"how well {name} ranks the documents of {collection}"},
        "implementation": {
            "executable": {"cmd": _command(arguments)},
            "source": {"lang": ["python"], "commit": git_revision()},
        },
        "data": data,
        "method": _method(method, inputs),
    }


def _read(run: Path) -> dict[str, Any]:
    """The description of another run; a minimal one where there is none."""
    nothing = {"method": {"retrieval": [{"name": run.stem}]}}
    file = metadata_file(run)
    try:
        found = read_yaml(file) if file.is_file() else nothing
        return found if found["method"]["retrieval"][-1]["name"] else nothing
    except (UserError, LookupError, TypeError):
        log.warning("%s: is no description that ssmrank wrote; %s is named without its steps", file, run)
        return nothing


def _method(method: RunMethod, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    steps: dict[str, dict[str, Any]] = {}
    for found in inputs:
        for step in found["method"]["retrieval"]:
            steps.setdefault(step["name"], step)
    last = [found["method"]["retrieval"][-1]["name"] for found in inputs]
    own = dict(method.step)
    if method.relation is not None and last:
        own[method.relation] = last[0] if method.relation == "reranks" else last
    indexing = method.indexing or next((found["method"].get("indexing", {}) for found in inputs), {})
    kept = [step for name, step in steps.items() if name != own["name"]]
    return {
        "automatic": True,
        "score ties": "reverse alphabetical order",
        **({"indexing": dict(indexing)} if indexing else {}),
        "retrieval": [*kept, own],
    }


def _data(method: RunMethod) -> dict[str, Any]:
    if method.collection is None or method.split is None:
        return {}
    test = {
        "name": f"{method.collection.name}/{method.split}",
        "qrels": _shown(split_folder(method.collection, method.split) / "qrels.txt"),
        "topics": _shown(queries_file(method.collection, method.split)),
    }
    training = [{"name": name} for name in method.training_data]
    return {"test collection": test} | ({"training data": training} if training else {})


def _platform(method: RunMethod) -> dict[str, Any]:
    hardware: dict[str, Any] = {
        "cpu": {
            "model": _cpu_model(),
            "architecture": platform.machine(),
            "operation mode": f"{64 if sys.maxsize > 2**32 else 32}-bit",
            "number of cores": os.cpu_count(),
        }
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        number = torch.cuda.device_count()
        hardware["gpu"] = {"model": found.name, "memory": _gigabytes(found.total_memory), "number of devices": number}
    hardware["ram"] = _gigabytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    packages = [package for module, package in _LIBRARIES.items() if module in sys.modules]
    libraries = [f"ssmrank=={__version__}", *(f"{name}=={metadata.version(name)}" for name in packages)]
    software: dict[str, Any] = {"libraries": {"python": libraries}}
    if method.toolkit is not None:
        software["retrieval toolkit"] = [f"{method.toolkit}=={metadata.version(method.toolkit)}"]
    return {"hardware": hardware, "operating system": _operating_system(), "software": software}


def _operating_system() -> dict[str, str]:
    try:
        distribution = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        distribution = platform.system()
    return {"kernel": f"{platform.system()} {platform.release()}", "distribution": distribution}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _resources(before: os.times_result, seconds: float) -> dict[str, Any]:
    """Of this process and those that it started; a job that goes on after a kill counts from its last start."""
    now = os.times()
    user = now.user + now.children_user - before.user - before.children_user
    system = now.system + now.children_system - before.system - before.children_system
    times = {"wallclock": seconds, "user": user, "system": system}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KB on Linux
    return {
        "runtime": {name: f"{round(1000 * value)} ms" for name, value in times.items()},
        "ram": {"used process": {"max": f"{memory // 1024} MB"}},
    }


def _command(arguments: argparse.Namespace) -> str:
    return shlex.join(["ssmrank", *map(_shown, getattr(arguments, "words", []))])


def _shown(word: str | Path) -> str:
    """A word of the command line without the folders that only this machine has."""
    if Path(word).is_absolute():
        return Path(word).name
    home = str(Path.home())
    return str(word).replace(home, "~") if home != "/" else str(word)


def _gigabytes(size: int) -> str:
    return f"{round(size / 2**30)} GB"
