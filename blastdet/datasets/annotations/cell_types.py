"""Cell types as datasets name them, mapped to `CELL_TYPES`."""

from __future__ import annotations

from blastdet.core.constants import CELL_TYPES, ERYTHROBLAST, SMUDGE, WHITE_TYPES

_IMMATURE = "immature_granulocyte"
_TYPE_OF: dict[str, str] = {name: name for name in CELL_TYPES} | {
    "myeloblast": "blast",
    "lymphoblast": "blast",
    "monoblast": "blast",
    "blast_cell": "blast",
    "lymphocyte_variant": "lymphocyte",
    "reactive_lymphocyte": "lymphocyte",
    "lymphocyte_reactive": "lymphocyte",
    "atypical_lymphocyte": "lymphocyte",
    "lymphocyte_large_granular": "lymphocyte",
    "band_neutrophil": "neutrophil",
    "neutrophil_band": "neutrophil",
    "segmented_neutrophil": "neutrophil",
    "neutrophil_segmented": "neutrophil",
    "ig": _IMMATURE,
    "promyelocyte": _IMMATURE,
    "abnormal_promyelocyte": _IMMATURE,
    "myelocyte": _IMMATURE,
    "metamyelocyte": _IMMATURE,
    "normoblast": ERYTHROBLAST,
    "proerythroblast": ERYTHROBLAST,
    "smudge_cell": SMUDGE,
    "artefact": SMUDGE,
    "artifact": SMUDGE,
}

NOT_BLAST: tuple[str, ...] = CELL_TYPES[1:]
OTHER_WHITE: tuple[str, ...] = WHITE_TYPES[1:]


def type_of(name: str) -> str | None:
    """One of `CELL_TYPES` for a name that a dataset uses, in any case, with spaces, hyphens or underscores, or plural.

    Returns
    -------
    str or None
        ``None`` for a name that is unknown, such as ``"plasma cell"``.

    Examples
    --------
    >>> type_of("Segmented neutrophil"), type_of("plasma cell")
    ('neutrophil', None)
    """
    words = "_".join(name.casefold().replace("-", " ").replace("_", " ").split())
    return _TYPE_OF.get(words) or _TYPE_OF.get(words.removesuffix("s"))


def possible_types(label: str, cell_type: str, smear_label: str) -> tuple[str, ...]:
    """The types that a cell may have, given what its dataset says of it; empty if that is nothing.

    Datasets differ in what they tell apart. A cell that is only known to be no blast may be of any other type, and a
    network learns from it that it is one of these.

    Parameters
    ----------
    label : str
        ``"blast"``, ``"wbc"`` (a white cell, not known to be a blast), ``"not a cell"``, or empty.
    cell_type : str
        As the dataset names it; empty if unknown.
    smear_label : str
        Class of the whole image, which counts where the cell has no label of its own.

    Examples
    --------
    >>> possible_types("wbc", "myelocyte", "")
    ('immature_granulocyte',)
    >>> possible_types("", "", "early"), len(possible_types("", "", "benign"))
    (('blast',), 8)
    """
    if known := type_of(cell_type):
        return (known,)
    if label == "blast":
        return ("blast",)
    if label == "not a cell":
        return (SMUDGE,)
    if label == "wbc":
        return OTHER_WHITE
    return {"early": ("blast",), "pre": ("blast",), "pro": ("blast",), "blast": ("blast",), "benign": NOT_BLAST}.get(
        smear_label, ()
    )
