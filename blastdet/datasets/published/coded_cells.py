"""Single cells named by a code of three letters: AML-Cytomorphology_LMU (blood), Bone-Marrow-Cytomorphology (marrow).

Both are collections of The Cancer Imaging Archive: folders by code with files ``MYO_0001.tiff`` of 400 x 400 px, and
``BLA_00001.jpg`` of 250 x 250 px.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from blastdet.core.types import Dataset, Scale
from blastdet.datasets.annotations.cell_types import type_of
from blastdet.datasets.published.named_files import has_named_file, sorted_files, typed_crop

AML_LMU_MPP: Scale = (0.07, 0.07)
"""µm/px of AML-Cytomorphology_LMU, from red cells, which are 7.5 µm and about 107 px wide."""

AML_LMU: dict[str, str] = {
    "BAS": "basophil",
    "EBO": "erythroblast",
    "EOS": "eosinophil",
    "KSC": "smudge_cell",
    "LYA": "atypical_lymphocyte",
    "LYT": "lymphocyte",
    "MMZ": "metamyelocyte",
    "MOB": "monoblast",
    "MON": "monocyte",
    "MYB": "myelocyte",
    "MYO": "myeloblast",
    "NGB": "band_neutrophil",
    "NGS": "segmented_neutrophil",
    "PMB": "promyelocyte_bilobed",
    "PMO": "promyelocyte",
}
"""Codes of AML-Cytomorphology_LMU and their types."""

BONE_MARROW: dict[str, str] = {
    "ABE": "abnormal_eosinophil",
    "ART": "artefact",
    "BAS": "basophil",
    "BLA": "blast",
    "EBO": "erythroblast",
    "EOS": "eosinophil",
    "FGC": "faggot_cell",
    "HAC": "hairy_cell",
    "KSC": "smudge_cell",
    "LYI": "immature_lymphocyte",
    "LYT": "lymphocyte",
    "MMZ": "metamyelocyte",
    "MON": "monocyte",
    "MYB": "myelocyte",
    "NGB": "band_neutrophil",
    "NGS": "segmented_neutrophil",
    "NIF": "not_identifiable",
    "OTH": "other",
    "PEB": "proerythroblast",
    "PLM": "plasma_cell",
    "PMO": "promyelocyte",
}
"""Codes of Bone-Marrow-Cytomorphology and their types."""

_LMU_NAME = re.compile(rf"({'|'.join(AML_LMU)})_\d{{4}}\.(?:tiff?|jpe?g|png)", re.IGNORECASE)
_MARROW_NAME = re.compile(rf"({'|'.join(BONE_MARROW)})_\d{{5}}\.(?:jpe?g|png)", re.IGNORECASE)
_NO_PATIENTS = "patients are not named: a random split of this dataset leaks between them"

matches_aml_lmu = partial(has_named_file, pattern=_LMU_NAME)
matches_bone_marrow = partial(has_named_file, pattern=_MARROW_NAME)


def read_aml_lmu(path: Path, *, mpp: Scale | None = AML_LMU_MPP) -> Dataset:
    """Read AML-Cytomorphology_LMU.

    Raises `FormatError` if there is no such file.

    Parameters
    ----------
    path : Path
        Folder that contains the images, at any depth.

    Returns
    -------
    Dataset
        The truth is one cell in the centre, a point with a box of NaN; its `cell_type` comes from the code. Bilobed
        promyelocytes, the leukaemic ones of APL, are to be ignored: neither a blast nor a normal cell. Other cells may
        be visible, so no class counts as annotated.
    """
    return _read(path, "aml_lmu", (_LMU_NAME, "MYO_0001.tiff"), AML_LMU, mpp)


def read_bone_marrow(path: Path, *, mpp: Scale | None = None) -> Dataset:
    """Read Bone-Marrow-Cytomorphology; as `read_aml_lmu`. Its scale is measured.

    Types without a counterpart in `CELL_TYPES` (hairy cells, plasma cells, immature lymphocytes, not identifiable, …)
    are to be ignored.
    """
    return _read(path, "bone_marrow", (_MARROW_NAME, "BLA_00001.jpg"), BONE_MARROW, mpp)


def _read(
    path: Path, name: str, files: tuple[re.Pattern[str], str], types: dict[str, str], mpp: Scale | None
) -> Dataset:
    samples, notes = [], [_NO_PATIENTS]
    for image, match in sorted_files(path, *files):
        code, folder = match[1].upper(), image.parent.name.upper()
        if folder in types and folder != code:
            notes.append(f"{image.name}: is in the folder {folder}, read as {code} because of its name")
        kind = types[code]
        samples.append(typed_crop(image, kind, mpp, None, ignore=type_of(kind) is None))
    return Dataset(name, path, tuple(samples), notes=tuple(notes))
