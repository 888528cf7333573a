"""Nearest neighbours by inner product: exact over all vectors, or by an approximate index of FAISS."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssmrank.config.retrievers import HnswIndex, IvfPqIndex
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory
from ssmrank.io.sealed import check_seal, seal
from ssmrank.retrieval.vectors import Vectors

log = logging.getLogger(__name__)

_FILE = "index.faiss"

Found = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Inner products and row numbers of documents, both [queries, depth], best first; row -1 where none was found."""


def search_exactly(queries: NDArray[np.float32], vectors: Vectors, depth: int, device: torch.device) -> Found:
    """Compares each query with every vector, a shard at a time, in float32; by FAISS on CPU, by matmuls on GPU.

    Memory holds one shard in float32, and its products with 1,024 queries (GPU) or with a block of FAISS (CPU). A shard
    of 100,000 vectors of width 1,024 takes 0.4 GB, and the products as much again; all 8.8 million vectors at once
    would take 36 GB. Ties are ordered by the document's row in the collection, whatever the shards.
    """
    best = np.full((len(queries), 0), -np.inf, dtype=np.float32), np.full((len(queries), 0), -1, dtype=np.int64)
    search = _on_gpu if device.type == "cuda" else _on_cpu
    for first, shard in vectors.shards():
        scores, rows = search(queries, shard, min(depth, len(shard)), device)
        best = _merge(best, (scores, np.where(rows >= 0, rows + first, -1)), depth)
    return best


def build_index(settings: IvfPqIndex | HnswIndex, vectors: Vectors, output: Path, threads: int) -> None:
    """Writes an approximate index of the vectors to the folder `output`, which is complete or absent.

    Raises UserError where there are too few vectors to train on, or `bytes` does not divide their width.
    """
    import faiss

    faiss.omp_set_num_threads(threads)
    width = vectors.description.width
    index: Any
    if isinstance(settings, HnswIndex):
        index = faiss.IndexHNSWFlat(width, settings.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = settings.build_breadth
    else:
        index = _trained(settings, vectors)
    for first, shard in vectors.shards():
        index.add(np.ascontiguousarray(shard, dtype=np.float32))
        log.info("%s: %s of %s vectors", output, f"{first + len(shard):,}", f"{len(vectors):,}")
    with atomic_directory(output) as folder:
        faiss.write_index(index, str(folder / _FILE))
        # FAISS does not check what it reads: a damaged index makes it read outside its memory.
        seal(folder)


def check_index(folder: Path) -> None:
    """Raises UserError if the folder has no index of `build_index`, or a damaged one."""
    if not (folder / _FILE).is_file():
        raise UserError(f"{folder}: has no complete index; make it with `ssmrank index faiss`")
    check_seal(folder, "make the index again with `ssmrank index faiss`")


def search_index(
    folder: Path, settings: IvfPqIndex | HnswIndex, queries: NDArray[np.float32], depth: int, threads: int
) -> Found:
    """The neighbours that the index finds. With product quantization (ivfpq) their inner products are approximate too.

    Raises UserError if the folder has no index, or one of another kind or width.
    """
    import faiss

    faiss.omp_set_num_threads(threads)
    index = _read(folder)
    kind = faiss.IndexHNSWFlat if isinstance(settings, HnswIndex) else faiss.IndexIVFPQ
    fits = isinstance(index, kind) and index.d == queries.shape[1]
    if not fits:
        raise UserError(
            f"{folder}: the index has another kind or width than the settings and the model; make it again with "
            "`ssmrank index faiss`"
        )
    if isinstance(settings, HnswIndex):
        index.hnsw.efSearch = max(settings.search_breadth, depth)
    else:
        faiss.extract_index_ivf(index).nprobe = settings.probes
    scores, rows = index.search(queries, min(depth, index.ntotal))
    return scores, rows


def _trained(settings: IvfPqIndex, vectors: Vectors) -> Any:
    import faiss

    width = vectors.description.width
    if width % settings.bytes:
        raise UserError(f"retrievers: index.bytes {settings.bytes} does not divide the vectors' width {width}")
    least = max(settings.lists, 256)
    if len(vectors) < least:
        raise UserError(
            f"retrievers: index.lists {settings.lists} with 256 codes need {least} vectors, but there are "
            f"{len(vectors)}; lower lists, or choose kind: flat"
        )
    index: Any = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(width), width, settings.lists, settings.bytes, 8, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed = settings.seed
    count = min(settings.train_vectors, len(vectors))
    rows = np.sort(np.random.default_rng(settings.seed).choice(len(vectors), size=count, replace=False))
    parts = [
        shard[rows[(rows >= first) & (rows < first + len(shard))] - first].astype(np.float32)
        for first, shard in vectors.shards()
    ]
    log.info("training %d lists and %d-byte codes on %s vectors", settings.lists, settings.bytes, f"{count:,}")
    index.train(np.concatenate(parts))
    return index


def _read(folder: Path) -> Any:
    import faiss

    try:
        return faiss.read_index(str(folder / _FILE))
    except RuntimeError as error:
        raise UserError(f"{folder}: has no complete index; make it with `ssmrank index faiss`") from error


def _on_cpu(queries: NDArray[np.float32], shard: NDArray[np.floating], depth: int, device: torch.device) -> Found:
    import faiss

    return faiss.knn(queries, np.asarray(shard, dtype=np.float32), depth, metric=faiss.METRIC_INNER_PRODUCT)


def _on_gpu(queries: NDArray[np.float32], shard: NDArray[np.floating], depth: int, device: torch.device) -> Found:
    documents = torch.from_numpy(np.array(shard)).to(device).float()
    found = [
        torch.topk(torch.from_numpy(part).to(device) @ documents.T, depth, dim=1)
        for part in np.array_split(queries, max(1, len(queries) // 1024))
    ]
    scores = torch.cat([part.values for part in found]).cpu().numpy()
    return scores, torch.cat([part.indices for part in found]).cpu().numpy()


def _merge(one: Found, other: Found, depth: int) -> Found:
    scores = np.concatenate([one[0], other[0]], axis=1)
    rows = np.concatenate([one[1], other[1]], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :depth]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
