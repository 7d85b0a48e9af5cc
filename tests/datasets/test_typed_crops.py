"""Single cells with a type: AML-Cytomorphology_LMU, Bone-Marrow-Cytomorphology, folders by type."""

from __future__ import annotations

from pathlib import Path

import lookalike
import numpy as np
import pytest

from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, CELL_CLASSES, Dataset
from blastdet.datasets.annotations.cell_types import possible_types, type_of
from blastdet.datasets.formats import registry
from blastdet.datasets.published import cell_folders, coded_cells


def truth_of(dataset: Dataset) -> dict[str, tuple[str, str, bool]]:
    """Name of an image: class, type, and whether the cell is ignored."""
    found = {}
    for sample in dataset:
        truth = sample.truth
        assert truth is not None and truth.cell_type is not None and truth.ignore is not None
        assert np.isnan(truth.boxes_xyxy).all() and truth.point_xy is not None
        assert truth.point_xy.tolist() == [[side / 2 for side in sample.size_wh]]
        assert (sample.label, sample.annotated) == (None, ())
        found[sample.path.name] = (CELL_CLASSES[truth.label[0]], str(truth.cell_type[0]), bool(truth.ignore[0]))
    return found


def test_codes_of_lmu_become_types_and_leukaemic_promyelocytes_are_ignored(tmp_path: Path) -> None:
    dataset = registry.read(lookalike.aml_lmu(tmp_path, ["MYO", "MOB", "NGS", "PMB", "EBO"]))
    assert dataset.name == "aml_lmu"
    assert truth_of(dataset) == {
        "EBO_0001.tiff": ("wbc", "erythroblast", False),
        "MOB_0001.tiff": ("blast", "monoblast", False),
        "MYO_0001.tiff": ("blast", "myeloblast", False),
        "NGS_0001.tiff": ("wbc", "segmented_neutrophil", False),
        "PMB_0001.tiff": ("wbc", "promyelocyte_bilobed", True),
    }
    assert {(sample.size_wh, sample.mpp) for sample in dataset} == {((400, 400), (0.07, 0.07))}
    assert "leaks" in dataset.notes[0]


def test_codes_of_bone_marrow_become_types_and_others_are_ignored(tmp_path: Path) -> None:
    dataset = registry.read(lookalike.bone_marrow(tmp_path))
    assert truth_of(dataset) == {
        "BLA_00001.jpg": ("blast", "blast", False),
        "EBO_00001.jpg": ("wbc", "erythroblast", False),
        "PLM_00001.jpg": ("wbc", "plasma_cell", True),
    }
    assert {sample.mpp for sample in dataset} == {None}


@pytest.mark.parametrize("codes", [coded_cells.AML_LMU, coded_cells.BONE_MARROW])
def test_types_of_codes_are_cell_types_apart_from_a_few(codes: dict[str, str]) -> None:
    unknown = {name for name in codes.values() if type_of(name) is None}
    assert unknown <= {
        "promyelocyte_bilobed",
        "abnormal_eosinophil",
        "faggot_cell",
        "hairy_cell",
        "immature_lymphocyte",
        "not_identifiable",
        "other",
        "plasma_cell",
    }


def test_a_file_in_the_folder_of_another_code_is_noted(tmp_path: Path) -> None:
    lookalike.aml_lmu(tmp_path, ["MYO", "NGS"])
    (tmp_path / "MYO/MYO_0001.tiff").rename(tmp_path / "NGS/MYO_0001.tiff")
    assert "read as MYO" in registry.read(tmp_path).notes[1]


def test_folders_by_type_are_a_dataset(tmp_path: Path) -> None:
    root = lookalike.cell_folders(tmp_path / "mine", {"Basophils": 1, "ig": 1, "Myeloblast": 2, "plasma cell": 1})
    (root / "Myeloblast/patient 7").mkdir()
    (root / "Myeloblast/1.jpg").rename(root / "Myeloblast/patient 7/1.jpg")
    dataset = registry.read(root)
    assert dataset.name == "mine" and len(dataset) == 5
    found = [(s.path.parent.name, s.group, s.truth.label[0] == BLAST, s.truth.ignore[0]) for s in dataset if s.truth]
    assert found == [
        ("Basophils", None, False, False),
        ("Myeloblast", None, True, False),
        ("patient 7", "patient 7", True, False),
        ("ig", None, False, False),
        ("plasma cell", None, False, True),
    ]
    assert dataset.notes == (
        "plasma cell: no known cell type, 1 image ignored. Say what they are: --map 'plasma cell=wbc', or =blast",
    )
    assert possible_types("wbc", "Basophils", "") == ("basophil",)


def test_folders_without_a_type_are_no_dataset(tmp_path: Path) -> None:
    lookalike.cell_folders(tmp_path, {"monday": 1, "tuesday": 1})
    (tmp_path / "blast").mkdir()  # empty
    assert not cell_folders.matches(tmp_path)
    with pytest.raises(FormatError, match="folder of images for each cell type"):
        cell_folders.read(tmp_path)
