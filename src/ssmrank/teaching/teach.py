"""A teacher's scores of all groups, saved part by part so that a job that was killed continues."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssmrank.io.atomic import atomic_file
from ssmrank.teaching.members import Member
from ssmrank.teaching.queries import GroupedQuery
from ssmrank.training.groups import Group

log = logging.getLogger(__name__)

_QUERIES_AT_ONCE = 4096
_REPORT_SECONDS = 10.0


class Weighting(NamedTuple):
    """How the members' z-scores are combined into the teacher's scores."""

    weights: Sequence[float]
    scale: float
    positive_bonus: float


class TeacherScores(NamedTuple):
    """Scores of all groups, float32 [groups, documents], and how many groups had no pool."""

    scores: NDArray[np.float32]
    without_pool: int


def teach(
    queries: Iterable[GroupedQuery],
    groups: Sequence[Group],
    members: Sequence[Member],
    weighting: Weighting,
    state: Path,
) -> TeacherScores:
    """Scores documents: `scale` times the weighted mean of the members' z-scores, plus the bonus of the positive.

    A query without a pool has zeros and the bonus. `state` is the folder of finished parts. The caller must give
    different inputs different folders.
    """
    width = len(groups[0].documents)
    scores = np.zeros((len(groups), width), dtype=np.float32)
    iterator, done, without_pool = iter(queries), 0, 0
    start = last_report = time.monotonic()
    number = 0
    while part := list(islice(iterator, _QUERIES_AT_ONCE)):
        path = state / f"part-{number:05d}.npy"
        own = [group for query in part for group in query.groups]
        values = _finished(path, (len(own), width))
        if values is None:
            values = _scores_of(part, groups, members, weighting)
            state.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, "wb") as stream:
                np.save(stream, values)
        else:
            for member in members:
                member.skip(part)
        scores[own] = values
        without_pool += sum(len(query.groups) for query in part if not query.pool)
        done, number, now = done + len(own), number + 1, time.monotonic()
        if now - last_report >= _REPORT_SECONDS:
            last_report = now
            log.info("%d of %d groups, %.0f a second", done, len(groups), done / (now - start))
    return TeacherScores(scores, without_pool)


def _finished(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """The scores of a finished part; None where the file is missing, damaged or of another shape."""
    try:
        values = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return values if values.shape == shape and values.dtype == np.float32 else None


def _scores_of(
    part: Sequence[GroupedQuery], groups: Sequence[Group], members: Sequence[Member], weighting: Weighting
) -> NDArray[np.float32]:
    weights = np.array(weighting.weights) / sum(weighting.weights)
    of_members = [member.score(part) for member in members]
    rows = []
    for place, query in enumerate(part):
        own = [scores[place] for scores in of_members]
        mean = np.zeros(len(query.documents))
        for weight, one in zip(weights, own, strict=True):
            mean += weight * (one.standardised() if len(one.pool) else 0.0)
        score = dict(zip(query.documents, mean * weighting.scale, strict=True))
        for group in query.groups:
            row = [score[document] for document in groups[group].documents]
            row[0] += weighting.positive_bonus
            rows.append(row)
    return np.array(rows, dtype=np.float32)
