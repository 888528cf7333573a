"""Compares a first stage with its reranking in PyTerrier; needs `pip install 'ssmrank[pyterrier]'`."""

import json
from pathlib import Path

import pandas as pd
import pyterrier as pt
from pyterrier.measures import RR, nDCG

from ssmrank.integrations.pyterrier import SsmReranker

EXAMPLES = Path(__file__).resolve().parent
DATA = EXAMPLES / "data"


def texts(name: str) -> dict[str, str]:
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return {record["id"]: record["text"] for record in map(json.loads, lines)}


def main() -> None:
    documents = texts("documents.jsonl")
    topics = pd.DataFrame(texts("queries.jsonl").items(), columns=["qid", "query"])
    qrels = pt.io.read_qrels(str(DATA / "qrels.txt"))
    # Any retriever of PyTerrier can stand here.
    first_stage = pt.Transformer.from_df(pt.io.read_results(str(DATA / "first-stage.trec")))
    reranker = SsmReranker(EXAMPLES.parent / "models" / "minis" / "mamba2")
    pipeline = first_stage % 10 >> pt.apply.text(lambda row: documents[row["docno"]]) >> reranker
    measures = [nDCG @ 10, RR(rel=2) @ 10]
    print(pt.Experiment([first_stage, pipeline], topics, qrels, measures, names=["words", "mamba2"], round=4))


if __name__ == "__main__":
    main()
