"""Outputs that are kept in storage, such as a bucket, in place of this folder.

`--default-storage-provider` asks for it; profiles/s3 and profiles/fs are examples. Collections, models, indexes, runs
and checkpoints are then stored; a job works on copies, which are removed when no other job needs them. What people look
at stays here: metrics, tables, figures, logs. It is small.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from pipeline import paths
from pipeline.patience import ask
from ssmrank.errors import UserError, reason_of
from ssmrank.io.atomic import scratch_directory
from ssmrank.jobs.places import Places

HERE = tuple(
    f"{folder}/"
    for folder in (
        *(paths.METRICS, paths.PER_QUERY, "results/speed", "results/tokens", "results/throughput"),
        *("results/tables", "results/comparisons", "results/figures", "results/fusions"),
        *(paths.LOGS, "results/benchmarks", paths.PROVENANCE),
    )
)
"""Folders of outputs that are never stored."""

PATIENCE = 30
"""Seconds that storage has to answer the first request."""


class Storage:
    """What Snakemake was told about storage; without storage, every output is in this folder."""

    def __init__(self, workflow: Any) -> None:
        self._workflow, self._settings = workflow, workflow.storage_settings
        self._kind: str | None = self._settings.default_storage_provider
        self._root = self._address = ""
        if self._kind is None:
            return
        mend(self._kind)
        modifier = workflow.modifier.path_modifier
        modifier.apply_default_storage = partial(_apply, modifier.apply_default_storage)
        if not self._settings.default_storage_prefix:
            raise SystemExit("ssmrank: error: --default-storage-provider needs --default-storage-prefix")
        # Snakemake gives jobs the server's address and keys as variables; its plugin for Slurm leaves that to sbatch.
        os.environ.update(workflow.spawned_job_args_factory.get_storage_provider_envvars())
        probe = self._object("any")
        self._root, self._address = str(probe.local_path()).removesuffix("any"), probe.query.removesuffix("any")

    def __bool__(self) -> bool:
        return self._kind is not None

    def copy_of(self, path: str) -> str:
        """Where a job finds a stored output; `path` itself if it is in this folder."""
        return path if not self or path.startswith(HERE) else f"{self._root}{path}"

    def has(self, place: str) -> bool:
        """Whether this is the address of a stored output, or the path of its copy."""
        return bool(self) and place.startswith((self._root, self._address))

    @property
    def places(self) -> Places:
        """Paths in the settings of jobs, where jobs find them."""
        return cast(Places, _Copies(self.copy_of))

    def check(self) -> None:
        """Exits with one line unless the storage answers; Snakemake would plan as if it were empty."""
        if self._kind != "s3":
            return
        prefix = self._settings.default_storage_prefix
        client, bucket = self._object("any").provider.s3c.meta.client, self._object("any").bucket
        error = ask(lambda: client.head_bucket(Bucket=bucket), PATIENCE)
        if error is None:
            return
        if getattr(error, "response", {}).get("Error", {}).get("Code") == "404":
            error = UserError(f"there is no bucket {bucket!r}")
        raise SystemExit(
            f"ssmrank: error: --default-storage-prefix {prefix}: {reason_of(error)}; create the bucket, or correct the "
            "profile (default-storage-prefix, storage-s3-endpoint-url) or the keys (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY)"
        )

    @property
    def copies(self) -> list[str]:
        """The folder of all copies; empty without storage."""
        return [self._root] if self else []

    def _object(self, path: str) -> Any:
        prefix = self._settings.default_storage_prefix.rstrip("/")
        return self._workflow.storage_registry.default_storage_provider.object(f"{prefix}/{path}")


class _Copies:
    """See `Places`: what the functions of `paths` return, as jobs find it."""

    def __init__(self, copy_of: Callable[[str], str]) -> None:
        self._copy_of = copy_of

    def __getattr__(self, name: str) -> Callable[..., str]:
        path_of = getattr(paths, name)
        return lambda *names: self._copy_of(path_of(*names))


def _apply(to_storage: Callable[[Any], Any], path: Any) -> Any:
    """Snakemake's own choice, except for what stays in this folder."""
    return path if str(path).startswith(HERE) else to_storage(path)


def mend(kind: str) -> None:
    """Makes a plugin keep what is beside an output and fetch it whole or not at all; for S3, makes folders work.

    The plugin for S3 asks once whether an object is a folder, and one that is made later counts as a file. It deletes a
    bucket with its last object.
    """
    plugin: Any = import_module(f"snakemake_storage_plugin_{kind.replace('-', '_')}")
    if not issubclass(plugin.StorageObject, _Mended):
        bases = (_Mended, *([_MendedS3] if kind == "s3" else []), plugin.StorageObject)
        plugin.StorageObject = type("StorageObject", bases, {})
        _remove_copies_whole()


class _Mended:
    """A mixin before a plugin's class of objects.

    A copy is there whole or not at all, also after a kill. The description of a run is stored and fetched with it.
    """

    query: str
    provider: Any
    local_path: Callable[[], Path]
    set_local_path: Callable[[Path | None], None]

    def store_object(self) -> None:
        """Snakemake calls this to store the object from its copy."""
        super().store_object()  # type: ignore[misc]
        for one in self._beside():
            if one.local_path().is_file():
                one.store_object()

    def retrieve_object(self) -> None:
        """Snakemake calls this to fetch the object's copy."""
        copy = self.local_path()
        with scratch_directory(copy.name, parent=copy.parent) as scratch:
            self.set_local_path(scratch / copy.name)
            try:
                super().retrieve_object()  # type: ignore[misc]
            finally:
                self.set_local_path(None)
            if copy.is_dir():
                shutil.rmtree(copy)
            (scratch / copy.name).replace(copy)
        for one in self._beside():
            if one.exists():
                one.retrieve_object()

    def remove(self) -> None:
        """Snakemake calls this to remove the object."""
        super().remove()  # type: ignore[misc]
        for one in self._beside():
            if one.exists():
                one.remove()

    def _beside(self) -> list[Any]:
        from ssmrank.tracking.run_metadata import SUFFIX  # here, because a plan has no need of it

        run, is_run, _ = self.query.rpartition(".trec")
        return [self.provider.object(run + SUFFIX)] if is_run else []


class _MendedS3:
    """A mixin for S3."""

    _is_dir: bool | None

    def is_dir(self) -> bool:
        """Whether there are objects below this one."""
        self._is_dir = self._is_dir or None
        return super().is_dir()  # type: ignore[misc]

    def remove(self) -> None:
        """Removes the object, or all objects below it, and no bucket."""
        items = self.get_subkeys() if self.is_dir() else [self.s3obj()]  # type: ignore[attr-defined]
        for item in [*items]:
            item.delete()


def _remove_copies_whole() -> None:
    """Snakemake removes a copy that is no longer needed, but a folder only at the end of the run."""
    from snakemake.io import _IOFile  # type: ignore[import-untyped]

    remove = _IOFile.remove

    async def remove_whole(file: Any, remove_non_empty_dir: bool = False, only_local: bool = False) -> None:
        await remove(file, remove_non_empty_dir or (only_local and file.is_storage), only_local)

    _IOFile.remove = remove_whole
