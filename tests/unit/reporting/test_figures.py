from __future__ import annotations

import pytest

from ssmrank.errors import UserError
from ssmrank.reporting.figures import Throughput, draw_throughput, read_throughput

HEADER = "model,implementation,precision,batch,device,tokens_per_second\n"


def test_points_of_a_csv(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "OPT,ssmrank,bf16,1 x 512,A card,1000.5\nOPT,ssmrank,bf16,8 x 512,A card,\n")
    points, caption = read_throughput(path)
    assert points == [Throughput("OPT", "ssmrank", 1, 1000.5), Throughput("OPT", "ssmrank", 8, None)]
    assert caption == "A card, bf16"


def test_rows_of_other_suites_are_no_points(tmp_path):
    path = tmp_path / "t.csv"
    rows = "figure1,OPT,ssmrank,bf16,16 x 512,A card,2000\nmixed,OPT,ssmrank,bf16,512 of 31 to 271,A card,3000\n"
    path.write_text("benchmark," + HEADER + rows)
    assert read_throughput(path)[0] == [Throughput("OPT", "ssmrank", 16, 2000.0)]


def test_equal_measurements_give_equal_bytes(tmp_path):
    points = [
        Throughput("OPT", "ssmrank", 1, 10.0),
        Throughput("OPT", "ssmrank", 2, None),
        Throughput("M", "x", 1, None),
    ]
    for name in ("a.pdf", "b.pdf"):
        draw_throughput(points, "A card", tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no measurement"),
        ("model,batch\nOPT,1 x 512\n", "column implementation is missing"),
        (HEADER + "OPT,ssmrank,bf16,many,A card,3\n", r"t\.csv:2: batch 'many'"),
    ],
)
def test_a_wrong_csv_is_one_line(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_throughput(path)
