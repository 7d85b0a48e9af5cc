"""Take the screenshots of docs/how-to/review.md: a real session and a real page in headless Chromium.

    python docs/review_screenshots.py          (needs the extras review and dev, and Chromium)
    python docs/review_screenshots.py page     (only the page, which needs no FiftyOne)

Reviews weights/default on twelve synthetic images, some of them pale or coarse. Writes docs/images/review-*.jpg.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1280, "height": 800}


def main() -> None:
    """Render images; take screenshots of the page and of a session."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["--n", "12", "--size", "480x360", "--mpp", "0.3", "--seed", "5", "--palette", "random", "--vary"]
        blastdet(folder, "synth", "images", *words)
        blastdet(folder, "review", "--data", "images/truth.json", "--weights", "default", "--html", "page")
        with sync_playwright() as play:
            chromium = shutil.which("chromium") or shutil.which("google-chrome")
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport=SIZE)
            page.goto((folder / "page/index.html").as_uri())
            page.wait_for_timeout(2000)
            keep(page, "page")
            for draw in () if "page" in sys.argv[1:] else (grids, embeddings):
                session(folder, browser, draw)
            browser.close()


def blastdet(folder: Path, *words: str) -> None:
    """Run the program in a folder."""
    subprocess.run([sys.executable, "-m", "blastdet", *words], cwd=folder, check=True)


def session(folder: Path, browser: Any, draw: Callable[[Any, str], None]) -> None:
    """Take screenshots of a FiftyOne session."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = str(trial.getsockname()[1])
    words = ["review", "--data", "images/truth.json", "--weights", "default", "--no-browser", "--port", port]
    command = [sys.executable, "-m", "blastdet", *words, "--name", f"review-{port}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        while "Press Ctrl-C" not in (folder / "log").read_text():
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.5)
        address = f"http://127.0.0.1:{port}/datasets/review-{port}?view="
        draw(browser, address)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def grids(browser: Any, address: str) -> None:
    """Images, single cells, and an image under Annotate."""
    keep(look(browser, f"{address}images-with-most-errors-first"), "images")
    keep(look(browser, f"{address}unlike-the-training-data-cells"), "cells")
    page = look(browser, f"{address}images-with-most-errors-first")
    page.mouse.click(360, 200)
    page.wait_for_timeout(4000)
    page.click("[data-cy=annotate]")
    page.wait_for_timeout(5000)
    keep(page, "annotate")


def embeddings(browser: Any, address: str) -> None:
    """The embedding of cells, coloured by error; in its own session, because open panels are kept within a session."""
    page = look(browser, f"{address}images-with-most-errors-first")
    page.click("[data-cy=new-panel-btn]")
    page.get_by_text("Embeddings", exact=True).first.click()
    page.get_by_text("second_stage", exact=True).first.click()
    page.wait_for_timeout(5000)
    page.get_by_text("Color by").first.click()
    page.get_by_text("cells.detections.kind", exact=True).first.click()
    page.wait_for_timeout(10_000)
    keep(page, "map")


def look(browser: Any, address: str) -> Any:
    """Open an address of the App in a new page, and wait until it is rendered."""
    page = browser.new_page(viewport=SIZE)
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_selector("[data-cy=looker]", state="attached", timeout=120_000)
    page.wait_for_timeout(6000)
    for advertisement in page.get_by_text("Dismiss", exact=True).all():
        advertisement.click()
    page.wait_for_timeout(500)
    return page


def keep(page: Any, name: str) -> None:
    """Save a screenshot and close the page."""
    path = IMAGES / f"review-{name}.png"
    page.screenshot(path=path)
    page.close()
    with Image.open(path) as image:
        image.convert("RGB").save(path.with_suffix(".jpg"), quality=80)
    path.unlink()


if __name__ == "__main__":
    main()
