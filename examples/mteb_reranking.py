"""Evaluates a reranker on a reranking task of MTEB whose files are here; needs `pip install 'ssmrank[mteb]'`."""

from pathlib import Path

import mteb
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from ssmrank.integrations.mteb import MtebReranker
from ssmrank.io.trec import read_qrels, read_run

EXAMPLES = Path(__file__).resolve().parent
DATA = EXAMPLES / "data"


ABOUT = {"name": "ExamplesReranking", "description": "Queries and documents of ssmrank's examples"}
ABOUT |= {"type": "Reranking", "category": "t2t", "main_score": "ndcg_at_10", "eval_langs": ["eng-Latn"]}


class ExamplesReranking(AbsTaskRetrieval):
    metadata = TaskMetadata(**ABOUT, dataset={"path": str(DATA), "revision": "1"})

    def load_data(self, num_proc: int | None = None, **_: object) -> None:
        run = read_run(DATA / "first-stage.trec")
        corpus, queries = (Dataset.from_json(str(DATA / f"{name}.jsonl")) for name in ("documents", "queries"))
        top_ranked = {query: [document for document, _ in ranking] for query, ranking in run.items()}
        relevant = read_qrels(DATA / "qrels.txt")
        data = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": top_ranked}
        self.dataset, self.data_loaded = {"default": {"test": data}}, True


def main() -> None:
    model = MtebReranker(EXAMPLES.parent / "models" / "minis" / "mamba2")
    [result] = mteb.evaluate(model, ExamplesReranking(), cache=None, show_progress_bar=False).task_results
    print(f"{model.mteb_model_meta.name} {result.task_name} {result.get_score():.4f}")


if __name__ == "__main__":
    main()
