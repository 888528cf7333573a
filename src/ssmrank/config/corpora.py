"""Section corpora: texts to pretrain on."""

from __future__ import annotations

from pydantic import Field

from ssmrank.config.section import Section


class Corpus(Section):
    """Texts to pretrain on: JSON lines (`_id`, `title`, `text`) in a folder on this machine, plain or packed by xz."""

    title: str
    path: str = Field(description="the folder")
    files: list[str] = Field(min_length=1, description="its files, in the order in which they are read")
    held_out: float = Field(
        0.05, gt=0, lt=1, description="share of the texts that is never trained on; a hash of the id decides"
    )
    license: str = ""
