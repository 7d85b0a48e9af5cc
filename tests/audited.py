"""A VOC dataset drawn by code for the audit, without a fault, and functions that put faults into it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.audit.folder_audit import AuditReport
from blastdet.imaging.io import write_image

SIZE = (320, 240)
N = 24
RADIUS = {"RBC": 13, "WBC": 24, "Platelets": 5}
Cell = tuple[str, int, int, int]  # name, x, y, radius


def place(rng: np.random.Generator) -> list[Cell]:
    """One white cell, a platelet and some red cells that do not touch; none is cut by the border."""
    cells: list[Cell] = []
    for name in ["WBC", "Platelets", *["RBC"] * 30]:
        for _ in range(200):
            r = RADIUS[name] + int(rng.integers(-1, 2))
            x, y = (int(rng.integers(r + 4, side - r - 4)) for side in SIZE)
            if all((x - u) ** 2 + (y - v) ** 2 > (r + s + 2) ** 2 for _, u, v, s in cells):
                cells.append((name, x, y, r))
                break
    return cells


def draw(cells: list[Cell], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The cells, each with a shape of its own: identical ones would register on each other."""
    rgb = np.full((SIZE[1], SIZE[0], 3), (232, 228, 235), np.uint8)
    colours = {"RBC": (205, 150, 160), "WBC": (190, 165, 215), "Platelets": (150, 110, 180)}
    for name, x, y, r in cells:
        own = np.random.default_rng([r, y, len(name)])  # not of x: a shifted photograph shows the same cell
        angle, flat = float(own.uniform(0, 180)), float(own.uniform(0.7, 1))
        cv2.ellipse(rgb, (x, y), (r, int(r * flat)), angle, 0, 360, colours[name], -1, cv2.LINE_AA)
        if name == "RBC":
            off = own.integers(-3, 4, 2)
            cv2.circle(
                rgb, (x + int(off[0]), y + int(off[1])), int(own.integers(3, 7)), (222, 190, 198), -1, cv2.LINE_AA
            )
        if name == "WBC":
            for dx, dy in own.integers(-6, 7, (5, 2)).tolist():
                cv2.circle(rgb, (x + dx, y + dy), int(own.integers(7, 11)), (90, 50, 150), -1, cv2.LINE_AA)
    return np.clip(rgb + rng.normal(0, 3, rgb.shape), 0, 255).astype(np.uint8)


def box_xml(name: str, x1: int, y1: int, x2: int, y2: int) -> str:
    sides = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"


def cell_xml(cell: Cell) -> str:
    name, x, y, r = cell
    return box_xml(name, x - r + 1, y - r + 1, x + r + 1, y + r + 1)


def xml(stem: str, cells: list[Cell]) -> str:
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
    head = f"<folder>JPEGImages</folder><filename>{stem}.png</filename>{size}"
    return f"<annotation>{head}{''.join(map(cell_xml, cells))}</annotation>"


def edit(root: Path, stem: str, change: Callable[[str], str]) -> None:
    file = root / "Annotations" / f"{stem}.xml"
    text = change(file.read_text())
    assert text != file.read_text()
    file.write_text(text)


def add(root: Path, stem: str, *objects: str) -> None:
    edit(root, stem, lambda text: text.replace("</annotation>", "".join(objects) + "</annotation>"))


def first(root: Path, stem: str, name: str) -> tuple[int, int, int, int]:
    text = (root / "Annotations" / f"{stem}.xml").read_text()
    found = re.search(rf"<name>{name}</name><bndbox>(.*?)</bndbox>", text)
    assert found
    x1, y1, x2, y2 = map(int, re.findall(r">(-?\d+)<", found[1]))
    return x1, y1, x2, y2


def found_in(report: AuditReport) -> set[tuple[str, str, str]]:
    """Rule, severity and stem of the file of each finding."""
    return {(f.rule, f.severity, Path(f.file).stem) for f in report.findings}


def image(root: Path, stem: str) -> Path:
    return root / "JPEGImages" / f"{stem}.png"


def write_clean_set(root: Path) -> Path:
    """The dataset below `root`: `N` images, three splits."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(8)
    for k in range(N):
        cells = place(rng)
        write_image(root / "JPEGImages" / f"p{k:02d}.png", draw(cells, rng))
        (root / "Annotations" / f"p{k:02d}.xml").write_text(xml(f"p{k:02d}", cells))
    for name, part in (("train", range(16)), ("val", range(16, 20)), ("test", range(20, 24))):
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"p{k:02d}\n" for k in part))
    return root
