"""What the tests of clusters share; each server has a module of its own in this folder."""

from pathlib import Path

pytest_plugins = sorted(
    f"cluster.{path.stem}"
    for path in Path(__file__).parent.glob("*.py")
    if path.stem != "conftest" and not path.stem.startswith("test_")
)
