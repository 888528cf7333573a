"""docs/serving.md: its requests print what it shows, and its table of limits has the defaults."""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from http_client import serving
from ssmrank.commands import serve

BLOCKS = re.compile(r"^```(python|sh)\n((?:(?!```).)*)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?[0-9]+\.[0-9]+")


def same(found: str, shown: str) -> bool:
    """Whether two outputs are equal, but for ids of requests and the last digits of scores."""
    found, shown = (re.sub(r'"id":"[0-9a-f]{32}"', '"id":""', text.strip()) for text in (found, shown))
    numbers, expected = (list(map(float, NUMBER.findall(text))) for text in (found, shown))
    return NUMBER.sub("#", found) == NUMBER.sub("#", shown) and numbers == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_requests_print_what_the_guide_shows(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = BLOCKS.findall((root / "docs/serving.md").read_text())
    assert [language for language, *_ in parts] == ["sh"] * 7 + ["python"]
    with serving(root / "models/minis/mamba2", "--precision", "fp32") as server:
        for language, code, shown in parts:
            here = code.replace("http://127.0.0.1:8080", server.url)
            if language == "python":
                if importlib.util.find_spec("cohere") is None:
                    continue
                exec(compile(here, "docs/serving.md", "exec"), {})
                found = capsys.readouterr().out
            else:
                found = subprocess.run(["bash", "-c", here], capture_output=True, text=True, check=True).stdout
            assert same(found, shown), f"{code}\n{found}"


def test_the_table_of_limits_has_the_defaults(root: Path) -> None:
    rows = re.findall(r"^\| `(--[a-z-]+)` \| ([^|]+) \|", (root / "docs/serving.md").read_text(), re.MULTILINE)
    parser = argparse.ArgumentParser()
    serve.configure(parser)
    defaults = {option: action.default for action in parser._actions for option in action.option_strings}
    limits = [option for option in defaults if option.startswith(("--max-", "--timeout", "--grace", "--window"))]
    assert {option for option, _ in rows} >= {*limits, "--state-cache"}
    for option, shown in rows:
        if (default := defaults[option]) is not None:  # otherwise it depends on the device
            number = shown.strip().removesuffix(" s").replace(",", "")
            assert number == str(default) or float(number) == default, option
