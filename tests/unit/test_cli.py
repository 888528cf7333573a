"""The command line: what it lists, how it reports mistakes, and what it does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ssmrank import __version__, cli
from ssmrank.errors import UserError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ssmrank", *arguments], capture_output=True, text=True, timeout=120)


GROUPS = {word: entry for word, entry in cli.SUBCOMMANDS.items() if not isinstance(entry, str)}
ALL = [
    *((word,) for word in cli.SUBCOMMANDS if word not in GROUPS),
    *((word, member) for word, (_, members) in GROUPS.items() for member in members),
]
"""The words of each subcommand."""


def helps(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_status:
        cli.main([*words, "--help"])
    assert exit_status.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_lists_every_subcommand_with_its_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(cli.SUBCOMMANDS) <= 21
    printed = helps(capsys=capsys)
    for word, entry in cli.SUBCOMMANDS.items():
        if isinstance(entry, str):
            assert f" {word} {entry} " in f"{printed} "
        else:
            assert f" {word} {entry[0]}: {', '.join(entry[1])} " in f"{printed} "


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_group_lists_its_members(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = helps(group, capsys=capsys)
    for member, summary in GROUPS[group][1].items():
        assert f" {member} {summary} " in f"{printed} "


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_each_subcommand_explains_its_options(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert f"usage: ssmrank {' '.join(words)} [-h]" in helps(*words, capsys=capsys)


def test_each_module_of_commands_is_a_subcommand() -> None:
    folder = Path(cli.__file__).parent / "commands"
    found = {path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py") if path.name != "__init__.py"}
    named = {".".join(["ssmrank.commands", *path.parts]) for path in found}
    assert named == {cli.module_of(*words) for words in ALL}


@pytest.mark.parametrize(
    ("arguments", "begins", "names"),
    [
        ([], "ssmrank: error: ", "SUBCOMMAND"),
        (["trian"], "ssmrank: error: ", "'train'"),
        (["retrieve"], "ssmrank retrieve: error: ", "SUBCOMMAND"),
        (["retrieve", "bm52"], "ssmrank retrieve: error: ", "'bm25'"),
        (["retrieve", "bm25"], "ssmrank retrieve bm25: error: ", "--settings"),
    ],
)
def test_a_missing_and_an_unknown_word_are_errors(
    arguments: list[str], begins: str, names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_status:
        cli.main(arguments)
    assert exit_status.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(begins) and names in said


def test_version() -> None:
    assert run("--version").stdout == f"ssmrank {__version__}\n"


def test_help_and_light_subcommands_import_no_heavy_library() -> None:
    code = (
        "import sys; from ssmrank.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "main(['params', 'schema'])\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'ir_measures', 'pandas', 'pyserini'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert finished.stderr == "[]\n"


def test_the_collector_skips_what_a_command_imports_and_works_on() -> None:
    code = (
        "import atexit, gc, sys; from ssmrank.cli import main\n"
        "atexit.register(lambda: print(len(gc.get_objects()), file=sys.stderr))\n"
        "before = len(gc.get_objects())\n"
        "status = main()\n"
        "print(status, gc.isenabled(), gc.get_freeze_count() > before, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, "params", "schema"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    said, left = finished.stderr.splitlines()
    assert said == "0 True True"
    assert int(left) < 100


def test_a_users_mistake_is_one_line_without_traceback(tmp_path: Path) -> None:
    output = tmp_path / "collection"
    settings = '{"titel": "x"}'
    finished = run(
        "download", "collection", "--settings", settings, "--archives", str(tmp_path), "--output", str(output)
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("ssmrank download collection: error: --settings: unknown key titel; did you mean")
    assert finished.stderr.count("\n") == 1
    assert not output.exists()


def test_any_subcommands_user_error_becomes_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ssmrank.commands.params.schema

    def fail(arguments: object) -> None:
        raise UserError("file.jsonl:3: not JSON; mend the line")

    monkeypatch.setattr(ssmrank.commands.params.schema, "run", fail)
    assert cli.main(["params", "schema"]) == 2
    assert capsys.readouterr().err == "ssmrank params schema: error: file.jsonl:3: not JSON; mend the line\n"


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    import ssmrank.commands.params.schema

    def fail(arguments: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(ssmrank.commands.params.schema, "run", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(["params", "schema"])


def test_a_reader_that_stops_early_is_no_error() -> None:
    finished = subprocess.run(
        f"'{sys.executable}' -m ssmrank params schema | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.stdout == "{\n"
    assert finished.stderr == ""
    assert finished.returncode == 0


def test_progress_is_printed_and_the_chatter_of_libraries_is_not() -> None:
    program = (
        "import logging, ssmrank.cli; ssmrank.cli.main(['params', 'schema'])\n"
        "logging.getLogger('botocore.credentials').info('found credentials')\n"
        "logging.getLogger('botocore.credentials').warning('they expire today')\n"
        "logging.getLogger('ssmrank.training.loop').info('step 1')\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert [line.split(" ", 1)[1] for line in finished.stderr.splitlines()] == ["they expire today", "step 1"]
