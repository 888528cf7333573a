"""The page at `/`, as a person sees and uses it: in a browser, wide and narrow, by keyboard, with hostile texts."""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from browsers import Browser, browser_in, needs_browser, wait_for
from http_client import ServerProcess, serving
from ssmrank import Reranker
from ssmrank.serving.page_headers import page_headers

browsing = [pytest.mark.slow, needs_browser]

HOSTILE = [
    "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">",
    "\"double\" 'single' `back` &amp; <b>bold</b> ${1+1} {{2}}",
    "😀👩‍👩‍👧‍👦 naïve مرحبا بالعالم 日本語 \u202eright to left",
    "x" * 30_000,
    "word " * 2_000,
]


# ---------------------------------------------------------------- without a browser


def page_of(root: Path) -> str:
    return (root / "src/ssmrank/serving/page.html").read_text()


def test_the_page_needs_nothing_from_elsewhere(root: Path) -> None:
    html = page_of(root)
    elsewhere = r"(?:https?:)?//[a-z]|@import|url\(|<link(?! rel=\"icon\" href=\"data:,\")|<iframe| src="
    assert re.findall(elsewhere, html) == []
    assert not re.search(r" (?:style|on[a-z]+)=\"", html)  # its own policy would not run them


def test_the_policy_allows_the_page_s_own_script_and_style_alone() -> None:
    policy = page_headers("<style>a{}</style><script>b()</script>")["Content-Security-Policy"]
    # Digests by `printf %s 'b()' | openssl dgst -sha256 -binary | base64`.
    assert "script-src 'sha256-cf242PFc/kb7xD0Qzhsmd9vvRkc+cWFmbi+k+YvtdKc='" in policy
    assert "style-src 'sha256-X1RutGBrXCt9KkSaXMK7tHftWiRscFHOhxsS8tv8hBk='" in policy
    assert "unsafe" not in policy and "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert "script-src 'none'; style-src 'none'" in page_headers("<p>none</p>")["Content-Security-Policy"]


def contrast(first: str, second: str) -> float:
    """The contrast of two colours, as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_enough_contrast_light_and_dark(root: Path) -> None:
    [light, dark] = re.findall(r":root \{(.*?)\}", page_of(root), re.DOTALL)
    for block in (light, dark):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
        text = [("ink", "paper"), ("ink", "sheet"), ("soft", "paper"), ("soft", "sheet"), ("accent", "paper")]
        text += [("on-accent", "accent"), ("wrong", "wrong-paper")]
        for one, other in text:
            assert contrast(colours[one], colours[other]) >= 4.5, (one, other)
        for one, other in [("edge", "paper"), ("edge", "sheet"), ("bar-best", "track")]:
            assert contrast(colours[one], colours[other]) >= 3, (one, other)


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    return root / "models/minis/mamba2"


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[ServerProcess]:
    with serving(model, "--precision", "fp32", "--max-documents", "20") as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser_in(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(server: ServerProcess, browser: Browser) -> Browser:
    """The page, freshly loaded, as wide as a desktop's window."""
    look(browser, 1280, 900)
    browser.open(f"{server.url}/")
    return browser


def look(browser: Browser, width: int, height: int, scheme: str = "light") -> None:
    """Sets the window's size and whether the user likes it dark."""
    browser.command(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
    )
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


def picture(browser: Browser, path: Path) -> None:
    """Saves the whole page, for a person to look at."""
    taken = browser.command("Page.captureScreenshot", captureBeyondViewport=True)
    path.write_bytes(base64.b64decode(taken["data"]))


def write(browser: Browser, field: str, text: str) -> None:
    script = "const f = document.getElementById(arguments[0]); f.value = arguments[1];"
    browser.run(f"{script} f.dispatchEvent(new Event('input'))", field, text)


def press(browser: Browser, key: str, code: int, modifiers: int = 0) -> None:
    for kind in ("keyDown", "keyUp"):
        browser.command(
            "Input.dispatchKeyEvent",
            type=kind,
            key=key,
            code=key,
            windowsVirtualKeyCode=code,
            modifiers=modifiers,
            text="\r" if key == "Enter" and kind == "keyDown" else "",
        )


def done(browser: Browser) -> None:
    """Waits for a ranking or an error."""
    busy = "return document.getElementById('result').hasAttribute('aria-busy')"
    wait_for(lambda: not browser.run(busy), "ranking", seconds=60)


def rank(browser: Browser) -> list[str]:
    """Presses the button; the texts of the ranking, best first."""
    browser.run("document.getElementById('rank').click()")
    done(browser)
    return ranking(browser)


def ranking(browser: Browser) -> list[str]:
    return browser.run(f"return {each('#ranking:not([hidden]) .text')}.map((text) => text.textContent)")


def each(selector: str) -> str:
    """JavaScript of a list of elements."""
    return f"[...document.querySelectorAll('{selector}')]"


def wrong(browser: Browser) -> str:
    return browser.run("const w = document.getElementById('wrong'); return w.hidden ? '' : w.textContent")


class TestInBrowser:
    pytestmark = browsing

    def test_the_ranking_is_that_of_the_reranker(self, page: Browser, model: Path, tmp_path: Path) -> None:
        found = rank(page)
        picture(page, tmp_path / "desktop.png")
        texts = page.run("return document.getElementById('texts').value").split("\n")
        query = page.run("return document.getElementById('query').value")
        expected = Reranker.from_pretrained(model, device="cpu", precision="fp32").rank(query, texts)
        assert len(texts) == 10 and found == [one.document for one in expected]
        scores = [float(s.replace("−", "-")) for s in page.run(f"return {each('.score')}.map((s) => s.textContent)")]
        assert scores == pytest.approx([one.score for one in expected], abs=0.011)
        widths = page.run(f"return {each('.bar')}.map((bar) => bar.getBoundingClientRect().width)")
        assert widths == sorted(widths, reverse=True) and widths[0] > 10 * widths[-1] > 0
        state = page.run("return document.getElementById('state').textContent")
        assert re.fullmatch(r"10 texts · \d+ cached · [\d.]+ ms in the server · [\d.]+ ms in all", state)

    def test_nothing_comes_from_elsewhere_and_nothing_goes_there(self, page: Browser, server: ServerProcess) -> None:
        rank(page)
        loaded = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert f"{server.url}/v2/rerank" in loaded
        assert all(name.startswith(f"{server.url}/") for name in loaded)
        with socket.create_server(("127.0.0.1", 0)) as elsewhere:
            elsewhere.settimeout(0.5)
            address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
            script = """
                const [address] = arguments;
                fetch(address, {mode: "no-cors"}).catch(() => {});
                document.body.append(Object.assign(new Image(), {src: address}));
                const injected = document.createElement("script");
                injected.textContent = "document.title = 'run'";
                document.body.append(injected);
            """
            page.run(script, address)
            with pytest.raises(TimeoutError):
                elsewhere.accept()
        assert page.run("return document.title") == "ssmrank: rerank texts"

    @pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
    def test_hostile_texts_stay_texts(self, page: Browser, width: int, scheme: str, tmp_path: Path) -> None:
        look(page, width, 800, scheme)
        write(page, "texts", "\n".join(HOSTILE))
        write(page, "query", HOSTILE[0])
        found = rank(page)
        picture(page, tmp_path / f"hostile-{width}.png")
        assert wrong(page) == ""
        shown = [text if len(text) <= 20_000 else f"{text[:20_000]}… (10,000 more characters)" for text in HOSTILE]
        assert sorted(found) == sorted(text.strip() for text in shown)
        assert page.run("return document.querySelectorAll('#ranking img, #ranking script, #ranking b').length") == 0
        assert page.run("return document.title") == "ssmrank: rerank texts"
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
        # Long texts are folded, and a button shows them.
        heights = f"return {each('#ranking .text')}.map((text) => text.clientHeight)"
        assert max(page.run(heights)) < 100
        assert page.run(f"const more = {each('.more')}; more.forEach((one) => one.click()); return more.length") >= 2
        assert max(page.run(heights)) > 300

    def test_the_command_of_a_shell_asks_for_the_same(self, page: Browser, tmp_path: Path) -> None:
        write(page, "texts", "\n".join(["it's a text", *HOSTILE[:3], "plain"]))
        write(page, "query", 'what\'s "this" $HOME `id`')
        found = rank(page)
        command = page.run("return document.getElementById('command').textContent")
        printed = subprocess.run(["bash", "-c", f"curl() {{ printf '%s\\0' \"$@\"; }}; {command}"], capture_output=True)
        words = printed.stdout.decode().split("\0")
        sent = json.loads(words[words.index("-d") + 1])
        assert sent["query"] == 'what\'s "this" $HOME `id`' and sorted(sent["documents"]) == sorted(found)

    def test_errors_are_one_honest_line(self, page: Browser, tmp_path: Path) -> None:
        write(page, "query", "  ")
        assert rank(page) == [] and wrong(page) == "Query: it is empty; write one."
        write(page, "query", "a query")
        write(page, "texts", "\n \n")
        assert rank(page) == [] and wrong(page) == "Texts: there are none; write one a line."
        write(page, "texts", "\n".join(f"text {number}" for number in range(21)))
        assert rank(page) == [] and wrong(page) == "documents: 21 are given, at most 20 are allowed"
        picture(page, tmp_path / "error.png")
        write(page, "texts", "one text")
        assert rank(page) == ["one text"] and wrong(page) == ""

    def test_the_keyboard_is_enough_and_parts_have_names(self, page: Browser) -> None:
        tree = page.command("Accessibility.getFullAXTree")["nodes"]
        named = {(node["role"]["value"], node.get("name", {}).get("value")) for node in tree if "role" in node}
        assert {("textbox", "Query"), ("textbox", "Texts"), ("button", "Rank"), ("heading", "Ranking")} <= named
        assert "status" in {role for role, _ in named}
        page.run("document.getElementById('query').focus()")
        reached = []
        for _ in range(5):
            press(page, "Tab", 9)
            reached.append(page.run("return document.activeElement.id || document.activeElement.className"))
        assert reached == ["example", "example", "example", "texts", "rank"]
        page.run("document.getElementById('texts').focus()")
        press(page, "Enter", 13, modifiers=2)
        wait_for(lambda: ranking(page) != [], "ranking")
        done(page)
        assert len(ranking(page)) == 10
        assert page.run("return document.getElementById('texts').value").count("\n") == 9

    def test_a_server_that_has_gone_is_said(self, browser: Browser, model: Path) -> None:
        with serving(model, "--precision", "fp32") as server:
            browser.open(f"{server.url}/")
            server.end()
        assert rank(browser) == [] and wrong(browser) == "The server does not answer: is it still running?"

    def test_a_key_is_asked_for_where_the_server_wants_one(self, browser: Browser, model: Path) -> None:
        with serving(model, "--precision", "fp32", SSMRANK_API_KEY="secret") as server:
            browser.open(f"{server.url}/")
            assert rank(browser) == [] and "API key" in wrong(browser)
            write(browser, "key", "secret")
            assert len(rank(browser)) == 10
            assert "secret" not in browser.run("return document.getElementById('command').textContent")
