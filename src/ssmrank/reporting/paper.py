"""The paper's numbers (`paper.yaml`), which tables print beside ours."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from ssmrank.config.reading import check
from ssmrank.config.section import Section
from ssmrank.errors import UserError


class PaperColumn(Section):
    """A test set of the paper."""

    title: str
    metric: str


class PaperRow(Section):
    """The known values of one system, in per cent, by test set."""

    model: str
    length: int | None = None
    values: dict[str, float | Literal["OOM"]]


class PaperBlock(Section):
    """Rows of one source."""

    title: str
    status: Literal["certain", "substitute"]
    source: str
    rows: list[PaperRow]


class PaperNumber(Section):
    """A number and its source."""

    value: float | Literal["OOM"]
    substitute: bool = Field(description="from another source than the paper")
    source: str


class Paper(Section):
    """All that is known of the paper's tables."""

    paper: str
    columns: dict[str, PaperColumn]
    blocks: list[PaperBlock]

    def column(self, name: str) -> PaperColumn:
        """A test set by name. Raises UserError, which lists the known ones, for another name."""
        if name not in self.columns:
            raise UserError(f"paper: {name!r} is not a test set of the paper; known: {', '.join(self.columns)}")
        return self.columns[name]

    def number(self, column: str, model: str, length: int | None) -> PaperNumber | None:
        """The number of a model at a length in tokens; None if unknown. The paper's own number has precedence."""
        for status in ("certain", "substitute"):
            for block in self.blocks:
                for row in block.rows:
                    wanted = row.model == model and row.length in (None, length) and column in row.values
                    if block.status == status and wanted:
                        return PaperNumber(
                            value=row.values[column], substitute=status == "substitute", source=block.source
                        )
        return None


@cache
def read_paper() -> Paper:
    """Reads `paper.yaml`."""
    path = Path(__file__).with_name("paper.yaml")
    return check(Paper, yaml.safe_load(path.read_text(encoding="utf-8")), path.name)
