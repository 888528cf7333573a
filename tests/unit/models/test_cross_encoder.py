"""Cross-encoders that the real libraries made and saved, scored by them and by us."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from odd_pairs import QUERY
from ssmrank.api import PassageWindows, Reranker
from ssmrank.cli import main
from ssmrank.errors import UserError
from ssmrank.models.packing import pack
from ssmrank.models.reranker import load_reranker, new_reranker
from tiny_models import tiny_config

DOCUMENTS = [
    "State space models rank passages; they scan text.",
    "A river (with boats)",
    "mamba " * 200,
    "Ünïcode, 日本語",
    "snow",
]


@pytest.fixture
def bert_tokenizer(tiny_tokenizer) -> PreTrainedTokenizerFast:
    """The tiny WordPiece tokenizer with BERT's sentence pairs and types of tokens."""
    backend = tiny_tokenizer.backend_tokenizer.__class__.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    special = [(token, tiny_tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    names = {f"{name}_token": getattr(tiny_tokenizer, f"{name}_token") for name in ("pad", "unk", "cls", "sep")}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=48, model_input_names=inputs, **names)


@pytest.fixture
def saved(bert_tokenizer, byte_level_tokenizer, tmp_path: Path):
    """A function that saves a tiny cross-encoder with sentence-transformers and returns its folder and itself."""

    def save(shape: str, labels: int = 1, **settings) -> tuple[Path, CrossEncoder]:
        families = {"roberta": "roberta", "bart": "bart", "opt": "opt", "gpt_neox": "gpt-neox"}
        families |= dict.fromkeys(("llama", "qwen3"), "llama-3.2")
        tokenizer = byte_level_tokenizer(families[shape]) if shape in families else bert_tokenizer
        if tokenizer.pad_token is None:
            tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos", "bos")}
        config = AutoConfig.for_model(
            **tiny_config(shape) | {"vocab_size": len(tokenizer), "num_labels": labels, **ids, **settings}
        )
        plain = tmp_path / f"plain-{shape}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            model = AutoModelForSequenceClassification.from_config(config)
            for name, parameter in model.named_parameters():
                if not name.startswith(model.base_model_prefix + ".") or ".pooler." in name:
                    torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(plain)
        tokenizer.model_max_length = 48
        tokenizer.save_pretrained(plain)
        made = CrossEncoder(str(plain), device="cpu", num_labels=labels)
        made.save_pretrained(str(tmp_path / shape))
        return tmp_path / shape, made

    return save


def test_types_of_tokens_are_the_tokenizer_s(saved) -> None:
    folder, made = saved("bert")
    assert made.preprocess([("a", "b")])["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]]
    template = load_reranker(folder).template
    joined = template.join(template.tokenize_queries(["a"])[0], template.tokenize_documents(["b"])[0], 48)
    assert pack([joined]).token_types.tolist() == [0, 0, 0, 1, 1]


def check(folder: Path, made: CrossEncoder) -> None:
    own = Reranker.from_pretrained(folder, device="cpu", precision="fp32")
    for query in (QUERY, "snow"):
        found = own.score(query, DOCUMENTS)
        exact = made.predict([(query, document) for document in DOCUMENTS], activation_fn=torch.nn.Identity())
        assert np.ptp(exact) > 0.01
        np.testing.assert_allclose(found, exact, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ("bert", {}),
        ("electra", {}),
        ("roberta", {}),
        ("modernbert", {"classifier_pooling": "cls"}),
        ("modernbert-deep", {"classifier_pooling": "mean", "classifier_bias": True, "norm_bias": True}),
        ("bart", {}),
        ("opt", {}),
        ("llama", {}),
        ("qwen3", {}),
        ("gpt_neox", {}),
    ],
)
def test_scores_are_those_of_sentence_transformers(saved, shape: str, settings: dict) -> None:
    check(*saved(shape, **settings))


def test_a_plain_folder_of_transformers_is_read_too(saved, tmp_path: Path) -> None:
    _, made = saved("bert")
    check(tmp_path / "plain-bert", made)


@pytest.mark.parametrize(
    ("shape", "pooling", "hidden"), [("mamba2", "lasttoken", None), ("mamba", "mean", 12), ("bert", "cls", 12)]
)
def test_modules_after_the_transformer_are_read(
    tiny_model, bert_tokenizer, tmp_path: Path, capsys, shape: str, pooling: str, hidden: int | None
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(tiny_model(shape), plain)
    bert_tokenizer.save_pretrained(plain)
    transformer = Transformer(str(plain), max_seq_length=48)
    width = transformer.get_embedding_dimension()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        layers = [Dense(width, hidden, activation_function=torch.nn.GELU())] if hidden else []
        layers.append(Dense(hidden or width, 1, activation_function=torch.nn.Identity(), module_output_name="scores"))
        for layer in layers:
            torch.nn.init.normal_(layer.linear.weight, std=2.0 if shape.startswith("mamba") else 0.5)
    made = CrossEncoder(modules=[transformer, Pooling(width, pooling), *layers], device="cpu")
    made.save_pretrained(str(tmp_path / "saved"))
    check(tmp_path / "saved", made)
    load_reranker(tmp_path / "saved").save(tmp_path / "again")
    check(tmp_path / "again", made)
    words = ["export", str(tmp_path / "again"), str(tmp_path / "exported"), "--format", "transformers"]
    assert main(words) == 2
    assert "has no class in transformers" in capsys.readouterr().err


def test_what_is_saved_has_the_same_scores(saved, tmp_path: Path) -> None:
    folder, made = saved("bert")
    load_reranker(folder).save(tmp_path / "again")
    check(tmp_path / "again", made)
    assert json.loads((tmp_path / "again/reranker.json").read_text())["template"] == "sentence-pair"


def test_the_download_writes_it_as_a_trained_reranker(saved, tmp_path: Path, capsys) -> None:
    folder, made = saved("electra")
    source = {"kind": "cross-encoder", "checkpoint": {"kind": "folder", "path": str(folder)}}
    options = ["--archives", str(tmp_path), "--output", str(tmp_path / "model")]

    def download(**changes: object) -> int:
        settings = {"label": "Theirs", "kind": "E", "size": "", "source": source | changes}
        return main(["download", "model", "--settings", json.dumps(settings), *options])

    assert download() == 0
    check(tmp_path / "model", made)
    assert {file.name for file in (tmp_path / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "reranker.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert download(max_length=16) == 0
    assert load_reranker(tmp_path / "model").settings.max_length == 16
    edit(folder / "config.json", num_labels=3)
    assert download() == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"ssmrank download model: error: {folder}: has 3 labels")
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_passages_and_long_queries_are_read_as_pairs(saved) -> None:
    folder, made = saved("electra")
    own = Reranker.from_pretrained(folder, device="cpu", precision="fp32")
    words = ["snow", "river", "mamba", "text"] * 20
    [found] = own.score("fish", [" ".join(words)], passages=PassageWindows(20, 20))
    windows = [" ".join(words[start : start + 20]) for start in range(0, 80, 20)]
    exact = made.predict([("fish", window) for window in windows], activation_fn=torch.nn.Identity())
    assert found == pytest.approx(max(exact), abs=1e-4)
    [cut] = own.score("fish " * 100, ["snow"])
    assert cut == pytest.approx(made.predict([("fish " * 23, "snow")], activation_fn=torch.nn.Identity())[0], abs=1e-4)


def test_fine_tuning_starts_from_its_scores(saved, tmp_path: Path) -> None:
    folder, made = saved("bert")
    load_reranker(folder).save(tmp_path / "imported")
    trained = new_reranker(tmp_path / "imported", "E", 48)
    trained.save(tmp_path / "trained")
    check(tmp_path / "trained", made)
    assert any(name.startswith("head.dense") for name, _ in trained.named_parameters())


@pytest.mark.parametrize(("shape", "format"), [("bert", "sentence-transformers"), ("bart", "transformers")])
def test_what_was_trained_on_is_written_back(saved, tmp_path: Path, shape: str, format: str) -> None:
    folder, _ = saved(shape)
    trained = load_reranker(folder)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.01
    trained.save(tmp_path / "trained")
    words = ["export", str(tmp_path / "trained"), str(tmp_path / "exported"), "--format", format]
    assert main(words) == 0
    check(tmp_path / "trained", CrossEncoder(str(tmp_path / "exported"), device="cpu"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: edit(folder / "config.json", num_labels=3), "has 3 labels"),
        (lambda folder: edit(folder / "config.json", architectures=["BertModel"]), "names no model that ends in"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot load its weights"),
        (lambda folder: edit(folder / "config_sentence_transformers.json", default_prompt_name="q"), "default prompt"),
        (
            lambda folder: (folder / "modules.json").write_text(
                '[{"type": "a.Transformer", "path": ""}, {"type": "b.LogitScore", "path": "1"}]'
            ),
            "modules Transformer, LogitScore",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(saved, change, message: str) -> None:
    folder, _ = saved("bert")
    change(folder)
    with pytest.raises(UserError) as caught:
        load_reranker(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def edit(path: Path, **values: object) -> None:
    settings = json.loads(path.read_text()) | values
    if "num_labels" in values:
        settings |= {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    path.write_text(json.dumps(settings))
