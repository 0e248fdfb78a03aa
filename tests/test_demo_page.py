"""The page: asked over loopback by Gradio's client, and used in headless Chromium as wide as a desk and a phone."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_inference import folder_of

pytest.importorskip("gradio", reason="the page needs Gradio")

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the command serves the page of a tiny tagger, until Ctrl-C ends it without an error."""
    place = tmp_path_factory.mktemp("page")
    folder = folder_of(place / "tagger", "DLRForTokenClassification", ["O", "name", "place"])
    command = [sys.executable, "-u", "-m", "modeling_dlr.cli", "demo", str(folder), "--no-open"]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(place / "files")}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        assert line.startswith("The page is at http://127.0.0.1:")
        yield line.split()[4]
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.communicate()


def test_answers_over_loopback(address: str):
    """The sentence and the pieces of a text; an error is a sentence, too, and not markup."""
    from gradio_client import Client

    client = Client(address, verbose=False)
    sentence, pieces = client.predict("in Rome", api_name="/answer")
    assert "span" in sentence
    assert "".join(piece["token"] for piece in pieces["value"]) == "in Rome"
    sentence, pieces = client.predict(" ", api_name="/answer")
    assert "Error: Type a text first." in sentence
    assert not pieces["visible"]
    words, sound, *pictures = client.predict(0, 0, 0, 0.5, 0.1, api_name="/kernel")
    assert "1/e after 1.44 steps" in words
    assert all(Path(file).stat().st_size > 1000 for file in (sound, *pictures))


@pytest.fixture
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the browser is steered by Playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_browser(width: str, address: str, browser: Any):
    """By keys alone: type, answer, read, move a pole. Nothing is fetched from elsewhere, nothing lies outside."""
    wide, high = WIDTHS[width]
    page = browser.new_page(viewport={"width": wide, "height": high})
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(address)
    box, said = page.get_by_role("textbox", name="text"), page.locator(".said")
    press(page, box, "Answer")
    said.get_by_text("Error: Type a text first.").wait_for()
    assert said.first.get_attribute("aria-live") == "polite"
    box.focus()
    page.keyboard.type("in <b>Rome</b>")
    page.keyboard.press("Shift+Enter")
    said.get_by_text("The model marks").wait_for()

    press(page, page.get_by_role("tab", name="Answers"), "Poles and kernels")
    slider = page.get_by_role("slider", name="magnitude")
    slider.wait_for()
    before = page.get_by_alt_text("The poles in the unit disk").get_attribute("src")
    slider.focus()
    page.keyboard.press("Home")
    said.get_by_text("1/e after 0.145 steps").wait_for()
    page.wait_for_function("(old) => document.querySelector('img[alt^=\"The poles\"]').src !== old", arg=before)
    page.get_by_alt_text("The poles in the unit disk").click(position={"x": 100, "y": 100})
    said.get_by_text("1/e after 0.145 steps").wait_for(state="detached")
    assert page.evaluate("document.documentElement.scrollWidth") <= wide
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert wrong == []


def press(page: Any, start: Any, name: str) -> None:
    """Walk with the tab key from an element to a button, and press it."""
    page.get_by_text(name, exact=True).first.wait_for()  # Gradio loads parts of the page one by one
    start.focus()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == name:
            page.keyboard.press("Enter")
            return
    raise AssertionError(f"No way by the tab key to {name}.")
