"""Which groups each step takes, and how a step is split into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

POOL_STEPS = 32
"""Length-grouped sampling sorts the groups of this many steps at a time. With more, the groups of a step are more alike
in length, but less random."""


def step_indices(
    groups: int,
    batch_groups: int,
    seed: int,
    first_step: int,
    total_steps: int,
    lengths: Sequence[int] | np.ndarray | None = None,
) -> Iterator[list[int]]:
    """Yields the groups of each optimizer step from `first_step` on.

    Each epoch has its own order, drawn from (seed, epoch), so any step can be computed without the steps before it.
    With `lengths`, the tokens of each group, the groups of a step have similar lengths.
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
    # Packed batches have no padding that equal lengths would save. But groups of similar lengths make micro-batches of
    # few shapes, which suits CUDA graphs.
    arranged = []
    for start in range(0, groups, POOL_STEPS * batch_groups):
        pool = order[start : start + POOL_STEPS * batch_groups]
        pool = pool[np.argsort(np.asarray(lengths)[pool], kind="stable")]
        whole = len(pool) // batch_groups * batch_groups
        steps = pool[:whole].reshape(-1, batch_groups)
        # The last step of an epoch may be short, and the next epoch fills it up. So it stays last.
        arranged += [steps[generator.permutation(len(steps))].reshape(-1), pool[whole:]]
    return np.concatenate(arranged).tolist()


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Splits a step into neighbouring groups of at most `token_budget` tokens in total; a larger group is alone."""
    batches: list[list[int]] = []
    tokens = 0
    for index, length in enumerate(lengths):
        if not batches or tokens + length > token_budget:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += length
    return batches
