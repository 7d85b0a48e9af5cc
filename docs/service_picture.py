"""Make docs/images/service.jpg: the page of a smear, as `blastdet serve` shows it.

python docs/service_picture.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from blastdet.imaging.io import read_image, write_image

REPO = Path(__file__).resolve().parents[1]
SIZE = {"width": 1366, "height": 1000}


def shoot(url: str, path: Path) -> None:
    """Drop the demo smear, look at its page, choose a cell, take the picture."""
    with sync_playwright() as play:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(300_000)
        page.goto(url)
        page.set_input_files("#files", [REPO / "datasets/demo/smear.jpg"])
        page.wait_for_selector("body.smear[data-ready]")
        page.locator(".group:has(h3:has-text('neutrophil')) .cell").first.click()
        page.evaluate("viewer.fit(), scrollTo(0, 0)")
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(1500)
        page.screenshot(path=path)
        browser.close()


def main() -> None:
    """Start a service, take the picture, stop it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "blastdet", "serve", "--port", "0", "--data", f"{folder}/data"]
        service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPO)
        try:
            assert service.stdout is not None
            found = re.search(r"http://\S+", service.stdout.readline())
            assert found is not None
            shoot(found[0], Path(folder) / "page.png")
        finally:
            service.terminate()
            service.wait()
        write_image(REPO / "docs/images/service.jpg", read_image(Path(folder) / "page.png"), 84)


if __name__ == "__main__":
    main()
