"""States that are kept between passes, compared with whole sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssmrank.models.backbones import load_backbone, pooled_forward, scored_forward
from ssmrank.models.kept_states import StatePool, state_shapes
from ssmrank.models.packing import pack
from tiny_models import CAUSAL, SHAPES

CPU = torch.device("cpu")
LENGTHS = [1, 2, 3, 40, 7, 130, 64, 65]
"""Of the prefixes: some are shorter than the convolution's reach, some longer than a chunk."""


def ids(generator, length):
    return generator.integers(4, 80, length).astype(np.int32)


def sequences(seed):
    """Prefixes, the prefix of each suffix, and suffixes of 1 to 90 tokens; some prefixes have several, one has none."""
    generator = np.random.default_rng(seed)
    prefixes = [ids(generator, length) for length in LENGTHS]
    owners = [0, 1, 1, 2, 3, 3, 3, 5, 6, 7, 7]
    return prefixes, owners, [ids(generator, length) for length in [1, 5, 2, 9, 3, 90, 1, 4, 2, 6, 11]]


def kept(backbone, prefixes, slots=20, dtype=None):
    """A pool with the states of the prefixes, and their slots."""
    pool = StatePool(state_shapes(backbone, CPU), slots, CPU, dtype)
    numbers = [pool.take(len(prefix)) for prefix in prefixes]
    scored_forward(backbone, pool.keeping(pack(prefixes), numbers), "last")
    return pool, numbers


def continued(backbone, pool, numbers, owners, suffixes):
    return scored_forward(backbone, pool.continuing(pack(suffixes), [numbers[owner] for owner in owners]), "last")


def joined(prefixes, owners, suffixes):
    return [np.concatenate([prefixes[owner], suffix]) for owner, suffix in zip(owners, suffixes, strict=True)]


@pytest.mark.parametrize("shape", CAUSAL)
@pytest.mark.parametrize("seed", [0, 1])
def test_suffixes_from_kept_states_are_whole_sequences(tiny_model, shape, seed):
    backbone = load_backbone(tiny_model(shape)).eval()
    prefixes, owners, suffixes = sequences(seed)
    with torch.inference_mode():
        expected = pooled_forward(backbone, pack(joined(prefixes, owners, suffixes)), "last")
        pool, numbers = kept(backbone, prefixes)
        assert (continued(backbone, pool, numbers, owners, suffixes) - expected).abs().max() < 1e-5
        # All layers' states without the last layer's short cut.
        packed = pool.continuing(pack(suffixes), [numbers[owner] for owner in owners])
        assert (pooled_forward(backbone, packed, "last") - expected).abs().max() < 1e-5


@pytest.mark.parametrize("shape", CAUSAL)
def test_a_freed_slot_serves_another_prefix(tiny_model, shape):
    backbone = load_backbone(tiny_model(shape)).eval()
    prefixes, owners, suffixes = sequences(2)
    with torch.inference_mode():
        pool, numbers = kept(backbone, prefixes, slots=len(prefixes))
        for number in numbers:
            pool.give_back(number)
        shorter = [prefix[: max(1, len(prefix) // 2)] for prefix in prefixes]
        again = [pool.take(len(prefix)) for prefix in shorter]
        scored_forward(backbone, pool.keeping(pack(shorter), again), "last")
        expected = pooled_forward(backbone, pack(joined(shorter, owners, suffixes)), "last")
        assert (continued(backbone, pool, again, owners, suffixes) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("shape", CAUSAL)
def test_parts_carry_a_state_into_another_pool(tiny_model, shape):
    backbone = load_backbone(tiny_model(shape)).eval()
    prefixes, owners, suffixes = sequences(3)
    with torch.inference_mode():
        pool, numbers = kept(backbone, prefixes)
        other = StatePool(pool.shapes, 9, CPU)
        copies = [other.take(len(prefix)) for prefix in prefixes]
        for number, copy, prefix in zip(numbers, copies, prefixes, strict=True):
            parts = pool.parts(number)
            assert sum(part.nbytes for part in parts) == pool.stored_bytes(len(prefix)) <= pool.bytes_of(len(prefix))
            for own, copied in zip(parts, other.parts(copy), strict=True):
                copied.copy_(own)
        expected = continued(backbone, pool, numbers, owners, suffixes)
        assert torch.equal(continued(backbone, other, copies, owners, suffixes), expected)


@pytest.mark.parametrize("shape", CAUSAL)
def test_bf16_differs_no_more_than_bf16_itself(tiny_model, shape):
    backbone = load_backbone(tiny_model(shape)).eval()
    prefixes, owners, suffixes = sequences(4)
    plain = pack(joined(prefixes, owners, suffixes))
    with torch.inference_mode():
        exact = pooled_forward(backbone, plain, "last")
        with torch.autocast("cpu", torch.bfloat16):
            noise = (pooled_forward(backbone, plain, "last").float() - exact).abs().max()
            pool, numbers = kept(backbone, prefixes)
            error = (continued(backbone, pool, numbers, owners, suffixes).float() - exact).abs().max()
            rounded, places = kept(backbone, prefixes, dtype=torch.bfloat16)
            error_rounded = (continued(backbone, rounded, places, owners, suffixes).float() - exact).abs().max()
    assert error < 2 * noise
    assert error_rounded < 3 * noise
    assert rounded.bytes_of(64) < pool.bytes_of(64) or not pool.shapes.scans


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in CAUSAL])
def test_encoders_keep_nothing(tiny_model, shape):
    backbone = load_backbone(tiny_model(shape)).eval()
    with torch.inference_mode(), pytest.raises(ValueError, match="keeps no states"):
        state_shapes(backbone, CPU)
