"""A folder of pictures that nobody annotated."""

from __future__ import annotations

from pathlib import Path

from blastdet.core.types import Dataset, Sample
from blastdet.imaging.io import find_images, image_size


def read(path: Path) -> Dataset:
    """Every picture below a folder, without truth, split or scale. Asked for by name; no folder is taken for it."""
    path = Path(path)
    smears = tuple(Sample(picture, image_size(picture)) for picture in find_images(path))
    return Dataset(path.resolve().name, path, smears)
