"""requirements/*.lock: only what was locked is installed, wherever it comes from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

LOCKS = ("main", "dev", "torch", "setup")


def locked(root: Path, name: str) -> dict[str, list[str]]:
    """The packages of a lock with their digests."""
    text = (root / "requirements" / f"{name}.lock").read_text()
    packages = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"(?m)^#.*\n", "", text)):
        match = re.match(r"([A-Za-z0-9._-]+)==", block)
        assert match, f"{name}.lock: {block[:60]!r} has no exact version"
        packages[match[1]] = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block)
    return packages


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_digests_and_no_address(root: Path, name: str) -> None:
    without = [package for package, digests in locked(root, name).items() if not digests]
    assert not without, f"{name}.lock: no digest of {without}; `make lock` writes them"
    assert "://" not in (root / "requirements" / f"{name}.lock").read_text()


def test_locks_hold_what_the_project_asks_for(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    own = {f"{project['name']}[{extra}]": extra for extra in extras}  # dev includes some of the others
    included = {own[line] for line in extras["dev"] if line in own}
    assert included == {"pipeline", "export", "mteb", "pyterrier", "serve", "cluster", "finetune"}
    pipeline = project["dependencies"] + extras["pipeline"]
    tests = [line for entry in extras["dev"] for line in (extras[own[entry]] if entry in own else [entry])]
    for name, wanted in (("main", pipeline), ("dev", pipeline + tests)):
        names = {re.match(r"[A-Za-z0-9-]+", line)[0].lower() for line in wanted}
        missing = names - {*locked(root, name), *locked(root, "torch")}
        assert not missing, f"{name}.lock lacks {sorted(missing)}; `make lock` adds them"


def test_torch_is_locked_apart_because_its_builds_have_other_digests(root: Path) -> None:
    assert "torch" in locked(root, "torch")
    assert not any("torch" in locked(root, name) for name in LOCKS if name != "torch")
