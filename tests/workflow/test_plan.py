"""`ssmrank plan` lists the jobs of Snakemake's dry run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest


def test_a_plan_has_the_jobs_of_a_dry_run(fresh, root: Path) -> None:
    words = ["--speeds", str(root / "benchmarks/results"), "--workloads", str(root / "benchmarks/workloads")]
    printed = fresh.run("ssmrank", "plan", "--hours", *words, "results/tables/table4.md").stdout
    assert _jobs(printed) == fresh.planned("--", "results/tables/table4.md")
    (fresh.folder / "more.yaml").write_text("trainings: {firstp: {epochs: 2}}\ntables: {table4: {costs: {}}}\n")
    # Targets may follow the overlays, as in Snakemake.
    printed = fresh.run("ssmrank", "plan", "--configfile", "more.yaml", "results/tables/table4.md").stdout
    planned = fresh.planned("--configfile", "more.yaml", "--", "results/tables/table4.md")
    assert _jobs(printed) == planned and planned["costs"] == 1
    assert not (fresh.folder / "data").exists()


def test_mistakes_are_one_line(fresh) -> None:
    for words, message in (
        (["results/tables/none.md"], "results/tables/none.md: no rule makes it with these files of settings; name a"),
        (["--configfile", "none.yaml"], "none.yaml: cannot read: No such file or directory"),
        (["--hours", "--speeds", "none"], "none/reranking-h200.csv: cannot read: No such file or directory; give"),
    ):
        finished = fresh.run("ssmrank", "plan", *words, check=False)
        assert finished.returncode == 2
        assert finished.stdout.startswith(f"ssmrank plan: error: {message}") and finished.stdout.count("\n") == 1


def _jobs(printed: str) -> dict[str, int]:
    rows = re.findall(r"^\| (\w+) +\| +([\d,]+) \|", printed, re.MULTILINE)
    jobs = {rule: int(count.replace(",", "")) for rule, count in rows}
    assert jobs.pop("total") == sum(jobs.values())
    return jobs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "guide"),
    [("paper", "paper-grid"), ("matched", "paper-grid"), ("ettin", "paper-grid"), ("rankllama", "adapters")],
)
def test_the_guide_s_plans_are_those_that_are_printed(fresh, root: Path, name: str, guide: str) -> None:
    page = (root / f"docs/{guide}.md").read_text()
    commands = [line for line in page.splitlines() if line.startswith("ssmrank plan --hours")]
    for folder in ("params", "benchmarks"):
        shutil.copytree(root / folder, fresh.folder / folder)
    (fresh.folder / "params.yaml").write_text((root / "params.yaml").read_text())
    if name == "paper":
        fresh.run("python", "benchmarks/grid_hours.py", "--output", "hours.csv")
        assert (fresh.folder / "hours.csv").read_text() == (root / "benchmarks/results/grid-hours.csv").read_text()
    printed = fresh.run(
        "bash", "-c", next(one for one in commands if one.split(" -- ")[0].endswith(f"/{name}.yaml"))
    ).stdout
    assert page.partition(f"<!-- plan: {name} -->\n")[2].partition(f"<!-- end of plan: {name} -->")[0] == printed


def test_hours_of_jobs_that_wait_for_each_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    from grid_hours import wall_seconds

    # 0 is needed by 1 and 2; 3 by nothing.
    seconds, before = {0: 2.0, 1: 3.0, 2: 1.0, 3: 4.0}, {0: [], 1: [0], 2: [0], 3: []}
    assert wall_seconds(seconds, before, 1) == 10
    assert wall_seconds(seconds, before, 2) == 5  # 3 beside 0 and 1; 2 after 3
    assert wall_seconds(seconds, before, 9) == 5
