"""params.yaml: errors are one line that names the key and what to do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssmrank.cli import main
from ssmrank.config.addresses import masked
from ssmrank.config.params import Params, read_params
from ssmrank.config.reading import read_settings
from ssmrank.config.retrievers import Bm25, Dense, RunFile
from ssmrank.config.schema import schema_text
from ssmrank.config.tracking import Tracking
from ssmrank.errors import UserError
from ssmrank.io.checksum import sha256
from ssmrank.jobs import train_settings

SECTION = "tables.table4.sections[1].rerankers[0]"

WRONG: dict[str, tuple[tuple, Any, str]] = {
    "unknown key": (("retrievers", "bm25", "kk1"), 1, "unknown key retrievers.bm25.kk1; did you mean 'k1'?"),
    "unknown section": (("retreivers",), {}, "unknown key retreivers; did you mean 'retrievers'?"),
    "unknown key in a source": (
        ("collections", "tiny", "source", "pth"),
        "x",
        "unknown key collections.tiny.source.pth; did you mean 'path'?",
    ),
    "wrong type": (
        ("trainings", "firstp", "max_length"),
        "many",
        "trainings.firstp.max_length: input should be a valid integer",
    ),
    "text for a section": (("retrievers",), "bm25", "retrievers: input should be a valid dictionary"),
    "out of range": (("retrievers", "bm25", "b"), 1.5, "retrievers.bm25.b: input should be less than or equal to 1"),
    "wrong choice": (
        ("retrievers", "bm25", "stemmer"),
        "snowball",
        "retrievers.bm25.stemmer: input should be 'porter'",
    ),
    "wrong kind of source": (("collections", "tiny", "source", "kind"), "ftp", "collections.tiny.source: "),
    "undefined model": (
        ("tables", "table4", "sections", 1, "rerankers", 0, "model"),
        "tiny-bart",
        f"{SECTION}.model: 'tiny-bart' is not defined in section models; did you mean 'tiny-bert'?",
    ),
    "undefined training": (
        ("tables", "table4", "sections", 1, "rerankers", 0, "training"),
        "longp",
        f"{SECTION}.training: 'longp' is not defined in section trainings; ",
    ),
    "no training of random weights": (
        ("tables", "table4", "sections", 1, "rerankers", 1, "training"),
        "none",
        "tables.table4.sections[1].rerankers[1].training: 'none' takes the checkpoint as it is, but 'tiny-mamba2' "
        "(source.kind: random) has no head that scores; ",
    ),
    "undefined collection": (
        ("trainings", "firstp", "collection"),
        "tinny",
        "trainings.firstp.collection: 'tinny' is not defined in section collections; did you mean 'tiny'?",
    ),
    "undefined split": (
        ("trainings", "firstp", "split"),
        "trian",
        "trainings.firstp.split: 'trian' is not a split of collection 'tiny'; did you mean 'train'?",
    ),
    "undefined negatives": (
        ("trainings", "firstp", "negatives"),
        "bm25-top30",
        "trainings.firstp.negatives: 'bm25-top30' is not defined in section negatives; did you mean 'bm25-top20'?",
    ),
    "undefined retriever": (
        ("negatives", "bm25-top20", "retriever"),
        "bm24",
        "negatives.bm25-top20.retriever: 'bm24' is not defined in section retrievers; did you mean 'bm25'?",
    ),
    "undefined tokenizer": (
        ("models", "tiny-mamba2", "source", "tokenizer"),
        "bert",
        "models.tiny-mamba2.source.tokenizer: 'bert' is not defined in section models",
    ),
    "metric that is not evaluated": (
        ("tables", "table4", "tests", 0, "metric"),
        "nDCG@5",
        "tables.table4.tests[0].metric: 'nDCG@5' is not in evaluation.metrics",
    ),
    "section that names no test": (
        ("tables", "table4", "sections", 1, "tests"),
        ["MRR"],
        "tables.table4: sections[1].tests: no test has the label 'MRR'; known: nDCG@10",
    ),
    "training that starts from itself": (
        ("trainings", "firstp", "start"),
        "firstp",
        "trainings.firstp.start: firstp starts from firstp; break the circle",
    ),
    "training that starts from an unknown one": (
        ("trainings", "firstp", "start"),
        "longp",
        "trainings.firstp.start: 'longp' is not defined in section trainings",
    ),
    "collection of titles without its corpus": (
        ("collections", "tiny", "source"),
        {"kind": "titles", "corpus": "arxiv", "part": "train"},
        "collections.tiny: a collection of kind titles has one split, with all its queries; keep one name in splits",
    ),
    "name that is no file name": (("models", "a/b"), {}, "models.a/b"),
}

FUSED = {
    "unknown key": ({"weights": {"split": "train", "stepz": 3}}, "unknown key fusions.mix.weights.stepz; did you mean"),
    "negative weight": ({"weights": [1, -1]}, "fusions.mix.weights[1]: input should be greater than or equal to 0"),
    "weights of no kind": ({"weights": "train"}, "fusions.mix.weights: input should be a valid list (found 'train')"),
    "weights of other runs": (
        {"weights": [1, 1, 1]},
        "fusions.mix: weights: 3 for 2 runs; give one for each of bm25, the",
    ),
    "weights that are all 0": ({"weights": [0, 0]}, "fusions.mix: weights: all are 0"),
    "test split": (
        {"weights": {"split": "test"}},
        "tables.table4.sections[1].rerankers[0].fusion: fusions.mix.weights are fitted on tiny/test, a test that this "
        "table reports; name another split there",
    ),
    "unknown split": (
        {"weights": {"split": "trian"}},
        "fusions.mix.weights.split: 'trian' is not a split of collection",
    ),
    "unknown retriever": ({"retrievers": ["bm52"]}, "fusions.mix.retrievers: 'bm52' is not defined in section"),
    "k of another method": ({"k": 60}, "fusions.mix: k belongs to method rrf, not to z-score"),
    "nothing": ({"retrievers": []}, "fusions.mix: nothing is named to fuse a reranker with"),
    "itself": (
        {"rerankers": [{"model": "tiny-bert", "training": "firstp"}]},
        "tables.table4.sections[1].rerankers[0].fusion: 'mix' fuses the reranker with itself",
    ),
}


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    return yaml.safe_load((Path(__file__).parents[1] / "data/params/tiny.yaml").read_text())


def changed(values: dict[str, Any], keys: tuple, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(values)
    section: Any = values
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    return values


@pytest.mark.parametrize("name", WRONG)
def test_one_line_for_what_is_wrong(tiny: dict[str, Any], tmp_path: Path, name: str) -> None:
    keys, value, message = WRONG[name]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed(tiny, keys, value)))
    with pytest.raises(UserError) as caught:
        read_params(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: {message}")
    assert "\n" not in said


@pytest.mark.parametrize("name", FUSED)
def test_one_line_for_what_cannot_be_fused(tiny: dict[str, Any], tmp_path: Path, name: str) -> None:
    fusion, message = FUSED[name]
    row = {"model": "tiny-bert", "training": "firstp", "fusion": "mix"}
    values = changed(tiny, ("tables", "table4", "sections", 1, "rerankers"), [row])
    values["fusions"] = {"mix": {"retrievers": ["bm25"]} | fusion}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as caught:
        read_params(tmp_path / "params.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'params.yaml'}: {message}")
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named(tiny: dict[str, Any], tmp_path: Path) -> None:
    values = copy.deepcopy(tiny)
    del values["trainings"]["firstp"]["max_length"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"key trainings.firstp.max_length is missing; add it$"):
        read_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"collections: {a: [1\n", r"params.yaml:2: malformed YAML"),
        (b"collections: \xff\n", r"params.yaml: byte 14 is not UTF-8"),
        (b"- a\n", r"params.yaml: has no keys"),
        (b"", r"params.yaml: has no keys"),
        (None, r"params.yaml: cannot read: No such file"),
    ],
)
def test_a_file_that_is_no_params(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("key", ["uri", "artifacts"])
@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@host:5432/mlflow", "postgresql://me:***@host:5432/mlflow"),
        ("postgresql+psycopg2://me:se:cr/et@t@host/mlflow", "postgresql+psycopg2://me:***@host/mlflow"),
        (
            "postgresql://host/mlflow?password=secret&sslmode=require",
            "postgresql://host/mlflow?password=***&sslmode=require",
        ),
        ("https://:secret@host", "https://:***@host"),
    ],
)
def test_a_password_in_an_address_is_refused_and_not_shown(
    tiny: dict[str, Any], tmp_path: Path, key: str, address: str, shown: str
) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny | {"tracking": {key: address}}))
    with pytest.raises(UserError) as error:
        read_params(tmp_path / "params.yaml")
    assert str(error.value).endswith(
        f"tracking.{key}: holds a password; leave it out, and put it into PGPASSWORD or ~/.pgpass"
    )
    assert masked(f"cannot open {address}: no") == f"cannot open {shown}: no"


@pytest.mark.parametrize(
    "address",
    ["sqlite:///mlflow.db", "sqlite:////home/me:you@here/m.db", "postgresql://me@host:5432/m", "s3://bucket/a:b@c"],
)
def test_an_address_without_a_password_is_taken(address: str) -> None:
    assert Tracking(uri=address, artifacts=address).uri == masked(address) == address


CODE = "__use_yte__: true\ntracking:\n  uri: ?open('proof', 'w').write('ran')\n"


@pytest.mark.parametrize("text", [CODE, '{"__use_yte__": false}', "a: &a {__use_yte__: yes}\n<<: *a\n"])
def test_a_file_that_snakemake_would_run_code_of_is_refused(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(text)
    assert main(["params", "check", "--params", str(root / "params.yaml"), str(overlay)]) == 2
    assert f"error: {overlay}: key __use_yte__ makes Snakemake run Python code" in capsys.readouterr().err


def test_files_of_an_experiment_are_checked_as_snakemake_merges_them(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["params", "check", "--params", str(root / "params.yaml"), str(root / "params/paper-models.yaml")]) == 0
    assert "paper-models.yaml: valid: no code, no unknown keys" in capsys.readouterr().out
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("retrievers: {bm25: {kk1: 1}}\n")
    assert main(["params", "check", "--params", str(root / "params.yaml"), str(overlay)]) == 2
    assert "unknown key retrievers.bm25.kk1" in capsys.readouterr().err


def test_digests_are_printed_as_params_take_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "a run: ü.trec"
    run.write_bytes(b"abc")
    assert main(["params", "digest", str(run), str(run)]) == 0
    first, second = (yaml.safe_load(line) for line in capsys.readouterr().out.splitlines())
    assert RunFile(**first) == RunFile(**second) == RunFile(path=str(run), sha256=sha256(run))
    assert main(["params", "digest", str(tmp_path)]) == 2
    assert "no such file; give paths of existing files" in capsys.readouterr().err


def test_an_overlay_wins_key_by_key(tmp_path: Path, root: Path) -> None:
    (tmp_path / "mine.yaml").write_text("retrievers: {bm25: {k1: 1.2}}\n")
    base = read_params(root / "tests/data/params/tiny.yaml")
    params = read_params(root / "tests/data/params/tiny.yaml", tmp_path / "mine.yaml")
    assert params.retrievers["bm25"] == base.retrievers["bm25"].model_copy(update={"k1": 1.2})
    assert params.trainings == base.trainings


def test_a_model_s_training_settings_win(tiny: dict[str, Any]) -> None:
    values = changed(tiny, ("models", "tiny-bert", "training"), {"learning_rate": 0.5})
    params = Params.model_validate(values)
    assert train_settings(params, "firstp", "tiny-bert").learning_rate == 0.5
    assert train_settings(params, "firstp", "tiny-mamba2").learning_rate == 1e-3
    assert train_settings(params, "firstp", "tiny-bert").negatives_count == 2


def test_settings_inline_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "bm25.yaml").write_text("kind: bm25\nk1: 1.2\n")
    inline = read_settings(Bm25, '{"kind": "bm25", "k1": 1.2}')
    assert inline == read_settings(Bm25, str(tmp_path / "bm25.yaml")) == Bm25(kind="bm25", k1=1.2)
    with pytest.raises(UserError, match=r"^--settings: malformed JSON \(.*, column 9\)$"):
        read_settings(Bm25, '{"kind":')
    with pytest.raises(UserError, match=r"^--settings: unknown key kk1; did you mean 'k1'\?$"):
        read_settings(Bm25, '{"kind": "bm25", "kk1": 1}')


@pytest.mark.parametrize("overlay", [None, *sorted((Path(__file__).parents[2] / "params").rglob("*.yaml"))])
def test_the_repository_s_experiments_are_right(root: Path, overlay: Path | None) -> None:
    files = [] if overlay is None else [overlay]
    if overlay is not None and overlay.parent != root / "params":
        # params/NAME/OTHER.yaml comes after params/NAME.yaml.
        files.insert(0, overlay.parent.with_suffix(".yaml"))
    after_paper = [root / f"params/{name}.yaml" for name in ("matched", "ettin", "rankllama", "retrievers")]
    if overlay in after_paper:
        files.insert(0, root / "params/paper.yaml")
    if overlay in (root / "params/paper.yaml", *after_paper):
        files.insert(0, root / "params/paper-models.yaml")
    if overlay is not None and overlay.name == "curve.yaml":
        files.insert(1, root / "params/minis/small.yaml")
    if overlay is not None and overlay.name == "hybrid-cpu.yaml":
        files[1:1] = [root / "params/minis/cpu.yaml", root / "params/minis/hybrid.yaml"]
    if overlay is not None and overlay.parent == root / "params/minis" and overlay.name == "reading-order.yaml":
        files[1:1] = [root / "params/minis/zero-shot.yaml", root / "params/minis/hybrid.yaml"]
    read_params(root / "params.yaml", *files)


def test_tables_7_and_8_have_retrievers_of_ours(root: Path) -> None:
    files = ("params.yaml", "params/paper-models.yaml", "params/paper.yaml", "params/retrievers.yaml")
    paper, params = (read_params(*(root / file for file in chosen)) for chosen in (files[:-1], files))
    assert {name: params.tables[name] for name in paper.tables if name not in ("table7", "table8")} == {
        name: table for name, table in paper.tables.items() if name not in ("table7", "table8")
    }
    models = []
    for table, collection in (("table7", "msmarco-passage"), ("table8", "msmarco-document")):
        kept, added = params.tables[table].sections[:-1], params.tables[table].sections[-1]
        assert kept == paper.tables[table].sections
        retrievers = [params.retrievers[name] for name in added.retrievers]
        trained = [one.trained for one in retrievers if isinstance(one, Dense) and one.trained is not None]
        assert {params.trainings[one.training].collection for one in trained} == {collection}
        models.append([one.model for one in trained])
    assert models[0] == models[1] == ["bert-base", "opt-125m", "mamba-1-130m", "mamba-2-130m", "mamba-2-370m"]


def test_the_paper_s_grid_is_the_paper_s(root: Path) -> None:
    params = read_params(root / "params.yaml", root / "params/paper-models.yaml", root / "params/paper.yaml")
    rows = {
        name: [row for section in params.tables[name].sections for row in section.rerankers]
        for name in ("table2", "table4", "table11")
    }
    # 20 backbones; LongP for the 12 that read 1,536 tokens.
    assert [len({row.model for row in rows[name]}) for name in rows] == [20, 20, 20]
    long = [row.model for row in rows["table4"] if row.training == "document-longp"]
    assert len(long) == 12 and all(params.models[model].kind == "D" for model in long)
    beir = params.tables["table11"].tests
    assert len(beir) == 14 and beir[-1].collections == [test.collection for test in beir[:-1]]
    assert params.negatives[params.trainings["passage"].negatives].count == 15
    for training, length in (("document-firstp", 512), ("document-longp", 1536)):
        section = params.trainings[training]
        assert (section.max_length, params.negatives[section.negatives].count) == (length, 7)
    assert {f"table{number}" for number in (1, 2, 3, 4, 7, 8, 9, 10, 11)} <= {*params.tables, *params.overviews}
    for name in ("msmarco-passage", "msmarco-document", *beir[-1].collections):
        collection = params.collections[name]
        assert collection.license and collection.expected.documents
        assert {*collection.splits} == {*collection.expected.splits}


def test_schema_is_up_to_date(root: Path) -> None:
    assert (root / "workflow/schemas/params.schema.json").read_text() == schema_text(), (
        "run: ssmrank params schema > workflow/schemas/params.schema.json"
    )
