from __future__ import annotations

import csv
import json

import pytest

from ssmrank.cli import main
from ssmrank.errors import UserError
from ssmrank.reporting.efficiency_tables import (
    complexity_table,
    measured_exponents,
    paper_efficiency,
    read_timings,
    speed_table,
)
from ssmrank.reporting.point_labels import Box, is_far, place_labels

COLUMNS = ["benchmark", "model", "implementation", "precision", "batch", "device", "pairs", "max_length", "seconds"]


def write(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return path


@pytest.fixture
def measurements(tmp_path):
    return write(
        tmp_path / "speed.csv",
        [
            ["table5", "Mamba-2-370M", "ssmrank", "bf16", "32 pairs", "Card", 100, 512, 0.5],
            ["table5", "Mamba-2-370M", "transformers", "bf16", "32 pairs", "Card", 100, 512, 9.0],
            ["table5", "Tiny", "ssmrank", "bf16", "32 pairs", "Card", 32, 512, 16.0],
            ["table5", "OPT-350M", "ssmrank", "bf16", "32 pairs", "Card", 100, 1536, ""],
            # At double the length, one takes four times as long, the other twice as long.
            *(
                ["lengths", "OPT-350M", "ssmrank", "bf16", "", "Card", 8192 // n, n, 8192 / n * n**2]
                for n in (512, 1024)
            ),
            *(["lengths", "Mamba-1-370M", "ssmrank", "bf16", "", "Card", 8192 // n, n, 8192] for n in (512, 2048)),
        ],
    )


def test_queries_per_second_are_pairs_over_a_hundred(measurements):
    table = speed_table(read_timings(measurements, "table5"))
    rows = {(model, length): (ours, paper) for model, length, ours, paper in table.rows}
    assert rows["Mamba-2-370M", "512"] == ("2.00", "0.56")
    assert rows["Tiny", "512"] == ("0.02", "")
    assert rows["OPT-350M", "1536"] == ("OOM", "0.45")
    assert rows["BART-large", "512"] == ("", "0.65")
    assert len(rows) == len(paper_efficiency().speeds) + 1
    assert "Card, bf16" in table.caption and "NVIDIA A40" in table.caption


def test_exponents(measurements):
    timings = read_timings(measurements, "lengths")
    assert measured_exponents(timings) == pytest.approx({"OPT-350M": 2.0, "Mamba-1-370M": 1.0})
    rows = {row[0]: row for row in complexity_table(timings).rows}
    assert rows["Attention"][1:] == ["L² N", "L N", "L", "L²", "yes", "2", "2.00 (OPT-350M)"]
    assert rows["SSM (Mamba-1)"][-1] == "1.00 (Mamba-1-370M)"
    assert rows["SSD (Mamba-2)"][-1] == ""


def test_tables_in_each_form(measurements, tmp_path, capsys):
    for member, name in (("speed", "table5"), ("complexity", "table6")):
        outputs = [str(tmp_path / f"{name}.{form}") for form in ("tex", "csv", "md", "html")]
        assert main(["table", member, "--csv", str(measurements), "--output", *outputs]) == 0
        with (tmp_path / f"{name}.csv").open() as stream:
            header, *rows = csv.reader(stream)
        assert {len(row) for row in rows} == {len(header)}
        markdown = (tmp_path / f"{name}.md").read_text().splitlines()
        assert markdown[2] == f"| {' | '.join(header)} |" and len(markdown) == 4 + len(rows)
        assert (tmp_path / f"{name}.html").read_text().count("<tr>") == 1 + len(rows)
    assert main(["table", "speed", "--csv", str(measurements), "--output", str(tmp_path / "table5.doc")]) == 2
    assert "must end in one of .tex, .csv, .md, .html" in capsys.readouterr().err


def test_tables_as_latex(measurements, tmp_path):
    for member, name in (("speed", "table5"), ("complexity", "table6")):
        assert main(["table", member, "--csv", str(measurements), "--output", str(tmp_path / f"{name}.tex")]) == 0
        text = (tmp_path / f"{name}.tex").read_text()
        assert text.count("\\begin{tabular}") == text.count("\\end{table}") == 1
        body = [line for line in text.splitlines() if line.endswith("\\\\")]
        assert len({line.count("&") for line in body}) == 1
    assert "$^2$" in text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no line of the suite table5; make it with benchmarks/reranking.py --suite table5"),
        (
            [["table5", "M", "ssmrank", "bf16", "", "Card", "many", 512, 1.0]],
            "speed.csv:2: pairs, max_length or seconds",
        ),
    ],
)
def test_csv_that_is_no_measurement(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_timings(write(tmp_path / "speed.csv", rows), "table5")


def test_labels_cover_neither_points_nor_each_other():
    anchors = [(100.0 + 7 * n % 40, 200.0 + 3 * n) for n in range(12)]
    marks = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in anchors]
    frame = Box(0, 0, 500, 400)
    boxes = place_labels(anchors, [(120.0, 12.0)] * len(anchors), marks, frame)
    assert all(box.inside(frame) for box in boxes)
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in [*marks, *boxes[:number]])
        assert (box.right - box.left, box.top - box.bottom) == (120, 12)
    assert place_labels(anchors, [(120.0, 12.0)] * len(anchors), marks, frame) == boxes


def test_a_label_alone_is_beside_its_point():
    point, frame = (100.0, 100.0), Box(0, 0, 300, 200)
    [box] = place_labels([point], [(50.0, 10.0)], [Box(96, 96, 104, 104)], frame)
    assert box.left > 104 and box.bottom < 100 < box.top and not is_far(box, point)
    [box] = place_labels([(280.0, 100.0)], [(50.0, 10.0)], [], frame)
    assert box.right < 280
    [covering] = place_labels([point], [(50.0, 10.0)], [frame], frame)
    assert covering.inside(frame)


def test_figure(tmp_path):
    rows = []
    for number, (status, reuse) in enumerate([("ok", {"pairs_per_second": 50.0}), ("ok", None), ("oom", None)]):
        metrics, speed = tmp_path / f"m{number}.json", tmp_path / f"s{number}.json"
        mean = {"nDCG@10": 0.4 + 0.1 * number} if status == "ok" else {}
        metrics.write_text(json.dumps({"status": status, "queries": 3, "mean": mean}))
        known = {"whole": {"pairs_per_second": 5.0}, "reuse": reuse, "device": "Card", "precision": "bf16"}
        speed.write_text(json.dumps(known))
        rows.append({"label": f"row {number}", "metrics": str(metrics), "speed": str(speed)})
    settings = {"title": "Collection", "metric": "nDCG@10", "rows": rows}
    output = tmp_path / "efficiency.pdf"
    command = ["figure", "efficiency", "--output", str(output), "--settings"]
    assert main([*command, json.dumps(settings)]) == 0
    first = output.read_bytes()
    assert first.startswith(b"%PDF")
    assert main([*command, json.dumps(settings)]) == 0
    assert output.read_bytes() == first
    output.unlink()
    assert main([*command, json.dumps(settings | {"metric": "MRR@10"})]) == 2
    assert not output.exists()
