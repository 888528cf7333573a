from __future__ import annotations

import pytest
import torch

from ssmrank.errors import UserError
from ssmrank.training.parallel import load_state, state_of
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


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_best_weights_stay_while_a_state_names_them(tmp_path):
    state = TrainingState(tmp_path, "a")
    state.save_best(5, {"w": torch.tensor(5.0)})
    state.save(5, {}, best=5)
    state.save(10, {}, best=5)
    state.save_best(15, {"w": torch.tensor(15.0)})
    state.save(15, {}, best=15)
    assert names(tmp_path) == ["best-00000005", "best-00000015", "step-00000010", "step-00000015"]
    state.save(20, {}, best=15)
    assert names(tmp_path) == ["best-00000015", "step-00000015", "step-00000020"]
    assert state.load_best(15)["w"].item() == 15.0


def test_a_state_whose_best_weights_are_damaged_is_passed_over(tmp_path):
    state = TrainingState(tmp_path, "a")
    state.save(10, {})
    state.save_best(20, {"w": torch.zeros(100)})
    state.save(20, {}, best=20)
    assert state.load()[0] == 20
    weights = tmp_path / "best-00000020" / "state.pt"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert state.load()[0] == 10
    with pytest.raises(UserError, match="best weights are damaged"):
        state.load_best(20)


def test_what_a_killed_write_left_is_removed(tmp_path):
    state = TrainingState(tmp_path, "a")
    state.save(10, {})
    (tmp_path / ".step-00000020.x1.part").mkdir()
    (tmp_path / ".step-00000020.x1.part" / "state.pt").write_bytes(b"half")
    state.remove_unfinished()
    assert names(tmp_path) == ["step-00000010"]


def test_a_training_that_goes_on_is_tracked_as_one_run(tmp_path):
    run = TrainingState(tmp_path, "a").tracking_run()
    assert TrainingState(tmp_path, "a").tracking_run() == run
    other = TrainingState(tmp_path, "b")
    assert other.tracking_run() != run  # parameters of an MLflow run cannot change
    done = other.tracking_run()
    other.clear()
    assert other.tracking_run() != done


@pytest.mark.parametrize("text", ["[]", "null", "5", "{}", "", '{"best": null}', "[" * 100_000])
def test_a_manifest_that_is_none_is_passed_over(tmp_path, text):
    state = TrainingState(tmp_path, "a")
    state.save(10, {"model": torch.zeros(1)})
    state.save_best(20, {"w": torch.zeros(1)})
    state.save(20, {}, best=20)
    (tmp_path / "step-00000020" / "manifest.json").write_text(text)
    assert state.load()[0] == 10
    (tmp_path / "best-00000020" / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        state.load_best(20)
    state.save(30, {})
    assert state.load()[0] == 30


def test_files_that_are_no_checkpoints_are_left_alone(tmp_path):
    state = TrainingState(tmp_path, "a")
    state.save(10, {})
    (tmp_path / "best-notes").mkdir()
    (tmp_path / "step-00000099").write_text("")
    (tmp_path / "tracking_run").write_bytes(b"\xff\xfe")
    assert state.tracking_run()
    state.save(20, {})
    assert state.load()[0] == 20
    assert names(tmp_path) == ["best-notes", "step-00000010", "step-00000020", "step-00000099", "tracking_run"]


@pytest.mark.parametrize(("changed", "named"), [("lacks", "head.weight"), ("has more", "head.other")])
def test_a_state_of_other_tensors_is_not_loaded(changed, named):
    model = torch.nn.Module()
    model.embedding, model.head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5)
    model.tied = torch.nn.Linear(3, 5, bias=False)
    model.tied.weight = model.embedding.weight
    state = state_of(model)
    assert [*state] == ["embedding.weight", "head.weight", "head.bias"]
    load_state(model, state)
    if changed == "lacks":
        del state[named]
    else:
        state[named] = torch.zeros(3)
    with pytest.raises(RuntimeError, match=named):
        load_state(model, state)
