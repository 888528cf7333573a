"""Which groups each step takes, and how a step is cut to the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

POOL_STEPS = 32
"""Length-grouped sampling sorts this many steps' groups at a time: the larger, the evener the steps, the less random
their groups."""


def step_indices(
    groups: int,
    batch_groups: int,
    seed: int,
    first_step: int,
    total_steps: int,
    lengths: Sequence[int] | np.ndarray | None = None,
) -> Iterator[list[int]]:
    """The groups of each optimizer step from `first_step` on.

    Each pass over the groups has its own order, drawn from (seed, pass), so that any step can be had without those
    before it. With `lengths`, the tokens of each group, the groups of a step have about equal lengths.
    """
    order: list[int] = []
    current = -1
    for step in range(first_step, total_steps):
        indices = []
        for position in range(step * batch_groups, (step + 1) * batch_groups):
            epoch, place = divmod(position, groups)
            if epoch != current:
                order = _order(groups, batch_groups, seed, epoch, lengths)
                current = epoch
            indices.append(order[place])
        yield indices


def _order(
    groups: int, batch_groups: int, seed: int, epoch: int, lengths: Sequence[int] | np.ndarray | None
) -> list[int]:
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(groups)
    if lengths is None:
        return order.tolist()
    # Packing needs no equal lengths to save padding. They make the steps of a run alike within and different among
    # one another, which is what a CUDA graph for each of a few token budgets asks for.
    arranged = []
    for start in range(0, groups, POOL_STEPS * batch_groups):
        pool = order[start : start + POOL_STEPS * batch_groups]
        pool = pool[np.argsort(np.asarray(lengths)[pool], kind="stable")]
        whole = len(pool) // batch_groups * batch_groups
        steps = pool[:whole].reshape(-1, batch_groups)
        # The last step of a pass may be short, and the next pass fills it: it stays last.
        arranged += [steps[generator.permutation(len(steps))].reshape(-1), pool[whole:]]
    return np.concatenate(arranged).tolist()


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cuts a step into runs of neighbouring groups of at most `token_budget` tokens; a larger group stands alone."""
    batches: list[list[int]] = []
    tokens = 0
    for index, length in enumerate(lengths):
        if not batches or tokens + length > token_budget:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += length
    return batches
