"""Readers that find images by name refuse a folder without any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blastdet.core.errors import FormatError
from blastdet.datasets.published import all_fields, allidb2, cell_folders, chula, cnmc, coded_cells


@pytest.mark.parametrize(
    "reader",
    [
        allidb2.read,
        cnmc.read,
        all_fields.read,
        chula.read,
        coded_cells.read_aml_lmu,
        coded_cells.read_bone_marrow,
        cell_folders.read,
    ],
)
@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_an_empty_or_missing_folder_is_refused(tmp_path: Path, reader: Callable[[Path], Any], folder: str) -> None:
    with pytest.raises(FormatError, match=f"^{tmp_path / folder}"):
        reader(tmp_path / folder)
