from __future__ import annotations

from pathlib import Path

from ssmrank.collections.layout import names_of_split


def test_names_are_read_from_the_canonical_path_alone() -> None:
    names = {"collection": "semanlink", "split": "test"}
    assert names_of_split(Path("data/collections/semanlink/splits/test/queries.jsonl")) == names
    assert names_of_split(Path("somewhere/else/queries.jsonl")) == {}
