"""The command `snakemake` as people type it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from snakemake.cli import get_argument_parser

from ssmrank import snakemake_entry
from ssmrank.snakemake_entry import GREEDY, main, separate_targets

TABLE = "results/tables/table4.tex"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (f"--cores 8 --resources gpu=1 {TABLE}", f"--cores 8 --resources gpu=1 -- {TABLE}"),
        (f"--resources gpu=1 mem_mb=5 {TABLE} all -n", f"--resources gpu=1 mem_mb=5 -n -- {TABLE} all"),
        (f"--res gpu=1 {TABLE} -- all", f"--res gpu=1 -- {TABLE} all"),
        (f"--config a=1 {TABLE} -C b=2 all", f"--config a=1 -C b=2 -- {TABLE} all"),
        (f"--configfile one.yaml two.json {TABLE}", f"--configfile one.yaml two.json -- {TABLE}"),
        (f"--configfile overlay {TABLE}", f"--configfile overlay -- {TABLE}"),
        (f"--software-deployment-method conda {TABLE}", f"--software-deployment-method conda -- {TABLE}"),
        *(
            (same, same)
            for same in (
                "",
                "-n",
                f"{TABLE} --cores 8 --resources gpu=1",
                f"--cores 8 --resources gpu=1 -- {TABLE}",
                f"--resources gpu=1 --cores 8 {TABLE}",
                f"--resources=gpu=1 {TABLE}",
                f"--forcerun train -- {TABLE}",
                "--set-threads base64//dHJhaW49MQ",
            )
        ),
    ],
)
def test_targets_are_separated(typed: str, meant: str) -> None:
    assert separate_targets(typed.split()) == meant.split()


def test_all_options_of_pairs_are_known() -> None:
    """Each of these options takes every word up to the next option."""
    taking = [action for action in get_argument_parser()._actions if action.nargs in ("+", "*")]
    pairs = {name for action in taking if "=" in str(action.metavar) for name in action.option_strings}
    files = {name for action in taking if "--configfile" in action.option_strings for name in action.option_strings}
    methods = {name for action in taking if "--sdm" in action.option_strings for name in action.option_strings}
    assert set(GREEDY) == pairs | files | methods


def test_the_environment_s_command_is_this_one() -> None:
    """Snakemake's own package installs a command of the same name, so the project's has to be installed after it."""
    command = Path(sys.executable).with_name("snakemake")
    assert "from ssmrank.snakemake_entry import main" in command.read_text(), "install the project again"


CODE = "__use_yte__: true\ntracking:\n  uri: ?open('proof', 'w').write('ran')\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--configfile", "overlay.yaml", "-n"],
        ["-n", "--cores", "1", "--configfiles=overlay.yaml"],
        ["-n", "--profile", "hostile"],
    ],
)
def test_an_overlay_with_code_is_refused_before_snakemake_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (tmp_path / "Snakefile").write_text("rule all:\n    output: 'made'\n    shell: 'touch made'\n")
    (tmp_path / "overlay.yaml").write_text(CODE)
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / "config.yaml").write_text("configfile: [overlay.yaml]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["snakemake", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "ssmrank: error: overlay.yaml: key __use_yte__ makes Snakemake run Python" in capsys.readouterr().err
    assert not (tmp_path / "proof").exists()


def test_ctrl_c_outside_the_jobs_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Snakemake handles it while jobs run, but not while it starts, or while the journals are delivered."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("snakemake.cli.main", interrupted)
    monkeypatch.setattr("sys.argv", ["snakemake", "--cores", "2"])
    with pytest.raises(SystemExit) as capture:
        snakemake_entry.main()
    assert capture.value.code == 130
    assert capsys.readouterr().err == "ssmrank: interrupted; the same command goes on from here\n"


def handles_ctrl_c(pid: int) -> bool:
    caught = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(caught and int(caught[1], 16) & 1 << signal.SIGINT - 1)


def test_ctrl_c_while_the_command_imports_ends_it_at_once(root: Path) -> None:
    command = [sys.executable, root / "workflow/bin/snakemake", "--version"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not handles_ctrl_c(process.pid):  # Python's own handler, which raises KeyboardInterrupt
            time.sleep(0.0005)
        while handles_ctrl_c(process.pid):  # until the script has put it away
            time.sleep(0.0005)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate()
    assert (process.returncode, said) == (-signal.SIGINT, "")


def test_the_collector_skips_what_snakemake_imports_and_works_on() -> None:
    code = (
        "import atexit, gc, sys; from ssmrank.snakemake_entry import main\n"
        "atexit.register(lambda: print(gc.isenabled(), len(gc.get_objects()) < 100))\n"
        "main()\n"
    )
    finished = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "True True"
