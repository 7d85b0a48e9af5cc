"""Folders of single cells by type, under names of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import image_file

from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import BLAST, WBC
from blastdet.datasets.published import cell_folders
from blastdet.datasets.reading import read_dataset


def test_folders_are_mapped_by_name(tmp_path: Path) -> None:
    for folder in ("BL 1", "other\x1b[2J", "junk"):
        image_file(tmp_path / "cells" / folder / "p1" / "1.png")
    with pytest.raises(FormatError):
        cell_folders.read(tmp_path / "cells")
    class_map = {"BL 1": "blast", "other\x1b[2J": "wbc", "junk": "", "BL2": "blast"}
    dataset = read_dataset(tmp_path / "cells", format="cell_folders", class_map=class_map, mpp=0.1)
    found = {sample.path.parts[-3]: sample.truth for sample in dataset}
    kinds = {name: (truth.label[0], truth.cell_type[0], truth.ignore[0]) for name, truth in found.items()}
    assert kinds == {"BL 1": (BLAST, "blast", False), "other\x1b[2J": (WBC, "", False)}
    assert dataset.notes[0] == "junk: 1 image left out" and "no class 'BL2' in these files" in dataset.notes[1]
    with pytest.raises(ConfigError, match="expected one of blast"):
        read_dataset(tmp_path / "cells", format="cell_folders", class_map={"BL 1": "cat"})
