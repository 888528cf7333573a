"""What each optimizer step of a pretraining reads.

The order of texts in each pass is drawn from (seed, pass), so it is the same for every model. Texts are laid end to
end, each as `[CLS] text [SEP]`. A step takes as many whole texts as fit. The rest of the step is padding, a sequence of
its own that predicts nothing, so all steps have the same number of tokens.
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
    """`steps[i]` is what step i reads; steps can be read in any order."""

    def __init__(
        self, texts: CorpusTokens | Sequence[np.ndarray], special: tuple[int, int, int], step_tokens: int, seed: int
    ) -> None:
        """`special`: ids of [CLS], [SEP] and [PAD]. Raises ValueError for a text longer than `step_tokens` - 2."""
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
        """Indices of a step's texts, in the step's order."""
        while len(self._first) <= step + 1:
            start = self._first[-1]
            before = self._ends[start - 1] if start else 0
            # A step's end is known only once the texts drawn so far reach beyond it.
            if not len(self._ends) or self._ends[-1] - before <= self._step_tokens:
                self._add_pass()
                continue
            self._first.append(int(np.searchsorted(self._ends, before + self._step_tokens, side="right")))
        return self._order[self._first[step] : self._first[step + 1]]

    def __getitem__(self, step: int) -> Step:
        return self._lay(self.texts_of(step), self._step_tokens)

    def one_pass(self, tokens: int) -> list[Step]:
        """Steps of the first texts in their original order, about `tokens` tokens in all; the last may be short."""
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
    """Number of steps that read `tokens` tokens."""
    return math.ceil(tokens / step_tokens)
