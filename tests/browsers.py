"""A browser for tests of pages: headless Chromium, driven by the WebDriver protocol."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver")

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=2000,1000",
]


class Browser:
    """The commands of the WebDriver protocol (W3C) that the tests need."""

    def __init__(self, address: str, profile: Path) -> None:
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        self.session = address
        self.session += f"/session/{self._send('POST', '/session', wanted)['sessionId']}"

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.session + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self._send("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns in the page; it reads `arguments`."""
        return self._send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def command(self, name: str, **parameters: Any) -> Any:
        """What a command of Chromium's DevTools returns, such as `Emulation.setEmulatedMedia`."""
        return self._send("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def text(self) -> str:
        return self.run("return document.body ? document.body.innerText : ''")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(b64decode(self._send("GET", "/screenshot")))

    def close(self) -> None:
        self._send("DELETE", "")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(ready: Callable[[], bool], what: str, seconds: int = 180) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"{what}: not ready after {seconds} s"
        time.sleep(0.3)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def start(
    command: list[str], log: Path, environment: dict[str, str] | None = None, folder: Path | None = None
) -> subprocess.Popen:
    with log.open("w") as stream:
        return subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment, cwd=folder, start_new_session=True
        )


def stop(process: subprocess.Popen) -> None:
    """Ends the process and its children."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signal_number)
            process.wait(timeout=20)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


@contextmanager
def browser_in(folder: Path) -> Iterator[Browser]:
    """A browser whose profile and log are in a folder."""
    port = free_port()
    driver = start([str(CHROMEDRIVER), f"--port={port}"], folder / "log")
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(f"{address}/status"), "chromedriver")
        browser = Browser(address, folder / "profile")
        yield browser
        browser.close()
    finally:
        stop(driver)
