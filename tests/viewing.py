"""Pages in a real browser, for tests of the viewer and of the review."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.model_card import sha256_of
from blastdet.core.types import CELL_CLASSES
from blastdet.datasets.corrections import Correction, read_corrections
from blastdet.imaging.io import open_smear, write_image
from blastdet.viewer.pictures import write_picture, write_sheet
from blastdet.viewer.viewer_page import KIND_INDEX, page_data, page_text

NAMES = ["lymphocyte", "lymphocyte", "monocyte", "blast", "unsure", "rbc", "rbc", "platelet"]


def image_data(folder: Path, name: str = "a.png", kind_names: list[str] = NAMES) -> dict[str, Any]:
    """An image with discs in a row, and its columns for the page."""
    width = 40 + 40 * len(kind_names)
    rgb = np.full((120, width, 3), 235, np.uint8)
    boxes = [(20.0 + 40 * i, 40.0, 50.0 + 40 * i, 70.0) for i in range(len(kind_names))]
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        rgb[int(y1) : int(y2), int(x1) : int(x2)] = (90 + 15 * (i % 8), 60, 150)
    path = folder / name
    write_image(path, rgb)
    white = [i for i, kind in enumerate(kind_names) if kind not in ("rbc", "platelet")]
    with open_smear(path) as source:
        write_picture(source, folder / "page/images/0.jpg")
        rows = write_sheet(source, [boxes[i] for i in white], (0.4, 0.4), folder / "page/cells/0.jpg")
    n = len(kind_names)
    p = [0.95 - 0.1 * (i % 5) if i in white else None for i in range(n)]
    image: dict[str, Any] = {"name": name, "file": "page/images/0.jpg", "sheet": "page/cells/0.jpg"}
    image |= {"sheet_rows": rows, "sha256": sha256_of(path), "width": width, "height": 120, "mpp": [0.4, 0.4]}
    image |= {"about": "", "notes": [], "row": [], "thumb": {str(row): k for k, row in enumerate(white)}}
    image |= {"box": [side for box in boxes for side in box], "kind": [KIND_INDEX[kind] for kind in kind_names]}
    return image | {"score": [0.9] * n, "p": p, "blast": p, "unlike": [], "likely": {}}


def opened(browser: Any, folder: Path, **data: Any) -> Any:
    """A page in the browser; anything that it loads from elsewhere, and every error, is noted in `faults`."""
    path = folder / "index.html"
    path.write_text(
        page_text(page_data(**{"title": "run", "id": folder.name, "classes": list(CELL_CLASSES), **data})),
        encoding="utf-8",
    )
    page = browser.new_page()
    page.set_default_timeout(120_000)  # on a busy machine
    page.set_viewport_size({"width": 1200, "height": 800})
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("request", lambda asked: page.faults.append(asked.url) if "file:" not in asked.url else None)
    page.on("console", lambda said: page.faults.append(said.text) if said.type == "error" else None)
    page.goto(path.as_uri())
    return page


def lines_of(page: Any, folder: Path) -> list[Correction]:
    (folder / "c.jsonl").write_text(page.evaluate("exported()"), encoding="utf-8")
    return read_corrections(folder / "c.jsonl")


def chosen_kind(page: Any) -> str:
    """The kind of the selected cell, as the panel says it once the page has followed its address and drawn."""
    page.evaluate("new Promise((done) => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done))))")
    return str(page.inner_text("#chosen"))
