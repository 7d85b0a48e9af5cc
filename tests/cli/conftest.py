"""Small images cut from the demo."""

from __future__ import annotations

import pytest
from detecting import SMEAR
from PIL import Image

from blastdet.imaging.io import read_image


@pytest.fixture(scope="session")
def crops(tmp_path_factory):
    """A folder of small images cut from the demo: one in a sub-folder, one with a name that is not ASCII."""
    folder = tmp_path_factory.mktemp("smears")
    rgb = read_image(SMEAR)
    (folder / "unter").mkdir()
    for i, name in enumerate(["a.png", "b.jpg", "unter/größe µ.png"]):
        Image.fromarray(rgb[i * 300 : i * 300 + 500, 200:900]).save(folder / name, quality=95)
    return folder
