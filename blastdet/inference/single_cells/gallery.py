"""``gallery.html``: the crops of a run on one page, by type and doubt. It loads nothing from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blastdet import __version__
from blastdet.core.columns import PROBABILITY
from blastdet.core.constants import CELL_TYPES, HEX, RESEARCH_USE, UNLIKE_TRAINING
from blastdet.core.errors import DependencyError, counted
from blastdet.core.model_card import Card
from blastdet.inference.differential import spoken_type
from blastdet.inference.single_cells.classification import SHOWN_PX, SHOWN_UM

GALLERY = "gallery.html"

MOST_CROPS = 6000
"""A page with more crops is slow. Of each type, the most doubtful ones are shown then."""

Row = dict[str, Any]
"""A row of ``cells.csv``."""


def gallery(
    rows: Sequence[Row], read: Callable[[list[str]], Mapping[str, str]], card: Card, failed: Sequence[str] = ()
) -> str:
    """The page.

    Parameters
    ----------
    rows : sequence of dict
    read : callable
        Name of each image that is shown -> its crop as a JPEG in base64. Of a large run they are not all in memory.
    card : Card
        That of the classifier.
    failed : sequence of str
        One line for each failure.

    Raises
    ------
    DependencyError
        If Jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise DependencyError("jinja2: not installed. Run: pip install 'blastdet[evaluate]'") from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("blastdet.inference.single_cells", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counted"] = counted
    groups = _groups(rows)
    shown = [row["image"] for _, cells in groups for row in cells]
    jpegs = read(shown)
    return environment.get_template("gallery.html.jinja").render(
        notice=RESEARCH_USE,
        version=__version__,
        model=card.name,
        threshold=card.thresholds["blast"].value,
        groups=[{**group, "cells": [_cell(row, jpegs[row["image"]]) for row in cells]} for group, cells in groups],
        n=len(rows),
        n_unsure=sum(row["unsure"] for row in rows),
        n_shown=len(shown),
        scales=scales(rows, most=4),
        warning=stain_warning(rows),
        failed=failed,
        side_px=SHOWN_PX,
        side_um=f"{SHOWN_UM:g}",
    )


def ordered_types(rows: Sequence[Row]) -> list[str]:
    """The types that occur, in the order of `CELL_TYPES`; those of other models come last."""
    present = {row["cell_type"] for row in rows}
    return [name for name in CELL_TYPES if name in present] + sorted(present.difference(CELL_TYPES))


def scales(rows: Sequence[Row], most: int | None = None) -> str:
    """Where the scales come from, each with its number of images; the `most` frequent ones."""
    found = Counter(row["mpp_source"].partition(" (n=")[0] for row in rows)
    return ", ".join(f"{source} ({counted(n, 'image')})" for source, n in found.most_common(most))


def stain_warning(rows: Sequence[Row]) -> str:
    """What is said if most cells are unlike the training data, as `WhiteCells.is_known_stain` counts; else empty."""
    unlike = sum(row["reason"] == UNLIKE_TRAINING for row in rows)
    if 2 * unlike <= len(rows):
        return ""
    return (
        f"{unlike} of {len(rows)} cells are unlike the training data: this stain or camera is unknown to the "
        "classifier. Do not rely on the types. Check the cells by eye, or adapt the classifier to this laboratory."
    )


def doubt(row: Row) -> tuple[bool, float]:
    """Key that sorts the rows of one type: uncertain cells first, then by the probability of the type."""
    return not row["unsure"], row[f"{PROBABILITY}{row['cell_type']}"]


def _groups(rows: Sequence[Row]) -> list[tuple[dict[str, Any], list[Row]]]:
    """What is said of each type, and its rows that are shown."""
    share = min(1.0, MOST_CROPS / max(len(rows), 1))
    groups = []
    for name in ordered_types(rows):
        mine = sorted((row for row in rows if row["cell_type"] == name), key=doubt)
        group = {
            "id": name,
            "title": spoken_type(name),
            "colour": HEX.get(name, HEX["wbc"]),
            "n": len(mine),
            "percent": f"{100 * len(mine) / len(rows):.1f}",
            "n_unsure": sum(row["unsure"] for row in mine),
        }
        groups.append((group, mine[: max(round(share * len(mine)), 1)]))
    return groups


def _cell(row: Row, jpeg: str) -> dict[str, Any]:
    likely = sorted(((p, key.removeprefix(PROBABILITY)) for key, p in row.items() if _is_type(key)), reverse=True)
    words = ", ".join(f"{spoken_type(name)} {p:.2f}" for p, name in likely[:3])
    lines = [row["image"], words, f"{row['mpp_x']:.3g} µm/px ({row['mpp_source']})"]
    own = row[f"{PROBABILITY}{row['cell_type']}"]
    other = next((name for _, name in likely if name != row["cell_type"]), "")
    return {
        "jpeg": jpeg,
        "name": row["image"].rpartition("/")[2],
        "title": "\n".join([*lines, *([row["note"]] if row["note"] else [])]),
        "blast": f"{row['blast_probability']:.2f}",
        "own": f"{own:.2f}",
        "percent": round(100 * own),
        "other": spoken_type(other),
        "reason": row["reason"],
        "note": row["note"],
    }


def _is_type(key: str) -> bool:
    return key.startswith(PROBABILITY)
