from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from ssmrank.config.models import Model
from ssmrank.errors import UserError
from ssmrank.models import load_reranker
from ssmrank.models.packing import pack
from ssmrank.models.reranker import new_reranker
from ssmrank.models.sources import write_model
from tiny_models import SHAPES, kind_of

DOCUMENTS = ["state space models", "river boat fish mountain snow", "a", "mamba scan retrieval search engine"]


EVERY_MODEL = pytest.mark.parametrize(("model_type", "kind"), [(shape, kind_of(shape)) for shape in SHAPES])


@EVERY_MODEL
def test_checkpoint_round_trip(tiny_model, tmp_path, model_type, kind):
    torch.manual_seed(1)
    reranker = new_reranker(tiny_model(model_type), kind, 32).eval()
    reranker.save(tmp_path / "checkpoint")
    usual = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        loaded = load_reranker(tmp_path / "checkpoint")
    finally:
        torch.use_deterministic_algorithms(usual)
    assert loaded.settings == reranker.settings
    assert not loaded.training
    own, theirs = ({**dict(r.named_parameters()), **dict(r.named_buffers())} for r in (loaded, reranker))
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert loaded.score("mamba", DOCUMENTS) == reranker.score("mamba", DOCUMENTS)


@EVERY_MODEL
def test_transformers_loads_a_checkpoints_backbone(tiny_model, tmp_path, model_type, kind):
    reranker = new_reranker(tiny_model(model_type), kind, 32)
    reranker.save(tmp_path)
    backbone, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not [name for name in report["missing_keys"] if not name.startswith("pooler.")]
    assert sorted(report["unexpected_keys"]) == ["head.bias", "head.weight"]
    theirs, own = backbone.state_dict(), reranker.backbone.state_dict()
    assert all(torch.equal(theirs[name], own[name]) for name in own)


def test_a_checkpoint_with_the_prefix_of_earlier_versions_is_read(tiny_model, tmp_path):
    reranker = new_reranker(tiny_model("llama"), "D", 32).eval()
    reranker.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    prefixed = {name if name.startswith("head.") else f"backbone.{name}": weights[name] for name in weights}
    save_file(prefixed, tmp_path / "model.safetensors")
    assert load_reranker(tmp_path).score("mamba", DOCUMENTS) == reranker.score("mamba", DOCUMENTS)


def test_pooling_reads_the_first_token_of_encoders_and_the_last_of_decoders(tiny_model):
    for model_type, kind, pooled in [("bert", "E", 0), ("opt", "D", -1)]:
        reranker = new_reranker(tiny_model(model_type), kind, 32).eval()
        template = reranker.template
        [query], [document] = template.tokenize_queries(["mamba"]), template.tokenize_documents(["state space"])
        ids = torch.tensor(template.join(query, document, 32))[None].long()
        alone = pack([ids[0].numpy()])
        with torch.no_grad():
            hidden = reranker.backbone(
                input_ids=ids, position_ids=alone.position_ids[None], use_cache=False, packed=alone
            ).last_hidden_state[0, pooled]
            expected = torch.dot(reranker.head.weight[0], hidden) + reranker.head.bias[0]
        assert reranker.score("mamba", ["state space"]) == pytest.approx([expected.item()], abs=1e-6)


def test_scores_do_not_depend_on_the_batch(tiny_model):
    for model_type in ("llama", "mamba2"):
        reranker = new_reranker(tiny_model(model_type), "D", 32).eval()
        together = reranker.score("mamba", DOCUMENTS)
        alone = [reranker.score("mamba", [document])[0] for document in DOCUMENTS]
        assert together == pytest.approx(alone, abs=1e-5)


def test_scores_are_not_rounded_to_the_precision_of_the_products(tiny_model):
    reranker = new_reranker(tiny_model("mamba2"), "D", 32).eval()
    texts = [f"state space {text} {more}" for text in DOCUMENTS for more in ("fish", "boat", "snow", "river")]
    with torch.autocast("cpu", torch.bfloat16):
        scores = torch.tensor(reranker.score("mamba", texts))
    assert (scores != scores.bfloat16()).float().mean() > 0.9


def test_no_documents_one_text_and_a_long_query(tiny_model):
    reranker = new_reranker(tiny_model("mamba2"), "D", 32).eval()
    assert reranker.score("mamba", []) == []
    with pytest.raises(UserError, match="documents is one text; give a list of texts"):
        reranker.score("mamba", "state space")
    assert len(reranker.score("mamba " * 500, DOCUMENTS)) == len(DOCUMENTS)
    tight = new_reranker(tiny_model("mamba2"), "D", 4)
    with pytest.raises(UserError, match="leave no room") as caught:
        tight.score("mamba " * 500, DOCUMENTS)
    assert len(str(caught.value)) < 300


def test_a_folder_that_is_no_checkpoint_is_one_line(tiny_model):
    with pytest.raises(UserError, match=r"has no head that scores \(no reranker\.json\); train it"):
        load_reranker(tiny_model("bert"))


def test_a_longer_input_than_position_embeddings_is_one_line(tiny_model):
    with pytest.raises(
        UserError, match=r"max_length 513: this model \(roberta\) has position embeddings for 512 tokens"
    ):
        new_reranker(tiny_model("roberta"), "E", 513)


def test_bart_scores_by_its_decoders_first_state(tiny_model):
    reranker = new_reranker(tiny_model("bart"), "ED", 32).eval()
    template = reranker.template
    [query], [document] = template.tokenize_queries(["mamba"]), template.tokenize_documents(["state space"])
    ids = torch.tensor(template.join(query, document, 32))[None].long()
    reference = AutoModel.from_pretrained(tiny_model("bart")).eval()
    with torch.no_grad():
        expected = reranker.head(reference(input_ids=ids).last_hidden_state[:, 0])
    assert reranker.score("mamba", ["state space"]) == pytest.approx([expected.item()], abs=1e-5)


def test_template_and_pooling_that_the_model_folder_sets_are_kept(tiny_model, tmp_path):
    model = Model(
        label="BERT",
        kind="E",
        size="1M",
        source={"kind": "folder", "path": str(tiny_model("bert"))},
        template="document-first",
        pooling="mean",
    )
    write_model(model, tmp_path / "model", tmp_path)
    reranker = new_reranker(tmp_path / "model", "E", 32).eval()
    assert (reranker.template.order, reranker.settings.pooled) == ("document-first", "mean")
    reranker.save(tmp_path / "checkpoint")
    loaded = load_reranker(tmp_path / "checkpoint")
    assert loaded.settings == reranker.settings
    assert loaded.score("mamba", DOCUMENTS) == reranker.score("mamba", DOCUMENTS)


def test_a_trained_reranker_reads_in_the_order_that_params_yaml_or_its_training_sets(tiny_model, tmp_path):
    new_reranker(tiny_model("mamba2"), "D", 48).save(tmp_path / "trained")
    source = {"kind": "folder", "path": str(tmp_path / "trained")}
    model = Model(label="Mamba", kind="D", size="1M", source=source, template="query-first")
    write_model(model, tmp_path / "model", tmp_path)
    # Used as it is, and as the start of a training.
    assert load_reranker(tmp_path / "model").template.order == "query-first"
    assert new_reranker(tmp_path / "model", "D", 48).template.order == "query-first"
    twice = new_reranker(tmp_path / "model", "D", 48, "document-document-query")
    assert twice.template.order == "document-document-query"
    twice.save(tmp_path / "again")
    assert load_reranker(tmp_path / "again").template.order == "document-document-query"
    # Trained further without a template, it keeps its own.
    assert new_reranker(tmp_path / "again", "D", 64).template.order == "document-document-query"
    assert new_reranker(tiny_model("mamba2"), "D", 48, "query-document-query").template.query_copies == 2


def test_a_checkpoint_that_does_not_fit_is_one_line(tiny_model, tmp_path):
    new_reranker(tiny_model("bert"), "E", 32).save(tmp_path / "checkpoint")
    new_reranker(tiny_model("bart"), "ED", 32).save(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "checkpoint" / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: does not fit config\.json in \d+ weights, such as"):
        load_reranker(tmp_path / "checkpoint")
