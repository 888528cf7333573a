from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from ssmrank.cli import main
from ssmrank.config.params import read_params
from ssmrank.config.pretraining import CardSettings
from ssmrank.kernels.cross_entropy import IGNORED
from ssmrank.models.backbones import load_backbone
from ssmrank.models.packed_model import load_tokenizer
from ssmrank.models.reranker import load_reranker, new_reranker
from ssmrank.pretraining.card import card_scores
from ssmrank.pretraining.cross_entropy import vocabulary_cross_entropy
from ssmrank.pretraining.model import (
    LanguageModel,
    language_model_config,
    new_language_model,
    non_embedding_parameters,
)
from ssmrank.pretraining.objectives import MaskedTokens, Task, cut, next_token, on_device
from ssmrank.pretraining.passes import Passes, filled_up
from ssmrank.pretraining.rates import choose_rate
from ssmrank.pretraining.steps import Steps
from ssmrank.pretraining.tokens import CorpusTokens

from .conftest import CAUSAL, CONFIGS, MASKED, settings

CPU = torch.device("cpu")

_WIDE = {"hidden_size": 64, "mamba_n_heads": 2, "mamba_d_head": 64, "mamba_d_state": 64}
WIDE = {
    "mamba2": {"hidden_size": 64, "head_dim": 64, "num_heads": 2, "state_size": 64},
    "mamba3": {"hidden_size": 64, "head_dim": 64, "state_size": 64},
    "bamba": _WIDE,
    "granitemoehybrid": _WIDE,
    "falcon_h1": _WIDE | {"mamba_d_ssm": 128},
    "nemotron_h": {"hidden_size": 64, "mamba_num_heads": 2, "mamba_head_dim": 64, "ssm_state_size": 64},
    "zamba2": {"hidden_size": 64, "n_mamba_heads": 2, "mamba_d_state": 64},
}
"""Triton's kernels need heads and states of 64 columns."""


def steps_of(tokens_folder: Path, step_tokens: int = 256) -> Steps:
    return Steps(CorpusTokens(tokens_folder, "train"), (1, 2, 0), step_tokens, seed=42)


@pytest.mark.parametrize("model_type", CAUSAL)
def test_next_token_loss_is_that_of_transformers(model_type: str, tokenizer_folder: Path, tokens_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    config = language_model_config(settings(model_type)["config"], tokenizer, 64)
    model = new_language_model(config, seed=1).eval()
    peer = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation="eager").eval()
    peer.base_model.load_state_dict(model.backbone.state_dict())
    peer.get_output_embeddings().weight = peer.get_input_embeddings().weight  # some classes do not tie them
    if model.head is not None:
        peer.lm_head.load_state_dict(model.head.state_dict())
    step = steps_of(tokens_folder)[0]
    task = next_token(step, np.random.default_rng(0))
    loss = model(*on_device(task, CPU))
    total = torch.zeros(())
    ends = np.cumsum(step.lengths)
    for start, end in zip(ends - step.lengths, ends, strict=True):
        ids = torch.from_numpy(step.ids[start:end])[None]
        if start >= step.tokens:
            continue
        logits = peer(ids).logits[0]
        total = total + F.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum")
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    names = dict(model.backbone.named_parameters())
    loss.backward()
    total.backward()
    for name, parameter in peer.base_model.named_parameters():
        torch.testing.assert_close(names[name].grad, parameter.grad, rtol=1e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("model_type", MASKED)
def test_masked_loss_is_that_of_transformers(model_type: str, tokenizer_folder: Path, tokens_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    config = language_model_config(settings(model_type)["config"], tokenizer, 64)
    model = new_language_model(config, seed=1).eval()
    torch.nn.init.normal_(model.bias)
    peer = AutoModelForMaskedLM.from_config(deepcopy(config), attn_implementation="eager").eval()
    peer.base_model.load_state_dict(model.backbone.state_dict())
    peer.tie_weights()
    output = peer.get_output_embeddings()
    shared = {id(parameter) for parameter in (*peer.base_model.parameters(), *output.parameters())}
    theirs = [parameter for parameter in peer.parameters() if id(parameter) not in shared]
    with torch.no_grad():
        output.bias.copy_(model.bias)
        for parameter, own in zip(theirs, model.head.parameters(), strict=True):
            parameter.copy_(own)
    step = steps_of(tokens_folder)[0]
    task = MaskedTokens(0.3, special=4, mask=tokenizer.mask_token_id, vocabulary=384)(step, np.random.default_rng(0))
    loss = model(*on_device(task, CPU))
    labels = np.full(len(task.ids), -100)
    labels[task.places] = task.targets
    total = torch.zeros(())
    ends = np.cumsum(step.lengths)
    for start, end in zip(ends - step.lengths, ends, strict=True):
        logits = peer(torch.from_numpy(task.ids[start:end])[None]).logits[0]
        total = total + F.cross_entropy(logits, torch.from_numpy(labels[start:end]), reduction="sum")
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)


def test_cross_entropy_in_pieces_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmrank.pretraining.cross_entropy.ROWS", 7)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((30, 8), (50, 8)))
    bias = torch.randn(50, generator=generator, dtype=torch.float64)
    targets = torch.randint(50, (30,), generator=generator)
    ours = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    plain = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    loss = vocabulary_cross_entropy(*ours, targets)
    expected = F.cross_entropy(F.linear(*plain), targets, reduction="sum")
    torch.testing.assert_close(loss, expected)
    (loss / 3).backward()
    (expected / 3).backward()
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def gradients_of(model: LanguageModel, pieces: list[Task], share: float = 1.0) -> list[torch.Tensor]:
    """Of share times the sum of the pieces' losses, by every weight that has one."""
    model.zero_grad()
    for piece in pieces:
        (model(*on_device(piece, CPU)) * share).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_rows_that_fill_up_count_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((6, 8), (50, 8)))
    targets = torch.tensor([3, IGNORED, 7, IGNORED, IGNORED, 49])
    ours = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    plain = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    loss = vocabulary_cross_entropy(*ours, None, targets)
    expected = F.cross_entropy(F.linear(*plain), targets, reduction="sum", ignore_index=IGNORED)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_filled_up_step_has_the_same_gradients(model_type: str, tokenizer_folder: Path, tokens_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    model = new_language_model(language_model_config(settings(model_type)["config"], tokenizer, 64), seed=1).eval()
    step = steps_of(tokens_folder, 512)[1]
    task = next_token(step, np.random.default_rng(0))
    filled = filled_up(task)
    assert len(filled.lengths) % 16 == 0 and filled.lengths.sum() == len(task.ids) and filled.lengths.min() > 0
    assert len(filled.places) > len(task.places)
    gradients = [gradients_of(model, [piece]) for piece in (task, filled)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("model_type", CONFIGS)
def test_replayed_passes_add_the_gradients_of_passes_without_graphs(
    model_type: str, tokenizer_folder: Path, tokens_folder: Path
) -> None:
    device = torch.device("cuda")
    config = settings(model_type)["config"] | WIDE.get(model_type, {})
    model = new_language_model(language_model_config(config, load_tokenizer(tokenizer_folder), 64), seed=1).to(device)
    passes = Passes(model, "bf16", device, longest=64)
    for number in range(4):
        task = filled_up(next_token(steps_of(tokens_folder, 2048)[number], np.random.default_rng(0)))
        gradients = []
        for run in (passes, Passes(model, "bf16", device, longest=64)):
            model.zero_grad(set_to_none=False)
            loss = run(*on_device(task, device), share=0.01)
            gradients.append([loss.clone(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        for one, other in zip(*gradients, strict=True):
            assert (one - other).norm() <= 2e-2 * other.norm() + 1e-6
    if passes.uses_graphs:
        assert passes._captured.active and passes._captured._graphs


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_pretraining_knows_whether_passes_can_be_captured(model_type: str, tokenizer_folder: Path) -> None:
    """Those that ask the GPU where sequences start cannot: a capture would fail."""
    config = language_model_config(settings(model_type)["config"], load_tokenizer(tokenizer_folder), 64)
    with torch.device("meta"):
        model = new_language_model(config, seed=1)
    expected = model_type not in ("gated_deltanet", "qwen3_5_text")
    assert Passes(model, "bf16", torch.device("cuda"), longest=64).uses_graphs == expected
    assert not Passes(model, "bf16", CPU, longest=64).uses_graphs


@pytest.mark.parametrize("model_type", CONFIGS)
def test_gradients_do_not_depend_on_how_a_step_is_cut(
    model_type: str, tokenizer_folder: Path, tokens_folder: Path
) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    model = new_language_model(language_model_config(settings(model_type)["config"], tokenizer, 64), seed=1).eval()
    task = next_token(steps_of(tokens_folder)[0], np.random.default_rng(0))
    gradients = [gradients_of(model, cut(task, budget), 1 / len(task.places)) for budget in (256, 96)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["cpu.yaml"],
        ["zero-shot.yaml", "small.yaml"],
        ["hybrid.yaml"],
        ["cpu.yaml", "hybrid.yaml", "hybrid-cpu.yaml"],
    ],
)
def test_the_experiment_s_models_are_matched(root: Path, tokenizer_folder: Path, more: list[str]) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    overlays = [root / "params/minis.yaml", *(root / "params/minis" / name for name in more)]
    params = read_params(root / "params.yaml", *overlays)
    for section in params.pretraining.values():
        counts, widths = [], set()
        for model in section.models.values():
            config = language_model_config(model.config, tokenizer, section.max_length)
            with torch.device("meta"):
                backbone = new_language_model(config, seed=1).backbone
            counts.append(non_embedding_parameters(backbone))
            widths.add(config.hidden_size)
            assert config.tie_word_embeddings
        assert len(counts) == (2 if section is params.pretraining.get("small") else 6 if "hybrid.yaml" in more else 5)
        assert len(widths) == 1
        assert max(counts) / min(counts) < 1.03, counts


def run_pretrain(tmp_path: Path, name: str, tokenizer: Path, tokens: Path, values: dict, *more: str) -> int:
    options = ["--tokenizer", str(tokenizer), "--tokens", str(tokens), "--state", str(tmp_path / "state" / name)]
    output = ["--output", str(tmp_path / name), "--learning-rate", "0.01"]
    return main(["pretrain", "run", "--settings", json.dumps(values), *options, *output, *more])


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_pretraining_learns_and_its_model_is_fine_tuned(
    model_type: str, tmp_path: Path, tokenizer_folder: Path, tokens_folder: Path
) -> None:
    values = settings(model_type, tokens=256 * 40)
    assert run_pretrain(tmp_path, "model", tokenizer_folder, tokens_folder, values) == 0
    facts = json.loads((tmp_path / "model" / "pretraining.json").read_text())
    held_out = [loss for _, _, loss in facts["curve"]["held_out"]]
    assert len(held_out) == 3
    # Words are drawn evenly from 30, so little more than their spelling can be learned.
    assert held_out[-1] < held_out[0] < np.log(384) + 0.1
    assert facts["curve"]["tokens"] == sum(steps_of(tokens_folder)[number].tokens for number in range(40))
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert sum(tensor.numel() for tensor in weights.values()) == facts["parameters"]["parameters"]
    assert not (tmp_path / "state" / "model").exists()
    kind = "D" if model_type in CAUSAL else "E"
    reranker = new_reranker(tmp_path / "model", kind, max_length=64)
    assert np.isfinite(reranker.eval().score("river boat", ["Mamba scan", "boat fish river"])).all()


@pytest.mark.parametrize("model_type", ["bert", "mamba2"])
def test_a_stopped_pretraining_ends_as_one_that_was_not(
    model_type: str, tmp_path: Path, tokenizer_folder: Path, tokens_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    values = settings(model_type)
    for name, more in (("whole", []), ("parts", ["--stop-seconds", "0"])):
        stops = 0
        while run_pretrain(tmp_path, name, tokenizer_folder, tokens_folder, values, *more):
            assert f"stopped after {stops + 1} of 12 steps; the same command resumes it" in capsys.readouterr().err
            stops += 1
        assert stops == (11 if more else 0)
    whole, parts = (load_backbone(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    one, other = (json.loads((tmp_path / name / "pretraining.json").read_text()) for name in ("whole", "parts"))
    assert one["curve"]["held_out"] == other["curve"]["held_out"]


def test_a_sweep_that_is_stopped_goes_on_and_chooses_the_best(
    tmp_path: Path, tokenizer_folder: Path, tokens_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    sweep = json.dumps({"learning_rates": [0.01, 0.001, 1e30], "tokens": 2048})
    data = ["--tokenizer", str(tokenizer_folder), "--tokens", str(tokens_folder)]
    results = []
    for name, more in (("whole", []), ("parts", ["--stop-seconds", "0"])):
        command = ["pretrain", "sweep", "--settings", json.dumps(settings("llama")), *data, "--sweep", sweep, *more]
        output = tmp_path / f"{name}.json"
        while main([*command, "--state", str(tmp_path / "state" / name), "--output", str(output)]):
            assert "of 8 steps; the same command resumes it" in capsys.readouterr().err
        assert not (tmp_path / "state" / name).exists()
        results.append(json.loads(output.read_text()))
    assert results[0]["learning_rate"] == 0.01
    losses = [trial["held_out_loss"] for trial in results[0]["trials"]]
    assert losses[2] is None
    assert losses[1] < losses[0]
    assert [trial["held_out_loss"] for trial in results[1]["trials"]] == losses


def test_choice_of_the_rate_by_hand() -> None:
    assert choose_rate({1e-3: 5.0, 2e-3: 4.5, 4e-3: 4.75, 8e-3: None}) == 2e-3
    assert choose_rate({4e-3: 4.5, 2e-3: 4.5}) == 2e-3
    with pytest.raises(ValueError, match="no learning rate gave a finite loss"):
        choose_rate({1e-3: None, 2e-3: float("nan")})


def published(tmp_path: Path, *more: str) -> Path:
    said = json.dumps({"label": "BERT-mini", "corpus": "Made up", "corpus_license": "CC0", "training": "on titles"})
    (tmp_path / "sweep.json").write_text("{}")
    options = ["--settings", said, "--pretrained", str(tmp_path / "model"), "--command", "make it", *more]
    options += ["--sweep", str(tmp_path / "sweep.json")]
    assert main(["pretrain", "publish", *options, "--output", str(tmp_path / "published")]) == 0
    return tmp_path / "published"


SHOWN = ("Mamba is one of them.", "Boats on a river.")


def as_the_card_shows(folder: Path) -> dict:
    """The result of the card's code for the folder."""
    text = (folder / "README.md").read_text().replace("FOLDER", str(folder))
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(code, names)
    return names


def test_the_card_says_what_was_done(tmp_path: Path, tokenizer_folder: Path, tokens_folder: Path) -> None:
    assert run_pretrain(tmp_path, "model", tokenizer_folder, tokens_folder, settings("bert")) == 0
    folder = published(tmp_path)
    text = (folder / "README.md").read_text()
    facts = json.loads((folder / "pretraining.json").read_text())
    loss = facts["curve"]["held_out"][-1][2]
    for part in ("# BERT-mini", "Made up", "CC0", "12 of 256 tokens", f"{loss:.4f}", "0.01", "`make it`", "15%"):
        assert part in text
    assert "Training as a reranker" not in text
    assert as_the_card_shows(folder)["states"].shape[-1] == CONFIGS["bert"]["hidden_size"]
    assert load_backbone(folder).config.model_type == "bert"


def test_the_card_shows_scores_from_metrics_files(tmp_path: Path) -> None:
    files = {"BM25": "a.json", "alone": "b.json"}
    scores = [{"test": "Made up, test", "metric": "nDCG@10", "files": files}]
    card = CardSettings.model_validate({"label": "X", "corpus": "c", "corpus_license": "CC0", "scores": scores})
    text = card_scores(card, {"a.json": {"nDCG@10": 0.46149}, "b.json": {"nDCG@10": 0.5, "MRR@10": 1.0}})
    assert "| Test | Metric | BM25 | alone |\n| --- | --- | --: | --: |\n" in text
    assert "\n| Made up, test | nDCG@10 | 46.1 | 50.0 |\n" in text


def test_a_published_reranker_scores_and_is_fine_tuned_further(
    tmp_path: Path, tokenizer_folder: Path, tokens_folder: Path
) -> None:
    assert run_pretrain(tmp_path, "model", tokenizer_folder, tokens_folder, settings("llama")) == 0
    trained = new_reranker(tmp_path / "model", "D", max_length=64).eval()
    trained.save(tmp_path / "checkpoint")
    outcome = {"status": "ok", "steps": 40, "tokens": 9000, "seconds": 3.0, "device": "cpu", "loss": [2.0] * 39 + [1.5]}
    (tmp_path / "checkpoint" / "outcome.json").write_text(json.dumps(outcome))
    folder = published(tmp_path, "--checkpoint", str(tmp_path / "checkpoint"))
    assert (
        "on titles; 40 steps, 9,000 tokens, 3 s on cpu, loss 2.000 at the first step and 1.750"
        in (folder / "README.md").read_text()
    )
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    shown = as_the_card_shows(folder)
    exact = load_reranker(folder).score("state space models", list(SHOWN))
    assert shown["scores"] == pytest.approx(exact, abs=1e-2)  # the card's code computes in bf16 where the CPU can
    own = trained.backbone.state_dict()
    assert all(
        torch.equal(tensor.bfloat16(), own[name].bfloat16()) for name, tensor in shown["model"].named_parameters()
    )
    model = {"label": "x", "kind": "D", "size": "1", "source": {"kind": "folder", "path": str(folder)}}
    options = ["--archives", str(tmp_path), "--output", str(tmp_path / "copy")]
    assert main(["download", "model", "--settings", json.dumps(model), *options]) == 0
    further = new_reranker(tmp_path / "copy", "D", max_length=32).eval()
    texts = ["Mamba scan", "boat fish river"]
    assert further.score("river boat", texts) == pytest.approx(trained.score("river boat", texts), abs=2e-2)
