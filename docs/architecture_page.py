"""docs/architecture.md and its picture, made from docs/architecture.yaml. Called by docs/generate.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).with_name("architecture.yaml")

INTRO = """# Architecture

blastdet is a library with a command line on top. It consists of {count} packages on {levels} levels. **A package
imports packages of lower levels only**, never one of its own level or above. So every package can be read, tested and
changed without the ones above it.

![The packages of blastdet on {levels} levels, from core at the bottom to cli at the top](images/architecture.svg)

The picture, this page and the test that enforces the rule (`tests/test_architecture.py`) come from one table,
`docs/architecture.yaml`. The same table sets the limits: {lines_per_file} lines a file, {lines_per_function} lines a
function (without its docstring), {parameters} parameters, {modules_per_package} modules a package, packages at most
{depth} deep, and no module name twice, except for a command and the library module that does its work.

## What happens to an image

1. `open_smear` (`imaging`) opens the file and reads its scale, if the file states one.
2. Otherwise `estimate_mpp` (`segmentation`) measures the scale from red cells; without enough of them, the image is
   refused.
3. `Model` (`inference`) brings the image to the model's µm/px and its stain to fixed colours, cuts it into tiles and
   calls the detector (`models`). A tile reports the cells whose centre lies in its core
   ([decision 2](decisions/0002-tiles-own-cells.md)).
4. The second stage cuts out every white cell at one scale and gives it a blast probability
   ([decision 14](decisions/0014-second-stage.md)).
5. Counts, differential and blast fraction with its intervals become a `Result`, which can be shown, saved, or turned
   into a table.

Training (`training`) ends with an exported model and its [card](reference/card.md). Detection needs only these two
files, not torch.

## Packages
"""


def page() -> str:
    """The Markdown page: the picture, the path of an image, one paragraph for each package, from the bottom up."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    rows = [row for level in table["levels"] for row in level]
    text = INTRO.format(count=len(rows), levels=len(table["levels"]), **table["limits"])
    return text + "".join(f"\n### {row['name']}\n\n{row['about']}\n" for row in rows)


WIDTH, LEFT, ROW, GAP, BOX = 960, 96, 64, 22, 12
COLOURS = ("#1f4e79", "#23608f", "#2a6f97", "#2b7484", "#337a6b", "#4d7d46", "#74742c", "#8f6722", "#a0542a", "#963f31")


def picture() -> str:
    """The picture as SVG. Boxes have a fill of their own, so that it can be read on a light and on a dark page."""
    levels: Sequence[Sequence[Mapping[str, Any]]] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))["levels"]
    height = len(levels) * (ROW + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="Helvetica, Arial, sans-serif">',
        "<title>Packages of blastdet: each level imports only the levels below it</title>",
        *_arrow(height),
    ]
    for number, rows in enumerate(levels):
        y = height - (number + 1) * (ROW + GAP)
        width = (WIDTH - LEFT - GAP - BOX * (len(rows) - 1)) / len(rows)
        for column, row in enumerate(rows):
            parts += _box(LEFT + column * (width + BOX), y, width, COLOURS[number % len(COLOURS)], row)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _arrow(height: int) -> list[str]:
    x, end, grey = LEFT // 2, height - GAP, "#8a8f98"
    return [
        f'<path d="M{x} {GAP} V{end}" stroke="{grey}" stroke-width="3"/>',
        f'<path d="M{x - 9} {end - 12} L{x} {end + 4} L{x + 9} {end - 12} Z" fill="{grey}"/>',
        f'<text x="{x - 14}" y="{height // 2}" fill="{grey}" font-size="18" text-anchor="middle" '
        f'transform="rotate(-90 {x - 14} {height // 2})">imports</text>',
    ]


def _box(x: float, y: int, width: float, colour: str, row: Mapping[str, Any]) -> list[str]:
    middle = x + width / 2
    return [
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW}" rx="8" fill="{colour}"/>',
        f'<text x="{middle:.1f}" y="{y + 27}" fill="#ffffff" font-size="19" font-weight="bold" text-anchor="middle">'
        f"{escape(row['name'])}</text>",
        f'<text x="{middle:.1f}" y="{y + 49}" fill="#ffffff" font-size="14" text-anchor="middle">'
        f"{escape(row['purpose'])}</text>",
    ]
