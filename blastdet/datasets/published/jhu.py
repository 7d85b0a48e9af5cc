"""JHU: single cells of acute myeloid leukaemia, ``images/PATIENT/TYPE_ID.jpg`` and ``labels.csv``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, PLATELET, WBC, Dataset, Detections, Sample, Scale
from blastdet.datasets.annotations.files import read_column, read_text
from blastdet.imaging.io import image_size

MPP: Scale = (0.1, 0.1)
"""µm/px, from red cells, which are 7.5 µm and about 76 px wide."""

_COLUMNS = {"image", "patient", "diagnosis", "cell_type"}
_CLASS = {"blast": BLAST, "giant_thrombocyte": PLATELET}  # all other types are white cells


def matches(path: Path) -> bool:
    """Whether `path` contains ``images`` and ``labels.csv`` with patient, diagnosis and cell type."""
    table = path / "labels.csv"
    if not (table.is_file() and (path / "images").is_dir()):
        return False
    return set(read_text(table).partition("\n")[0].strip().split(",")) >= _COLUMNS


def read(path: Path, *, mpp: Scale | None = MPP) -> Dataset:
    """Read the dataset.

    Parameters
    ----------
    path : Path
        The folder with ``labels.csv``.
    mpp : (float, float), optional
        µm/px of all images.

    Returns
    -------
    Dataset
        The truth is the cell in the centre of each image, a point with a box of NaN; its neighbours are not annotated,
        so no class counts as annotated. `Sample.group` is the patient. Promyelocytes of patients with APL are
        leukaemic, and promonocytes count as blast equivalents in AML: neither is a blast nor a normal cell here, so
        both are to be ignored.

    Raises
    ------
    FormatError
        If an image of ``labels.csv`` is missing.
    """
    table = path / "labels.csv"
    patient, diagnosis, cell_type = (read_column(table, name) for name in ("patient", "diagnosis", "cell_type"))
    samples = []
    for name, kind in cell_type.items():
        image = path / "images" / name
        if not image.is_file():
            raise FormatError(f"{image}: expected this image, listed in labels.csv, got none")
        width, height = image_size(image)
        label = _CLASS.get(kind, WBC)
        leukaemic = kind == "promonocyte" or (kind == "promyelocyte" and diagnosis[name] == "APL")
        truth = Detections(
            np.full((1, 4), np.nan, np.float32),
            label=np.array([label]),
            point_xy=np.array([[width / 2, height / 2]], np.float32),
            cell_type=np.array([kind if label == WBC else ""]),
            ignore=np.array([leukaemic]),
        )
        # No class of the image: its other cells are not what the central one is.
        samples.append(Sample(image, (width, height), mpp=mpp, group=patient[name], truth=truth))
    return Dataset("jhu_acute", path, tuple(samples))
