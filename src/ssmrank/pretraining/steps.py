"""What each optimizer step of a pretraining reads.

The texts come in an order drawn for each pass from (seed, pass), the same for every model, and are laid end to end,
each as `[CLS] text [SEP]`. A step takes as many whole texts as fit into its tokens; what is left is padding, a sequence
of its own that nothing is learned from, so that all steps have the same number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssmrank.pretraining.tokens import CorpusTokens


@dataclass(frozen=True)
class Step:
    """Sequences laid end to end: `ids` int64 [T], `lengths` int64 [S]; the last `padding` tokens are padding."""

    ids: np.ndarray
    lengths: np.ndarray
    padding: int

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return len(self.ids) - self.padding


class Steps:
    """`steps[i]` is what step i reads; any step can be had without those before it."""

    def __init__(
        self, texts: CorpusTokens | Sequence[np.ndarray], special: tuple[int, int, int], step_tokens: int, seed: int
    ) -> None:
        """`special`: ids of [CLS], [SEP] and [PAD]; no text may be longer than `step_tokens` - 2."""
        self._texts, self._special, self._step_tokens, self._seed = texts, special, step_tokens, seed
        own = texts.lengths if isinstance(texts, CorpusTokens) else np.array([len(text) for text in texts])
        self._lengths = own + 2
        if self._lengths.max() > step_tokens:
            raise ValueError(f"a text of {self._lengths.max()} tokens does not fit into steps of {step_tokens}")
        self._order = np.empty(0, dtype=np.int64)
        self._ends = np.empty(0, dtype=np.int64)
        self._first = [0]
        self._passes = 0

    def texts_of(self, step: int) -> np.ndarray:
        """Indices of the texts of a step, in their order."""
        while len(self._first) <= step + 1:
            start = self._first[-1]
            before = self._ends[start - 1] if start else 0
            # The end of a step is known once the texts reach beyond it.
            if not len(self._ends) or self._ends[-1] - before <= self._step_tokens:
                self._add_pass()
                continue
            self._first.append(int(np.searchsorted(self._ends, before + self._step_tokens, side="right")))
        return self._order[self._first[step] : self._first[step + 1]]

    def __getitem__(self, step: int) -> Step:
        return self._lay(self.texts_of(step), self._step_tokens)

    def one_pass(self, tokens: int) -> list[Step]:
        """The first texts in their own order, about `tokens` tokens in all; the last step may be short."""
        steps = []
        ends = np.cumsum(self._lengths)
        start, last = 0, min(len(ends), int(np.searchsorted(ends, tokens)) + 1)
        while start < last:
            before = ends[start - 1] if start else 0
            end = min(last, int(np.searchsorted(ends, before + self._step_tokens, side="right")))
            steps.append(self._lay(np.arange(start, end), int(ends[end - 1] - before)))
            start = end
        return steps

    def _add_pass(self) -> None:
        order = np.random.default_rng([self._seed, self._passes]).permutation(len(self._lengths))
        before = self._ends[-1] if len(self._ends) else 0
        self._order = np.concatenate([self._order, order])
        self._ends = np.concatenate([self._ends, before + np.cumsum(self._lengths[order])])
        self._passes += 1

    def _lay(self, chosen: np.ndarray, total: int) -> Step:
        cls, sep, pad = self._special
        ids = np.full(total, pad, dtype=np.int64)
        lengths = self._lengths[chosen]
        end = 0
        for index, length in zip(chosen, lengths, strict=True):
            ids[end] = cls
            ids[end + 1 : end + length - 1] = self._texts[index]
            end += length
            ids[end - 1] = sep
        padding = int(total - end)
        return Step(ids, np.append(lengths, padding) if padding else lengths, padding)


def step_count(tokens: int, step_tokens: int) -> int:
    """Steps that a training on `tokens` tokens takes."""
    return math.ceil(tokens / step_tokens)
