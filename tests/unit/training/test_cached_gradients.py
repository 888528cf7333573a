"""GradCache: micro-batches and processes give the gradients of one big batch."""

from __future__ import annotations

import pytest
import torch
from tiny_training import DOCUMENTS, GROUPS, QUERIES, bi_encoder, text_groups

from ssmrank.models.packing import pack
from ssmrank.training.cached_gradients import CachedGradients
from ssmrank.training.contrastive import Columns, ContrastiveLoss
from ssmrank.training.gradients import OutOfMemory
from ssmrank.training.parallel import Workers
from tiny_models import SHAPES, kind_of

CPU = torch.device("cpu")


def gradients(model, budget, loss=None, **changes):
    """The loss and the gradients of a step with all groups."""
    loss = loss or ContrastiveLoss((model.width, 8))
    data = text_groups(model)
    cached = CachedGradients(model, loss, True, "fp32", CPU, budget, Workers(), **changes)
    found = cached([data[index] for index in range(len(data))], len(data))
    return found.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def big_batch(model):
    """The same computed at once, with nothing but the loss."""
    data = text_groups(model)
    groups = [data[index] for index in range(len(data))]
    queries, documents = {id: row for row, id in enumerate(QUERIES)}, {id: row for row, id in enumerate(DOCUMENTS)}
    asked = model(pack(model.query_sequences(list(QUERIES.values()))))
    found = model(pack(model.document_sequences(list(DOCUMENTS.values()))))
    columns = Columns.of([group.ids for group in groups], queries, documents, True, CPU)
    loss = ContrastiveLoss((model.width, 8))(asked, found, columns).mean()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(found, expected):
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).abs().max() <= 1e-5 * max(1.0, gradient.abs().max()), name


@pytest.mark.parametrize(
    ("shape", "pooling"), [*((shape, None) for shape in SHAPES), ("bert", "mean"), ("mamba2", "mean"), ("opt", "mean")]
)
def test_micro_batches_give_the_gradients_of_one_batch(tiny_model, shape, pooling):
    def model():
        return bi_encoder(tiny_model(shape), kind_of(shape), pooling=pooling).eval()

    expected = big_batch(model())
    assert_equal(gradients(model(), 10**6), expected)  # one pass
    assert_equal(gradients(model(), 12), expected)  # a text or two in each
    assert max(gradient.abs().max() for gradient in expected[1].values()) > 1e-3


def test_both_passes_have_the_same_dropout(tiny_model):
    def run(budget):
        torch.manual_seed(3)
        return gradients(bi_encoder(tiny_model("bert"), "E").train(), budget)

    # A budget of one token makes a text a pass. The second pass must see the vectors of the first.
    seen, model = [], bi_encoder(tiny_model("bert"), "E").train()
    model.register_forward_hook(lambda *call: seen.append(call[2].detach()))
    gradients(model, 1)
    texts = len(seen) // 2
    assert texts == len(QUERIES) + len(DOCUMENTS)
    for first, second in zip(seen[:texts], seen[texts:], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(seen[0], bi_encoder(tiny_model("bert"), "E").eval()(pack([[5]]))[0])
    assert run(1)[0] == run(1)[0]


class FullOnce:
    """The loss of a process whose memory runs out after it has added some gradients."""

    def __init__(self, model, times):
        self.model, self.times, self.loss = model, times, ContrastiveLoss((model.width, 8))

    def __call__(self, *arguments):
        if self.times:
            self.times -= 1
            next(self.model.parameters()).grad = torch.ones_like(next(self.model.parameters()))
            raise torch.OutOfMemoryError("full")
        return self.loss(*arguments)


def test_a_step_that_runs_out_of_memory_is_repeated_with_smaller_passes(tiny_model):
    def model():
        return bi_encoder(tiny_model("mamba2"), "D").eval()

    full = model()
    assert_equal(gradients(full, 40, FullOnce(full, 2)), big_batch(model()))
    with pytest.raises(OutOfMemory):
        gradients(full, 40, FullOnce(full, 99))
    assert len(GROUPS) == 4
