"""Checks that a change of the code leaves every result as it was, byte for byte.

    python benchmarks/same_results.py BEFORE [AFTER]

BEFORE and AFTER are commits (AFTER: HEAD). Each is checked out into a temporary folder, where the tests' tiny
experiment runs and models of every architecture score and learn at small width. SHA-256 of weights, runs, metrics,
tables, scores and gradients are compared; the exit status is 1 if one differs. Bits depend on the processor and on
torch, so digests of two machines cannot be compared, and none is committed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = "SSMRANK_SAME_RESULTS"
SHAPES = "bert electra roberta bart opt llama opt-350m llama-3.2 mamba mamba2 mamba2-wide".split()
ENCODERS = {"bert", "electra", "roberta", "bart"}
QUERIES = ["river boat", "state space models for retrieval", "mamba"]
DOCUMENTS = ["fish swim in the river", "a search engine ranks text by relevance " * 3, "mountain snow", "scan " * 40]
RESULTS = (".safetensors", ".trec", ".csv", ".tex", ".jsonl")


def test_record(tiny_model, finished) -> None:  # a test of the commit's own folder, whose fixtures it takes
    import numpy as np
    import torch

    from ssmrank.models.packing import pack
    from ssmrank.models.reranker import new_reranker

    def digest(*arrays: np.ndarray) -> str:
        return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()

    found = {}
    for shape in SHAPES:
        torch.manual_seed(0)
        reranker = new_reranker(tiny_model(shape), "E" if shape in ENCODERS else "D", 64).eval()
        scores = [reranker.score(query, DOCUMENTS) for query in QUERIES]
        found[f"scores of {shape}"] = digest(np.array(scores))
        generator = np.random.default_rng(0)
        sequences = [generator.integers(4, 100, length) for length in (5, 17, 1, 33, 8, 30)]
        reranker(pack(sequences)).float().logsumexp(0).backward()
        gradients = {name: weight.grad for name, weight in reranker.named_parameters() if weight.grad is not None}
        for name in sorted(gradients):
            found[f"gradients of {shape}: {name}"] = digest(gradients[name].numpy())
    for path, content in finished.files().items():
        if path.endswith(RESULTS) or (path.startswith("results/metrics") and path.endswith(".json")):
            found[path] = hashlib.sha256(content).hexdigest()
    Path(os.environ[RECORD]).write_text(json.dumps(found, indent=1, sort_keys=True))


def record(commit: str, folder: Path) -> dict[str, str]:
    """Digests of what the code of a commit computes; folder: an empty, temporary one."""
    checkout, digests = folder / commit.replace("/", "_"), folder / f"{commit.replace('/', '_')}.json"
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(checkout)], check=True)
    commit = subprocess.run(
        ["git", "rev-parse", commit], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    subprocess.run(["git", "checkout", "--quiet", commit], cwd=checkout, check=True)
    shutil.copy(__file__, checkout / "tests/unit/test_same_results.py")
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), RECORD: str(digests)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_same_results.py"]
    subprocess.run([*command, "--timeout=3000"], cwd=checkout, env=environment, check=True)
    return json.loads(digests.read_text())


def main() -> int:
    if not 2 <= len(sys.argv) <= 3:
        print(__doc__)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        before = record(sys.argv[1], Path(folder) / "before")
        after = record(sys.argv[2] if len(sys.argv) > 2 else "HEAD", Path(folder) / "after")
    differing = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name in differing:
        where = "differs" if name in before and name in after else "only before" if name in before else "only after"
        print(f"{where}: {name}")
    print(f"{len(before)} digests before, {len(after)} after, {len(differing)} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
