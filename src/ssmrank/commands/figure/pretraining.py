"""`ssmrank figure pretraining`: loss on held-out text against tokens, a line for each model."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.io.plain import read_json
from ssmrank.reporting.labels import labelled_folder
from ssmrank.reporting.plotting import plotting, save
from ssmrank.tracking import track


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument(
        "--models",
        nargs="+",
        action="extend",
        required=True,
        metavar="LABEL=FOLDER",
        help="folders of `ssmrank pretrain run`; write --models=LABEL=FOLDER where the label begins with a dash",
    )
    parser.add_argument("--output", type=Path, required=True, help="PDF to write")


def run(arguments: argparse.Namespace) -> None:
    """Draws the figure."""
    curves = {}
    for model in arguments.models:
        label, folder = labelled_folder(model, "--models")
        path = folder / "pretraining.json"
        facts = read_json(path, "make it with `ssmrank pretrain run`")
        try:
            label = f"{label} (masked tokens)" if facts["objective"] == "masked tokens" else label
            curves[label] = [(tokens, loss) for _, tokens, loss in facts["curve"]["held_out"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be read as what `ssmrank pretrain run` writes ({error})") from error
    with track("pretraining-figure", arguments.output.stem, {}) as tracked:
        draw(curves, arguments.output)
        tracked.artifact_path("figure_path", arguments.output)


def draw(curves: dict[str, list[tuple[int, float]]], output: Path) -> None:
    """Loss (nats a predicted token) against millions of tokens read, a line for each label; as PDF."""
    with plotting() as pyplot:
        figure, axes = pyplot.subplots(figsize=(5.2, 3.4), layout="constrained")
        for label, points in curves.items():
            tokens, losses = zip(*points, strict=True)
            axes.plot([count / 1e6 for count in tokens], losses, label=label, marker="o", markersize=3)
        axes.set_xlabel("tokens read (millions)")
        axes.set_ylabel("loss on held-out text (nats a predicted token)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, frameon=False)
        save(figure, [output])
