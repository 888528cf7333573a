"""`ssmrank teach`: adds a teacher's scores of the documents to training groups."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from ssmrank.config.encoders import Encoder
from ssmrank.config.reading import read_settings
from ssmrank.config.teachers import TeachSettings
from ssmrank.errors import UserError
from ssmrank.models.tokens import limit_tokenizer_threads
from ssmrank.teaching.files import TeachFiles, teach_files


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="a teacher with its members: inline JSON, or a file")
    parser.add_argument("--groups", type=Path, required=True, help="file that `ssmrank negatives` wrote")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--split", required=True, help="split of the groups' queries")
    parser.add_argument("--pool", type=Path, required=True, help="run over whose documents scores are standardised")
    parser.add_argument(
        "--member",
        action="append",
        nargs="+",
        default=[],
        metavar=("NAME", "PATH"),
        help="files of a member: a run; a bi-encoder's folder and that of its vectors; or a reranker's checkpoint",
    )
    parser.add_argument("--state", type=Path, required=True, help="folder of the state from which a killed job resumes")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the groups with the scores."""
    limit_tokenizer_threads()
    settings = read_settings(TeachSettings, arguments.settings)
    members = _members(arguments.member, settings)
    files = TeachFiles(arguments.groups, arguments.collection, arguments.split, arguments.pool, members)
    teach_files(settings, files, arguments.state, arguments.output)
    shutil.rmtree(arguments.state, ignore_errors=True)


def _members(given: Sequence[Sequence[str]], settings: TeachSettings) -> dict[str, list[Path]]:
    files = {name: [Path(path) for path in paths] for name, *paths in given}
    for name, member in settings.members.items():
        wanted = 2 if isinstance(member, Encoder) else 1
        if len(files.get(name, [])) != wanted:
            raise UserError(f"teachers: member {name!r} needs --member {name} and {wanted} paths")
    unknown = next((name for name in files if name not in settings.members), None)
    if unknown is not None:
        raise UserError(f"--member {unknown}: the settings have no such member, only {', '.join(settings.members)}")
    return files
