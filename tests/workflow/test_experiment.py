"""Which files an experiment needs, and which settings its jobs get."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from pipeline import paths
from pipeline.experiment import Experiment
from pipeline.items import FirstStage, Index, Reranked, Sample, Taught, Trained, fill
from ssmrank import jobs
from ssmrank.config.models import ModelFolder
from ssmrank.config.params import Params, read_params
from ssmrank.errors import UserError
from ssmrank.io.model_files import TRAINED_FILE


@pytest.fixture
def params(root: Path) -> Params:
    return read_params(root / "tests/data/params/tiny.yaml")


def test_what_a_table_needs(params: Params) -> None:
    experiment = Experiment(params)
    assert experiment.targets.tables == ["table4"]
    assert experiment.targets.collections == ["tiny"]
    assert experiment.targets.models == ["tiny-bert", "tiny-mamba2"]
    assert experiment.targets.indexes == [Index("tiny", "porter")]
    assert experiment.targets.evaluated_first_stages == [FirstStage("tiny", "test", "bm25")]
    assert experiment.targets.first_stages == [FirstStage("tiny", "test", "bm25"), FirstStage("tiny", "train", "bm25")]
    assert experiment.targets.samples == [Sample("tiny", "train", "bm25-top20")]
    assert experiment.targets.trained == [Trained("firstp", "tiny-bert"), Trained("firstp", "tiny-mamba2")]
    assert experiment.targets.reranked == [
        Reranked("tiny", "test", "bm25-top10", "firstp", model) for model in ("tiny-bert", "tiny-mamba2")
    ]
    assert experiment.lookups.table_keys("table4") == [
        "tiny/test/bm25",
        "tiny/test/bm25-top10/firstp/tiny-bert",
        "tiny/test/bm25-top10/firstp/tiny-mamba2",
    ]


def test_a_section_that_is_run_on_some_tests(params: Params) -> None:
    values = params.model_dump()
    table = values["tables"]["table4"]
    table["tests"].append(table["tests"][0] | {"split": "train", "label": "train"})
    table["sections"][1]["tests"] = ["train"]
    experiment = Experiment(Params.model_validate(values))
    assert {run.split for run in experiment.targets.reranked} == {"train"}
    assert experiment.targets.evaluated_first_stages == [
        FirstStage("tiny", split, "bm25") for split in ("test", "train")
    ]
    assert experiment.lookups.table_keys("table4")[:3] == [
        "tiny/test/bm25",
        "tiny/train/bm25",
        "tiny/train/bm25-top10/firstp/tiny-bert",
    ]


def test_a_model_whose_tokenizer_another_takes_is_needed(params: Params) -> None:
    rows = params.tables["table4"].sections[1].rerankers
    sections = [params.tables["table4"].sections[1].model_copy(update={"rerankers": [rows[1]]})]
    table = params.tables["table4"].model_copy(update={"sections": sections})
    experiment = Experiment(params.model_copy(update={"tables": {"table4": table}}))
    assert experiment.targets.trained == [Trained("firstp", "tiny-mamba2")]
    assert experiment.targets.models == ["tiny-mamba2", "tiny-bert"]
    assert experiment.lookups.parents("tiny-mamba2") == dict.fromkeys(
        ["tokenizer", "embeddings"], "data/models/tiny-bert"
    )


def test_a_training_that_goes_on_from_another_needs_it_with_its_seed(params: Params) -> None:
    values = params.model_dump()
    first = values["trainings"]["firstp"]
    values["trainings"]["second"] = first | {"start": "firstp", "seeds": [43], "seed": 42}
    values["trainings"]["firstp"] = first | {"seeds": [42, 43]}
    values["tables"]["table4"]["sections"][1]["rerankers"] = [{"model": "tiny-bert", "training": "second"}]
    experiment = Experiment(Params.model_validate(values))
    assert experiment.targets.trained == [Trained("second@seed43", "tiny-bert"), Trained("firstp@seed43", "tiny-bert")]
    assert experiment.lookups.start("second@seed43", "tiny-bert") == "results/checkpoints/firstp@seed43/tiny-bert"
    assert experiment.lookups.start("firstp@seed43", "tiny-bert") == "data/models/tiny-bert"


def test_a_pretrained_model_is_made_from_its_pretraining(root: Path) -> None:
    experiment = Experiment(read_params(root / "params.yaml", root / "params/minis.yaml"))
    assert experiment.lookups.parents("bert-arxiv") == {"pretrained": "results/pretraining/minis/models/bert"}
    for collection in ("arxiv-queries", "arxiv-held-out"):
        assert [Path("data/corpora/arxiv/arxiv-0.jsonl.xz")] == experiment.lookups.collection_files(collection)[:1]
        assert experiment.collection_corpus(collection)[0] == "--corpus"
    assert experiment.collection_corpus("semanlink") == []


def test_a_training_with_a_teacher_reads_its_scores(root: Path) -> None:
    experiment = Experiment(read_params(root / "params.yaml", root / "params/own-collection.yaml"))
    taught = Taught("own-queries", "train", "own", "bm25-minilm")
    assert experiment.targets.taught == [taught]
    assert experiment.lookups.training_groups("own") == "results/teaching/own-queries/train/own/bm25-minilm.jsonl"
    assert experiment.lookups.training_groups("firstp") == "results/negatives/semanlink/train/bm25-top100.jsonl"
    assert experiment.lookups.teacher_files(taught) == {
        "bm25": ["results/runs/first-stage/own-queries/train/bm25.trec"],
        "minilm": ["data/models/minilm", "data/indexes/own-queries/vectors-minilm"],
    }
    assert experiment.lookups.pool(taught) in experiment.targets.first_stages
    assert [(one.collection, one.encoder) for one in experiment.targets.embedded] == [("own-queries", "minilm")]
    assert experiment.lookups.collection_texts("own-queries") == ["data/collections/own"]
    assert {"own", "own-queries"} <= set(experiment.targets.collections)
    assert "minilm" in experiment.targets.models


def test_held_out_queries_need_a_run(params: Params) -> None:
    values = params.model_dump()
    values["trainings"]["firstp"]["validation"] = {"split": "test", "retriever": "bm25", "every_steps": 2}
    experiment = Experiment(Params.model_validate(values))
    assert experiment.lookups.validation("firstp") == [FirstStage("tiny", "test", "bm25")]
    assert Experiment(params).lookups.validation("firstp") == []


def test_settings_hold_what_changes_results_and_nothing_that_tables_print(params: Params) -> None:
    values = params.model_dump()
    values["collections"]["tiny"] |= {"title": "Other", "license": "Other"}
    values["models"]["tiny-bert"] |= {"label": "Other", "size": "9M", "pretraining": "9B", "kind": "D"}
    values["trainings"]["firstp"]["label"] = "Other"
    values["retrievers"]["bm25"]["label"] = "Other"
    one, other = Experiment(params), Experiment(Params.model_validate(values))
    for settings, name in ((jobs.collection_settings, "tiny"), (jobs.model_settings, "tiny-bert")):
        assert one.settings(settings, name) == other.settings(settings, name)
    assert one.settings(jobs.retriever_settings, "bm25", "tiny") == other.settings(
        jobs.retriever_settings, "bm25", "tiny"
    )
    assert one.settings(jobs.train_settings, "firstp", "tiny-bert") == other.settings(
        jobs.train_settings, "firstp", "tiny-bert"
    )
    assert other.lookups.kind("tiny-bert") == "D"
    assert one.settings(jobs.table_settings, "table4") != other.settings(jobs.table_settings, "table4")
    assert json.loads(one.settings(jobs.retriever_settings, "bm25", "tiny"))["stemmer"] == "porter"


def test_files_on_this_machine(params: Params) -> None:
    experiment = Experiment(params)
    assert [path.name for path in experiment.lookups.collection_files("tiny")] == [
        "corpus.jsonl",
        "queries.jsonl",
        "train.tsv",
        "test.tsv",
    ]
    assert experiment.lookups.model_files("tiny-mamba2") == []


def test_only_what_a_model_is_read_from_counts(params: Params, tmp_path: Path) -> None:
    read = ["config.json", "model.safetensors", "tokenizer.json"]
    for name in [*read, "pytorch_model.bin", ".DS_Store", "README.md", "sweep.json", ".git/index", ".git/config.json"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    folder = ModelFolder(kind="folder", path=str(tmp_path))

    def files(**parts: ModelFolder) -> list[Path]:
        model = params.models["tiny-bert"].model_copy(update=parts)
        return Experiment(params.model_copy(update={"models": {"tiny-bert": model}})).lookups.model_files("tiny-bert")

    assert files(source=folder) == [tmp_path / name for name in read]
    assert files(source=folder, tokenizer=folder) == [tmp_path / name for name in [*read, "tokenizer.json"]]


def more_first_stages(params: Params, **retrievers: dict) -> Experiment:
    values = params.model_dump()
    values["encoders"] = {"tiny": {"model": "tiny-bert"}}
    values["retrievers"] |= retrievers
    values["tables"]["table4"]["sections"] = [{"title": "S", "retrievers": list(retrievers)}]
    return Experiment(Params.model_validate(values))


def test_what_dense_retrievers_need(params: Params) -> None:
    dense = {"kind": "dense", "encoder": "tiny", "label": "D"}
    graph = dense | {"index": {"kind": "hnsw"}}
    rescored = dense | {"candidates": {"retriever": "bm25", "depth": 5}}
    experiment = more_first_stages(params, dense=dense, graph=graph, rescored=rescored)
    assert experiment.targets.embedded == [("tiny", "tiny")]
    assert experiment.targets.vector_indexes == [("tiny", "graph")]
    assert FirstStage("tiny", "test", "bm25") in experiment.targets.first_stages
    assert experiment.targets.indexes == [Index("tiny", "porter")]
    assert experiment.targets.models == ["tiny-bert"]
    alone = more_first_stages(params, rescored=rescored)
    assert alone.targets.embedded == [] and alone.lookups.candidates(FirstStage("tiny", "test", "rescored")) == [
        FirstStage("tiny", "test", "bm25")
    ]


def test_parameters_of_bm25_for_a_collection(params: Params) -> None:
    tuned = {"kind": "bm25", "of_collections": {"tiny": {"k1": 2.0, "b": 0.5}}}
    settings = json.loads(more_first_stages(params, tuned=tuned).settings(jobs.retriever_settings, "tuned", "tiny"))
    assert (settings["k1"], settings["b"], settings["of_collections"]) == (2.0, 0.5, {})


def test_a_needed_run_without_a_file_is_one_line(params: Params) -> None:
    file = {"path": "x", "sha256": "0" * 64}
    given = {"kind": "run", "label": "G", "runs": {"tiny/train": file}}
    with pytest.raises(UserError, match=r"^p: retrievers\.given\.runs: no file for tiny/test, which"):
        more_first_stages(params, given=given).check_runs("p")
    more_first_stages(params, given=given | {"runs": {"tiny/test": file}}).check_runs("p")


def test_seeds_of_a_training_share_everything_but_the_seed(params: Params) -> None:
    values = params.model_dump()
    values["trainings"]["firstp"] |= {"seed": 42, "seeds": [42, 7]}
    experiment = Experiment(Params.model_validate(values))
    names = [training for training, model in experiment.targets.trained if model == "tiny-bert"]
    assert names == ["firstp", "firstp@seed7"]
    settings = [json.loads(experiment.settings(jobs.train_settings, name, "tiny-bert")) for name in names]
    assert [one.pop("seed") for one in settings] == [42, 7] and settings[0] == settings[1]
    assert experiment.settings(jobs.train_settings, "firstp", "tiny-bert") == Experiment(params).settings(
        jobs.train_settings, "firstp", "tiny-bert"
    )
    assert experiment.lookups.training_data("firstp@seed7") == experiment.lookups.training_data("firstp")


def test_without_a_training_the_model_itself_is_the_reranker(params: Params, tmp_path: Path) -> None:
    values = params.model_dump()
    values["models"]["given"] = values["models"]["tiny-bert"] | {"source": {"kind": "folder", "path": str(tmp_path)}}
    row = {"model": "given", "training": "none"}
    values["tables"]["table4"]["sections"][1]["rerankers"] += [row]
    values["tables"]["table4"] |= {"costs": {}, "significance": {"baseline": row}}
    experiment = Experiment(Params.model_validate(values))
    assert "given" in experiment.targets.models
    assert "none" not in [one.training for one in experiment.targets.trained]
    assert experiment.lookups.checkpoint("none", "given") == "data/models/given"
    assert experiment.lookups.checkpoint("firstp@seed7", "given") == "results/checkpoints/firstp@seed7/given"
    assert experiment.targets.reranked[-1] == Reranked("tiny", "test", "bm25-top10", "none", "given")
    assert json.loads(experiment.settings(jobs.cost_settings, "table4", paths))["rows"][-1]["checkpoints"] == []
    with pytest.raises(UserError, match=r"^p: models\.given\.source\.path: .* has no head that scores .*table has it"):
        experiment.check_untrained("p")
    (tmp_path / TRAINED_FILE).write_text("{}")
    experiment.check_untrained("p")


def test_a_cross_encoder_needs_no_training(params: Params, tmp_path: Path) -> None:
    read = ["config.json", "model.safetensors", "tokenizer.json", "modules.json", "config_sentence_transformers.json"]
    for name in read:
        (tmp_path / name).write_text("{}")
    values = params.model_dump()
    source = {"kind": "cross-encoder", "checkpoint": {"kind": "folder", "path": str(tmp_path)}}
    values["models"]["theirs"] = values["models"]["tiny-bert"] | {"source": source}
    values["tables"]["table4"]["sections"][1]["rerankers"] += [{"model": "theirs", "training": "none"}]
    experiment = Experiment(Params.model_validate(values))
    experiment.check_untrained("p")
    assert experiment.lookups.checkpoint("none", "theirs") == "data/models/theirs"
    assert {file.name for file in experiment.lookups.model_files("theirs")} == {*read}
    values["models"]["theirs"]["template"] = "query-first"
    with pytest.raises(ValueError, match="template: a cross-encoder has its own; leave it out"):
        Params.model_validate(values)


def test_fill() -> None:
    assert fill("{collection}/{split}.x", [Sample("a", "b", "c")]) == ["a/b.x"]


def test_dvc_watches_the_models_that_lie_in_the_repository(root: Path) -> None:
    experiment = Experiment(read_params(root / "params.yaml"))
    watched = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]["download"]["deps"]
    files = [file for model in experiment.targets.models for file in experiment.lookups.model_files(model)]
    assert files and all(file.parts[0] in watched for file in files)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {file.name for file in files}
    assert not {"README.md", "sweep.json", "pretraining.json"} & {file.name for file in files}


def test_speed_is_measured_on_all_pairs_where_no_table_says_otherwise(params: Params) -> None:
    experiment = Experiment(params)
    assert experiment.lookups.speed_pairs("tiny", "test") == []
    table = params.tables["table4"]
    speed = {"collection": "tiny", "split": "test", "pairs": 40}
    costs = type(table).model_validate(table.model_dump(exclude_unset=True) | {"costs": {"speed": speed}})
    changed = params.model_copy(update={"tables": {"table4": costs}})
    assert Experiment(changed).lookups.speed_pairs("tiny", "test") == ["--pairs", "40"]


def test_figures_and_costs_wait_for_the_files_that_their_settings_name(params: Params) -> None:
    table = params.tables["table4"]
    costs = {"speed": {"collection": "tiny", "split": "test"}}
    costly = type(table).model_validate(table.model_dump(exclude_unset=True) | {"costs": costs})
    experiment = Experiment(params.model_copy(update={"tables": {"table4": costly}}))
    run = "tiny/test/bm25-top10/firstp/tiny-bert.json"
    row = json.loads(experiment.settings(jobs.efficiency_settings, paths))["rows"][0]
    assert (row["metrics"], row["speed"]) == (f"results/metrics/{run}", f"results/speed/{run}")
    assert experiment.lookups.efficiency_inputs()[:2] == [row["metrics"], row["speed"]]
    row = json.loads(experiment.settings(jobs.cost_settings, "table4", paths))["rows"][0]
    assert row == {
        "run": "bm25-top10/firstp/tiny-bert",
        "checkpoints": ["results/checkpoints/firstp/tiny-bert"],
        "pretrained": None,
        "speed": f"results/speed/{run}",
    }
    assert experiment.lookups.cost_inputs("table4")[:2] == [*row["checkpoints"], row["speed"]]


def test_a_figure_of_tokens_waits_for_the_files_that_its_settings_name(params: Params) -> None:
    experiment = Experiment(params)
    run = "tiny/test/bm25-top10/firstp/tiny-bert.json"
    settings = json.loads(experiment.settings(jobs.token_figure_settings, "table4", paths))
    row, first = settings["rows"][0], f"results/metrics/tiny/test/{settings['first_stage'].lower()}.json"
    assert (row["metrics"], row["tokens"]) == ([[f"results/metrics/{run}"]], [f"results/tokens/{run}"])
    assert settings["first_stage_metrics"] == [first]
    inputs = experiment.lookups.token_figure_inputs("table4")
    assert {*row["metrics"][0], *row["tokens"], first} <= {*inputs} and len({*inputs}) == len(inputs)


def test_the_order_of_reading_is_that_of_the_training_then_of_the_model(params: Params) -> None:
    values = params.model_dump()
    firstp = values["trainings"]["firstp"]
    values["trainings"] |= {
        "twice": firstp | {"template": "document-document-query"},
        "further": firstp | {"start": "twice"},
    }
    values["models"]["other"] = values["models"]["tiny-mamba2"] | {"template": "query-first"}
    read = Params.model_validate(values)
    assert (
        read.order("firstp", "tiny-bert") == "query-first" and read.order("firstp", "tiny-mamba2") == "document-first"
    )
    assert read.order("firstp", "other") == read.order("none", "other") == "query-first"
    assert read.order("twice", "other") == read.order("further", "other") == "document-document-query"
    assert json.loads(Experiment(read).settings(jobs.train_settings, "twice", "other"))["template"] == read.order(
        "twice", "other"
    )


def test_an_order_that_a_model_cannot_read_is_one_line(params: Params) -> None:
    values = params.model_dump()
    values["trainings"]["twice"] = values["trainings"]["firstp"] | {"template": "document-document-query"}
    rows = values["tables"]["table4"]["sections"][1]["rerankers"]
    rows.append({"model": "tiny-bert", "training": "twice"})
    with pytest.raises(ValueError, match=r"training: 'twice' has template document-document-query, but 'tiny-bert' is"):
        Params.model_validate(values)
    rows[-1]["model"] = "tiny-mamba2"
    Params.model_validate(values)
    values["models"]["tiny-bert"]["template"] = "document-document-query"
    with pytest.raises(ValueError, match="template: only decoders read a document twice"):
        Params.model_validate(values)
    values["models"]["tiny-bert"]["template"] = None
    source = {"kind": "cross-encoder", "checkpoint": {"kind": "folder", "path": "somewhere"}}
    values["models"]["theirs"] = values["models"]["tiny-bert"] | {"source": source}
    values["trainings"]["first"] = values["trainings"]["firstp"] | {"template": "query-first"}
    rows[-1] = {"model": "theirs", "training": "first"}
    with pytest.raises(ValueError, match="'first' has a template, but cross-encoder 'theirs' keeps its own input"):
        Params.model_validate(values)
    rows.pop()
    values["trainings"]["first"] |= {"bi_encoder": {}}
    with pytest.raises(ValueError, match="template: a bi-encoder reads each text alone; leave it out"):
        Params.model_validate(values)


def test_rules_name_no_path_themselves(root: Path) -> None:
    for rules in (root / "workflow/rules").glob("*.smk"):
        assert not re.findall(r"[\"' ](?:results|data)/", rules.read_text()), rules


def fused(params: Params, fusion: dict, row: dict) -> Experiment:
    values = params.model_dump()
    values["trainings"]["firstp"] |= {"seed": 42, "seeds": [42, 7]}
    values["fusions"] = {"mix": fusion}
    values["tables"]["table4"]["sections"] = [{"title": "S", "rerankers": [row | {"fusion": "mix"}]}]
    return Experiment(Params.model_validate(values))


def test_each_seed_is_fused_with_the_run_of_that_seed(params: Params) -> None:
    mamba = {"model": "tiny-mamba2", "training": "firstp"}
    experiment = fused(
        params, {"retrievers": ["bm25"], "rerankers": [mamba]}, {"model": "tiny-bert", "training": "firstp"}
    )
    first, second = experiment.targets.fused
    assert (first.training, second.training) == ("firstp", "firstp@seed7")
    assert experiment.lookups.fused_runs(second) == [
        "results/runs/first-stage/tiny/test/bm25.trec",
        "results/runs/reranked/tiny/test/bm25-top10/firstp@seed7/tiny-mamba2.trec",
        "results/runs/reranked/tiny/test/bm25-top10/firstp@seed7/tiny-bert.trec",
    ]
    assert experiment.lookups.table_keys("table4") == [
        f"tiny/test/bm25-top10/{training}/tiny-bert/mix" for training in ("firstp", "firstp@seed7")
    ]
    assert len(experiment.targets.reranked) == len(experiment.targets.trained) == 4
    assert experiment.targets.evaluated_reranked == []
    assert json.loads(experiment.settings(jobs.fuse_settings, first.fusion, first.reranking)) == {
        "method": "z-score",
        "k": 60,
        "depth": 10,
        "weights": None,
    }


def test_weights_are_fitted_on_a_reranking_of_another_split(params: Params) -> None:
    weights = {"split": "train", "steps": 5}
    experiment = fused(
        params, {"retrievers": ["bm25"], "weights": weights}, {"model": "tiny-bert", "training": "firstp"}
    )
    run = experiment.targets.fused[0]
    (fitted,) = experiment.lookups.fitted(run)
    assert (fitted.split, fitted.model, fitted.fusion) == ("train", "tiny-bert", "mix")
    assert {(one.split, one.training) for one in experiment.targets.reranked} == {
        (split, training) for split in ("test", "train") for training in ("firstp", "firstp@seed7")
    }
    assert json.loads(experiment.settings(jobs.fuse_weights_settings, fitted.fusion, fitted.reranking))["steps"] == 5
    assert FirstStage("tiny", "train", "bm25") in experiment.targets.first_stages


def test_a_hybrid_first_stage_needs_what_it_fuses(params: Params) -> None:
    dense = {"kind": "dense", "encoder": "tiny", "label": "D", "candidates": {"retriever": "bm25", "depth": 5}}
    weights = {"split": "train"}
    hybrid = {"kind": "fusion", "retrievers": ["dense"], "weights": weights, "label": "H"}
    values = more_first_stages(params, dense=dense).params.model_dump()
    values["retrievers"] |= {"hybrid": hybrid | {"retrievers": ["bm25", "dense"]}}
    values["tables"]["table4"]["sections"] = [{"title": "S", "retrievers": ["hybrid"]}]
    experiment = Experiment(Params.model_validate(values))
    wanted = {(split, name) for split in ("train", "test") for name in ("bm25", "dense")} | {("test", "hybrid")}
    assert {(run.split, run.retriever) for run in experiment.targets.first_stages} == wanted
    assert experiment.targets.models == ["tiny-bert"] and experiment.targets.indexes == [Index("tiny", "porter")]


def test_all_files_that_params_name_are_listed(params: Params, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "model/README.md", "run.trec"):
        (tmp_path / name).write_text("x")
    values = params.model_dump()
    collection = values["collections"]["tiny"] | {"source": {"kind": "folder", "path": str(tmp_path / "gone")}}
    values["collections"]["unused"] = collection | {"splits": ["dev"]}
    folder = {"kind": "folder", "path": str(tmp_path / "model")}
    values["models"]["unused"] = values["models"]["tiny-bert"] | {"source": folder}
    runs = {"tiny/test": {"path": str(tmp_path / "run.trec"), "sha256": "0" * 64}}
    values["retrievers"]["unused"] = {"kind": "run", "label": "R", "depth": 10, "runs": runs}
    values["corpora"] = {"c": {"title": "C", "path": str(tmp_path), "files": ["a.jsonl"]}}
    files = Experiment(Params.model_validate(values)).outside_files()
    wanted = ["a.jsonl", *(f"gone/{name}" for name in ("corpus.jsonl", "qrels/dev.tsv", "queries.jsonl"))]
    wanted += ["model/config.json", "run.trec"]
    assert [path for path in files if tmp_path in path.parents] == [tmp_path / name for name in wanted]
    assert Path("tests/data/workflow/collection/qrels/test.tsv") in files


def test_every_phase_of_dvc_waits_for_the_list_of_sources(root: Path) -> None:
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    kept = stages.pop("throughput")  # what was measured by name; nothing makes it
    assert kept["cmd"] == "mkdir -p results/throughput" and "deps" not in kept
    first, *phases = stages.values()
    [listed] = first["outs"][0]
    assert first["always_changed"] and all(listed in phase["deps"] for phase in phases)
    assert all("${overlays}" in str(stage["cmd"]) for stage in stages.values())


def test_what_ranx_compares(params: Params) -> None:
    values = params.model_dump()
    table = values["tables"]["table4"]
    table["tests"].append(table["tests"][0] | {"split": "train", "label": "train", "metric": "RBP(p=0.8)"})
    table["tests"].append(table["tests"][0] | {"metric": "MRR@10", "label": "MRR"})
    table["significance"] = {"test": "t", "alpha": 0.01}
    values["evaluation"]["metrics"] += ["RBP(p=0.8)"]
    values["trainings"]["firstp"]["seeds"] = [42, 7]
    experiment = Experiment(Params.model_validate(values))
    # ranx has no metric of the other split's.
    assert experiment.targets.comparisons == ["table4/tiny/test"]
    runs = experiment.lookups.compared_runs("table4/tiny/test")
    assert list(runs.values()) == [
        "results/runs/first-stage/tiny/test/bm25.trec",
        *(
            f"results/runs/reranked/tiny/test/bm25-top10/firstp{seed}/{model}.trec"
            for model in ("tiny-bert", "tiny-mamba2")
            for seed in ("", "@seed7")
        ),
    ]
    assert [label.endswith(", seed 7") for label in runs] == [False, False, True, False, True]
    settings = json.loads(experiment.settings(jobs.comparison_settings, "table4", "tiny/test"))
    assert settings["metrics"] == [table["tests"][0]["metric"], "MRR@10"]
    assert (settings["test"], settings["alpha"]) == ("student", 0.01)

    # Rows with equal labels, and more runs than ranx can report.
    values["models"]["tiny-mamba2"]["label"] = values["models"]["tiny-bert"]["label"]
    runs = Experiment(Params.model_validate(values)).lookups.compared_runs("table4/tiny/test")
    assert len(runs) == 5 and list(runs)[-1].endswith(" (bm25-top10/firstp@seed7/tiny-mamba2)")
    values["trainings"]["firstp"]["seeds"] = list(range(13))
    assert Experiment(Params.model_validate(values)).targets.comparisons == []


def test_the_file_of_a_run() -> None:
    assert paths.run_of("c/s/bm25") == "results/runs/first-stage/c/s/bm25.trec"
    assert paths.run_of("c/s/r/t/m") == "results/runs/reranked/c/s/r/t/m.trec"
    assert paths.run_of("c/s/r/t/m/f") == "results/runs/fused/c/s/r/t/m/f.trec"


def test_a_training_on_several_nodes_asks_slurm_for_them(params: Params) -> None:
    """By what Snakemake's plugin for Slurm makes of the resources of the rule `train`."""
    from snakemake.iocontainers import ResourceList
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command

    assert Experiment(params).lookups.train_nodes("firstp") is None
    assert Experiment(params).lookups.train_places("firstp") is None
    values = params.model_dump()
    values["trainings"]["firstp"] |= {"parallel": "ddp", "nodes": 2, "processes": 8}
    lookups = Experiment(Params.model_validate(values)).lookups
    nodes = lookups.train_nodes("firstp")
    asked = {
        "nodes": nodes,
        "tasks": nodes,
        "mpi": "srun",
        "tasks_per_gpu": 0,
        "gpu": lookups.train_processes("firstp"),
    }
    resources = ResourceList(fromdict=asked | {"slurm_extra": lookups.train_places("firstp")})
    job = SimpleNamespace(resources=resources, threads=8)
    names = ("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir")
    words = get_submit_command(job, dict.fromkeys(names, "x")).split()
    assert {"--nodes=2", "--ntasks=2", "--cpus-per-task=8", "--ntasks-per-node=1", "--gpus-per-node=4"} <= set(words)
    assert not any(word.startswith("--ntasks-per-gpu") for word in words)
    del values["trainings"]["firstp"]["processes"]
    assert Experiment(Params.model_validate(values)).lookups.train_processes("firstp") == 2
