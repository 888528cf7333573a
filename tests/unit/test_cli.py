"""The command line: what it lists, what it says of a mistake, what it leaves unimported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ssmrank import __version__, cli
from ssmrank.errors import UserError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ssmrank", *arguments], capture_output=True, text=True, timeout=120)


def test_help_lists_every_verb_with_its_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        cli.main(["--help"])
    assert exit_status.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    for verb, (_, summary) in cli.VERBS.items():
        assert f"{verb} {summary}" in printed


@pytest.mark.parametrize("verb", cli.VERBS)
def test_each_verb_explains_its_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        cli.main([verb, "--help"])
    assert exit_status.value.code == 0
    assert f"usage: ssmrank {verb}" in capsys.readouterr().out


def test_no_verb_and_an_unknown_verb_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["trian"]):
        with pytest.raises(SystemExit) as exit_status:
            cli.main(arguments)
        assert exit_status.value.code == 2
    assert "'train'" in capsys.readouterr().err


def test_version() -> None:
    assert run("--version").stdout == f"ssmrank {__version__}\n"


def test_help_and_light_verbs_import_no_heavy_library() -> None:
    code = (
        "import sys; from ssmrank.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "main(['schema'])\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'ranx', 'pandas', 'pyserini'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert finished.stderr == "[]\n"


def test_a_users_mistake_is_one_line_without_traceback(tmp_path: Path) -> None:
    output = tmp_path / "collection"
    settings = '{"titel": "x"}'
    finished = run("download-collection", "--settings", settings, "--archives", str(tmp_path), "--output", str(output))
    assert finished.returncode == 2
    assert finished.stderr.startswith("ssmrank download-collection: error: --settings: unknown key titel; did you mean")
    assert finished.stderr.count("\n") == 1
    assert not output.exists()


def test_any_verbs_user_error_becomes_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ssmrank.config.schema

    def fail(arguments: object) -> None:
        raise UserError("file.jsonl:3: not JSON; mend the line")

    monkeypatch.setattr(ssmrank.config.schema, "run", fail)
    assert cli.main(["schema"]) == 2
    assert capsys.readouterr().err == "ssmrank schema: error: file.jsonl:3: not JSON; mend the line\n"


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    import ssmrank.config.schema

    def fail(arguments: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(ssmrank.config.schema, "run", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(["schema"])


def test_a_reader_that_stops_early_is_no_error() -> None:
    finished = subprocess.run(
        f"'{sys.executable}' -m ssmrank schema | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.stdout == "{\n"
    assert finished.stderr == ""
    assert finished.returncode == 0
