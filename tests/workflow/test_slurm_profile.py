"""The profile for Slurm fits the workflow; tests/cluster runs it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from projects import Project
from ssmrank.errors import UserError


@pytest.fixture
def profile(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "profiles/slurm/config.yaml").read_text())


def rules(root: Path) -> dict[str, str]:
    """The text of each rule."""
    found: dict[str, str] = {}
    for path in sorted((root / "workflow/rules").glob("*.smk")):
        parts = re.split(r"^rule (\w+):$", path.read_text(), flags=re.MULTILINE)
        found |= dict(zip(parts[1::2], parts[2::2], strict=True))
    return found


def test_it_names_rules_that_exist(profile: dict[str, Any], root: Path) -> None:
    assert {*profile["set-resources"], *profile["groups"]} <= rules(root).keys()


def test_every_rule_with_a_gpu_has_the_partition_that_train_has(profile: dict[str, Any], root: Path) -> None:
    with_gpu = {rule for rule, text in rules(root).items() if re.search(r"^ +gpu=", text, re.MULTILINE)}
    text = (root / "profiles/slurm/config.yaml").read_text()
    named = yaml.safe_load(text.replace("# slurm_partition: gpu", "slurm_partition: gpu"))["set-resources"]
    assert {rule for rule, asked in named.items() if asked.get("slurm_partition") == "gpu"} == with_gpu
    assert profile["default-resources"].keys() == {"mem_mb", "runtime"}


def test_rules_of_seconds_share_a_job(fresh: Project) -> None:
    fresh.edit(
        "params.yaml",
        "    reranking: bm25-top10\n",
        "    reranking: bm25-top10\n    significance: {baseline: {retriever: bm25}}\n",
    )
    fresh.edit(
        "params.yaml",
        "split: test, metric: nDCG@10, label: nDCG@10}\n",
        "split: test, metric: nDCG@10, label: A}\n      - {collection: tiny, split: train, metric: MRR@10, label: B}\n",
    )
    printed = fresh.snakemake("-n", "--workflow-profile", "profiles/slurm").stdout
    groups = re.findall(r"Group job ([\w-]+) .*:\n((?: +.*\n|\n)*)", printed)
    assert {name: Counter(re.findall(r"^ +rule (\w+):", text, re.MULTILINE)) for name, text in groups} == {
        "first-stages": {"evaluate_first_stage": 2},
        "metrics-firstp-tiny-bert": {"evaluate": 2},
        "metrics-firstp-tiny-mamba2": {"evaluate": 2},
        "tables": {"significance": 1, "table": 1},
    }
    counted = fresh.run("ssmrank", "plan", "--workflow-profile", "profiles/slurm").stdout
    rows = dict(re.findall(r"^\| (\w+) +\| +(\d+) \|", counted, re.MULTILINE))
    assert (rows["evaluate"], rows["significance"], rows["total"]) == ("4", "1", "21")
    # 8 of these in 4 jobs.
    assert counted.endswith("\nWith profiles/slurm, 17 jobs of the scheduler.\n")


def test_without_slurm_a_line_says_where_to_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    from pipeline import slurm

    registry = ExecutorPluginRegistry()
    registry.collect_plugins()
    monkeypatch.setenv("PATH", str(tmp_path))
    plugin = registry.get_plugin("slurm")
    with pytest.raises(UserError, match="no command `sbatch` on this machine; start Snakemake where the cluster takes"):
        slurm.watch(plugin, plugin.settings_cls(status_command="squeue"))


def test_what_a_job_of_a_group_makes_another_may_read(tmp_path: Path) -> None:
    """Snakemake starts all jobs of a group at once."""
    from pipeline.contents import Contents
    from pipeline.reads import Reads

    tests, other, table = (tmp_path / name for name in ("tests.csv", "other.csv", "table.md"))
    other.write_text("1")
    for order in ([0, 1], [1, 0]):
        reads = Reads(Contents(tmp_path / "contents.json"))
        jobs = [((str(tests),), [str(other)]), ((str(table),), [str(tests), str(other)])]
        for number in order:
            reads.begin(jobs[number][0], [], jobs[number][1])
        tests.write_text(f"made in order {order}")
        assert reads.end(jobs[0][0]) == []
        other.write_text(f"changed in order {order}")
        assert reads.end(jobs[1][0]) == [other]
