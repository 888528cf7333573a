"""Adds a teacher's scores to a file of groups; a job that was killed continues from its state."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssmrank.config.encoders import Encoder
from ssmrank.config.rerankings import Reranking
from ssmrank.config.teachers import RunTeacher, TeachSettings
from ssmrank.io.checksum import folder_digests, sha256
from ssmrank.io.collection import documents_file, queries_file
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import run_writer
from ssmrank.teaching.members import EncoderMember, Member, RerankerMember, RunMember
from ssmrank.teaching.queries import grouped_queries
from ssmrank.teaching.teach import Weighting, teach
from ssmrank.training.groups import Group, read_groups

log = logging.getLogger(__name__)

_DECIMALS = 4
"""Decimals of a score in the file; at scale 1, the last is a ten-thousandth of a standard deviation."""


@dataclass(frozen=True)
class TeachFiles:
    """What a teacher reads.

    groups: file of `ssmrank negatives`.
    collection: folder of the collection.
    split: split of the groups' queries.
    pool: run; scores are standardised over its first documents.
    members: paths of each member: a run; a bi-encoder's folder and its vectors' folder; or a reranker's checkpoint.
    """

    groups: Path
    collection: Path
    split: str
    pool: Path
    members: Mapping[str, Sequence[Path]]

    @property
    def documents(self) -> Path:
        """The collection's texts."""
        return documents_file(self.collection)

    @property
    def queries(self) -> Path:
        """The split's queries."""
        return queries_file(self.collection, self.split)


def teach_files(settings: TeachSettings, files: TeachFiles, state: Path, output: Path) -> None:
    """Writes the groups with scores.

    state: folder of finished parts; the caller removes it.
    """
    groups = read_groups(files.groups, settings.negatives_count)
    # The folder's name is a digest of the inputs, so that parts of other inputs are never used.
    state = state / _fingerprint(files, settings)
    members = [_member(name, settings, files.members[name], files, groups, state / name) for name in settings.members]
    weights = [settings.weights[name] for name in settings.members]
    weighting = Weighting(weights, settings.scale, settings.positive_bonus)
    taught = teach(grouped_queries(groups, files.pool, settings.depth), groups, members, weighting, state / "parts")
    if taught.without_pool:
        log.warning(
            "%s: %d groups have queries without documents in %s; their teacher only knows the relevant document",
            *(output, taught.without_pool, files.pool),
        )
    write_jsonl(output, _records(groups, taught.scores.tolist()))
    log.info("%s: %d groups", output, len(groups))


def _records(groups: Sequence[Group], scores: Sequence[Sequence[float]]) -> Iterator[dict]:
    for group, row in zip(groups, scores, strict=True):
        positive, *negatives = group.documents
        rounded = [round(score, _DECIMALS) for score in row]
        yield {"query": group.query, "positive": positive, "negatives": negatives, "scores": rounded}


def _member(
    name: str,
    settings: TeachSettings,
    files: Sequence[Path],
    inputs: TeachFiles,
    groups: Sequence[Group],
    state: Path,
) -> Member:
    member = settings.members[name]
    if isinstance(member, RunTeacher):
        return RunMember(files[0], settings.depth)
    if isinstance(member, Encoder):
        from ssmrank.retrieval.encoder import BiEncoder

        queries = read_queries(inputs.queries)
        store = TextStore(inputs.documents)
        return EncoderMember(BiEncoder(files[0], member), files[1], store, queries)
    return RerankerMember(_reranked(member, files[0], inputs, groups, settings.depth, state))


def _reranked(
    settings: Reranking,
    checkpoint: Path,
    inputs: TeachFiles,
    groups: Sequence[Group],
    depth: int,
    state: Path,
) -> Path:
    """Scores all documents of the groups with a reranker; returns the run's path. A finished run is used again."""
    from ssmrank.models.precision import default_device
    from ssmrank.models.reranker import load_reranker
    from ssmrank.reranking.pipeline import FileReranking, Files

    output = state / "scores.trec"
    if output.is_file():
        return output
    pairs = state / "pairs.trec"
    deepest = 0
    with run_writer(pairs, "groups") as write:
        for query in grouped_queries(groups, inputs.pool, depth):
            write(query.id, [(document, 0.0) for document in query.documents])
            deepest = max(deepest, len(query.documents))
    files = Files(pairs, inputs.collection, inputs.split, state / "reranking", state / "tokens")
    settings = settings.model_copy(update={"depth": deepest})
    reranking = FileReranking(files, settings, load_reranker(checkpoint), default_device(), _digest(checkpoint))
    reranking.write(output, "teacher")
    return output


def _fingerprint(inputs: TeachFiles, settings: TeachSettings) -> str:
    read = [inputs.groups, inputs.pool, inputs.documents, inputs.queries]
    parts = [settings.model_dump_json(), *map(sha256, read)]
    for name, paths in sorted(inputs.members.items()):
        parts += [name, *(_digest(path) for path in paths)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    """The digest of a file, or of a folder's files with their names."""
    return sha256(path) if path.is_file() else json.dumps(folder_digests(path))
