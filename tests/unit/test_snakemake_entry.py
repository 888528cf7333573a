"""The command `snakemake` as people type it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from snakemake.cli import get_argument_parser

from ssmrank.snakemake_entry import GREEDY, separate_targets

TABLE = "results/tables/table4.tex"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (f"--cores 8 --resources gpu=1 {TABLE}", f"--cores 8 --resources gpu=1 -- {TABLE}"),
        (f"--resources gpu=1 mem_mb=5 {TABLE} all -n", f"--resources gpu=1 mem_mb=5 -n -- {TABLE} all"),
        (f"--res gpu=1 {TABLE} -- all", f"--res gpu=1 -- {TABLE} all"),
        (f"--config a=1 {TABLE} -C b=2 all", f"--config a=1 -C b=2 -- {TABLE} all"),
        (f"--configfile one.yaml two.json {TABLE}", f"--configfile one.yaml two.json -- {TABLE}"),
        (f"--configfile overlay {TABLE}", f"--configfile overlay -- {TABLE}"),
        *(
            (same, same)
            for same in (
                "",
                "-n",
                f"{TABLE} --cores 8 --resources gpu=1",
                f"--cores 8 --resources gpu=1 -- {TABLE}",
                f"--resources gpu=1 --cores 8 {TABLE}",
                f"--resources=gpu=1 {TABLE}",
                f"--forcerun train -- {TABLE}",
                "--set-threads base64//dHJhaW49MQ",
            )
        ),
    ],
)
def test_targets_are_separated(typed: str, meant: str) -> None:
    assert separate_targets(typed.split()) == meant.split()


def test_all_options_of_pairs_are_known() -> None:
    """Each takes every word up to the next option."""
    taking = [action for action in get_argument_parser()._actions if action.nargs in ("+", "*")]
    pairs = {name for action in taking if "=" in str(action.metavar) for name in action.option_strings}
    files = {name for action in taking if "--configfile" in action.option_strings for name in action.option_strings}
    assert set(GREEDY) == pairs | files


def test_the_environment_s_command_is_this_one() -> None:
    """Snakemake's own package installs one of the same name, so the project has to be installed after it."""
    command = Path(sys.executable).with_name("snakemake")
    assert "from ssmrank.snakemake_entry import main" in command.read_text(), "install the project again"
