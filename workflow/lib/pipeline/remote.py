"""Outputs to and from DVC's remote: every digest is checked, and what goes wrong is said in one line.

`dvc pull` trusts a remote unless its option `verify` is set, and then it does not name what was damaged. Here the
option is always on, and each output that did not come is looked for in the remote.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

from pipeline.patience import ask
from ssmrank.errors import UserError, reason_of

PATIENCE = 30
"""Seconds that a remote has to answer the first request."""

DAMAGED = "is not what was pushed"
ABSENT = "is not there"
LEFT = "did not come"


class Lost(NamedTuple):
    """A file that a pull did not bring."""

    path: str
    object: str
    reason: str


def push(targets: Sequence[str] = (), name: str | None = None) -> str:
    """Sends the outputs of stages to a remote; returns what was done. Raises UserError if it could not be."""
    with _opened(name) as (repo, remote), _one_line(remote):
        sent = repo.push(targets=list(targets) or None, remote=remote.name)
        return f"{sent} objects sent to {_url(remote)}"


def pull(targets: Sequence[str] = (), name: str | None = None) -> str:
    """Brings the outputs of stages from a remote; returns what was done.

    Raises UserError, which names the first damaged or missing file, after it has brought what it can. An output with
    such a file is left out as a whole, unless it was here before.
    """
    from dvc.exceptions import CheckoutError, DownloadError  # type: ignore[import-untyped]
    from dvc_objects.errors import ObjectFormatError

    with _opened(name) as (repo, remote), _one_line(remote) as messages:
        stats: dict[str, int] = {}
        wanted = _wanted(repo, targets)
        own = {output for output in wanted if output.exists}
        with suppress(CheckoutError, DownloadError, ObjectFormatError):  # what is lost is named below
            stats = repo.pull(targets=list(targets) or None, remote=remote.name)["stats"]
        lost = {output: found for output in wanted if (found := [*_lost(output, repo.cache.local, remote.odb)])}
        for output in lost.keys() - own:
            output.remove()
        if lost:
            repo.drop_data_index()  # it holds the lists of folders as they came
            raise UserError(_report([one for found in lost.values() for one in found]))
        if not stats:
            raise UserError(f"{_title(remote)}: {messages[-1] if messages else 'not everything came'}")
        return f"{stats['fetched']} objects fetched from {_url(remote)}, {stats.get('added', 0)} files added"


def _wanted(repo: Any, targets: Sequence[str]) -> list[Any]:
    """The outputs with a digest; with targets, only those of the stages and paths that they name."""
    outputs = repo.index.outs
    if targets:
        chosen = [pair for target in targets for pair in repo.stage.collect_granular(target)]
        outputs = [output for stage, path in chosen for output in stage.outs if path in (None, output.fs_path)]
    return [output for output in outputs if output.hash_info and output.use_cache]


def _lost(output: Any, cache: Any, remote: Any) -> Iterator[Lost]:
    """Files of an output, or its list of files, whose content is not in the cache after a pull."""
    digest = output.hash_info.value
    if not output.hash_info.isdir:
        if not cache.exists(digest):
            yield _find(str(output), digest, remote)
        return
    files, found = _files(digest, cache), None
    if files is None:
        found = _find(str(output), digest, remote)
        # DVC brings no list of files whose files did not all come.
        files = _files(digest, remote) if found.reason == LEFT else None
    lost = [(path, one) for path, one in files or () if not cache.exists(one)]
    yield from (_find(f"{output}/{path}", one, remote) for path, one in lost)
    if found is not None and not lost:
        yield found


def _files(digest: str, database: Any) -> list[tuple[str, str]] | None:
    """(path, digest) of each file of a folder; None if the database has no such list."""
    try:
        with database.fs.open(database.oid_to_path(digest), "rb") as stream:
            return [(entry["relpath"], entry["md5"]) for entry in json.load(stream)]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _find(path: str, digest: str, remote: Any) -> Lost:
    place = remote.oid_to_path(digest)
    return Lost(path, remote.fs.unstrip_protocol(place), _look(place, digest, remote.fs))


def _look(place: str, digest: str, fs: Any) -> str:
    """Why an object did not come."""
    try:
        with fs.open(place, "rb") as stream:
            same = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except FileNotFoundError:
        return ABSENT
    return LEFT if same == digest.partition(".")[0] else DAMAGED


def _report(lost: Sequence[Lost]) -> str:
    first = min(lost, key=lambda one: [DAMAGED, ABSENT, LEFT].index(one.reason))
    more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
    # DVC sends no object that the remote already has.
    mend = {
        DAMAGED: f"remove that object and push it again (`{_COMMAND} push`) from a clone that has the file",
        ABSENT: f"push it again (`{_COMMAND} push`) from a clone that has the file",
        LEFT: "pull again",
    }[first.reason]
    return f"{first.path}{more}: its object {first.object} {first.reason}; {mend}, or make it again (`snakemake`)"


_COMMAND = "python workflow/scripts/remote.py"


@contextmanager
def _opened(name: str | None) -> Iterator[tuple[Any, Any]]:
    """The repository and a remote that answers."""
    try:
        from dvc.exceptions import NotDvcRepoError
        from dvc.repo import Repo  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise UserError("DVC is not installed here; `pip install 'ssmrank[pipeline]'`") from None
    try:
        with Repo(".") as repo:
            name, url = _remote(repo.config, name)
        with Repo(".", config={"remote": {name: {"verify": True}}}) as repo:
            _reach(repo.config, name, url)
            yield repo, repo.cloud.get_remote(name)
    except NotDvcRepoError:
        raise UserError("this folder is no DVC repository; run this in the repository's root") from None


def _remote(config: Any, name: str | None) -> tuple[str, str]:
    """Name and address of a remote, the default one if it is not named."""
    name = name or config["core"].get("remote")
    if name is None:
        raise UserError("DVC has no remote here; `dvc remote add --default storage s3://BUCKET/FOLDER`")
    if name not in config["remote"]:
        raise UserError(f"DVC has no remote {name!r} here, only: {', '.join(config['remote']) or 'none'}")
    return name, config["remote"][name]["url"]


def _reach(config: Any, name: str, url: str) -> None:
    """Raises UserError unless the remote answers a first request in time."""
    error = ask(partial(_list, config, name), PATIENCE)
    missing = getattr(error, "missing_deps", None)
    if missing:
        extra = "ssmrank[cluster]" if url.startswith("s3:") else f"dvc[{url.partition(':')[0]}]"
        raise UserError(f"DVC's remote {name!r} ({url}) needs {', '.join(missing)}; `pip install '{extra}'`")
    if error is not None:
        raise UserError(
            f"DVC's remote {name!r} ({url}): {reason_of(error)}; `dvc remote list` shows it and "
            f"`dvc remote modify {name}` changes it"
        )


def _list(config: Any, name: str) -> None:
    """A first request, for what the remote's folder holds; the folder need not be there yet."""
    from dvc.fs import get_cloud_fs  # type: ignore[import-untyped]

    cls, settings, path = get_cloud_fs(config, name=name)
    try:
        cls(**settings).ls(path)
    except FileNotFoundError as error:
        if error.__cause__ is not None:  # S3's answer: no such bucket
            raise


@contextmanager
def _one_line(remote: Any) -> Iterator[list[str]]:
    """Turns DVC's errors into UserErrors, and keeps the messages that it logs meanwhile."""
    messages: list[str] = []

    class Messages(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    former = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [Messages(logging.ERROR)], False
    try:
        yield messages
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{_title(remote)}: {reason_of(error)}") from None
    finally:
        for logger, handlers, propagate in former:
            logger.handlers, logger.propagate = handlers, propagate


def _title(remote: Any) -> str:
    return f"DVC's remote {remote.name!r} ({_url(remote)})"


def _url(remote: Any) -> str:
    return remote.fs.unstrip_protocol(remote.path)
