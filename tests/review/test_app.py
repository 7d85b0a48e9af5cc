"""A whole session: the real process, with FiftyOne's App in headless Chromium, and corrections made there."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from made import heed_interrupts
from PIL import Image
from playwright.sync_api import TimeoutError

from blastdet.datasets.corrections import read_corrections

pytestmark = pytest.mark.slow


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def test_the_whole_session_in_a_browser(tmp_path, browser):
    """The real process and App: boxes show, a tag set elsewhere comes back in the file, Ctrl-C ends it."""
    port = _free_port()
    name = f"demo-{port}"
    outside = {key: value for key, value in os.environ.items() if not key.startswith("FIFTYONE_")}
    environment = {**outside, "FIFTYONE_DATABASE_DIR": str(tmp_path / "mongo")}
    data = Path(__file__).parents[2] / "datasets/demo/truth.json"
    words = ["review", "--data", str(data), "--weights", "default"]
    words += ["--no-browser", "--port", str(port), "--name", name]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "blastdet", *words],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=heed_interrupts,
        )
    try:
        _until(lambda: "Press Ctrl-C" in (tmp_path / "log").read_text(), process)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"http://127.0.0.1:{port}/datasets/{name}", wait_until="domcontentloaded")
        page.wait_for_selector("text=1 sample", timeout=120_000)
        assert page.locator("text=detected").count() and page.locator("text=truth").count()
        _until(lambda: _contrast(page) > 20, process)  # the image and its boxes are drawn
        for dismiss in page.get_by_text("Dismiss", exact=True).all():
            dismiss.click()
        _draw(page)
        _until(lambda: _said(tmp_path) == 1, process)
        view = f"http://127.0.0.1:{port}/datasets/{name}?view=missed-blasts-cells"
        page.goto(view, wait_until="domcontentloaded")
        page.wait_for_selector("text=2 patches", timeout=120_000)  # two of the four drawn are called blasts
        drawn_on = "[data-cy=tag-cells]"
        page.wait_for_function(f"document.querySelectorAll('{drawn_on}').length === 2")
        assert set(page.locator(drawn_on).all_inner_texts()) == {"blast"}
        _tag_the_first(page, "fix:ignore")
        _until(lambda: _said(tmp_path) == 2, process)
        page.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)
    drawn, tagged = read_corrections(tmp_path / "corrections.jsonl")
    assert (drawn.op, drawn.old_class, drawn.new_class) == ("class", "", "rbc") and drawn.who
    assert (tagged.op, tagged.old_class) == ("ignore", "blast")
    assert "Session ended" in (tmp_path / "log").read_text()


def _said(folder):
    path = folder / "corrections.jsonl"
    return len(read_corrections(path)) if path.is_file() else 0


def _draw(page) -> None:
    """Draw a red cell with the mouse in the App's Annotate tab."""
    _annotate(page)
    page.click("[data-cy=detection-mode]")
    page.wait_for_timeout(1000)
    page.mouse.move(480, 300)
    page.mouse.down()
    for x, y in ((520, 340), (560, 380), (600, 420)):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    page.locator("[data-cy=root_label_container]").get_by_text("rbc", exact=True).click()
    page.wait_for_timeout(3000)  # it is saved without a button
    page.keyboard.press("Escape")


def _annotate(page) -> None:
    """Open the first tile in the Annotate tab; again where the App, still loading, has closed it."""
    tools = page.locator("[data-cy=detection-mode]")
    for _ in range(10):
        _first_tile(page, open_it=True)
        with suppress(TimeoutError):
            page.click("[data-cy=annotate]", timeout=10_000)
            tools.wait_for(timeout=10_000)
        page.wait_for_timeout(5000)
        if tools.is_visible():
            return
    raise AssertionError("the App closed the sample ten times")


def _tag_the_first(page, tag: str) -> None:
    """Choose the first cell of a view, and tag it."""
    x, y = _first_tile(page, open_it=False)
    page.mouse.click(x, y)
    page.click("[data-cy=action-tag-sample-labels]")
    page.click("[data-cy=tagger-switch-label]")
    words = page.locator("[data-cy=tagger-container] input").first
    words.wait_for()
    words.fill(tag)
    words.press("Enter")
    page.click("text=Apply")


def _tiles(page):
    return [tile.bounding_box() for tile in page.locator("[data-cy=fo-grid] [data-cy=looker]").all()]


def _first_tile(page, open_it: bool):
    """Open the first tile of the grid, or say where its check box is."""
    page.wait_for_selector("[data-cy=looker]", state="attached", timeout=120_000)
    tiles, before = _tiles(page), None
    while tiles != before:  # until they are laid out
        page.wait_for_timeout(1500)
        tiles, before = _tiles(page), tiles
    first = min((t for t in tiles if t and t["y"] > 100), key=lambda t: (t["y"], t["x"]))
    page.mouse.move(first["x"] + first["width"] / 2, first["y"] + first["height"] / 2)
    page.wait_for_timeout(1000)
    if open_it:
        page.mouse.click(first["x"] + first["width"] / 2, first["y"] + first["height"] / 2)
    return first["x"] + 13, first["y"] + 13


def _contrast(page) -> float:
    with Image.open(io.BytesIO(page.screenshot())) as image:
        return float(np.asarray(image.convert("L")).std())


def _until(holds, process, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.2)
