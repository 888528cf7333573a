"""Adapters: the packed passes against transformers with peft, what is merged and written, and what a training keeps."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny_training import DOCUMENTS, sequences, settings
from torch import nn
from transformers import AutoModel

from ssmrank.api import Reranker
from ssmrank.cli import main
from ssmrank.config.trainings import Lora
from ssmrank.models.architectures import MODEL_TYPES, architecture_of
from ssmrank.models.backbones import packed_forward, read_backbone_config, scored_forward
from ssmrank.models.bi_encoder import load_bi_encoder
from ssmrank.models.packing import pack
from ssmrank.models.reranker import load_reranker, new_reranker
from ssmrank.training.adapters import add_adapters, linear_layers, merged, write_adapters
from ssmrank.training.loop import train
from ssmrank.training.memory import recompute_layers
from ssmrank.training.state import TrainingState
from tiny_models import SHAPES, is_causal, kind_of

peft = pytest.importorskip("peft")

CPU = torch.device("cpu")
LORA = Lora(rank=4, alpha=6)
SEEN = {"mamba": ["in_proj", "x_proj", "out_proj"], "jamba": ["in_proj", "x_proj", "out_proj", "q_proj", "down_proj"]}
"""What is adapted where transformers passes over an adapter: it reads the weight of Mamba-1's dt_proj itself."""
QUICK = ("bart", "bert", "falcon_h1", "jamba", "llama", "mamba", "mamba2", "opt")
QUICK_FIRST = [pytest.param(shape, marks=() if shape in QUICK else pytest.mark.slow) for shape in SHAPES]
LENGTHS = [5, 17, 1, 30]


def model_of(folder, shape):
    torch.manual_seed(0)
    return new_reranker(folder, kind_of(shape), 32)


def adapted(folder, shape, lora=LORA):
    """A reranker whose adapters are not zero, as after some steps, in evaluation mode."""
    model = model_of(folder, shape)
    add_adapters(model, lora, "fp32")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def trained_parameters(model):
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def trained_weights(model):
    return {name: parameter.detach() for name, parameter in trained_parameters(model)}


def named(backbone):
    """Parameters by all names: in transformers, layers that share weights have modules of their own."""
    return list(backbone.named_parameters(remove_duplicate=False))


def reference_of(folder, backbone, modules):
    """transformers' model with peft's own layers, and the adapters of `backbone`."""
    attends = architecture_of(read_backbone_config(folder).model_type).attention
    options = {"attn_implementation": "eager"} if attends else {}
    reference = AutoModel.from_pretrained(folder, dtype=torch.float32, **options).eval()
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=modules)
    peft.inject_adapter_in_model(config, nn.ModuleDict({"whole": reference}))  # as a part: peft refuses some of Mamba's
    own = {name: parameter for name, parameter in named(backbone) if ".lora_" in name}
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if ".lora_" in name and name in own:  # ours have no pooling layers
                parameter.copy_(own.pop(name))
    assert not own
    return reference


@pytest.mark.parametrize("shape", QUICK_FIRST)
def test_packed_passes_equal_those_of_transformers_with_peft(tiny_model, shape):
    folder = tiny_model(shape)
    modules = SEEN.get(shape.partition("-")[0], linear_layers(model_of(folder, shape).backbone))
    model = adapted(folder, shape, Lora(rank=4, alpha=6, modules=modules))
    reference = reference_of(folder, model.backbone, modules)
    generator = np.random.default_rng(3)
    batch = [generator.integers(4, model.backbone.config.vocab_size, length) for length in LENGTHS]
    found = packed_forward(model.backbone, pack(batch))
    expected = torch.cat([reference(input_ids=torch.tensor(ids)[None]).last_hidden_state[0] for ids in batch])
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1.0)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients, names = {name: parameter.grad for name, parameter in reference.named_parameters()}, {}
    for name, parameter in named(model.backbone):
        names.setdefault(parameter, []).append(name)
    adapters = 0
    for name, parameter in model.backbone.named_parameters():
        if ".lora_" not in name:
            assert parameter.grad is None, name
            continue
        adapters += 1
        gradient = sum(gradients[one] for one in names[parameter])
        assert (parameter.grad - gradient).abs().max() / gradient.abs().max().clamp(min=1.0) < 1e-4, name
    assert adapters >= 2 * len(modules)


@pytest.mark.parametrize("shape", QUICK_FIRST)
def test_merged_weights_compute_what_the_adapters_did(tiny_model, shape):
    folder = tiny_model(shape)
    model = adapted(folder, shape)
    whole = merged(trained_weights(model), model_of(folder, shape), LORA).eval()
    packed = pack([np.full(9, 7), np.arange(5, 25)])
    pooling = "last" if is_causal(shape) else "first"
    with torch.no_grad():
        expected = whole(packed)
        assert (model(packed) - expected).abs().max() < 2e-5 * expected.abs().max().clamp(min=1.0)
        # Where the last layer computes the scored token alone, its adapters count too.
        states = scored_forward(model.backbone, packed, pooling) - scored_forward(whole.backbone, packed, pooling)
        assert states.abs().max() < 1e-4
        assert (model_of(folder, shape).eval()(packed) - expected).abs().max() > 1e-3


def settings_of(lora, **changes):
    return settings(lora=lora.model_dump(), learning_rate=2e-2, **changes)


def test_a_training_leaves_the_backbone_as_it_is_and_its_state_holds_the_rest(tiny_model, tmp_path):
    lora = Lora(rank=2, alpha=4, dropout=0.1, modules=["q_proj", "v_proj", "down_proj"])
    folder = tiny_model("llama-3.2")
    model, before = model_of(folder, "llama-3.2"), model_of(folder, "llama-3.2").state_dict()
    add_adapters(model, lora, "fp32")
    state = TrainingState(tmp_path, "a")
    history = train(model, sequences(model), settings_of(lora), CPU, state, save_seconds=0.0)
    assert history.loss[-1] < history.loss[0] / 2
    after = model.state_dict()
    changed = 0
    for name, tensor in before.items():
        trained_name = next(one for one in (name, name.replace(".weight", ".base_layer.weight")) if one in after)
        assert torch.equal(tensor, after[trained_name]) is not name.startswith("head."), name
        changed += trained_name != name
    assert changed == 6
    saved = state.load()[1]["model"]
    assert saved.keys() == {name for name in after if name.startswith("head.") or ".lora_" in name}


def test_the_best_weights_are_kept(tiny_model, tmp_path):
    class Falling:
        """Each validation is worse than the one before, so the first weights are the best."""

        every_steps, patience, best = 2, None, None

        def __call__(self, reranker, workers):
            self.best = self.best or {name: tensor.clone() for name, tensor in trained_weights(reranker).items()}
            self.value = getattr(self, "value", 0.0) - 1.0
            return self.value

    model, validator = model_of(tiny_model("mamba2"), "mamba2"), Falling()
    add_adapters(model, LORA, "fp32")
    train(model, sequences(model), settings_of(LORA, epochs=4), CPU, TrainingState(tmp_path, "a"), validator=validator)
    assert all(torch.equal(tensor, validator.best[name]) for name, tensor in trained_weights(model).items())
    saved = TrainingState(tmp_path, "a").load_best(2)
    assert saved.keys() == trained_weights(model).keys()


@pytest.mark.parametrize(
    ("shape", "modules", "name"), [("llama-3.2", "all", "mlp.up_proj"), ("mamba2", ["in_proj"], "mixer.in_proj")]
)
def test_a_whole_checkpoint_and_adapters_for_peft_are_written(options, tiny_model, tmp_path, shape, modules, name):
    lora = {"rank": 2, "alpha": 8, "dropout": 0.1, "modules": modules}
    assert main(options(shape, "D", lora=lora, epochs=20, learning_rate=2e-2)) == 0
    outcome = json.loads((tmp_path / "output" / "outcome.json").read_text())
    assert outcome["loss"][-1] < outcome["loss"][0] / 2
    trained = load_reranker(tmp_path / "output")
    texts = list(DOCUMENTS.values())
    assert trained.score("river", texts)[1] == max(trained.score("river", texts))
    assert json.loads((tmp_path / "output" / "training.json").read_text())["settings"]["lora"]["rank"] == 2
    # What is added has the rank of the adapters.
    folder = tiny_model(shape)
    before = load_file(folder / "model.safetensors")
    change = trained.state_dict()[f"backbone.layers.0.{name}.weight"] - before[f"layers.0.{name}.weight"]
    assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2
    Reranker.from_pretrained(tmp_path / "output", device="cpu").save_pretrained(tmp_path / "saved")
    layers = "all linear layers" if modules == "all" else "in_proj"
    row = f"| Adapters | LoRA of rank 2, alpha 8, dropout 0.1, of {layers}; merged |"
    assert row in (tmp_path / "saved" / "README.md").read_text()
    adapter = tmp_path / "output" / "adapter"
    theirs = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(folder, dtype=torch.float32), adapter).eval()
    head = load_file(adapter / "head.safetensors")
    template = trained.template
    [query] = template.fit_queries(template.tokenize_queries(["river"]), 32, ["q"])
    for document, text in zip(template.tokenize_documents(texts), texts, strict=True):
        ids = torch.tensor(template.join(query, document, 32, "q"), dtype=torch.int64)[None]
        with torch.no_grad():
            state = theirs(input_ids=ids).last_hidden_state[0, -1]
        score = (state @ head["head.weight"][0] + head["head.bias"]).item()
        assert score == pytest.approx(trained.score("river", [text])[0], abs=2e-5)


def test_the_adapters_of_shared_weights_are_written_for_each_layer(tiny_model, tmp_path):
    folder = tiny_model("zamba2")
    model, whole = adapted(folder, "zamba2"), model_of(folder, "zamba2").eval()
    merged(trained_weights(model), whole, LORA)
    write_adapters(tmp_path, trained_weights(model), whole.backbone, LORA, "zamba2")
    theirs = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(folder, dtype=torch.float32), tmp_path).eval()
    ids = torch.arange(5, 25)
    with torch.no_grad():
        found = packed_forward(whole.backbone, pack([ids.numpy()]))
        expected = theirs(input_ids=ids[None]).last_hidden_state[0]
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1.0)


def test_peft_refuses_what_the_guide_says(options, tiny_model, tmp_path):
    assert main(options("mamba2", "D", lora={"rank": 2, "alpha": 8}, epochs=1)) == 0
    with pytest.raises(ValueError, match="'out_proj' is incompatible with Mamba-based models"):
        peft.PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_model("mamba2")), tmp_path / "output" / "adapter")


def test_a_bi_encoder_has_adapters_too(options, tmp_path):
    assert main(options("mamba2", "D", lora={"rank": 2, "alpha": 8}, bi_encoder={"temperature": 0.1}, epochs=20)) == 0
    losses = json.loads((tmp_path / "output" / "outcome.json").read_text())["loss"]
    assert losses[-1] < losses[0]
    load_bi_encoder(tmp_path / "output")
    assert not (tmp_path / "output" / "adapter" / "head.safetensors").exists()


def test_weights_that_autocast_rounds_anyway_are_kept_rounded_and_give_the_same_bits(tiny_model, tmp_path):
    for shape in ("llama", "mamba"):
        folder, results = tiny_model(shape), []
        for precision in ("fp32", "bf16"):  # of what is kept; products are in bf16 both times
            model = model_of(folder, shape)
            add_adapters(model, LORA, precision)
            kept = {parameter.dtype for name, parameter in model.named_parameters() if "base_layer.weight" in name}
            assert kept == {torch.float32 if precision == "fp32" else torch.bfloat16}
            state = TrainingState(tmp_path / shape / precision, "a")
            history = train(model, sequences(model), settings_of(LORA, precision="bf16", epochs=3), CPU, state)
            results.append((history.loss, trained_weights(model)))
        (losses, weights), (same_losses, same_weights) = results
        assert losses == same_losses
        assert all(torch.equal(tensor, same_weights[name]) for name, tensor in weights.items())


def test_recomputed_layers_give_the_same_gradients(tiny_model):
    lora = Lora(rank=4, alpha=6, dropout=0.3)
    for shape in ("llama", "mamba", "bamba"):
        found = []
        for share in (0.0, 1.0):
            model = adapted(tiny_model(shape), shape, lora).train()
            recompute_layers(model.backbone, share)
            torch.manual_seed(5)  # of dropout
            data = sequences(model)
            model(pack([sequence for index in range(4) for sequence in data[index]])).square().sum().backward()
            found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        whole, recomputed = found
        assert whole.keys() == recomputed.keys() == trained_weights(model).keys()
        for name, gradient in whole.items():
            assert torch.allclose(gradient, recomputed[name], rtol=1e-6, atol=1e-7), name


def test_a_name_that_no_linear_layer_has_is_one_line(options, capsys):
    assert main(options("llama", "D", lora={"rank": 2, "alpha": 8, "modules": ["q_proj", "query"]})) == 2
    assert (
        "trainings: lora.modules: 'query' is no linear layer of this model (llama); it has down_proj, gate_proj, "
        "k_proj, o_proj, q_proj, up_proj, v_proj\n"
    ) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "package", "key"),
    [({"lora": {"rank": 2, "alpha": 8}}, "peft", "lora"), ({"optimizer_states": "8bit"}, "bitsandbytes", None)],
)
def test_a_package_that_is_not_installed_is_one_line(options, capsys, monkeypatch, changes, package, key):
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    assert main(options(**changes)) == 2
    error = capsys.readouterr().err
    assert f"trainings: {key or 'optimizer_states: 8bit'} needs {package}, which is not installed; pip install" in error


@pytest.mark.parametrize("modules", [[], ["q_proj", "q_proj"], "some"])
def test_modules_are_names_or_all(modules):
    with pytest.raises(ValidationError, match=r"modules"):
        Lora(rank=2, alpha=4, modules=modules)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("shape", MODEL_TYPES)
def test_bf16_gradients_on_the_gpu(tiny_model, shape):
    """Against the CPU's in float32, which are tested against transformers."""
    model, on_cpu = adapted(tiny_model(shape), shape).cuda(), adapted(tiny_model(shape), shape)
    generator = np.random.default_rng(3)
    batch = [generator.integers(4, model.backbone.config.vocab_size, length) for length in LENGTHS]
    with torch.autocast("cuda", torch.bfloat16):
        model(pack(batch, "cuda")).sum().backward()
    on_cpu(pack(batch)).sum().backward()
    own = dict(model.named_parameters())
    pairs = [(own[name].grad.cpu(), parameter.grad) for name, parameter in trained_parameters(on_cpu)]
    distance = sum((found - exact).pow(2).sum() for found, exact in pairs)
    assert (distance / sum(exact.pow(2).sum() for _, exact in pairs)).sqrt() < 0.1
