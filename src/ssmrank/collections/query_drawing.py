"""Queries drawn from a text: its title, a sentence or a short sequence of words."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

_TRIES = 16
"""How many draws of one kind are tried to get a new query."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])")
_SENTENCE_WORDS = range(5, 41)
"""Sentences of other lengths are headings, formulas or lists, not queries."""

_PHRASE = re.compile(r"[^.,;:!?()\[\]{}\"`$\\|<>=*/]+")
_WORD = re.compile(r"[^\W\d_][\w'’-]*[^\W_]")

STOP_WORDS = frozenset(
    """
    a about above after again against all almost also although always am among an and another any are as at be became
    because been before being below between both but by can cannot could did do does doing done due during each either
    else etc even ever every few for from further furthermore given had has have having he hence her here him his how
    however i if in indeed instead into is it its itself just least less let like made main make many may me might more
    moreover most much must my namely neither no nor not now of off often on once one only onto or other others our out
    over own per perhaps rather same several shall she should show shown shows since so some still such than that the
    their them then there thereby therefore these they this those though three through thus to together too toward
    towards two under until up upon us use used using various very via was we well were what when where whereas whether
    which while who whom why will with within without would yet you your
    """.split()
)
"""Words with which no sequence of words begins or ends."""


class Shares(NamedTuple):
    """The relative probability of each kind of query."""

    titles: float
    sentences: float
    words: float


def draw_queries(title: str, text: str, count: int, shares: Shares, max_words: int, seed: str) -> list[str]:
    """Up to `count` different queries of a text.

    title: may be empty; a sentence then takes its place. max_words: the longest sequence of words. seed: decides all
    random choices, so that the queries depend only on the arguments.

    Only sentences of 5 to 40 words are used. If a text has no title or sentence left, a sequence of words takes its
    place, unless the share of those is 0. The result is shorter than `count` if that gives no new query either.
    """
    generator = random.Random(int.from_bytes(hashlib.sha256(json.dumps(seed).encode()).digest()[:16], "big"))
    drawer = _Drawer(title, text, max_words, generator)
    kinds: tuple[Callable[[], str], ...] = (drawer.title, drawer.sentence, drawer.words)
    limits = list(accumulate(shares))
    found: dict[str, str] = {}
    for _ in range(count):
        point = generator.random() * limits[-1]
        drawn = next(kind for kind, limit in zip(kinds, limits, strict=True) if point < limit)
        tries = [drawn] * _TRIES + [drawer.words] * (_TRIES if shares.words else 0)
        queries = (draw() for draw in tries)
        query = next((query for query in queries if query and query.casefold() not in found), "")
        if query:
            found[query.casefold()] = query
    return list(found.values())


class _Drawer:
    """Draws queries with `random()` alone, the only method whose sequence Python promises to keep for a seed."""

    def __init__(self, title: str, text: str, max_words: int, generator: random.Random) -> None:
        self._title, self._max_words, self._random = " ".join(title.split()), max_words, generator.random
        sentences = (" ".join(sentence.split()) for sentence in _SENTENCE_END.split(text))
        self._sentences = [sentence for sentence in sentences if sentence.count(" ") + 1 in _SENTENCE_WORDS]
        self._phrases = [words for part in _PHRASE.findall(f"{title}. {text}") if (words := part.split())]
        self._ends = list(accumulate(map(len, self._phrases)))

    def title(self) -> str:
        return self._title or self.sentence()

    def sentence(self) -> str:
        return self._sentences[self._below(len(self._sentences))] if self._sentences else ""

    def words(self) -> str:
        """A sequence without punctuation inside; empty if its first or last word is a stop word or no word."""
        if not self._ends:
            return ""
        place = self._below(self._ends[-1])
        number = next(number for number, end in enumerate(self._ends) if place < end)
        begin = place - self._ends[number] + len(self._phrases[number])
        run = self._phrases[number][begin : begin + 1 + self._below(self._max_words)]
        return " ".join(run) if _is_content(run[0]) and _is_content(run[-1]) else ""

    def _below(self, limit: int) -> int:
        return int(self._random() * limit)


def _is_content(word: str) -> bool:
    return _WORD.fullmatch(word) is not None and word.casefold() not in STOP_WORDS
