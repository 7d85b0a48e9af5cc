"""One colour for each kind of cell, the same in overlays, plots, pages and QuPath."""

from __future__ import annotations

COLOURS: dict[str, tuple[int, int, int]] = {
    "blast": (213, 30, 45),
    "wbc": (0, 90, 200),
    "rbc": (225, 140, 0),
    "platelet": (0, 140, 90),
}
"""Colour of each class, RGB; told apart by colour-blind readers too, and from Giemsa's violet and pink."""

UNSURE_COLOUR = (60, 60, 60)
"""Colour of white cells that the second stage does not decide on."""

HEX: dict[str, str] = {
    name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in {**COLOURS, "unsure": UNSURE_COLOUR}.items()
}
"""The same colours, ``unsure`` among them, as pages and plots name them."""
