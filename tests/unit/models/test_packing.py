from __future__ import annotations

import numpy as np
import pytest
import torch

from ssmrank.models.length_grid import MAX_WASTE
from ssmrank.models.packing import TYPE_SHIFT, pack


def test_packed_sequences_by_hand():
    packed = pack([[7, 8, 9], [5], [1, 2]])
    assert packed.input_ids.tolist() == [7, 8, 9, 5, 1, 2]
    assert packed.position_ids.tolist() == [0, 1, 2, 0, 0, 1]
    assert packed.sequence_ids.tolist() == [0, 0, 0, 1, 2, 2]
    assert packed.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert packed.first.tolist() == [0, 3, 4]
    assert packed.last.tolist() == [2, 3, 5]


def test_types_of_tokens_are_apart_from_their_ids_in_copies_too():
    second = 1 << TYPE_SHIFT
    packed = pack([[7, 8 | second], [5]])
    assert packed.input_ids.tolist() == [7, 8, 5]
    assert packed.token_types.tolist() == [0, 1, 0]
    copy = packed.clone(packed.lengths)
    copy.copy_(pack([[1 | second, 2], [3]]))
    assert (copy.input_ids.tolist(), copy.token_types.tolist()) == ([1, 2, 3], [1, 0, 0])
    assert packed.token_types.tolist() == [0, 1, 0]
    assert pack([[7, 8]]).token_types is None


@pytest.mark.parametrize("sequences", [[], [[1], []]])
def test_nothing_to_pack_is_refused(sequences):
    with pytest.raises(ValueError, match="at least one"):
        pack(sequences)


def test_grid_goes_there_and_back():
    lengths = np.random.default_rng(0).integers(1, 90, 40)
    packed = pack([np.arange(length) for length in lengths])
    grid = packed.grid
    tokens = torch.randn(sum(packed.lengths), 3, dtype=torch.float64, requires_grad=True)
    cells = grid.spread(tokens)
    assert cells.shape[0] == sum(rows * longest for rows, longest in grid.shapes)
    assert torch.equal(grid.collect(cells), tokens)
    for rows, longest in grid.shapes:
        assert rows * longest <= MAX_WASTE * sum(sorted(packed.lengths)) + longest
    assert cells.shape[0] <= MAX_WASTE * tokens.shape[0]


def test_grid_gradients_ignore_cells_behind_the_ends():
    packed = pack([[1, 1, 1], [2, 2]])
    tokens = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, 2, dtype=torch.float64)

    def through_the_grid(values):
        return packed.grid.collect(packed.grid.spread(values) ** 2) * weights

    assert torch.autograd.gradcheck(through_the_grid, tokens)
