"""Batches with shared prefixes, compared with ordinary ones of the same sequences; the last layer's short cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssmrank.models.backbones import load_backbone, pooled_forward, scored_forward
from ssmrank.models.packing import mapped, pack
from ssmrank.models.prefix_sharing import pack_shared
from tiny_models import CAUSAL, SHAPES


def random_forest(seed, size=60):
    """Segments of 1 to 30 tokens; some begin anew, others continue an earlier one."""
    generator = np.random.default_rng(seed)
    parents = [
        int(generator.integers(-1, place)) if place and generator.random() < 0.8 else -1 for place in range(size)
    ]
    lengths = np.where(generator.random(size) < 0.5, generator.integers(1, 4, size), generator.integers(1, 31, size))
    return [generator.integers(4, 80, length).astype(np.int32) for length in lengths], parents


def shared(segments, parents):
    lengths = np.array([len(segment) for segment in segments])
    return pack_shared(np.concatenate(segments), lengths, np.array(parents))


def whole(segments, parents, place):
    own = segments[place]
    return own if parents[place] < 0 else np.concatenate([whole(segments, parents, parents[place]), own])


@pytest.mark.parametrize("seed", range(4))
def test_layout(seed):
    segments, parents = random_forest(seed)
    packed, places = shared(segments, parents)
    assert sorted(places) == [place for place in range(len(segments)) if place not in parents]
    assert [int(packed.input_ids[last]) for last in packed.last] == [segments[place][-1] for place in places]
    assert [int(packed.position_ids[last]) + 1 for last in packed.last] == [
        len(whole(segments, parents, place)) for place in places
    ]
    # Concatenated, the levels are the batch. Each level continues only earlier ones.
    levels = packed.prefix_levels.all
    assert [level.tokens.start for level in levels] == [0, *(level.tokens.stop for level in levels[:-1])]
    assert levels[-1].tokens.stop == len(packed.input_ids)
    assert all(level.parents is None or level.parents.max() < level.segments.start for level in levels)
    assert sum(level.segments.stop - level.segments.start for level in packed.prefix_levels.leaves) == len(places)


@pytest.mark.parametrize("shape", CAUSAL)
@pytest.mark.parametrize("seed", [0, 1])
def test_states_are_those_of_whole_sequences(tiny_model, shape, seed):
    backbone = load_backbone(tiny_model(shape)).eval()
    segments, parents = random_forest(seed)
    packed, places = shared(segments, parents)
    plain = pack([whole(segments, parents, place) for place in places])
    with torch.inference_mode():
        expected = pooled_forward(backbone, plain, "last")
        assert (pooled_forward(backbone, packed, "last") - expected).abs().max() < 1e-5
        assert (scored_forward(backbone, packed, "last") - expected).abs().max() < 1e-5
        assert (scored_forward(backbone, plain, "last") - expected).abs().max() < 1e-5


@pytest.mark.parametrize("shape", CAUSAL)
def test_bf16_differs_no_more_than_bf16_itself(tiny_model, shape):
    backbone = load_backbone(tiny_model(shape)).eval()
    segments, parents = random_forest(5)
    packed, places = shared(segments, parents)
    plain = pack([whole(segments, parents, place) for place in places])
    with torch.inference_mode():
        exact = pooled_forward(backbone, plain, "last")
        with torch.autocast("cpu", torch.bfloat16):
            noise = (pooled_forward(backbone, plain, "last").float() - exact).abs().max()
            error = (scored_forward(backbone, packed, "last").float() - exact).abs().max()
    assert error < 2 * noise


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in CAUSAL])
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_encoders_pooled_token(tiny_model, shape, pooling):
    backbone = load_backbone(tiny_model(shape)).eval()
    packed = pack(random_forest(2)[0])
    with torch.inference_mode():
        difference = scored_forward(backbone, packed, pooling) - pooled_forward(backbone, packed, pooling)
    assert difference.abs().max() < 1e-5
    with pytest.raises(ValueError, match="cannot share"):
        scored_forward(backbone, shared(*random_forest(2))[0], pooling)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("shape", CAUSAL)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_shared_prefixes_on_a_gpu(tiny_model, shape, precision):
    backbone = load_backbone(tiny_model(shape)).eval()
    segments, parents = random_forest(3)
    packed, places = shared(segments, parents)
    plain = pack([whole(segments, parents, place) for place in places])
    with torch.inference_mode():
        exact = pooled_forward(backbone, plain, "last")
        backbone.cuda()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == torch.bfloat16):
            got = scored_forward(backbone, mapped(packed, torch.Tensor.cuda), "last").float().cpu()
            alone = pooled_forward(backbone, mapped(plain, torch.Tensor.cuda), "last").float().cpu()
    noise = (alone - exact).abs().max()
    assert (got - exact).abs().max() < max(2 * noise, 1e-4)
