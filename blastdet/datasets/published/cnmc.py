"""C-NMC 2019: crops ``fold_F/{all,hem}/UID_SUBJECT_CELL_REPEAT_{all,hem}.bmp`` of one cell each.

The images of the challenge are BMP; copies as JPEG are read, too. Their scale is not published.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from blastdet.core.types import BLAST, WBC, Dataset, Scale
from blastdet.datasets.published.named_files import crop_sample, has_named_file, sorted_files

_NAME = re.compile(r"UID_(H?\d+)_\d+_\d+_(all|hem)\.(?:bmp|jpe?g)", re.IGNORECASE)

matches = partial(has_named_file, pattern=_NAME)


def read(path: Path, *, mpp: Scale | None = None) -> Dataset:
    """Read C-NMC 2019, or one of its folds.

    Raises `FormatError` if there is no such file.

    Parameters
    ----------
    path : Path
        Folder that contains the crops, at any depth. To use the published folds, read the folder of each fold.

    Returns
    -------
    Dataset
        `Sample.label` is ``"blast"`` (all) or ``"wbc"`` (hem), from the file name; `group` is the subject. The truth is
        one cell in the centre, a point with a box of NaN.
    """
    samples, notes = [], []
    for image, match in sorted_files(path, _NAME, "UID_11_10_1_all.bmp"):
        kind, folder = match[2].lower(), image.parent.name.lower()
        if folder in ("all", "hem") and folder != kind:
            notes.append(f"{image.name}: is in the folder {folder}, read as {kind} because of its name")
        samples.append(crop_sample(image, BLAST if kind == "all" else WBC, mpp, group=match[1].upper()))
    return Dataset("cnmc2019", path, tuple(samples), notes=tuple(notes))
