"""The models in models/, which the default experiment uses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from ssmrank.config.models import ModelFolder
from ssmrank.config.params import read_params
from ssmrank.models.reranker import load_reranker, new_reranker
from ssmrank.pretraining.model import non_embedding_parameters

MINIS = Path(__file__).parents[3] / "models" / "minis"
SMALL = MINIS.parent / "small" / "mamba2"
KINDS = {"bert": "E", "opt": "D", "llama": "D", "mamba1": "D", "mamba2": "D", "hybrid": "D"}


def test_they_are_those_of_the_default_experiment_and_fit_into_a_repository(root: Path) -> None:
    sources = [model.source for model in read_params(root / "params.yaml").models.values()]
    folders = {source.path: source for source in sources if isinstance(source, ModelFolder)}
    assert sorted(folders) == sorted([*(f"models/minis/{name}" for name in KINDS), "models/small/mamba2"])
    assert sum(file.stat().st_size for file in MINIS.rglob("*") if file.is_file()) < 77_000_000
    assert sum(file.stat().st_size for file in SMALL.rglob("*") if file.is_file()) < 70_000_000


@pytest.mark.parametrize("name", [*KINDS, "small"])
def test_each_is_what_its_card_says(name: str) -> None:
    folder = SMALL if name == "small" else MINIS / name
    facts = json.loads((folder / "pretraining.json").read_text())
    card = (folder / "README.md").read_text()
    reranker = new_reranker(folder, KINDS.get(name, "D"), max_length=128)
    assert non_embedding_parameters(reranker.backbone) == facts["parameters"]["non_embedding_parameters"]
    assert f"{facts['parameters']['parameters']:,}" in card
    steps, tokens, loss = facts["curve"]["held_out"][-1]
    parts = (
        f"{steps:,} of",
        f"{tokens:,} (",
        f"{loss:.4f} nats",
        "CC0",
        "Apache-2.0",
        "`snakemake ",
        "BM25 and MiniLM",
    )
    for part in parts:
        assert part in card
    sweep = json.loads((folder / "sweep.json").read_text())
    losses = {trial["learning_rate"]: trial["held_out_loss"] for trial in sweep["trials"]}
    assert min(losses, key=losses.__getitem__) == sweep["learning_rate"] == facts["learning_rate"]
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_all_read_the_same_tokens() -> None:
    assert len({(MINIS / name / "tokenizer.json").read_bytes() for name in KINDS}) == 1


@pytest.mark.parametrize("folder", [*(MINIS / name for name in KINDS), SMALL], ids=lambda folder: folder.name)
def test_a_title_finds_its_text(folder: Path) -> None:
    reranker = load_reranker(folder)
    texts = {
        "Sparse attention for long documents": "We study transformers whose attention is restricted to few positions.",
        "Cooling of trapped ions": "Laser light slows the motion of charged atoms in a radio-frequency trap.",
        "Epidemic spreading on contact networks": "A disease is transmitted along the links between individuals.",
        "Interest rates and inflation": "Central banks raise their rates in response to rising prices and inflation.",
    }
    for title in texts:
        scores = dict(zip(texts, reranker.score(title, list(texts.values())), strict=True))
        assert max(scores, key=scores.__getitem__) == title
