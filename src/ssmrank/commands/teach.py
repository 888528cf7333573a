"""`ssmrank teach`: training groups with a teacher's scores of their documents."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ssmrank.config.encoders import Encoder
from ssmrank.config.reading import read_settings
from ssmrank.config.rerankings import Reranking
from ssmrank.config.teachers import RunTeacher, TeachSettings
from ssmrank.errors import UserError
from ssmrank.io.checksum import folder_digests, sha256
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import run_writer
from ssmrank.teaching.lessons import lessons
from ssmrank.teaching.members import EncoderMember, Member, RerankerMember, RunMember
from ssmrank.teaching.teach import Weighing, teach
from ssmrank.tracking import track
from ssmrank.training.groups import Group, read_groups

log = logging.getLogger(__name__)

_DECIMALS = 4
"""Of a score in the file: a tenth of a thousandth of a standard deviation, at scale 1."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="a teacher with its members: inline JSON, or a file")
    parser.add_argument("--groups", type=Path, required=True, help="file that `ssmrank negatives` wrote")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--split", required=True, help="split of the groups' queries")
    parser.add_argument("--pool", type=Path, required=True, help="run; scores are standardised over its documents")
    parser.add_argument(
        "--member",
        action="append",
        nargs="+",
        default=[],
        metavar=("NAME", "PATH"),
        help="files of a member: a run; a bi-encoder's folder and that of its vectors; or a reranker's checkpoint",
    )
    parser.add_argument("--state", type=Path, required=True, help="folder of what a killed job goes on from")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the groups with scores."""
    settings = read_settings(TeachSettings, arguments.settings)
    files = _files(arguments.member, settings)
    tags = {"collection": arguments.collection.name, "split": arguments.split}
    with track("teach", str(arguments.output), tags, settings.model_dump()) as tracked:
        groups = read_groups(arguments.groups, settings.negatives_count)
        # The state's name says what it is of, so that no other inputs' parts are taken for these.
        state = arguments.state / _fingerprint(arguments, settings, files)
        members = [_member(name, settings, files[name], arguments, groups, state / name) for name in settings.members]
        weights = [settings.weights[name] for name in settings.members]
        weighing = Weighing(weights, settings.scale, settings.positive_bonus)
        ordered = lessons(groups, arguments.pool, settings.depth)
        taught = teach(ordered, groups, members, weighing, state / "parts")
        if taught.without_pool:
            log.warning(
                "%s: %d groups have queries that %s lacks; their teacher knows nothing but the relevant document",
                *(arguments.output, taught.without_pool, arguments.pool),
            )
        write_jsonl(arguments.output, _records(groups, taught.scores.tolist()))
        log.info("%s: %d groups", arguments.output, len(groups))
        tracked.metrics({"groups": len(groups), "groups_without_pool": taught.without_pool})
        tracked.artifact_path("teaching_path", arguments.output)
        shutil.rmtree(arguments.state, ignore_errors=True)


def _records(groups: Sequence[Group], scores: Sequence[Sequence[float]]) -> Iterator[dict]:
    for group, row in zip(groups, scores, strict=True):
        positive, *negatives = group.documents
        rounded = [round(score, _DECIMALS) for score in row]
        yield {"query": group.query, "positive": positive, "negatives": negatives, "scores": rounded}


def _files(given: Sequence[Sequence[str]], settings: TeachSettings) -> dict[str, list[Path]]:
    files = {name: [Path(path) for path in paths] for name, *paths in given}
    for name, member in settings.members.items():
        wanted = 2 if isinstance(member, Encoder) else 1
        if len(files.get(name, [])) != wanted:
            raise UserError(f"teachers: member {name!r} needs --member {name} and {wanted} paths")
    unknown = next((name for name in files if name not in settings.members), None)
    if unknown is not None:
        raise UserError(f"--member {unknown}: the settings have no such member, only {', '.join(settings.members)}")
    return files


def _member(
    name: str,
    settings: TeachSettings,
    files: Sequence[Path],
    arguments: argparse.Namespace,
    groups: Sequence[Group],
    state: Path,
) -> Member:
    member = settings.members[name]
    if isinstance(member, RunTeacher):
        return RunMember(files[0], settings.depth)
    if isinstance(member, Encoder):
        from ssmrank.retrieval.encoder import BiEncoder

        queries = read_queries(arguments.collection / "splits" / arguments.split / "queries.jsonl")
        store = TextStore(arguments.collection / "documents.jsonl")
        return EncoderMember(BiEncoder(files[0], member), files[1], store, queries)
    return RerankerMember(_reranked(member, files[0], arguments, groups, settings.depth, state))


def _reranked(
    settings: Reranking,
    checkpoint: Path,
    arguments: argparse.Namespace,
    groups: Sequence[Group],
    depth: int,
    state: Path,
) -> Path:
    """The run of a reranker's scores of all documents of the groups."""
    from ssmrank.models.precision import default_device
    from ssmrank.models.reranker import load_reranker
    from ssmrank.reranking.pipeline import FileReranking, Files

    output = state / "scores.trec"
    if output.is_file():
        return output
    pairs = state / "pairs.trec"
    deepest = 0
    with run_writer(pairs, "groups") as write:
        for lesson in lessons(groups, arguments.pool, depth):
            write(lesson.query, [(document, 0.0) for document in lesson.documents])
            deepest = max(deepest, len(lesson.documents))
    files = Files(pairs, arguments.collection, arguments.split, state / "reranking", state / "tokens")
    settings = settings.model_copy(update={"depth": deepest})
    reranking = FileReranking(files, settings, load_reranker(checkpoint), default_device(), _digest(checkpoint))
    reranking.write(output, "teacher")
    return output


def _fingerprint(arguments: argparse.Namespace, settings: TeachSettings, files: Mapping[str, Sequence[Path]]) -> str:
    split = arguments.collection / "splits" / arguments.split
    read = [arguments.groups, arguments.pool, arguments.collection / "documents.jsonl", split / "queries.jsonl"]
    parts = [settings.model_dump_json(), *map(sha256, read)]
    for name, paths in sorted(files.items()):
        parts += [name, *(_digest(path) for path in paths)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    """Of a file, or of a folder's files with their names."""
    return sha256(path) if path.is_file() else json.dumps(folder_digests(path))
