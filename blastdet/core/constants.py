"""Facts about blood cells that several packages rely on. All lengths are in micrometres."""

from __future__ import annotations

CELL_CLASSES: tuple[str, ...] = ("blast", "wbc", "rbc", "platelet")
"""All cell classes. A ``label`` is an index into this tuple, everywhere."""

RED_CELL_UM = 7.5
"""Usual width of a red cell (6.2–8.2 µm)."""

LARGEST_CELL_UM = 24.0
"""No white cell is wider. Tiles overlap by this much, and negative controls are windows of this size."""

MATCH_IOU = 0.5
"""A detection and an annotated cell with at least this intersection over union are the same cell."""

RESEARCH_USE = "For Research Use Only. Not for use in diagnostic procedures."
"""Printed on everything that a run writes."""
