from __future__ import annotations

import torch

from ssmrank.training.state import TrainingState


def test_the_newest_sound_checkpoint_is_taken(tmp_path):
    state = TrainingState(tmp_path, "a")
    for step in (10, 20, 30):
        state.save(step, {"model": torch.full((3,), step)})
    assert len(list(tmp_path.iterdir())) == 2
    newest = tmp_path / "step-00000030" / "state.pt"
    newest.write_bytes(newest.read_bytes()[:-7])
    step, saved = state.load()
    assert step == 20
    assert saved["model"].tolist() == [20, 20, 20]


def test_checkpoints_of_other_inputs_are_not_continued(tmp_path):
    TrainingState(tmp_path, "a").save(10, {})
    assert TrainingState(tmp_path, "b").load() is None


def test_clear_leaves_nothing(tmp_path):
    state = TrainingState(tmp_path / "s", "a")
    state.save(10, {})
    state.clear()
    assert not (tmp_path / "s").exists()
    assert state.load() is None
