"""Groups sequences of similar length into padded matrices, for attention that needs rectangular input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

MAX_WASTE = 1.15
"""Limit of a matrix's cells divided by its real tokens. More matrices cost launches; fewer cost padding."""


@dataclass(frozen=True, eq=False)
class LengthGrid:
    """Sequences as matrices of tokens. Each matrix has sequences of similar length; all matrices' cells are end to end.

    shapes: (sequences, longest) of each matrix; cells: int64 [C], the token of each cell, where padding repeats the
    sequence's last token; real: bool [C], false for padding; complete: no cell is padding; places: int64 [T], the cell
    of each token.
    """

    shapes: tuple[tuple[int, int], ...]
    cells: torch.Tensor
    real: torch.Tensor
    complete: bool
    places: torch.Tensor

    @property
    def sizes(self) -> list[int]:
        """Cells of each matrix."""
        return [rows * longest for rows, longest in self.shapes]

    def spread(self, tokens: torch.Tensor) -> torch.Tensor:
        """[T, ...] to [C, ...]."""
        return _Spread.apply(tokens, self)

    def collect(self, cells: torch.Tensor) -> torch.Tensor:
        """[C, ...] to [T, ...]; padding is dropped."""
        return _Collect.apply(cells, self)


class _Spread(torch.autograd.Function):
    # Padding has no gradient, because no token reads it. So the backward pass is a gather too, not a slow scatter.
    @staticmethod
    def forward(ctx, tokens, grid):  # type: ignore[no-untyped-def]
        ctx.grid = grid
        return tokens.index_select(0, grid.cells)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient.index_select(0, ctx.grid.places), None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx, cells, grid):  # type: ignore[no-untyped-def]
        ctx.grid = grid
        return cells.index_select(0, grid.places)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        cells = gradient.index_select(0, ctx.grid.cells)
        if not ctx.grid.complete:
            cells = cells * ctx.grid.real.view(-1, *[1] * (cells.ndim - 1))
        return cells, None


def length_grid(lengths: Sequence[int], groups: Sequence[np.ndarray], device: torch.device) -> LengthGrid:
    """The matrices of sequences of these lengths; groups: the indices of each matrix's sequences."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    all_lengths = np.asarray(lengths)
    shapes, cells, real = [], [], []
    for members in groups:
        columns = np.arange(all_lengths[members].max())[None, :]
        ends = all_lengths[members][:, None]
        cells.append((starts[members][:, None] + np.minimum(columns, ends - 1)).reshape(-1))
        real.append((columns < ends).reshape(-1))
        shapes.append((len(members), columns.shape[1]))
    flat_cells, flat_real = np.concatenate(cells), np.concatenate(real)
    places = np.empty(starts[-1], dtype=np.int64)
    places[flat_cells[flat_real]] = np.flatnonzero(flat_real)
    return LengthGrid(
        shapes=tuple(shapes),
        cells=torch.from_numpy(flat_cells).to(device),
        real=torch.from_numpy(flat_real).to(device),
        complete=bool(flat_real.all()),
        places=torch.from_numpy(places).to(device),
    )


def similar_lengths(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Groups of sequences of similar length, as int64 indices, longest first; none exceeds `MAX_WASTE`."""
    order = np.argsort(-lengths, kind="stable")
    start, real = 0, 0
    for place, sequence in enumerate(order):
        count = place - start
        if count and (count + 1) * lengths[order[start]] > MAX_WASTE * (real + lengths[sequence]):
            yield order[start:place]
            start, real = place, 0
        real += lengths[sequence]
    yield order[start:]
