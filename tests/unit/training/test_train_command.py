from __future__ import annotations

import argparse
import json

import pytest
import torch
from tiny_training import DOCUMENTS, GROUPS, QUERIES

from ssmrank.api import Reranker
from ssmrank.cli import main
from ssmrank.commands.train import configure, files_of
from ssmrank.config.reading import read_settings
from ssmrank.config.trainings import TrainSettings
from ssmrank.models.reranker import load_reranker
from ssmrank.training.job import fingerprint


def test_train_writes_a_checkpoint_and_leaves_no_state(options, tmp_path):
    assert main(options(epochs=4)) == 0
    outcome = json.loads((tmp_path / "output" / "outcome.json").read_text())
    assert (outcome["status"], outcome["steps"], len(outcome["loss"])) == ("ok", 4, 4)
    assert len(load_reranker(tmp_path / "output").score("river", list(DOCUMENTS.values()))) == 4
    assert not (tmp_path / "state").exists()


def test_a_training_goes_on_from_the_checkpoint_of_another(options, tmp_path):
    assert main(options(epochs=4)) == 0
    first = (tmp_path / "output").rename(tmp_path / "first")
    command = options(learning_rate=1e-12, max_length=24)
    command[command.index("--model") + 1] = str(first)
    assert main(command) == 0
    texts = list(DOCUMENTS.values())
    before, after = load_reranker(first), load_reranker(tmp_path / "output")
    assert after.settings.max_length == 24
    assert after.score("river", texts) == pytest.approx(before.score("river", texts), abs=1e-6)


def test_a_training_sets_the_order_of_reading(options, tmp_path):
    read = {}
    for order in ("document-first", "query-first", "query-document-query", "document-document-query"):
        assert main(options("mamba2", "D", epochs=2, template=order, max_length=48)) == 0
        output = (tmp_path / "output").rename(tmp_path / order)
        trained = load_reranker(output)
        assert trained.template.order == order
        read[order] = json.loads((output / "outcome.json").read_text())["tokens"]
        template = trained.template
        sides = {id: template.tokenize_documents([text])[0] for id, text in DOCUMENTS.items()}
        expected = sum(
            len(template.join(template.tokenize_queries([QUERIES[group.query]])[0], sides[document], 48))
            for group in GROUPS
            for document in group.documents
        )
        assert read[order] == 2 * expected
    assert read["document-first"] == read["query-first"] < read["query-document-query"]
    assert read["document-first"] < read["document-document-query"]


def test_an_encoder_does_not_learn_to_read_a_document_twice(options, tmp_path, capsys):
    assert main(options(template="document-document-query")) == 2
    assert "template document-document-query: only decoders read a document twice" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


def test_the_card_of_a_checkpoint_says_how_it_was_trained(options, tmp_path):
    assert main(options(epochs=4, seed=7)) == 0
    first = (tmp_path / "output").rename(tmp_path / "first")
    command = options(loss="ranknet", max_length=24)
    command[command.index("--model") + 1] = str(first)
    assert main(command) == 0
    tokens = json.loads((tmp_path / "output" / "outcome.json").read_text())["tokens"]
    Reranker.from_pretrained(tmp_path / "output", device="cpu").save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    for fact in (
        "| Architecture | bert of transformers, encoder, ",
        "| Input | `query: {query}; document: {document}`, at most 24 tokens |",
        "| First trained on | c (train), loss cross_entropy |",
        "| Training data | c (train): 4 groups of a query, a relevant document and 2 negatives (n) |",
        "| Loss | ranknet |",
        f"| Tokens | {tokens:,} in ",
    ):
        assert fact in card, fact
    assert str(tmp_path) not in card + (tmp_path / "saved" / "training.json").read_text()
    assert json.loads((tmp_path / "saved" / "training.json").read_text())["from"]["training"]["settings"]["seed"] == 7


def test_what_starts_from_a_training_that_ran_out_of_memory_is_oom_too(options, tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "outcome.json").write_text('{"status": "oom", "device": "cuda"}')
    command = options()
    command[command.index("--model") + 1] = str(tmp_path / "first")
    assert main(command) == 0
    assert json.loads((tmp_path / "output" / "outcome.json").read_text())["status"] == "oom"


@pytest.mark.parametrize("change", ["documents.jsonl", "queries.jsonl", "tokenizer_config.json", "config.json"])
def test_what_was_trained_on_other_inputs_is_not_gone_on_from(options, change):
    command = options()
    parser = argparse.ArgumentParser()
    configure(parser)
    arguments = parser.parse_args(command[1:])
    settings = read_settings(TrainSettings, arguments.settings)
    files = files_of(arguments)
    before = fingerprint(files, settings)
    assert fingerprint(files, settings) == before
    assert fingerprint(files, settings.model_copy(update={"processes": 3})) == before  # any number of them resumes
    [file] = [path for folder in (arguments.collection, arguments.model) for path in folder.rglob(change)]
    text = file.read_text()
    try:
        file.write_text(text + "\n")
        assert fingerprint(files, settings) != before
    finally:
        file.write_text(text)


def test_a_distillation_loss_without_a_teacher_is_one_line(options, capsys):
    assert main(options(loss="margin_mse")) == 2
    assert 'groups.jsonl:1: key "scores" is missing' in capsys.readouterr().err


def test_a_teacher_without_a_distillation_loss_is_one_line(options, capsys):
    assert main(options(teacher="t")) == 2
    error = capsys.readouterr().err
    assert "teacher is set, but loss 'cross_entropy' has none; choose margin_mse, kl_divergence" in error


def test_a_training_takes_the_threads_that_it_states(options):
    before = torch.get_num_threads()
    try:
        assert main(options(threads=before + 1)) == 0
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
