"""Facts about blood cells, and one colour for each class. All lengths are in micrometres."""

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

COLOURS: dict[str, tuple[int, int, int]] = {
    "blast": (213, 30, 45),
    "wbc": (0, 90, 200),
    "rbc": (225, 140, 0),
    "platelet": (0, 140, 90),
}
"""RGB colour of each class. Readable with colour blindness, and distinct from the violet and pink of Giemsa stain."""

UNSURE_COLOUR = (60, 60, 60)
"""RGB colour of uncertain cells."""

ERYTHROBLAST = "erythroblast"
"""The `Detections.cell_type` of nucleated red cells."""

BETWEEN_CLASSES, UNLIKE_TRAINING = "between classes", "unlike training"
"""The values of `Detections.unsure_reason`."""

SMUDGE = "smudge"
"""The `Detections.cell_type` of smudge cells and artefacts."""

CELL_TYPES: tuple[str, ...] = (
    "blast",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "eosinophil",
    "basophil",
    "immature_granulocyte",
    ERYTHROBLAST,
    SMUDGE,
)
"""Types of nucleated cells that the second stage distinguishes. Promyelocytes to metamyelocytes are one type."""

NOT_WHITE: tuple[str, ...] = (ERYTHROBLAST, SMUDGE)
"""The values of `Detections.cell_type` that no count of white cells includes."""

TYPE_COLOURS: dict[str, tuple[int, int, int]] = {
    "blast": COLOURS["blast"],
    "lymphocyte": (90, 226, 255),
    "monocyte": (0, 165, 165),
    "neutrophil": (70, 190, 71),
    "eosinophil": (255, 255, 50),
    "basophil": (0, 0, 101),
    "immature_granulocyte": (15, 30, 46),
    ERYTHROBLAST: (81, 25, 0),
    SMUDGE: (108, 108, 108),
}
"""RGB colour of each of `CELL_TYPES`, chosen by the same criteria. A search kept them all apart."""

PALETTE: dict[str, tuple[int, int, int]] = {**COLOURS, **TYPE_COLOURS, "unsure": UNSURE_COLOUR}
"""RGB colour of everything that a cell can be shown as."""

HEX: dict[str, str] = {name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in PALETTE.items()}
"""`PALETTE` as hexadecimal strings, for HTML and matplotlib."""

WHITE_TYPES: tuple[str, ...] = tuple(name for name in CELL_TYPES if name not in NOT_WHITE)
"""The types of a differential count."""
