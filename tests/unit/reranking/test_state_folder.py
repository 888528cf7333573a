"""States on disk: written ahead, read in place of computing them, and refused if they are damaged."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ssmrank.cli import main
from ssmrank.errors import UserError
from ssmrank.io.texts import TextStore
from ssmrank.models.reranker import new_reranker
from ssmrank.reranking import state_preparation
from ssmrank.reranking.document_prefixes import Prefix
from ssmrank.reranking.document_states import StateScorer, state_scorer
from ssmrank.reranking.scoring import Scorer
from ssmrank.reranking.state_folder import StateFolder, checkpoint_digest
from ssmrank.reranking.state_loading import LoadingRule
from ssmrank.reranking.state_preparation import StatePreparation
from tiny_models import CAUSAL, kind_of

CPU = torch.device("cpu")
WORDS = "mamba river snow fish engine boat mountain index state space attention scan lucene".split()
TEXTS = {f"d{n}": " ".join(WORDS[: 1 + n % 9] * (1 + n // 9)) + f" {n}" for n in range(30)}
QUERIES = ["mamba", "river boat on a mountain"]
PAIRS = [(query, text) for query in QUERIES for text in TEXTS.values()]


def scorer_of(folder, shape, precision="fp32"):
    torch.manual_seed(0)
    return Scorer(new_reranker(folder, kind_of(shape), 60).eval(), precision, CPU)


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "collection"
    folder.mkdir()
    lines = [json.dumps({"id": id, "text": text}) for id, text in TEXTS.items()]
    (folder / "documents.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def prepare(collection, checkpoint, states, shape="mamba2", precision="fp32", dtype=None):
    folder = StateFolder(states, checkpoint_digest(checkpoint), precision)
    preparation = StatePreparation(scorer_of(checkpoint, shape, precision), folder, 500, 16, dtype)
    return preparation.run(TextStore(collection / "documents.jsonl"))


def reading(checkpoint, states, shape="mamba2", precision="fp32", budget=10**8, loading="always"):
    return state_scorer(scorer_of(checkpoint, shape, precision), checkpoint, 500, budget, states, loading=loading)


def values(scored):
    return [pair.score for pair in scored]


@pytest.mark.parametrize("shape", CAUSAL)
def test_loaded_states_give_the_scores_of_computed_ones(tiny_model, tmp_path, collection, shape, monkeypatch):
    monkeypatch.setattr(state_preparation, "SHARD_BYTES", 30_000)
    checkpoint, states = tiny_model(shape), tmp_path / "states"
    assert prepare(collection, checkpoint, states, shape) == (len(TEXTS), 0)
    assert len(list(states.glob("*/*.safetensors"))) > 1
    computed = StateScorer(scorer_of(checkpoint, shape), 500, 10**8).score(PAIRS)
    scorer = reading(checkpoint, states, shape)
    loaded = scorer.score(PAIRS)
    assert all(pair.cached for pair in loaded)
    assert values(loaded) == pytest.approx(values(computed), abs=1e-5)
    stats = scorer.stats()
    assert (stats.hits, stats.loads, stats.misses) == (0, len(TEXTS), 0)
    scorer.score(PAIRS)
    assert scorer.stats().hits == len(TEXTS)


@pytest.mark.parametrize("shape", ["mamba", "mamba2-wide", "llama", "bamba"])
def test_bf16_states_are_half_as_large_and_about_as_good(tiny_model, tmp_path, collection, shape):
    checkpoint = tiny_model(shape)
    exact = np.array(values(StateScorer(scorer_of(checkpoint, shape), 500, 10**8).score(PAIRS)))
    sizes = []
    for name, dtype in (("exact", None), ("rounded", torch.bfloat16)):
        states = tmp_path / name
        prepare(collection, checkpoint, states, shape, dtype=dtype)
        sizes.append(sum(file.stat().st_size for file in states.glob("*/*")))
        scored = reading(checkpoint, states, shape).score(PAIRS)
        assert all(pair.cached for pair in scored)
        difference = np.abs(np.array(values(scored)) - exact).max()
        assert difference < (1e-5 if dtype is None else 0.02 * np.ptp(exact) + 0.002)
    assert sizes[1] < 0.6 * sizes[0] or sizes[0] < 60_000  # tiny states beside the keys


def test_a_file_is_safetensors_that_the_library_reads(tiny_model, tmp_path, collection):
    prepare(collection, tiny_model("mamba2"), tmp_path / "states")
    [file] = (tmp_path / "states").glob("*/*.safetensors")
    with safe_open(file, "np") as content:
        assert set(content.keys()) == {"keys", "tokens", "starts", "checksums", "states"}
        assert content.get_tensor("keys").shape == (len(TEXTS), 16)
        assert content.get_tensor("starts")[-1] == len(content.get_tensor("states"))
        assert content.metadata()["precision"] == "fp32"


def test_states_of_other_checkpoints_and_precisions_are_not_used(tiny_model, tmp_path, collection):
    states = tmp_path / "states"
    prepare(collection, tiny_model("mamba2"), states)
    prepare(collection, tiny_model("mamba2"), states, precision="bf16")
    other = tmp_path / "other"
    shutil.copytree(tiny_model("mamba2"), other)
    weights = other / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    scorer = reading(other, states)
    assert not any(pair.cached for pair in scorer.score(PAIRS))
    prepare(collection, other, states)
    assert len(list(states.iterdir())) == 3
    assert reading(other, states).score(PAIRS[:1])[0].cached


def test_a_file_moved_between_checkpoints_is_refused(tiny_model, tmp_path, collection, caplog):
    states = tmp_path / "states"
    prepare(collection, tiny_model("mamba2"), states)
    [file] = states.glob("*/*.safetensors")
    target = StateFolder(states, checkpoint_digest(tiny_model("mamba")), "fp32").path
    target.mkdir()
    shutil.copyfile(file, target / file.name)
    with caplog.at_level(logging.WARNING, logger="ssmrank"):
        assert len(StateFolder(states, checkpoint_digest(tiny_model("mamba")), "fp32")) == 0
    assert caplog.messages == [
        f"{target / file.name}: has states of another checkpoint, precision or version; "
        "its documents are computed again; delete it"
    ]


def damages(size):
    """Where a byte is changed, and where the file is cut, by name."""
    bytes_changed = {"length": 0, "huge": 6, "header": 12, "index": None, "data": size - 5}
    return bytes_changed | {"cut": -10, "cut short": -size + 4, "empty": -size}


@pytest.mark.parametrize("damage", ["length", "huge", "header", "index", "data", "cut", "cut short", "empty"])
def test_a_damaged_file_is_named_once_and_computed_again(tiny_model, tmp_path, collection, damage, caplog):
    checkpoint, states = tiny_model("mamba2"), tmp_path / "states"
    prepare(collection, checkpoint, states)
    [file] = states.glob("*/*.safetensors")
    content = bytearray(file.read_bytes())
    place = damages(len(content))[damage]
    if damage == "index":
        length = int.from_bytes(content[:8], "little")
        place = 8 + length + json.loads(content[8 : 8 + length])["starts"]["data_offsets"][0]
    if place < 0:
        content = content[:place]
    else:
        content[place] ^= 0x55
    file.write_bytes(content)
    expected = values(StateScorer(scorer_of(checkpoint, "mamba2"), 500, 10**8).score(PAIRS))
    with caplog.at_level(logging.WARNING, logger="ssmrank"):
        scorer = reading(checkpoint, states)
        for _ in range(2):
            assert values(scorer.score(PAIRS)) == pytest.approx(expected, abs=1e-5)
    problems = [message for message in caplog.messages if str(file) in message]
    assert problems == [f"{file}: is damaged; its documents are computed again; delete it"]
    # The preparation replaces the file.
    if damage != "data":
        assert prepare(collection, checkpoint, states).computed == len(TEXTS)
        assert all(pair.cached for pair in reading(checkpoint, states).score(PAIRS))


def test_states_that_are_written_later_are_found(tiny_model, tmp_path, collection, monkeypatch):
    monkeypatch.setattr("ssmrank.reranking.document_states._LOOK_AGAIN", 0.0)
    checkpoint, states = tiny_model("mamba2"), tmp_path / "states"
    scorer = reading(checkpoint, states)
    assert not scorer.score(PAIRS[:1])[0].cached
    prepare(collection, checkpoint, states)
    assert scorer.score(PAIRS[1:2])[0].cached


def test_prepared_states_serve_queries_of_all_lengths_up_to_the_longest(tiny_model, tmp_path):
    """Documents around the length at which they are cut are found too."""
    checkpoint, states = tiny_model("mamba2"), tmp_path / "states"
    collection = tmp_path / "collection"
    collection.mkdir()
    texts = [" ".join((WORDS * 9)[:count]) for count in range(30, 60)]
    lines = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts)]
    (collection / "documents.jsonl").write_text("\n".join(lines) + "\n")
    prepare(collection, checkpoint, states)
    pairs = [(" ".join(["snow"] * count), text) for count in range(1, 12) for text in texts]
    scored = reading(checkpoint, states).score(pairs)
    assert all(pair.cached for pair in scored)
    expected = StateScorer(scorer_of(checkpoint, "mamba2"), 500, 10**8).score(pairs)
    assert values(scored) == pytest.approx(values(expected), abs=1e-5)


def test_preparing_goes_on_where_it_was(tiny_model, tmp_path, collection, monkeypatch):
    monkeypatch.setattr(state_preparation, "SHARD_BYTES", 30_000)
    checkpoint, states, written = tiny_model("mamba2"), tmp_path / "states", []
    whole = StateFolder.write

    def interrupted(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(whole(*arguments))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StateFolder, "write", interrupted)
        prepare(collection, checkpoint, states)
    kept = {file: file.stat().st_mtime_ns for file in written}
    computed, found = prepare(collection, checkpoint, states)
    assert computed + found == len(TEXTS)
    assert computed < len(TEXTS)
    assert {file: file.stat().st_mtime_ns for file in written} == kept
    assert prepare(collection, checkpoint, states) == (0, len(TEXTS))


def test_several_processes_write_at_once(tiny_model, tmp_path, collection, monkeypatch):
    monkeypatch.setattr(state_preparation, "SHARD_BYTES", 30_000)
    checkpoint, states = tiny_model("mamba2"), tmp_path / "states"
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: prepare(collection, checkpoint, states), range(4)))
    assert prepare(collection, checkpoint, states) == (0, len(TEXTS))
    assert not list(states.glob("*/.*"))


def test_a_disk_without_room_is_refused_before_anything_is_computed(tiny_model, tmp_path, collection, monkeypatch):
    monkeypatch.setattr(state_preparation.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 5000))
    with pytest.raises(
        UserError, match=r"the states of 30 documents take .* KB \(.* KB each\), but 5 KB are free; free space"
    ):
        prepare(collection, tiny_model("mamba2"), tmp_path / "states")
    assert not (tmp_path / "states").exists()


def test_a_full_disk_leaves_nothing_half_written(tiny_model, tmp_path, collection, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ssmrank.io.atomic.os.fsync", full)
        with pytest.raises(UserError, match="cannot write: the disk is full"):
            prepare(collection, tiny_model("mamba2"), tmp_path / "states")
    assert not list((tmp_path / "states").glob("*/*"))
    assert prepare(collection, tiny_model("mamba2"), tmp_path / "states").computed == len(TEXTS)


def test_a_file_in_the_place_of_the_folder(tiny_model, tmp_path):
    (tmp_path / "states").write_text("")
    with pytest.raises(UserError, match="is no folder; give one for the states of documents"):
        reading(tiny_model("mamba2"), tmp_path / "states")


def test_loading_rule():
    rule = LoadingRule(loading=1000.0, computing=10.0)
    assert rule.loads(1000, 11)
    assert not rule.loads(1000, 9)


@pytest.mark.parametrize("loading", ["measured", "always", "never"])
def test_loading_is_a_setting(tiny_model, tmp_path, collection, loading, caplog):
    checkpoint, states = tiny_model("mamba2"), tmp_path / "states"
    prepare(collection, checkpoint, states)
    with caplog.at_level(logging.INFO, logger="ssmrank"):
        scorer = reading(checkpoint, states, loading=loading)
    assert any(message.startswith(f"30 states of documents in {states}") for message in caplog.messages)
    scored = scorer.score(PAIRS)
    expected = values(StateScorer(scorer_of(checkpoint, "mamba2"), 500, 10**8).score(PAIRS))
    assert values(scored) == pytest.approx(expected, abs=1e-5)
    stats = scorer.stats()
    assert stats.loads + stats.misses == len(TEXTS)
    if loading != "measured":
        assert stats.loads == (len(TEXTS) if loading == "always" else 0)


def test_states_of_another_layout_are_turned(tiny_model, tmp_path, collection):
    """A GPU stores states of scans as they are, the loops for CPUs with the last two dimensions swapped."""
    checkpoint, states = tiny_model("mamba2-wide"), tmp_path / "states"
    folder = StateFolder(states, checkpoint_digest(checkpoint), "fp32")
    scorer = StateScorer(scorer_of(checkpoint, "mamba2-wide"), 500, 10**8)
    expected = scorer.score(PAIRS[:30])
    cache = scorer._states.cache
    pool, prefixes, slots = cache.pool, [], []
    for key, entry in cache._entries.items():
        prefixes.append(Prefix(key, np.zeros(pool._tokens[entry.slot], dtype=np.int32)))
        slots.append(entry.slot)
        flat = pool.parts(entry.slot)[0][: pool._tails_begin]
        flat.copy_(flat.view(-1, 64, 64).mT.flatten())
    pool.turned = False
    folder.write(prefixes, pool, slots)
    loaded = reading(checkpoint, states, "mamba2-wide").score(PAIRS[:30])
    assert all(pair.cached for pair in loaded)
    assert values(loaded) == pytest.approx(values(expected), abs=1e-5)


@pytest.mark.slow
def test_the_command_survives_a_kill(root, tmp_path):
    """Killed while it writes, the command leaves only whole files, and goes on when it is called again."""
    collection, states = tmp_path / "collection", tmp_path / "states"
    collection.mkdir()
    lines = [json.dumps({"id": str(n), "text": f"document {n} is about {WORDS[n % 13]} " * 12}) for n in range(240)]
    (collection / "documents.jsonl").write_text("\n".join(lines) + "\n")
    model = root / "models/minis/mamba1"
    command = [sys.executable, "-m", "ssmrank", "states", "--collection", collection, "--model", model]
    command += ["--state-folder", states, "--precision", "fp32", "--token-budget", "2000"]
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        while not list(states.glob("*/*.part")) and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    left = list(states.glob("*/*"))
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert all(file.suffix == ".safetensors" for file in states.glob("*/*")), left
    folder = StateFolder(states, checkpoint_digest(model), "fp32")
    assert len(folder) == 240


def test_the_command_names_what_is_wrong(root, tmp_path, collection, capsys):
    common = ["states", "--collection", str(collection), "--state-folder", str(tmp_path / "states")]
    for model, options, problem in (
        ("bert", [], "has no states of documents: bert with pooling first does not read a document independently"),
        ("mamba2", ["--query-tokens", "0"], "--query-tokens 0: give at least 1"),
        ("mamba2", ["--query-tokens", "500"], "leave no room for a document in max_length 192"),
    ):
        assert main([*common, "--model", str(root / "models/minis" / model), *options]) == 2
        error = capsys.readouterr().err
        assert problem in error.splitlines()[-1]
    assert not (tmp_path / "states").exists()


def test_the_command(root, tmp_path, collection, caplog):
    model, states = root / "models/minis/mamba2", tmp_path / "states"
    arguments = ["states", "--collection", str(collection), "--model", str(model), "--state-folder", str(states)]
    with caplog.at_level(logging.INFO, logger="ssmrank"):
        assert main([*arguments, "--precision", "fp32", "--state-precision", "bf16"]) == 0
    assert any(
        "30 different documents, 30 states to compute: 624 KB each, 18.7 MB in all" in m for m in caplog.messages
    )
    folder = StateFolder(states, checkpoint_digest(model), "fp32")
    assert len(folder) == 30
