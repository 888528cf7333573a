from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_training.py")
STEPS = 9


BI_ENCODER = {"query_length": 16, "widths": [8]}


def trained(arguments, plans, packages=()):
    """Runs the plans; returns each process's exit status."""
    work = json.dumps({"arguments": arguments, "plans": plans, "packages": packages})
    done = subprocess.run([sys.executable, SCRIPT], input=work, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def train_arguments(options, tmp_path):
    """The command line of STEPS steps with a state after each. BERT has dropout, so the random state matters too."""

    def command_line(**changes):
        words = options(epochs=STEPS, **changes)
        words[words.index("--output") + 1] = str(tmp_path / "{plan}" / "output")
        words[words.index("--state") + 1] = str(tmp_path / "{plan}" / "state")
        return [*words, "--save-seconds", "0"]

    return command_line


def assert_same_weights(tmp_path, plans):
    whole = (tmp_path / "0" / "output" / "model.safetensors").read_bytes()
    losses = json.loads((tmp_path / "0" / "output" / "outcome.json").read_text())["loss"]
    for number in range(1, len(plans)):
        output = tmp_path / str(number) / "output"
        assert (output / "model.safetensors").read_bytes() == whole, plans[number]
        assert json.loads((output / "outcome.json").read_text())["loss"] == losses, plans[number]
        assert not (tmp_path / str(number) / "state").exists()


@pytest.mark.slow
def test_a_training_killed_at_any_moment_ends_bit_identical(train_arguments, tmp_path):
    chosen = random.Random(7)
    plans = [
        [],
        [["step", 1]],
        [["step", chosen.randint(2, 4)], ["step", chosen.randint(1, 4)], ["step", chosen.randint(1, 4)]],
        [["step", STEPS]],
        # Kills while a state is written (nothing of it, a part, all but the end), before it takes its name, while old
        # states are removed, and, at the last rename, before the finished checkpoint takes its name.
        [["write", 1, 0.0], ["write", chosen.randint(2, 6), chosen.random()], ["write", 3, 0.999]],
        [["rename", chosen.randint(2, 6)], ["removal", chosen.randint(1, 4)]],
        [["rename", STEPS + 1]],
    ]
    statuses = trained(train_arguments(), plans)
    assert statuses == [[-9] * len(plan) + [0] for plan in plans]
    assert_same_weights(tmp_path, plans)


@pytest.mark.slow
def test_a_killed_training_of_a_bi_encoder_ends_bit_identical(train_arguments, tmp_path):
    plans = [[], [["step", 4]], [["write", 3, 0.5]], [["rename", STEPS + 1]]]
    arguments = train_arguments(bi_encoder=BI_ENCODER, token_budget=24)
    assert trained(arguments, plans) == [[-9] * len(plan) + [0] for plan in plans]
    assert_same_weights(tmp_path, plans)


@pytest.mark.slow
@pytest.mark.parametrize("states", ["bfloat16", "8bit"])
def test_a_killed_training_of_adapters_ends_bit_identical(train_arguments, tmp_path, states):
    plans = [[], [["step", 4], ["step", 2]], [["write", 3, 0.5]], [["rename", STEPS + 1]]]
    # Rank 64 gives adapters of the size from which bitsandbytes takes 8 bits.
    arguments = train_arguments(lora={"rank": 64, "alpha": 64, "dropout": 0.2}, optimizer_states=states)
    assert trained(arguments, plans, ["peft", "bitsandbytes"]) == [[-9] * len(plan) + [0] for plan in plans]
    assert_same_weights(tmp_path, plans)
    whole = (tmp_path / "0" / "output" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert (tmp_path / "1" / "output" / "adapter" / "adapter_model.safetensors").read_bytes() == whole
