"""Follows the steps of a Containerfile in an empty folder, offline, with the packages that are installed here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from packaging.requirements import Requirement

from environments import closure, link_packages

Instruction = tuple[str, str]

LINKED = 2**20
"""Files of the context with more bytes are linked, not copied."""


def instructions(text: str) -> list[Instruction]:
    """Keyword and arguments of each instruction, with continued lines joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def patterns(context: Path) -> list[str]:
    """The lines of .containerignore."""
    return [line for line in (context / ".containerignore").read_text().splitlines() if line[:1] not in ("", "#")]


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether .containerignore leaves a path of the context out: the last pattern that matches decides."""
    parents = ["/".join(path.split("/")[: count + 1]) for count in range(path.count("/") + 1)]
    out = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if any(fnmatch(one, bare) or fnmatch("/" + one, bare.replace("**", "*")) for one in parents):
            out = not pattern.startswith("!")
    return out


def locked(lock: Path) -> set[str]:
    """The distributions that a lock has for this Python on this machine."""
    lines = re.findall(r"^([a-z0-9][^\s;]*==[^\\\n]*)", lock.read_text(), re.MULTILINE)
    found = map(Requirement, lines)
    return {one.name for one in found if one.marker is None or one.marker.evaluate()}


class Followed:
    """A folder that stands for the container's root.

    `packages` are installed distributions, which stand for the package index: they are in the environment once it is
    made, and the steps that install them find that out. Debian's packages count as installed.
    """

    def __init__(self, context: Path, root: Path, packages: Iterable[str], **build_arguments: str) -> None:
        self.context, self.root, self.packages, self.given = context, root, packages, build_arguments
        self.folder, self.arguments, self.environment = root, dict[str, str](), dict[str, str]()
        self.ignore = patterns(context)
        programs = root / "usr/local/bin"
        programs.mkdir(parents=True)
        (programs / "python").symlink_to(sys.executable)
        (programs / "apt-get").symlink_to(shutil.which("true") or "/bin/true")
        self.outside = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "UV_OFFLINE": "1",
            "PIP_NO_INDEX": "1",
            "HOME": str(root),
        }

    def inside(self, text: str) -> str:
        """A command with the container's absolute paths as they are here."""
        return re.sub(r"(?<![\w./-])/(?=(?:opt|var|model|build|ssmrank)\b)", f"{self.root}/", text)

    def follow(self, steps: list[Instruction]) -> None:
        for word, rest in steps:
            if (step := getattr(self, f"_{word.lower()}", None)) is not None:
                step(rest)

    def _filled(self, text: str) -> str:
        """An instruction's text with the values of arguments. In RUN the shell fills them in."""
        return re.sub(r"\$\{(\w+)\}", lambda name: self.arguments[name[1]], text)

    def _from(self, rest: str) -> None:
        version = re.match(r"docker\.io/library/python:(\d\.\d+)-", rest)
        assert version and version[1] in ("3.11", "3.12", "3.13"), rest
        self.folder, self.environment = self.root, {}

    def _workdir(self, rest: str) -> None:
        self.folder = Path(self.inside(rest))
        self.folder.mkdir()

    def _arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        self.arguments[name] = self.given.get(name, value)

    def _env(self, rest: str) -> None:
        self.environment |= dict(word.split("=", 1) for word in shlex.split(self.inside(self._filled(rest))))

    def _copy(self, rest: str) -> None:
        *sources, target = self._filled(rest).split()
        if sources[0].startswith("--from="):
            assert sources[1:] == [target] and Path(self.inside(target)).exists()
            return
        place = self.folder / self.inside(target)
        for name in sources:
            assert not ignored(name, self.ignore), f"{name} is left out by .containerignore"
            if (self.context / name).is_dir():
                without = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(self.context / name, place, ignore=without, copy_function=_copied)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.context / name, place)

    def _run(self, rest: str) -> None:
        finished = self.run(rest)
        assert finished.returncode == 0, f"RUN {rest}\n{finished.stdout}{finished.stderr}"
        if "-m venv" in rest:
            environment = Path(self.inside("/opt/ssmrank"))
            for name in {"pip", "setuptools"} & set(self.packages):  # Python's own; the locks have others
                for old in environment.glob(f"lib/python*/site-packages/*{name}*"):
                    shutil.rmtree(old)
            link_packages(environment, self.packages)
            (environment / "bin/uv").symlink_to(Path(sys.executable).parent / "uv")

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of a shell as the next step would."""
        environment = self.outside | self.arguments | self.environment
        words = ["sh", "-ec", self.inside(command)]
        return subprocess.run(words, cwd=self.folder, env=environment, capture_output=True, text=True)


def _copied(source: str, target: str) -> None:
    if os.path.getsize(source) > LINKED:
        os.symlink(source, target)
    else:
        shutil.copy2(source, target)


def pipeline(root: Path, folder: Path) -> Followed:
    """All steps of Containerfile.pipeline, followed; the experiment is the tests' tiny one.

    Its packages are those that the steps install on a CPU, and no others.
    """
    cluster = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cluster"]
    locks = [locked(root / "requirements" / f"{name}.lock") for name in ("setup", "main")]
    followed = Followed(root, folder, set().union(*locks, closure(cluster), {"torch"}))
    followed.follow(instructions((root / "Containerfile.pipeline").read_text()))
    shutil.copy(root / "tests/data/params/tiny.yaml", followed.folder / "params.yaml")
    shutil.copytree(root / "tests/data/workflow", followed.folder / "tests/data/workflow")
    return followed
