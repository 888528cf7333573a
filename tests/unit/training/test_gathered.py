"""What a process holds if weights are gathered once a step; the results are those of test_parallel.py."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from tiny_training import settings

from ssmrank.models.reranker import new_reranker
from ssmrank.training.gathered import GatheredOnce
from ssmrank.training.loop import make_optimizer


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def bytes_of(tensors):
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


@pytest.mark.parametrize(
    ("precision", "reduction", "rounded", "other"),
    [("fp32", "fp32", 16, 16), ("bf16", "fp32", 18, 16), ("bf16", "bf16", 20, 16)],
)
def test_bytes_of_weights_gradients_and_optimizer(alone, tiny_model, precision, reduction, rounded, other):
    """In one process a rounded weight has 2 bytes more than another. Its bf16 gradient has a float32 copy."""
    reranker = new_reranker(tiny_model("llama"), "D", 32)
    linear = sum(m.weight.numel() for m in reranker.modules() if isinstance(m, torch.nn.Linear))
    weights = sum(parameter.numel() for parameter in reranker.parameters())
    workers = GatheredOnce(reduction)
    promised = 4 * weights + workers.bytes_to_come(reranker, precision)
    workers.prepare(reranker, precision)
    optimizer = make_optimizer(reranker, settings(), workers)
    optimizer.step()
    optimized = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = [optimizer.state[parameter][name] for parameter in optimized for name in ("exp_avg", "exp_avg_sq")]
    held = [*reranker.parameters(), *(bucket.sums for bucket in workers._buckets), *optimized, *moments]
    held += [parameter.grad for parameter in optimized]
    assert promised == rounded * linear + other * (weights - linear)
    # Parameters start at multiples of 64 values.
    assert bytes_of(held) == pytest.approx(promised, rel=0.02)


def test_only_weights_that_autocast_rounds_are_rounded(alone, tiny_model):
    reranker = new_reranker(tiny_model("mamba2"), "D", 32)
    before = {name: parameter.detach().clone() for name, parameter in reranker.named_parameters()}
    workers = GatheredOnce()
    workers.prepare(reranker, "bf16")
    projections = ("in_proj.weight", "out_proj.weight", "head.weight")
    for name, parameter in reranker.named_parameters():
        assert parameter.dtype is (torch.bfloat16 if name.endswith(projections) else torch.float32), name
        assert torch.equal(parameter, before[name].to(parameter.dtype)), name
    whole = workers.weights(reranker)
    assert all(torch.equal(whole[name], weight) for name, weight in before.items())
