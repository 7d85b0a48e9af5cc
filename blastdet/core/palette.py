"""Colours of the cell classes, shared by overlays, plots, HTML pages and QuPath."""

from __future__ import annotations

COLOURS: dict[str, tuple[int, int, int]] = {
    "blast": (213, 30, 45),
    "wbc": (0, 90, 200),
    "rbc": (225, 140, 0),
    "platelet": (0, 140, 90),
}
"""RGB colour of each class. Readable with colour blindness, and distinct from the violet and pink of Giemsa stain."""

UNSURE_COLOUR = (60, 60, 60)
"""RGB colour of uncertain cells."""

HEX: dict[str, str] = {
    name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in {**COLOURS, "unsure": UNSURE_COLOUR}.items()
}
"""The same colours, including ``unsure``, as hexadecimal strings for HTML and matplotlib."""
