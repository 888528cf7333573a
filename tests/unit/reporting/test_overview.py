"""Tables of models and of trainings."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ssmrank.cli import main
from ssmrank.config.params import read_params
from ssmrank.errors import UserError
from ssmrank.jobs import overview_settings
from ssmrank.reporting.overview import parameters, to_csv, to_latex, to_markdown


@pytest.fixture(scope="module")
def params():
    root = Path(__file__).parents[3]
    return read_params(*(root / name for name in ("params.yaml", "params/paper-models.yaml", "params/paper.yaml")))


def test_trainings_are_what_the_jobs_are_handed(params) -> None:
    settings = overview_settings(params, "table10")
    rows = list(csv.DictReader(io.StringIO(to_csv(settings))))
    assert len(rows) == 20 + 12
    assert rows[0]["Model"] == "BERT-base" and rows[0]["LR"] == "2e-05" and rows[0]["Global batch"] == "8 × 8"
    assert {row["LR"] for row in rows if row["Model"] == "BERT-large"} == {"5e-06"}
    assert rows[-1] | {"Model": ""} == rows[20] | {"Model": "", "LR": rows[-1]["LR"]}
    assert rows[-1]["Length"] == "LongP (1536)" and rows[-1]["Warm-up"] == "10%"
    assert to_latex(settings).count("\\midrule") == 2 and "8 $\\times$ 8" in to_latex(settings)
    assert to_markdown(settings).splitlines()[2].startswith("| Model | Length | LR |")


def test_parameters_are_counted_in_the_checkpoint(params, tmp_path: Path) -> None:
    save_file({"a": np.zeros((3, 5), dtype=np.float16), "b": np.zeros(7, dtype=np.float32)}, tmp_path / "x.safetensors")
    assert parameters(tmp_path) == 22
    with pytest.raises(UserError, match="has no safetensors file"):
        parameters(tmp_path / "none")


def test_the_command_writes_three_files(params, tmp_path: Path) -> None:
    settings = overview_settings(params, "table1")
    for section in settings.sections:
        for row in section.rows:
            (tmp_path / str(row.counted)).mkdir()
            size = np.zeros((1000, 1500 if row.counted != "opt-1.3b" else 2), dtype=np.int8)
            save_file({"w": size}, tmp_path / str(row.counted) / "model.safetensors")
    outputs = [word for kind in ("tex", "csv", "markdown") for word in (f"--{kind}", str(tmp_path / f"t.{kind}"))]
    words = ["table", "overview", "--settings", settings.model_dump_json(), "--models", str(tmp_path)]
    assert main([*words, *outputs]) == 0
    rows = {row["Model"]: row for row in csv.DictReader((tmp_path / "t.csv").open())}
    assert len(rows) == 20
    assert rows["Mamba-2-370M"]["Parameters"] == "1.5M" and rows["OPT-1.3B"]["Parameters"] == "2,000"
    assert rows["Llama-3.2-1B"]["Tokens of pretraining"] == "15T"
    assert main(words) == 2
