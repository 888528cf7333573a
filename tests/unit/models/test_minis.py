"""The models in models/minis, which the default experiment fine-tunes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from ssmrank.config import ModelFolder, read_params
from ssmrank.models.reranker import new_reranker
from ssmrank.pretraining.model import non_embedding_parameters

MINIS = Path(__file__).parents[3] / "models" / "minis"
KINDS = {"bert": "E", "opt": "D", "llama": "D", "mamba1": "D", "mamba2": "D"}


def test_they_are_those_of_the_default_experiment_and_fit_into_a_repository(root: Path) -> None:
    sources = [model.source for model in read_params(root / "params.yaml").models.values()]
    folders = {source.path: source for source in sources if isinstance(source, ModelFolder)}
    assert sorted(folders) == sorted(f"models/minis/{name}" for name in KINDS)
    assert sum(file.stat().st_size for file in MINIS.rglob("*") if file.is_file()) < 64_000_000


@pytest.mark.parametrize("name", KINDS)
def test_each_is_what_its_card_says(name: str) -> None:
    facts = json.loads((MINIS / name / "pretraining.json").read_text())
    card = (MINIS / name / "README.md").read_text()
    reranker = new_reranker(MINIS / name, KINDS[name], max_length=128)
    assert non_embedding_parameters(reranker.backbone) == facts["parameters"]["non_embedding_parameters"]
    assert f"{facts['parameters']['parameters']:,}" in card
    steps, tokens, loss = facts["curve"]["held_out"][-1]
    for part in (f"{steps:,} of", f"{tokens:,} (", f"{loss:.4f} nats", "CC0", "Apache-2.0", "`snakemake "):
        assert part in card
    sweep = json.loads((MINIS / name / "sweep.json").read_text())
    losses = {trial["learning_rate"]: trial["held_out_loss"] for trial in sweep["trials"]}
    assert min(losses, key=losses.__getitem__) == sweep["learning_rate"] == facts["learning_rate"]
    with safe_open(MINIS / name / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_all_read_the_same_tokens() -> None:
    assert len({(MINIS / name / "tokenizer.json").read_bytes() for name in KINDS}) == 1


@pytest.mark.parametrize("name", ["mamba1", "mamba2"])
def test_a_title_finds_its_text(name: str) -> None:
    reranker = new_reranker(MINIS / name, KINDS[name], max_length=128).eval()
    texts = {
        "Sparse attention for long documents": "We study transformers whose attention is restricted to few positions.",
        "Cooling of trapped ions": "Laser light slows the motion of charged atoms in a radio-frequency trap.",
        "Epidemic spreading on contact networks": "A disease is transmitted along the links between individuals.",
        "Interest rates and inflation": "Central banks raise their rates in response to rising prices and inflation.",
    }
    for title in texts:
        scores = dict(zip(texts, reranker.score(title, list(texts.values())), strict=True))
        assert max(scores, key=scores.__getitem__) == title
