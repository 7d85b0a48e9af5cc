"""Draw the pictures of the demo images: docs/images/page.jpg, the page of the run, and docs/images/overlay.jpg.

python docs/demo_picture.py        (needs the extra dev, and Chromium)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

REPO = Path(__file__).resolve().parents[1]
BLOOD = REPO / "datasets" / "demo" / "blood"
SHOWN = ("field-BloodImage_00037", "aml-blast-2", "neutrophil", "monocyte", "eosinophil", "lymphocyte")
PAGE = {"width": 1320, "height": 1150}
PANEL_WH, GAP, COLUMNS = (400, 400), 8, 3


def main() -> None:
    """Detect, take a screenshot of the page, and put the overlays side by side, without their captions."""
    width, height = (n * (side + GAP) - GAP for n, side in zip((COLUMNS, len(SHOWN) // COLUMNS), PANEL_WH, strict=True))
    sheet = Image.new("RGB", (width, height), "white")
    with tempfile.TemporaryDirectory() as folder:
        words = ["detect", str(BLOOD), "--out", folder, "--format", "overlay,html"]
        subprocess.run([sys.executable, "-m", "blastdet", *words], check=True)
        screenshot(Path(folder, "index.html"))
        for number, name in enumerate(SHOWN):
            with Image.open(BLOOD / f"{name}.jpg") as plain, Image.open(Path(folder, f"{name}.overlay.jpg")) as overlay:
                drawn_height = round(overlay.width * plain.height / plain.width)
                side = min(overlay.width, drawn_height)
                left = overlay.width - side  # of a field, the square at its right edge
                panel = overlay.crop((left, 0, left + side, side)).resize(PANEL_WH, Image.Resampling.LANCZOS)
            row, column = divmod(number, COLUMNS)
            sheet.paste(panel, (column * (PANEL_WH[0] + GAP), row * (PANEL_WH[1] + GAP)))
    sheet.save(REPO / "docs" / "images" / "overlay.jpg", quality=85)


def screenshot(page_file: Path) -> None:
    """Take the picture of the page of the run."""
    picture = page_file.with_suffix(".png")
    with sync_playwright() as play:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=PAGE)
        page.goto(page_file.as_uri())
        page.wait_for_timeout(2000)
        page.screenshot(path=picture)
        browser.close()
    with Image.open(picture) as image:
        image.convert("RGB").save(REPO / "docs" / "images" / "page.jpg", quality=85)


if __name__ == "__main__":
    main()
