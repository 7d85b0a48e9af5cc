"""ALL-IDB2, C-NMC, PBC, ALL fields and Chula: small look-alikes, and the real sets against their READMEs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import lookalike
import numpy as np
import pytest

from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, RBC, WBC
from blastdet.datasets.published import chula, classified_folders

# ALL-IDB2


def test_allidb2_crops_are_one_cell_each(tmp_path: Path) -> None:
    lookalike.allidb2(tmp_path, n_blasts=2, n_healthy=1)
    assert classified_folders.matches_allidb2(tmp_path)
    dataset = classified_folders.read_allidb2(tmp_path)
    assert [sample.path.name for sample in dataset] == ["Im001_1.tif", "Im002_1.tif", "Im003_0.tif"]
    assert [sample.label for sample in dataset] == ["blast", "blast", "wbc"]
    for sample, label in zip(dataset, (BLAST, BLAST, WBC), strict=True):
        assert sample.truth is not None and sample.truth.point_xy is not None
        assert sample.truth.label.tolist() == [label]
        assert sample.truth.point_xy.tolist() == [[128.5, 128.5]]
        assert np.isnan(sample.truth.boxes_xyxy).all()
        assert (sample.size_wh, sample.annotated, sample.group, sample.mpp) == ((257, 257), (), None, None)
    assert "may leak" in dataset.notes[0]


def test_allidb1_and_allidb2_are_not_taken_for_each_other(tmp_path: Path) -> None:
    from blastdet.datasets.published import allidb

    one = lookalike.allidb1(tmp_path / "one", ["Im037_0"])
    two = lookalike.allidb2(tmp_path / "two", 1, 1)
    assert (allidb.matches(one), allidb.matches(two)) == (True, False)
    assert (classified_folders.matches_allidb2(one), classified_folders.matches_allidb2(two)) == (False, True)


# C-NMC 2019


def test_cnmc_subject_is_the_group(tmp_path: Path) -> None:
    lookalike.cnmc(tmp_path / "C-NMC_training_data", folds=2, subjects=2, cells=1)
    assert classified_folders.matches_cnmc(tmp_path)
    dataset = classified_folders.read_cnmc(tmp_path)
    assert len(dataset) == 8
    assert Counter(sample.label for sample in dataset) == {"blast": 4, "wbc": 4}
    assert {sample.group for sample in dataset} == {"1", "2", "3", "4", "H1", "H2", "H3", "H4"}
    assert {sample.group for sample in dataset if sample.label == "wbc"} == {"H1", "H2", "H3", "H4"}
    assert {sample.size_wh for sample in dataset} == {(450, 450)}
    one_fold = classified_folders.read_cnmc(tmp_path / "C-NMC_training_data/fold_0")
    assert {sample.group for sample in one_fold} == {"1", "2", "H1", "H2"}


def test_cnmc_file_in_the_wrong_folder_is_noted(tmp_path: Path) -> None:
    lookalike.cnmc(tmp_path, folds=1, subjects=1, cells=1)
    (tmp_path / "fold_0/all/UID_1_1_1_all.bmp").rename(tmp_path / "fold_0/hem/UID_1_1_1_all.bmp")
    dataset = classified_folders.read_cnmc(tmp_path)
    assert dataset.notes == ("UID_1_1_1_all.bmp: found in the folder hem, taken by its name as all",)
    assert Counter(sample.label for sample in dataset) == {"blast": 1, "wbc": 1}


@pytest.mark.parametrize(
    "reader",
    [classified_folders.read_allidb2, classified_folders.read_cnmc, classified_folders.read_all_fields, chula.read],
)
@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_an_empty_or_missing_folder_is_refused(tmp_path: Path, reader: object, folder: str) -> None:
    with pytest.raises(FormatError, match=f"^{tmp_path / folder}"):
        reader(tmp_path / folder)  # type: ignore[operator]


# PBC


def pbc(root: Path, rows: dict[str, str]) -> Path:
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    lines = [f"{name},X,{kind},0,train" for name, kind in rows.items()]
    (root / "labels.csv").write_text("\n".join(["image,prefix,cell_type,yolo_class,source_split", *lines]))
    for name in rows:
        lookalike.picture(root / "images" / name, (360, 363), [(180, 180)], width=110)
        (root / "labels" / name).with_suffix(".txt").write_text("0 0.511111 0.498623 0.350000 0.347107\n")
    return root


def test_pbc_box_and_type(tmp_path: Path) -> None:
    pbc(tmp_path, {"ERB_1.jpg": "erythroblast", "IG_1.jpg": "immature_granulocyte"})
    assert classified_folders.matches_pbc(tmp_path) and not classified_folders.matches_pbc(tmp_path / "images")
    first, second = classified_folders.read_pbc(tmp_path)
    assert first.truth is not None and second.truth is not None
    assert first.truth.boxes_xyxy.tolist() == [pytest.approx([121, 118, 247, 244], abs=1e-3)]
    assert first.truth.label.tolist() == [WBC] == second.truth.label.tolist()
    assert [list(sample.truth.cell_type) for sample in (first, second)] == [["erythroblast"], ["immature_granulocyte"]]  # type: ignore[union-attr, arg-type]
    assert (first.annotated, first.mpp, first.split, first.truth.origin.tolist()) == (
        ("wbc",),
        (0.1, 0.1),
        None,
        ["human"],
    )  # type: ignore[union-attr]


def test_pbc_box_that_reaches_over_the_edge_is_cut(tmp_path: Path) -> None:
    pbc(tmp_path, {"LY_1.jpg": "lymphocyte"})
    (tmp_path / "labels/LY_1.txt").write_text("4 0.9 0.5 0.4 1.0")
    (sample,) = classified_folders.read_pbc(tmp_path)
    assert sample.truth is not None
    assert sample.truth.boxes_xyxy.tolist() == [pytest.approx([252, 0, 360, 363], abs=1e-3)]


@pytest.mark.parametrize(
    "line",
    [
        "0 0.5 0.5 0.1",
        "0 0.5 0.5 0.1 0.1 0.9",
        "0 a 0.5 0.1 0.1",
        "0 1.5 0.5 0.1 0.1",
        "0 nan 0.5 0.1 0.1",
        "0 0.5 0.5 0 0.1",
        "0.5",
    ],
)
def test_pbc_malformed_box_is_an_error_with_file_and_line(tmp_path: Path, line: str) -> None:
    pbc(tmp_path, {"LY_1.jpg": "lymphocyte"})
    (tmp_path / "labels/LY_1.txt").write_text(f"\n{line}\n")
    with pytest.raises(FormatError, match=r"LY_1\.txt: line 2: .* expected$"):
        classified_folders.read_pbc(tmp_path)


def test_pbc_picture_and_table_must_agree(tmp_path: Path) -> None:
    pbc(tmp_path, {"LY_1.jpg": "lymphocyte", "LY_2.jpg": "lymphocyte"})
    (tmp_path / "labels/LY_2.txt").unlink()
    dataset = classified_folders.read_pbc(tmp_path)
    assert dataset.samples[1].truth is None and dataset.samples[1].annotated == ()
    assert dataset.notes == ("labels/LY_2.txt: missing, taken as not annotated",)
    (tmp_path / "images/LY_1.jpg").rename(tmp_path / "images/LY_3.jpg")
    with pytest.raises(FormatError, match=r"LY_1\.jpg: missing, although labels\.csv lists it"):
        classified_folders.read_pbc(tmp_path)
    lookalike.picture(tmp_path / "images/LY_1.jpg", (360, 363))
    with pytest.raises(FormatError, match=r"LY_3\.jpg: not in labels\.csv"):
        classified_folders.read_pbc(tmp_path)


def test_a_table_without_the_column_is_refused(tmp_path: Path) -> None:
    pbc(tmp_path, {"LY_1.jpg": "lymphocyte"})
    (tmp_path / "labels.csv").write_text("image,kind\nLY_1.jpg,lymphocyte\n")
    assert not classified_folders.matches_pbc(tmp_path)
    with pytest.raises(FormatError, match="image, kind found, image and cell_type expected"):
        classified_folders.read_pbc(tmp_path)
    (tmp_path / "labels.csv").write_text("image,cell_type\nLY_1.jpg\n")
    with pytest.raises(FormatError, match="line 2: a field is empty"):
        classified_folders.read_pbc(tmp_path)


# ALL fields


def test_all_fields_class_group_and_anisotropic_scale(tmp_path: Path) -> None:
    for folder in ("Benign", "Early", "Pre", "Pro"):  # as in the published archive
        lookalike.picture(tmp_path / folder / "a.jpg", (224, 224))
    assert classified_folders.matches_all_fields(tmp_path)
    dataset = classified_folders.read_all_fields(tmp_path)
    assert [sample.label for sample in dataset] == ["benign", "early", "pre", "pro"]
    assert {(sample.mpp, sample.truth, sample.annotated, sample.group) for sample in dataset} == {
        ((0.5, 0.375), None, (), None)
    }
    assert "groups of overlapping fields are unknown" in dataset.notes[0]


def test_all_fields_reads_groups_and_clusters(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        lookalike.picture(tmp_path / "pro" / name, (224, 224))
    assert not classified_folders.matches_all_fields(tmp_path)
    table = tmp_path / "clusters.csv"
    table.write_text(
        "image,class,number,cluster,mark,group\npro/a.jpg,pro,1,pro_c01,red,f0007\npro/b.jpg,pro,2,pro_c02,red,f0007\n"
    )
    smears = classified_folders.read_all_fields(tmp_path).samples
    assert [(sample.group, sample.cluster) for sample in smears] == [("f0007", "pro_c01"), ("f0007", "pro_c02")]
    table.write_text("image,cluster,group\npro/a.jpg,c,f\n")
    with pytest.raises(FormatError, match=r"no line for pro/b\.jpg"):
        classified_folders.read_all_fields(tmp_path)


# Chula


def chula_copy(root: Path, label: str | None) -> Path:
    lookalike.picture(root / "Dataset/1.jpg", (640, 480))
    (root / "Label").mkdir()
    if label is not None:
        (root / "Label/1.txt").write_text(label)
    return root


def test_chula_points_and_types(tmp_path: Path) -> None:
    chula_copy(tmp_path, "594 95 0\r\n\r\n601 151 12\r\n601 151 3\r\n640 5 0\r\n")
    assert chula.matches(tmp_path) and not chula.matches(tmp_path / "Label")
    dataset = chula.read(tmp_path)
    (sample,) = dataset
    assert sample.truth is not None and sample.truth.point_xy is not None and sample.truth.cell_type is not None
    assert sample.truth.point_xy.tolist() == [[594, 95], [601, 151]]
    assert sample.truth.cell_type.tolist() == ["normal", "elliptocyte"]
    assert sample.truth.label.tolist() == [RBC, RBC] and np.isnan(sample.truth.boxes_xyxy).all()
    assert sample.annotated == ()
    assert dataset.dropped == (
        "Label/1.txt: point (601, 151) is there already",
        "Label/1.txt: point (640, 5) is outside the image of 640 x 480 px",
    )


@pytest.mark.parametrize(("label", "word"), [(None, "missing"), ("", "empty"), ("\n", "empty")])
def test_chula_without_points_is_not_annotated(tmp_path: Path, label: str | None, word: str) -> None:
    dataset = chula.read(chula_copy(tmp_path, label))
    assert dataset.samples[0].truth is None and dataset.samples[0].annotated == ()
    assert dataset.notes == (f"Label/1.txt: {word}, taken as not annotated",)


@pytest.mark.parametrize(("n", "annotated"), [(59, ()), (60, ("rbc",))])
def test_chula_only_dense_pictures_are_annotated_completely(tmp_path: Path, n: int, annotated: tuple[str, ...]) -> None:
    (sample,) = chula.read(chula_copy(tmp_path, "".join(f"{i} {i} 0\n" for i in range(n))))
    assert sample.annotated == annotated


@pytest.mark.parametrize("line", ["1 2", "1 2 13", "1 2 -1", "1 2 0 4", "a b c", "1.5 2 0"])
def test_chula_malformed_line_is_an_error_with_file_and_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(FormatError, match=r"^Label/1\.txt: line 2: .* expected, type 0-12$"):
        chula.read(chula_copy(tmp_path, f"1 1 0\n{line}\n"))


# The real sets


@pytest.mark.realdata
def test_real_pbc(data_dir: Path) -> None:
    dataset = classified_folders.read_pbc(data_dir / "pbc_wbc")
    types = Counter(
        str(sample.truth.cell_type[0]) for sample in dataset if sample.truth and sample.truth.cell_type is not None
    )
    assert types == {
        "basophil": 300, "eosinophil": 300, "erythroblast": 300, "immature_granulocyte": 70, "metamyelocyte": 125,
        "myelocyte": 125, "promyelocyte": 125, "lymphocyte": 300, "monocyte": 300, "band_neutrophil": 200,
        "segmented_neutrophil": 200, "neutrophil": 30,
    }  # fmt: skip
    assert sum(len(sample.truth) for sample in dataset if sample.truth is not None) == 2375
    assert {sample.size_wh for sample in dataset} == {(360, 363)}
    assert not dataset.notes and not dataset.dropped and dataset.classes == ("wbc",)
    side = np.concatenate([np.diff(sample.truth.boxes_xyxy[:, ::2]) for sample in dataset if sample.truth is not None])
    assert 100 < np.median(side) < 180 and classified_folders.matches_pbc(data_dir / "pbc_wbc")


@pytest.mark.realdata
def test_real_all_fields(data_dir: Path) -> None:
    root = data_dir / "all_fields"
    dataset = classified_folders.read_all_fields(root)
    assert Counter(sample.label for sample in dataset) == {"benign": 438, "early": 860, "pre": 783, "pro": 704}
    groups = Counter(sample.group for sample in dataset)
    in_company = [n for n in groups.values() if n > 1]
    assert (len(groups), len(in_company), sum(in_company)) == (2272, 373, 886)
    assert len({sample.cluster for sample in dataset}) == 63
    assert {sample.size_wh for sample in dataset} == {(224, 224)} and classified_folders.matches_all_fields(root)


@pytest.mark.realdata
def test_real_chula(data_dir: Path) -> None:
    dataset = chula.read(data_dir / "chula_rbc12")
    assert chula.matches(data_dir / "chula_rbc12")
    truths = [sample.truth for sample in dataset if sample.truth is not None]
    types = Counter(str(kind) for truth in truths if truth.cell_type is not None for kind in truth.cell_type)
    expected = (846, 138, 46, 551, 395, 260, 221, 73, 157, 195, 52, 176, 217)
    assert [types[name] for name in chula.CELL_TYPES] == list(expected)
    assert (len(dataset), len(truths), sum(len(truth) for truth in truths), dataset.dropped) == (120, 115, 3327, ())
    dense = sorted(int(sample.path.stem) for sample in dataset if sample.annotated)
    assert dense == [1, 5, 22, 26, 42, 95, 100, 222, 240, 264, 300, 305, 320, 389]
    unlabelled = sorted(int(sample.path.stem) for sample in dataset if sample.truth is None)
    assert unlabelled == [53, 56, 114, 358, 454]
