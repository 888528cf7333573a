"""`make tidy`."""

from __future__ import annotations

from pipeline.code import STEPS, state_of

TIDY = ("python", "workflow/scripts/tidy.py")


def test_tidy(fresh) -> None:
    states = fresh.folder / "results/state"
    kept = [states / state_of("train").rpartition("/")[2], states / "notes-0123456789abcdef"]
    old = [states / f"{step}-0123456789abcdef" for step in STEPS]
    part = fresh.folder / "data/indexes/tiny/.porter.abcd1234.part"
    for path in [*kept, *old, part]:
        path.mkdir(parents=True)
    printed = fresh.run(*TIDY).stdout
    assert [path for path in old if path.exists()] == []
    assert all(path.exists() for path in kept)
    assert not part.exists()
    assert printed.count("made by other code, removed") == len(old)
