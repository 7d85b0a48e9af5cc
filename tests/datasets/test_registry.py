"""Formats by name: detection, reading and writing, options."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import image_file, voc, voc_xml

from blastdet.core.errors import ConfigError, FormatError, ScaleError
from blastdet.core.types import Dataset
from blastdet.datasets.formats import registry


@pytest.mark.parametrize("target", sorted({*registry.READERS.values(), *registry.WRITERS.values()}))
def test_every_name_in_the_tables_leads_to_a_function(target: str) -> None:
    assert callable(registry.resolve(target))


@pytest.mark.parametrize(
    ("name", "files_"),
    [
        ("bccd", ["BCCD/Annotations/a.xml"]),
        ("bccd", ["Annotations/BloodImage_00001.xml"]),
        ("bccd", ["Annotations/a.xml", "overlap_groups.csv"]),
        ("voc", ["Annotations/a.xml", "JPEGImages/a.jpg", "data.yaml"]),
        ("yolo", ["data.yaml", "images/a.jpg", "annotations/instances_train.json"]),
        ("coco", ["annotations/instances_train.json"]),
        ("coco", ["train/_annotations.coco.json"]),
        ("geojson", ["geojson/train/a.geojson"]),
        ("allidb1", ["im/Im001_1.jpg", "xyc/Im001_1.xyc"]),
        ("allidb2", ["Im001_1.tif"]),
        ("aml_lmu", ["MYO/MYO_0001.tiff"]),
        ("bone_marrow", ["BLA/0001-1000/BLA_00001.jpg"]),
        ("cell_folders", ["Basophil/1.jpg", "plasma cell/2.jpg"]),
    ],
)
def test_a_folder_is_recognised_by_its_files(tmp_path: Path, name: str, files_: list[str]) -> None:
    for file in files_:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert registry.detect_format(tmp_path) == name


def test_groups_next_to_a_voc_folder_are_read(tmp_path: Path) -> None:
    root = voc(tmp_path / "mine", {"a": voc_xml([])})
    (tmp_path / "overlap_groups.csv").write_text("image,group\na.jpg,patient 1\n")
    assert registry.read(root).samples[0].group == "patient 1"


def test_files_are_recognised_by_suffix_and_anything_else_is_refused(tmp_path: Path) -> None:
    for name, expected in (("a.json", "coco"), ("a.geojson", "geojson"), ("a.YAML", "yolo")):
        (tmp_path / name).touch()
        assert registry.detect_format(tmp_path / name) == expected
    with pytest.raises(FormatError, match="no such file"):
        registry.read(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FormatError, match=r"expected a dataset in a known format, got none\. Name its format with --from: bccd"
    ):
        registry.read(tmp_path / "empty")
    with pytest.raises(FormatError, match=r"expected one of auto, bccd, .* got 'tiff'"):
        registry.read(tmp_path, "tiff")
    with pytest.raises(FormatError, match="expected one of coco, yolo, csv, geojson, cvat, labelstudio to write"):
        registry.write(Dataset("x", tmp_path, ()), tmp_path, "voc")


def test_an_option_that_a_reader_does_not_have(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": voc_xml([])})
    assert len(registry.read(root, size_um=None, class_map=None)) == 1
    with pytest.raises(ConfigError, match="format 'voc': expected class_map, images, mpp, got the option size_um"):
        registry.read(root, size_um=15.0)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "name"), [("bccd", "bccd"), ("all_fields", "all_fields"), ("pbc_wbc", "pbc"), ("chula_rbc12", "chula")]
)
def test_published_datasets_are_recognised(data_dir: Path, folder: str, name: str) -> None:
    assert registry.detect_format(data_dir / folder) == name


def test_the_former_name_of_a_folder_of_images_is_accepted_with_a_note(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    assert registry.read(tmp_path, "images").notes == ()
    (sample,) = renamed = registry.read(tmp_path, "pictures")
    assert (sample.truth, sample.annotated, sample.split) == (None, (), None)
    assert renamed.notes == ("the format pictures is now images",)
    assert "pictures" not in registry.READERS


@pytest.mark.parametrize("mpp", [0.0, (0.1, 200.0), "fast", (0.1, 0.1, 0.1)])
def test_a_scale_that_is_none_is_refused(tmp_path: Path, mpp: object) -> None:
    root = voc(tmp_path, {"a": voc_xml([])})
    with pytest.raises(ScaleError, match=r"^mpp: expected"):
        registry.read(root, mpp=mpp)


def test_one_number_is_the_scale_of_square_pixels(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": voc_xml([])})
    assert registry.read(root, mpp=0.1).samples[0].mpp == (0.1, 0.1)


def test_a_dataset_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(FormatError, match="expected annotation files of this format, got none"):
        registry.read(tmp_path)


def test_without_strict_everything_valid_is_read(tmp_path: Path) -> None:
    faulty = voc_xml([("RBC", 1, 1, 9, 9), ("RBC", 5, 5, 5, 9), ("Parasite", 1, 1, 4, 4)])
    root = voc(tmp_path, {"a": faulty, "b": "<annotation>", "c": voc_xml([("WBC", 2, 2, 9, 9)])}, {"val": ["c"]})
    with pytest.raises(FormatError):
        registry.read(root)
    dataset = registry.read(root, strict=False, class_map={"Parasite": "rbc"})
    a, c = dataset
    assert (a.truth.boxes_xyxy.tolist(), c.split) == ([[0, 0, 9, 9], [0, 0, 4, 4]], "val")
    assert {sample.annotated for sample in dataset} == {("wbc", "rbc")}
    assert [line.split(":")[0] for line in dataset.dropped] == ["b.xml", "a.xml"]
    assert len(registry.read(root, strict=False).samples[0].truth) == 1
    with pytest.raises(ConfigError, match="format 'voc' with strict=False: expected class_map, got the option mpp"):
        registry.read(root, strict=False, mpp=(0.1, 0.1))


def test_records_of_one_file_or_of_all_formats(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": voc_xml([]), "b": voc_xml([])})
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert [record.file.name for record in registry.read_records(root)] == ["a.xml", "b.xml", "a.txt"]
    assert [record.file.name for record in registry.read_records(root, "bccd")] == ["a.xml", "b.xml"]
    assert [record.file.name for record in registry.read_records(root / "Annotations" / "b.xml")] == ["b.xml"]
    assert registry.read_records(root, "chula") == ()
