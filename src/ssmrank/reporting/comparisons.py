"""Marks of significance in a table, from the file of `ssmrank table significance`."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_letters
from typing import Literal, NamedTuple

from ssmrank.errors import UserError

BETTER, WORSE = "↑", "↓"


class Compared(NamedTuple):
    """A comparison of two rows on one column. `difference`: row less other. `p`: after Holm's correction."""

    column: int
    row: int
    other: int
    difference: float
    p: float


def read_comparisons(path: Path, test: Literal["randomization", "t"]) -> list[Compared]:
    """Reads the CSV. Raises UserError where it is missing or another kind of file."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [
                Compared(
                    *(int(line[name]) for name in ("column", "row", "other")),
                    *(float(line[name]) for name in ("difference", f"holm_{test}")),
                )
                for line in csv.DictReader(stream)
            ]
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}; make it with `ssmrank table significance`") from error
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: was not written by `ssmrank table significance` ({error}); make it again") from error


def letters_of(sections: Sequence[Sequence[int]]) -> dict[int, str]:
    """A letter for each row number; each section starts at `a`. Raises UserError for a section of more than 52 rows."""
    letters: dict[int, str] = {}
    for rows in sections:
        if len(rows) > len(ascii_letters):
            raise UserError(
                f"a section has {len(rows)} rows, but comparisons of every pair are marked with {len(ascii_letters)} "
                "letters; split the section or name a baseline in significance"
            )
        letters.update(zip(rows, ascii_letters, strict=False))
    return letters


def marks_of(
    comparisons: Sequence[Compared], alpha: float, letters: Mapping[int, str] | None
) -> dict[tuple[int, int], str]:
    """The marks of each (row, column): letters of the rows that the row is significantly better than.

    Where `letters` is None, the mark is an arrow: significantly better or worse than the baseline.
    """
    found: dict[tuple[int, int], list[str]] = defaultdict(list)
    for compared in comparisons:
        if compared.p >= alpha or compared.difference == 0:
            continue
        better = compared.difference > 0
        if letters is None:
            found[compared.row, compared.column].append(BETTER if better else WORSE)
        else:
            winner, loser = (compared.row, compared.other) if better else (compared.other, compared.row)
            found[winner, compared.column].append(letters[loser])
    return {place: "".join(sorted(marks)) for place, marks in found.items()}
