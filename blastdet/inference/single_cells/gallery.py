"""``gallery.html``: the crops of a run on one page, by type and doubt. It loads nothing from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from blastdet import __version__
from blastdet.core.constants import CELL_TYPES, HEX, RESEARCH_USE, UNLIKE_TRAINING
from blastdet.core.errors import DependencyError
from blastdet.core.model_card import Card
from blastdet.inference.differential import spoken_type
from blastdet.inference.single_cells.classification import SHOWN_PX, SHOWN_UM

GALLERY = "gallery.html"

MOST_CROPS = 6000
"""A page with more crops is slow. Of each type, the most doubtful ones are shown then."""

Entry = tuple[dict[str, Any], str]
"""A row of ``cells.csv``, and the crop as a JPEG in base64."""


def gallery(entries: Sequence[Entry], card: Card, failed: Sequence[str] = ()) -> str:
    """The page.

    Parameters
    ----------
    entries : sequence of (dict, str)
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
    groups = _groups(entries)
    return environment.get_template("gallery.html.jinja").render(
        notice=RESEARCH_USE,
        version=__version__,
        model=card.name,
        threshold=card.thresholds["blast"].value,
        groups=groups,
        n=len(entries),
        n_unsure=sum(row["unsure"] for row, _ in entries),
        n_shown=sum(len(group["cells"]) for group in groups),
        scales=_scales(entries),
        warning=stain_warning([row for row, _ in entries]),
        failed=failed,
        side_px=SHOWN_PX,
        side_um=f"{SHOWN_UM:g}",
    )


def stain_warning(rows: Sequence[dict[str, Any]]) -> str:
    """What is said if most cells are unlike the training data, as `WhiteCells.is_known_stain` counts; else empty."""
    unlike = sum(row["reason"] == UNLIKE_TRAINING for row in rows)
    if 2 * unlike <= len(rows):
        return ""
    return (
        f"{unlike} of {len(rows)} cells are unlike the training data: this stain or camera is unknown to the "
        "classifier. Do not rely on the types. Check the cells by eye, or adapt the classifier to this laboratory."
    )


def doubt(row: dict[str, Any]) -> tuple[bool, float]:
    """Key that sorts the rows of one type: uncertain cells first, then by the probability of the type."""
    return not row["unsure"], row[f"probability_{row['cell_type']}"]


def _groups(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    by_type: dict[str, list[Entry]] = {}
    for entry in entries:
        by_type.setdefault(entry[0]["cell_type"], []).append(entry)
    order = [name for name in CELL_TYPES if name in by_type] + sorted(set(by_type).difference(CELL_TYPES))
    share = min(1.0, MOST_CROPS / max(len(entries), 1))
    groups = []
    for name in order:
        mine = sorted(by_type[name], key=lambda entry: doubt(entry[0]))
        groups.append(
            {
                "id": name,
                "title": spoken_type(name),
                "colour": HEX.get(name, HEX["wbc"]),
                "n": len(mine),
                "percent": f"{100 * len(mine) / len(entries):.1f}",
                "n_unsure": sum(row["unsure"] for row, _ in mine),
                "cells": [_cell(row, jpeg) for row, jpeg in mine[: max(round(share * len(mine)), 1)]],
            }
        )
    return groups


def _cell(row: dict[str, Any], jpeg: str) -> dict[str, Any]:
    likely = sorted(((p, key.removeprefix("probability_")) for key, p in row.items() if _is_type(key)), reverse=True)
    words = ", ".join(f"{spoken_type(name)} {p:.2f}" for p, name in likely[:3])
    lines = [row["image"], words, f"{row['mpp_x']:.3g} µm/px ({row['mpp_source']})"]
    own = row[f"probability_{row['cell_type']}"]
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
    return key.startswith("probability_")


def _scales(entries: Sequence[Entry]) -> str:
    found = Counter(row["mpp_source"].partition(" (n=")[0] for row, _ in entries)
    return ", ".join(f"{source} ({n})" for source, n in found.most_common(4))
