"""Disks that are full or cannot be written."""

from __future__ import annotations

import re
import shutil

import pytest

from chaos.disturbed import Disturbed, can_unshare

MOUNTS = ["--map-root-user", "--mount"]
FIRST_STAGE = "results/runs/first-stage/tiny/test/bm25.trec"

FULL = """
mount -t tmpfs -o size={size} tmpfs results
snakemake --cores 1 {target}; echo "ended with $?"
mount -o remount,size=64m results
find results -name '.*.part'
echo "=== again"; snakemake --cores 1 {target}; echo "ended with $?"
cp -r results ../kept
"""

pytestmark = pytest.mark.skipif(not can_unshare(*MOUNTS), reason="needs mounts of its own (unshare --mount)")


def disturbed(project, script: str) -> str:
    with Disturbed(project, "unshare", *MOUNTS, "bash", "-c", script) as run:
        assert run.ends(3000), run.said
        return run.said


def first_and_second(project, size: str, target: str) -> tuple[str, str]:
    shutil.rmtree(project.folder / "results")
    (project.folder / "results").mkdir()
    first, _, second = disturbed(project, FULL.format(size=size, target=target)).partition("=== again")
    return first, second


def test_a_full_disk(finished, project) -> None:
    first, second = first_and_second(project, "16k", FIRST_STAGE)
    assert "ended with 0" not in first and "Traceback" not in first, first
    assert re.search("disk is full|No space left on device", first), first
    assert ".part" not in first
    assert "ended with 0" in second, second
    kept = project.folder.parent / "kept" / FIRST_STAGE.removeprefix("results/")
    assert kept.read_bytes() == (finished.folder / FIRST_STAGE).read_bytes()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("size", ["64k", "160k", "320k"])
def test_a_disk_that_fills_up_later(finished, project, size: str, long: None) -> None:
    first, second = first_and_second(project, size, "")
    assert "Traceback" not in first, first
    assert ".part" not in first
    assert "ended with 0" in second, second
    for path in (finished.folder / "results/tables").rglob("*.csv"):
        kept = project.folder.parent / "kept" / path.relative_to(finished.folder / "results")
        assert kept.read_bytes() == path.read_bytes()


def test_results_that_cannot_be_written(project) -> None:
    shutil.rmtree(project.folder / "results/tables")
    script = "mount --bind results results; mount -o remount,ro,bind results; snakemake --cores 1; echo ended with $?"
    said = disturbed(project, script)
    assert "ended with 0" not in said, said
    assert "Traceback" not in said, said
    assert "read-only" in said.lower(), said
