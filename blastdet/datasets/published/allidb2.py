"""ALL-IDB2: crops ``ImNNN_Y.tif`` of one cell each; Y is 1 for a blast, 0 for any other white cell."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from blastdet.core.types import BLAST, WBC, Dataset, Scale
from blastdet.datasets.published.named_files import crop_sample, has_named_file, sorted_files

_NAME = re.compile(r"Im\d{3}_([01])\.tiff?", re.IGNORECASE)

matches = partial(has_named_file, pattern=_NAME)


def read(path: Path, *, mpp: Scale | None = None) -> Dataset:
    """Read ALL-IDB2.

    Raises `FormatError` if there is no such file.

    Parameters
    ----------
    path : Path
        Folder that contains the crops, at any depth.

    Returns
    -------
    Dataset
        `Sample.label` is the class of the central cell, ``"blast"`` or ``"wbc"``; the truth is this cell as a point
        with a box of NaN. Other cells may be visible, so no class counts as annotated. The dataset does not name
        patients: `group` is ``None``, and a note says so.
    """
    samples = [
        crop_sample(image, BLAST if match[1] == "1" else WBC, mpp, group=None)
        for image, match in sorted_files(path, _NAME, "Im001_1.tif")
    ]
    note = "patients are not named, and several crops may come from one image: a random split of this dataset may leak"
    return Dataset("allidb2", path, tuple(samples), notes=(note,))
