"""The HTML file of the viewer: the data, the style and the script in one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from blastdet.core.constants import CELL_TYPES, COLOURS, HEX, PALETTE, RESEARCH_USE
from blastdet.viewer.pictures import CROP

SCRIPTS = (
    *("numbers.js", "sentences.js", "cells.js", "tiles.js", "viewer.js", "thumb.js", "page.js"),
    *("keep.js", "standalone.js"),
)
"""Modules of the page, each after those that it imports."""

_MODULE_WORDS = re.compile(r"^(?:import .*\n|export )", re.MULTILINE)
_MARKS = ("/*STYLE*/", "/*DATA*/", "/*SCRIPT*/")
_LUMINANCE = (0.2126, 0.7152, 0.0722)

Data = Mapping[str, Any]


def page_text(data: Data) -> str:
    """The page, as text.

    Parameters
    ----------
    data : mapping
        See `page_data`.

    Examples
    --------
    >>> text = page_text(page_data(title="a run", images=[]))
    >>> text.startswith("<!doctype html>"), "a run" in text, RESEARCH_USE in text
    (True, True, True)
    """
    static = files("blastdet.viewer") / "static"
    head, style, script, end = _parts((static / "page.html").read_text("utf-8"))
    # "<" could end the script or begin a comment, whatever a file is called
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    text = text.encode(errors="replace").decode()  # names of files need not be UTF-8
    # a file that is opened without a server cannot import others
    code = "\n".join(_MODULE_WORDS.sub("", (static / name).read_text("utf-8")) for name in SCRIPTS)
    css = (static / "style.css").read_text("utf-8")
    return f"{head}{css}{style}const DATA = {text};{script}{code}{end}"


def _parts(template: str) -> list[str]:
    """The template between its marks. The data must not be searched for marks: names of files are in it."""
    parts = []
    for mark in _MARKS:
        part, _, template = template.partition(mark)
        parts.append(part)
    return [*parts, template]


def page_data(*, title: str, images: list[dict[str, Any]], **others: Any) -> dict[str, Any]:
    """Everything that a page shows, with defaults for what a page does not have.

    Parameters
    ----------
    title : str
    images : list of dict
        Columns of the cells of each image; see `blastdet.inference.outputs.run_page` and `blastdet.review.page`.
    **others
        Replace defaults. ``classes``: those that the model looks for; *Confirm image* declares no other complete.
        ``hidden``: names of kinds that images do not show at first, besides red cells. ``id``: hash of the images. The
        browser keeps corrections under it, the mode and the hash of the model.
    """
    unknown = set(others) - set(_DEFAULTS)
    if unknown:
        raise TypeError(f"page_data: unknown {sorted(unknown)[0]}")
    data = {"title": title, "heading": title, "images": images, "notice": RESEARCH_USE, "kinds": kinds(), "crop": CROP}
    return {**_DEFAULTS, **data, **others}


_DEFAULTS: dict[str, Any] = {
    "mode": "run",
    "id": "",
    "heading": "",
    "lead": "",
    "unknown": "",
    "sentences": [],
    "differential": None,
    "counts": [],
    "remarks": [],
    "method": [],
    "columns": [],
    "classes": [],
    "model_sha256": "",
    "models": [],
    "views": None,
    "outlines": False,
    "worst": None,
    "repeated": [],
    "hidden": [],
}


def kinds() -> list[dict[str, Any]]:
    """What a cell can be shown as, in the order of the keys: name, title, colour, key, class, type."""
    found = [_kind(name, str(i), "blast" if name == "blast" else "wbc") for i, name in enumerate(CELL_TYPES, start=1)]
    found += [_kind("wbc", "0", "wbc"), _kind("unsure", "", "wbc")]
    found += [_kind("rbc", "r", "rbc", white=False), _kind("platelet", "p", "platelet", white=False)]
    nothing = {"key": "", "class": "", "type": "", "white": False, "hidden": False, "dark": True, "colour": "#555555"}
    return [
        *found,
        {**nothing, "name": "ignored", "title": "ignored"},
        {**nothing, "name": "deleted", "title": "no cell"},
    ]


def _kind(name: str, key: str, cell_class: str, white: bool = True) -> dict[str, Any]:
    light = sum(weight * value for weight, value in zip(_LUMINANCE, PALETTE[name], strict=True))
    return {
        "name": name,
        "title": "other wbc" if name == "wbc" else name.replace("_", " "),
        "colour": HEX[name],
        "key": key,
        "class": cell_class,
        "type": name if name in CELL_TYPES and name not in COLOURS else "",
        "white": white,
        "hidden": name == "rbc",
        "dark": light < 140,
    }


KIND_INDEX: dict[str, int] = {kind["name"]: i for i, kind in enumerate(kinds())}
"""Name of a kind -> its number on the page."""
