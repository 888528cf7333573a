"""`ssmrank plan`: says which jobs targets need, and what they would take."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.config.params import read_params
from ssmrank.planning.dag import planned_jobs, scheduled
from ssmrank.planning.estimate import Estimator
from ssmrank.planning.report import costs, counts
from ssmrank.planning.speeds import Speeds


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="as Snakemake takes them (default: all)")
    parser.add_argument("--hours", action="store_true", help="also print tokens, hours and disk, from measured speeds")
    parser.add_argument(
        "--configfile", nargs="+", action="extend", default=[], metavar="FILE", help="overlays, as Snakemake takes them"
    )
    parser.add_argument(
        "--workflow-profile",
        default="",
        metavar="FOLDER",
        help="as Snakemake takes it; also print how many jobs its scheduler gets, as small ones share one",
    )
    parser.add_argument(
        "--speeds",
        type=Path,
        default=Path("benchmarks/results"),
        help="folder of measured speeds (default: %(default)s)",
    )
    parser.add_argument(
        "--workloads",
        type=Path,
        default=Path("benchmarks/workloads"),
        help="folder with lengths of documents (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints a table of the jobs that Snakemake would run in this folder. Nothing runs."""
    # As in `snakemake`, targets may follow the overlays.
    overlays = [word for word in arguments.configfile if word.endswith((".yaml", ".yml", ".json"))]
    targets = [*(word for word in arguments.configfile if word not in overlays), *arguments.targets]
    params = read_params("params.yaml", *overlays)
    estimator = Estimator(params, Speeds(arguments.speeds), arguments.workloads) if arguments.hours else None
    jobs = planned_jobs(overlays, targets, arguments.workflow_profile)
    if not jobs:
        print("nothing to be done: all of it is up to date")
    else:
        print(counts(jobs) if estimator is None else costs(jobs, estimator))
        if arguments.workflow_profile:
            print(f"\nWith {arguments.workflow_profile}, {scheduled(jobs):,} jobs of the scheduler.")
