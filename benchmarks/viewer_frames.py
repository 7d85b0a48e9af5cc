"""Frames per second of the viewer with 20,000 boxes, in Chromium without a graphics card.

    python benchmarks/viewer_frames.py [--boxes 20000] [--service]

Pans and zooms for 120 frames each, at three magnifications, all boxes shown. Prints the frames per second of the
browser, beside those of one that draws nothing (without a graphics card it composes the window on the processor), and
how long the drawing of the viewer itself takes. With ``--service`` on the page of a smear of `blastdet serve`, where
the gallery and the figures are beside the image.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from blastdet.imaging.io import write_image
from blastdet.viewer.viewer_page import KIND_INDEX, page_data, page_text

SIDE = 3200
FRAMES = """async ([zoom, kind]) => {
  viewer.fit(); viewer.zoom(zoom);
  await new Promise(requestAnimationFrame);
  const frames = [], own = [];
  let before = await new Promise(requestAnimationFrame);
  for (let frame = 0; frame < 120; frame++) {
    if (kind === "pan") viewer.pan(frame % 60 < 30 ? 9 : -9, frame % 40 < 20 ? 6 : -6);
    else if (kind === "zoom") viewer.zoom(frame % 60 < 30 ? 1.02 : 1 / 1.02);
    else document.getElementById("canvas").getContext("2d").fillRect(0, 0, 1, frame + 1);
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - before); before = now;
  }
  for (let k = 0; kind !== "none" && k < 30; k++) {
    const start = performance.now();
    viewer.paint();
    own.push(performance.now() - start);
    await new Promise(requestAnimationFrame);
  }
  return [frames, own];
}"""


def made_data(folder: Path, boxes: int) -> dict[str, Any]:
    """One large image and so many boxes of all kinds, as a page shows them."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, SIDE - 40, (boxes, 2))
    sides = np.concatenate([corner, corner + rng.uniform(12, 36, (boxes, 2))], axis=1).round(1)
    names = rng.choice(["rbc", "platelet", "lymphocyte", "blast", "unsure"], boxes, p=[0.85, 0.08, 0.03, 0.03, 0.01])
    image: dict[str, Any] = {
        "name": "large.jpg",
        "file": "large.jpg",
        "sheet": "",
        "sheet_rows": 0,
        "sha256": "0" * 64,
        "thumb": {},
    }
    image |= {"width": SIDE, "height": SIDE, "mpp": [0.1, 0.1], "about": "", "notes": [], "row": []}
    image |= {"box": sides.ravel().tolist(), "kind": [KIND_INDEX[name] for name in names], "score": [0.9] * boxes}
    image |= {"p": [None] * boxes, "blast": [None] * boxes, "likely": {}, "unlike": []}
    write_image(folder / "large.jpg", rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8))
    return page_data(title="frames", images=[image])


def open_file(tab: Any, folder: Path, data: dict[str, Any]) -> None:
    """The page as a file."""
    path = folder / "index.html"
    path.write_text(page_text(data), encoding="utf-8")
    tab.goto(path.as_uri() + "#0")
    tab.wait_for_timeout(1500)


@contextmanager
def service(folder: Path) -> Iterator[str]:
    """Address of a running service."""
    command = [sys.executable, "-m", "blastdet", "serve", "--port", "0", "--data", str(folder / "data")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        found = re.search(r"http://\S+", running.stdout.readline())
        assert found is not None
        yield found[0]
    finally:
        running.terminate()
        running.wait()


def open_smear_page(tab: Any, folder: Path, data: dict[str, Any], url: str) -> None:
    """The page of a smear; what it asks the service for is answered with `data`, which no model would find."""
    tab.set_default_timeout(300_000)
    tab.route("**/view", lambda route: route.fulfill(json={**data, "corrections": [], "version": 0, "now": {}}))
    tab.goto(url)
    tab.click(".menu summary")
    tab.select_option("#new-scale", "given")
    tab.fill("#new-mpp", "0.1")
    tab.set_input_files("#files", [folder / "large.jpg"])
    tab.wait_for_selector("body.smear[data-ready]")
    smear = tab.url.partition("/smears/")[2].partition("?")[0]
    data["images"][0]["file"] = f"/api/v1/smears/{smear}/picture.jpg"
    tab.reload()
    tab.wait_for_selector("body.smear[data-ready]")
    tab.wait_for_timeout(3000)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, default=20_000)
    parser.add_argument("--service", action="store_true")
    options = parser.parse_args()
    boxes = options.boxes
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        data = made_data(Path(folder), boxes)
        stack = ExitStack()
        if options.service:
            open_smear_page(tab, Path(folder), data, stack.enter_context(service(Path(folder))))
        else:
            open_file(tab, Path(folder), data)
        tab.evaluate("viewer.toggle('rbc')")
        for zoom, kind in [(1, "none"), *((zoom, kind) for zoom in (1, 3, 12) for kind in ("pan", "zoom"))]:
            frames, own = (np.array(times) for times in tab.evaluate(FRAMES, [zoom, kind]))
            rate = 1000 / np.median(frames)
            drawing = f"; drawing alone {np.median(own):.1f} ms, {1000 / np.median(own):.0f}/s" if len(own) else ""
            print(f"{boxes:,} boxes, {zoom:>2} x, {kind:<4}: {rate:.0f} frames/s of the browser{drawing}")
        browser.close()
        stack.close()


if __name__ == "__main__":
    main()
