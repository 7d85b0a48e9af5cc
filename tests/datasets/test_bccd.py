"""BCCD: its scale, groups, usual classes and counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import voc, voc_xml

from blastdet.core.errors import FormatError
from blastdet.datasets.formats import registry
from blastdet.datasets.published import bccd


def test_sets_groups_and_parent_folder(tmp_path: Path) -> None:
    sets = {"train": ["a"], "val": ["b"], "test": ["c 1"]}
    voc(tmp_path / "BCCD", {name: voc_xml([("RBC", 1, 1, 4, 4)]) for name in "abcd"}, sets)
    (tmp_path / "overlap_groups.csv").write_text("image,group\na.jpg,g1\nb.jpg,g1\nc,g2\n")
    for path in (tmp_path, tmp_path / "BCCD"):
        dataset = bccd.read(path)
        assert [s.split for s in dataset] == ["train", "val", "test", None]
        assert [s.group for s in dataset] == ["g1", "g1", "g2", None]
        assert [s.mpp for s in dataset] == [None] * 4


def test_bccd_read_as_plain_voc_says_what_is_missing(tmp_path: Path) -> None:
    root = voc(tmp_path, {"BloodImage_00000": voc_xml([("RBC", 1, 1, 4, 4)])})
    assert any("read it as bccd" in note for note in registry.read(root, "voc").notes)
    assert not any("read it as bccd" in note for note in registry.read(root, "bccd").notes)


def test_the_scale_is_noted_and_can_be_given(tmp_path: Path) -> None:
    root = voc(tmp_path, {"BloodImage_00000": voc_xml([])})
    dataset = bccd.read(root)
    assert dataset.samples[0].mpp == pytest.approx((0.0714, 0.0714), abs=1e-4)
    assert "0.0714" in dataset.notes[0]
    assert bccd.read(root, mpp=(0.1, 0.2)).samples[0].mpp == (0.1, 0.2)


def test_a_missing_usual_class_is_unknown_only_on_request(tmp_path: Path) -> None:
    files = {f"i{n:02}": voc_xml([("RBC", 1, 1, 4, 4), ("WBC", 9, 9, 20, 20)][: 1 + n % 2]) for n in range(30)}
    files["odd"] = voc_xml([("WBC", 9, 9, 20, 20)])
    root = voc(tmp_path, files)
    assert all(s.annotated == ("wbc", "rbc") for s in bccd.read(root))
    dataset = bccd.read(root, as_published=False)
    assert [s.path.stem for s in dataset if "rbc" not in s.annotated] == ["odd"]
    assert all("wbc" in s.annotated for s in dataset)  # half of the images have none, so it is not usual
    assert dataset.notes == ("odd.jpg: no rbc box, considered not annotated",)


def test_faulty_groups(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": voc_xml([])})
    (root / "overlap_groups.csv").write_text("file;group\n")
    with pytest.raises(FormatError, match="expected columns image and group, got file;group"):
        bccd.read(root)


@pytest.mark.realdata
def test_counts_are_those_of_the_readme(data_dir: Path) -> None:
    dataset = bccd.read(data_dir / "bccd")
    counts = [sum(s.truth.counts()[name] for s in dataset) for name in ("wbc", "rbc", "platelet")]
    assert counts == [372, 4155 - 2, 361]
    assert [len(dataset.with_split(name)) for name in ("train", "val", "test")] == [205, 87, 72]
    assert len({s.group for s in dataset}) == 328
    assert [line.split(".")[0] for line in dataset.dropped] == ["BloodImage_00338", "BloodImage_00343"]
    assert {s.annotated for s in dataset} == {("wbc", "rbc", "platelet")}
    sides = np.concatenate([s.truth.with_classes("rbc").boxes_xyxy for s in dataset])
    assert np.median(sides[:, 2] - sides[:, 0]) == pytest.approx(bccd.RED_CELL_PX, abs=1.5)


@pytest.mark.realdata
def test_images_without_red_cells_are_those_of_the_readme(data_dir: Path) -> None:
    dataset = bccd.read(data_dir / "bccd", as_published=False)
    numbers = [int(s.path.stem[-5:]) for s in dataset if "rbc" not in s.annotated]
    assert numbers == [134, 147, 150, 152, 224, 249, 250, 258, 267, 268, 303, 322, 327, 330, 350]
    numbers = [int(s.path.stem[-5:]) for s in dataset if "wbc" not in s.annotated]
    assert numbers == [133, 135, 171, 178, 228, 327]


def test_a_folder_of_another_voc_dataset_does_not_match(tmp_path: Path) -> None:
    root = voc(tmp_path / "set", {"a": voc_xml([])})
    assert not bccd.matches(root)
    assert not bccd.matches(tmp_path / "nowhere")
    (root / "overlap_groups.csv").touch()
    assert bccd.matches(root)


def test_neither_here_nor_below(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"expected the folders Annotations and JPEGImages, here or in BCCD/"):
        bccd.read(tmp_path)
