"""Saving and uploading rerankers with their model cards; a server on this machine takes the hub's place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hub_server import Server, hub_server
from ssmrank.api import Reranker
from ssmrank.cli import main
from ssmrank.errors import UserError

QUERY, TEXTS = "how fish breathe", ["Snow falls in winter.", "Gills take up oxygen from the water."]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with hub_server() as server:
        address = server.address
        for name, value in {
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,  # its storage has a protocol of its own; without it files go by LFS
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        for module in ("hf_api", "_snapshot_download"):
            monkeypatch.setattr(f"huggingface_hub.{module}.ENDPOINT", address, raising=False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        yield server


@pytest.fixture(scope="module")
def reranker(root: Path) -> Reranker:
    return Reranker.from_pretrained(root / "models/minis/mamba2", device="cpu", precision="fp32")


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_what_is_pushed_is_loaded_by_its_name(hub: Server, reranker: Reranker, root: Path) -> None:
    address = reranker.push_to_hub("mini", token="hf_owner", private=True, license="apache-2.0", commit_message="First")
    assert re.fullmatch(rf"{hub.address}/someone/mini/commit/[0-9a-f]+", address)
    files = hub.repositories["someone/mini"]
    assert hub.created[0]["visibility"] == "private" and hub.messages == ["First"]
    assert files["model.safetensors"] == (root / "models/minis/mamba2/model.safetensors").read_bytes()
    assert ("POST", "/someone/mini.git/info/lfs/objects/batch") in hub.requests
    again = Reranker.from_pretrained("someone/mini", device="cpu", precision="fp32")
    assert again.score(QUERY, TEXTS) == reranker.score(QUERY, TEXTS)
    assert repr(again).startswith("Reranker('someone/mini', mamba2, max_length=192, ")
    with pytest.raises(UserError, match=r"^model someone/other: no such folder, and it cannot be downloaded"):
        Reranker.from_pretrained("someone/other")


def test_states_are_prepared_of_a_model_by_its_name(
    hub: Server, reranker: Reranker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reranker.push_to_hub("mini", token="hf_owner")
    lines = [json.dumps({"id": str(number), "text": text}) + "\n" for number, text in enumerate(TEXTS)]
    (tmp_path / "documents.jsonl").write_text("".join(lines))
    command = ["states", "--collection", str(tmp_path), "--state-folder", str(tmp_path / "states")]
    command += ["--precision", "fp32"]
    assert main([*command, "--model", "someone/mini"]) == 0
    loading = Reranker.from_pretrained(
        "someone/mini", device="cpu", precision="fp32", state_cache="100MB", state_folder=tmp_path / "states",
        state_loading="always",
    )  # fmt: skip
    assert loading.score(QUERY, TEXTS) == pytest.approx(reranker.score(QUERY, TEXTS), abs=1e-5)
    assert loading.document_states is not None and loading.document_states.stats().loads == len(TEXTS)
    assert main([*command, "--model", "no folder"]) == 2
    assert "error: model no folder: no such folder; give one that" in capsys.readouterr().err


def test_a_card_of_the_maker_s_is_kept_and_named(hub: Server, reranker: Reranker, root: Path) -> None:
    reranker.push_to_hub("mini", token="hf_owner", scores={"SciFact, test": {"nDCG@10": 0.587, "MRR@10": 0.5}})
    card = hub.repositories["someone/mini"]["README.md"].decode()
    assert metadata(card) == {
        "library_name": "ssmrank",
        "pipeline_tag": "text-ranking",
        "tags": ["reranker", "mamba2"],
    }
    assert 'Reranker.from_pretrained("someone/mini")' in card and "FOLDER" not in card
    kept = (root / "models/minis/mamba2/README.md").read_text().partition("## How to load it")[0]
    assert kept in card
    assert "| Test | nDCG@10 | MRR@10 |" in card and "| SciFact, test | 58.7 | 50.0 |" in card


def test_a_second_push_goes_to_the_same_repository(hub: Server, reranker: Reranker) -> None:
    reranker.push_to_hub("someone/mini", token="hf_owner")
    before = dict(hub.repositories["someone/mini"])
    proposed = reranker.push_to_hub("someone/mini", token="hf_owner", scores={"a": {"AP": 0.25}}, create_pr=True)
    assert proposed.endswith("/someone/mini/discussions/1")
    after = hub.repositories["someone/mini"]
    assert [name for name in after if after[name] != before[name]] == ["README.md"]


@pytest.mark.parametrize(
    ("repo_id", "token", "said"),
    [
        ("mini", None, "repository mini: no token of the hub is known; run `hf auth login`"),
        ("mini", "hf_wrong", "repository mini: the hub does not accept the token"),
        ("mini", "hf_reader", "repository mini: the token may not write there"),
        ("others/mini", "hf_owner", "repository others/mini: the token may not write there"),
        ("others/theirs", "hf_owner", "repository others/theirs: the token may not write there"),
        ("a/b/c", "hf_owner", "repository a/b/c: is no name of the hub; give OWNER/NAME"),
        ("some name", "hf_owner", "repository some name: is no name of the hub"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    hub: Server, reranker: Reranker, repo_id: str, token: str | None, said: str
) -> None:
    hub.repositories["others/theirs"] = {}
    with pytest.raises(UserError) as caught:
        reranker.push_to_hub(repo_id, token=token)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert not any(hub.repositories.values())


def test_a_hub_that_cannot_be_reached_is_one_line(
    hub: Server, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # a port that nobody listens on
    with pytest.raises(UserError, match=r"^repository mini: cannot be uploaded \(.*\); check the network"):
        reranker.push_to_hub("mini", token="hf_owner")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^repository mini: HF_HUB_OFFLINE is set"):
        reranker.push_to_hub("mini", token="hf_owner")


SETTINGS = {
    "collection": "semanlink",
    "split": "train",
    "negatives": "hard",
    "negatives_count": 7,
    "teacher": "bm25-minilm",
    "loss": "kl_divergence",
    "learning_rate": 0.0006,
    "weight_decay": 0.01,
    "warmup_ratio": 0.1,
    "batch_groups": 64,
    "epochs": 2.0,
    "seed": 42,
    "validation": {"metric": "MRR@10", "split": "dev"},
}
START = {
    "hub": {"some/backbone": "c0ffee"},
    "pretraining": {"corpus": "arxiv", "tokens": 1234567, "objective": "next token"},
}
OUTCOME = {
    "status": "ok",
    "steps": 1500,
    "tokens": 210755651,
    "seconds": 293.2,
    "device": "NVIDIA H200",
    "precision": "bf16",
    "loss": [1.79, 0.3, 0.26],
    "validation": [[100, 0.5], [200, 0.6125]],
    "best_step": 200,
}


@pytest.fixture
def trained(reranker: Reranker, tmp_path: Path) -> Path:
    """A checkpoint as `ssmrank train` writes it."""
    folder = tmp_path / "checkpoint"
    reranker.save_pretrained(folder)
    for name in ("README.md", "pretraining.json", "sweep.json"):
        (folder / name).unlink()
    training = {"model": "my-mamba", "settings": SETTINGS, "groups": 12345, "from": START}
    (folder / "training.json").write_text(json.dumps(training))
    (folder / "outcome.json").write_text(json.dumps(OUTCOME))
    (folder / "mlflow_run_id").write_text("abc\n")
    return folder


def test_the_card_of_a_training_says_what_is_known(trained: Path, tmp_path: Path) -> None:
    Reranker.from_pretrained(trained, device="cpu").save_pretrained(tmp_path / "saved", license="mit")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert metadata(card)["base_model"] == ["some/backbone"] and metadata(card)["license"] == "mit"
    for fact in (
        "# my-mamba",
        "| Architecture | mamba2 of transformers, decoder, 9 layers |",
        "| Parameters | 5,985,881 |",
        "| Input | `document: {document}; query: {query};`, at most 192 tokens |",
        "| Started from | some/backbone at commit c0ffee |",
        "| Pretraining | 1,234,567 tokens of arxiv, predicting next token |",
        "semanlink (train): 12,345 groups of a query, a relevant document and 7 negatives (hard)",
        "| Teacher | bm25-minilm |",
        "| Loss | kl_divergence |",
        "learning rate 0.0006",
        "| Tokens | 210,755,651 in 1,500 steps |",
        "1.790 at the first step, 0.260 over the last 5%",
        "| Validation | MRR@10 61.3 (times 100) on held-out queries of dev, at step 200 |",
        'Reranker.from_pretrained("FOLDER")',
    ):
        assert fact in card, fact
    assert str(tmp_path) not in card
    assert not (tmp_path / "saved" / "mlflow_run_id").exists()
    assert json.loads((tmp_path / "saved" / "outcome.json").read_text()) == OUTCOME
    Reranker.from_pretrained(tmp_path / "saved", device="cpu").save_pretrained(tmp_path / "again", license="apache-2.0")
    assert (tmp_path / "again" / "README.md").read_text() == card.replace("license: mit", "license: apache-2.0")


def test_a_card_without_provenance_says_what_the_model_is(trained: Path, tmp_path: Path) -> None:
    for name in ("training.json", "outcome.json"):
        (trained / name).unlink()
    Reranker.from_pretrained(trained, device="cpu").save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "# mamba2 reranker" in card and "| Score | linear layer over the last token |" in card
    assert "Training data" not in card


def test_a_damaged_record_of_the_training_is_one_line(trained: Path, tmp_path: Path) -> None:
    (trained / "training.json").write_text('{"settings": {}}')
    with pytest.raises(UserError, match=r"^[^\n]*checkpoint: its files do not say how it was made[^\n]*$"):
        Reranker.from_pretrained(trained, device="cpu").save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
