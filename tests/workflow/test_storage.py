"""A job finds in its settings the paths of the copies of stored outputs; tests/cluster runs one with a bucket."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import paths
from pipeline.storage import HERE, Storage


def test_without_storage_every_path_is_its_own() -> None:
    storage = Storage(SimpleNamespace(storage_settings=SimpleNamespace(default_storage_provider=None)))
    assert not storage and not storage.has("results/runs/any.trec")
    assert storage.places.checkpoint_of("firstp", "bert") == paths.checkpoint_of("firstp", "bert")
    storage.check()
    assert storage.copies == []


def test_no_rule_gives_a_job_paths_of_this_folder_in_its_settings(root: Path) -> None:
    rules = {file.name: file.read_text() for file in (root / "workflow/rules").glob("*.smk")}
    wrong = {name: re.findall(r"settings\([^()]*\bpaths\)", text) for name, text in rules.items()}
    assert {name: found for name, found in wrong.items() if found} == {}
    assert sum("storage_of_outputs.places" in text for text in rules.values()) >= 3


@pytest.mark.parametrize(
    "path", ["results/metrics/a.json", paths.log_of("train", "a"), paths.tokens_of("a"), paths.speed_of("a")]
)
def test_what_is_small_stays(path: str) -> None:
    assert path.startswith(HERE)


@pytest.mark.parametrize(
    "path", [paths.FIRST_STAGE_RUN, paths.CHECKPOINT, paths.COLLECTION, paths.INDEX, paths.PRETRAINED]
)
def test_what_is_large_is_stored(path: str) -> None:
    assert not path.startswith(HERE)
