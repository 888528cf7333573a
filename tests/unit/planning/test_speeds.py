"""Speeds that follow from measured ones, with numbers worked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssmrank.config.models import HubModel, Model
from ssmrank.config.params import read_params
from ssmrank.errors import UserError
from ssmrank.planning.speeds import MEASURED, Speeds, by_size, interpolated, parameters

HEADER = "benchmark,model,implementation,precision,tokens,computed,device,seconds,max_length\n"
RERANKING = """shapes,OPT-125M,ssmrank,bf16,8000,8000,A GPU,2,512
shapes,OPT-125M,ssmrank,bf16,6000,6000,A GPU,2,1536
shapes,OPT-1.3B,ssmrank,bf16,800,800,A GPU,2,512
shapes,OPT-1.3B,ssmrank,bf16,600,600,A GPU,2,1536
shapes,OPT-1.3B,ssmrank,fp8,9999,9999,A GPU,1,512
shapes,OPT-125M,"transformers, padded",bf16,9999,9999,A GPU,1,512
shapes,BERT-large,ssmrank,bf16,500,500,A GPU,1,512
nfcorpus,OPT-125M,"ssmrank, no reuse",bf16,3600,3600,A GPU,1,512
nfcorpus,OPT-125M,"ssmrank, reuse",bf16,90000,1000,A GPU,1,512
endtoend nfcorpus,OPT-125M,"ssmrank, no reuse",bf16,1,1,A GPU,1,512
"""
TRAINING = """figure1,OPT-350M,ssmrank,bf16,1000,1000,A GPU,10,
figure1,OPT-350M,ssmrank,bf16,4000,4000,A GPU,20,
figure1,OPT-350M,mamba_ssm,bf16,4000,4000,A GPU,1,
"""


def model(label: str, size: str, kind: str = "D") -> Model:
    return Model(label=label, kind=kind, size=size, source=HubModel(kind="hub", id="someone/model"))


@pytest.fixture
def speeds(tmp_path: Path) -> Speeds:
    (tmp_path / "reranking-h200.csv").write_text(HEADER + RERANKING)
    (tmp_path / "training-h200.csv").write_text(HEADER + TRAINING)
    return Speeds(tmp_path)


def test_speeds_between_sizes(speeds: Speeds) -> None:
    # Measured: 4,000 tokens/s at 125M and 400 at 1.3B. Their geometric means belong to each other: 403.1M, 1,264.9.
    assert speeds.equal(model("OPT-125M", "125M")) == pytest.approx(4000)
    assert speeds.equal(model("OPT-403M", "403.11M")) == pytest.approx(1264.9, rel=1e-4)
    assert speeds.equal(model("OPT-2.6B", "2.6B")) == pytest.approx(200)
    assert speeds.equal(model("OPT-mini", "6M")) == pytest.approx(4000)
    assert speeds.equal(model("OPT", "small")) is None


def test_speeds_between_lengths(speeds: Speeds) -> None:
    # 3,000 tokens/s at 1,536 tokens, and half of the difference at 1,024.
    lengths = {100: 4000, 512: 4000, 1024: 3500, 1536: 3000, 8192: 3000}
    assert {length: speeds.equal(model("OPT-125M", "125M"), length) for length in lengths} == pytest.approx(lengths)


def test_other_architectures_take_the_speed_of_their_kind(speeds: Speeds) -> None:
    assert speeds.equal(model("Pythia-1.3B", "1.3B")) == pytest.approx(400)
    assert speeds.equal(model("RoBERTa-large", "330M", "E")) == pytest.approx(500)
    assert speeds.origin(model("OPT-1.3B", "1.3B")) == ("measured", "from inference")
    assert speeds.origin(model("OPT-350M", "350M")) == ("interpolated", "measured")
    assert speeds.origin(model("Pythia-1.3B", "1.3B")) == ("interpolated, as OPT", "from inference, as OPT")
    assert speeds.origin(model("Pythia-2.8B", "2.8B")).inference == "extrapolated, as OPT"
    assert speeds.origin(model("RoBERTa-large", "330M", "E")).inference == "interpolated, as BERT"
    assert speeds.origin(model("BERTolt-large", "330M", "E")).inference == "interpolated, as BERT"
    assert speeds.origin(model("OPT (random)", "125M")).inference == "measured"


def test_real_texts_and_shared_documents(speeds: Speeds) -> None:
    # Real texts: 3,600 of 4,000 tokens/s. Documents that are computed once: 1,000 of 4,000.
    opt = model("OPT-125M", "125M")
    assert speeds.inference(opt, 512) == pytest.approx(4000 * 0.9)
    assert speeds.inference(opt, 512, computed_share=0.0) == pytest.approx(4000 * 0.25)
    assert speeds.inference(opt, 512, computed_share=0.5) == pytest.approx(4000 * (0.9 * 0.25) ** 0.5)
    # BERT has no such measurement of its own.
    assert speeds.inference(model("BERT-large", "330M", "E"), 512) == pytest.approx(500 * 0.9)


def test_training_is_slower_by_the_same_factor_at_every_size(speeds: Speeds) -> None:
    # At 350M: 100 tokens/s with 1,000 tokens in a pass, 200 with 4,000, so 150 with 2,000, the middle in logarithms.
    at_350m = speeds.equal(model("OPT-350M", "350M"))
    assert at_350m is not None
    for tokens, speed in {500: 100, 1000: 100, 2000: 150, 4000: 200, 99999: 200}.items():
        assert speeds.training(model("OPT-350M", "350M"), 512, tokens) == pytest.approx(speed)
        assert speeds.training(model("OPT-125M", "125M"), 512, tokens) == pytest.approx(4000 * speed / at_350m)
    assert speeds.training(model("OPT-125M", "125M"), 1536, 4000) == pytest.approx(3000 * 200 / at_350m)


def test_interpolation() -> None:
    assert interpolated([(1, 10), (3, 30)], 2) == 20
    assert interpolated([(1, 10), (100, 30)], 10, log_x=True) == pytest.approx(20)
    assert by_size([(100, 8)], 200) == 4
    assert by_size([(100, 8)], 50) == pytest.approx(8)
    assert [parameters(size) for size in ("22.7M", "1.3B", "5K", "", "large")] == [22.7e6, 1.3e9, 5e3, None, None]


def test_measured_models_have_the_sizes_of_table_1(root: Path) -> None:
    models = read_params(root / "params.yaml", root / "params/paper-models.yaml").models.values()
    sizes = {model.label: parameters(model.size) for model in models}
    assert {name: size for name, (_, size) in MEASURED.items()} == {name: sizes[name] for name in MEASURED}


def test_a_folder_without_measurements(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reranking-h200\.csv: cannot read: No such file .*--speeds"):
        Speeds(tmp_path)
    for name in ("reranking-h200.csv", "training-h200.csv"):
        (tmp_path / name).write_text(HEADER)
    with pytest.raises(UserError, match="has no speeds of reranking and training"):
        Speeds(tmp_path)
