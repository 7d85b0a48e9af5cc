"""What all formats share: detection, class names, files, the CSV table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import SIZE_WH, damaged, picture, voc, voc_xml

from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import BLAST, PLATELET, RBC, WBC, Dataset, Detections, Sample
from blastdet.datasets.formats import class_names, coco, csv_table, files, registry

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("target", sorted({*registry.READERS.values(), *registry.WRITERS.values()}))
def test_every_name_in_the_tables_leads_to_a_function(target: str) -> None:
    assert callable(registry.resolve(target))


@pytest.mark.parametrize(
    ("name", "files_"),
    [
        ("bccd", ["BCCD/Annotations/a.xml"]),
        ("bccd", ["Annotations/a.xml", "JPEGImages/a.jpg"]),
        ("yolo", ["data.yaml", "images/a.jpg", "annotations/instances_train.json"]),
        ("coco", ["annotations/instances_train.json"]),
        ("coco", ["train/_annotations.coco.json"]),
        ("geojson", ["geojson/train/a.geojson"]),
        ("allidb1", ["im/Im001_1.jpg", "xyc/Im001_1.xyc"]),
        ("allidb2", ["Im001_1.tif"]),
    ],
)
def test_a_folder_is_told_by_what_it_holds(tmp_path: Path, name: str, files_: list[str]) -> None:
    for file in files_:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert registry.detect_format(tmp_path) == name


def test_files_are_told_by_suffix_and_the_rest_is_refused(tmp_path: Path) -> None:
    for name, expected in (("a.json", "coco"), ("a.geojson", "geojson"), ("a.YAML", "yolo")):
        (tmp_path / name).touch()
        assert registry.detect_format(tmp_path / name) == expected
    with pytest.raises(FormatError, match="no such file"):
        registry.read(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="no known data set found; name its format"):
        registry.read(tmp_path / "empty")
    with pytest.raises(FormatError, match="format 'tiff' cannot be read; known are: auto, bccd"):
        registry.read(tmp_path, "tiff")
    with pytest.raises(FormatError, match="format 'voc' cannot be written"):
        registry.write(Dataset("x", tmp_path, ()), tmp_path, "voc")


def test_an_option_that_a_reader_does_not_have(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": voc_xml([])})
    assert len(registry.read(root, size_um=None, class_map=None)) == 1
    with pytest.raises(ConfigError, match="format 'bccd' has no option size_um"):
        registry.read(root, size_um=15.0)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "name"), [("bccd", "bccd"), ("all_fields", "all_fields"), ("pbc_wbc", "pbc"), ("chula_rbc12", "chula")]
)
def test_the_sets_we_have_are_told(data_dir: Path, folder: str, name: str) -> None:
    assert registry.detect_format(data_dir / folder) == name


@pytest.mark.parametrize(
    ("name", "label"), [("WBC", WBC), ("wbcs", WBC), (" Platelets ", PLATELET), ("BLAST", BLAST), ("Neutrophil", RBC)]
)
def test_class_names(name: str, label: int) -> None:
    assert class_names.label_of(name, {"Neutrophil": "rbc"}, "f") == label


def test_a_map_wins_over_a_name_of_ours_and_must_lead_to_one() -> None:
    assert class_names.label_of("WBC", {"WBC": "blast"}, "f") == BLAST
    with pytest.raises(FormatError, match="f: class 'x' found, blast, wbc, rbc, platelet and the mapped y, z expected"):
        class_names.label_of("x", {"y": "wbc", "z": "rbc"}, "f")
    with pytest.raises(ConfigError, match="--map x=leukocyte: class 'leukocyte' found"):
        class_names.label_of("wbc", {"x": "leukocyte"}, "f")


def a_set(root: Path, *names: str, **sample: Any) -> Dataset:
    return Dataset("x", root, tuple(Sample(picture(root / name), SIZE_WH, **sample) for name in names))


def test_names_never_collide(tmp_path: Path) -> None:
    dataset = a_set(tmp_path, "a/1.jpg", "b/1.jpg", "b/1.png", "B__1.jpg", "2.jpg", "C/2.JPG")
    names = files.unique_names(dataset)
    assert names[0] == "a__1.jpg" and names[4] == "2.jpg"
    assert len({Path(name).stem.casefold() for name in names}) == len(names)
    placed = files.place_images(dataset, tmp_path / "o")
    assert len({s.path for s in placed}) == 6 and all(s.path.is_file() for s in placed)


def test_pictures_are_copied_byte_for_byte_or_linked(tmp_path: Path) -> None:
    dataset = a_set(tmp_path / "in", "a.jpg", truth=Detections.empty(), split="val")
    source = dataset.samples[0].path
    copied = files.place_images(dataset, tmp_path / "copy").samples[0].path
    linked = files.place_images(dataset, tmp_path / "link", "link").samples[0].path
    assert copied == tmp_path / "copy" / "images" / "val" / "a.jpg"
    assert copied.read_bytes() == linked.read_bytes() == source.read_bytes()
    assert not copied.samefile(source) and linked.samefile(source)
    again = files.place_images(files.place_images(dataset, tmp_path / "link"), tmp_path / "link")
    assert again.samples[0].path == linked and source.read_bytes() == copied.read_bytes()
    picture(tmp_path / "other" / "b.jpg")
    linked.unlink()
    linked.symlink_to(tmp_path / "other" / "b.jpg")
    files.place_images(dataset, tmp_path / "link")  # takes the place of the link, does not write through it
    assert not linked.is_symlink() and linked.read_bytes() == source.read_bytes()
    source.unlink()
    with pytest.raises(FormatError, match="cannot be written"):
        files.place_images(dataset, tmp_path / "again")


def test_unreadable_text(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        files.read_text(tmp_path / "none")
    (tmp_path / "a").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="UTF-8 expected"):
        files.read_text(tmp_path / "a")


def test_the_table_has_one_row_a_cell(tmp_path: Path) -> None:
    nan = float("nan")
    truth = Detections(
        [[1, 2, 11, 22], [nan] * 4],
        score=[0.1, 1],
        point_xy=[[nan, nan], [3, 4]],
        ignore=[True, False],
        cell_type=["a,b", ""],
        id=["x", "y"],
        blast_probability=[nan, 0.5],
    )
    dataset = a_set(tmp_path, "p/a.jpg", "b.jpg", mpp=(0.1, 0.2), truth=truth, split="test")
    registry.write(dataset, tmp_path / "o", "csv")
    rows = list(csv.DictReader((tmp_path / "o" / "cells.csv").read_text().splitlines()))
    assert tuple(rows[0]) == csv_table.COLUMNS and len(rows) == 4
    first, second = rows[:2]
    assert (first["image"], first["split"], first["cell"], first["class"]) == ("p/a.jpg", "test", "x", "wbc")
    assert [float(first[k]) for k in ("x1", "y1", "x2", "y2", "score")] == [1, 2, 11, 22, 0.1]
    assert [float(first[k]) for k in ("width_um", "height_um")] == pytest.approx([1, 4])
    assert (first["cell_type"], first["ignore"], first["blast_probability"]) == ("a,b", "1", "")
    assert (second["x1"], second["width_um"], second["point_x"], second["blast_probability"]) == ("", "", "3.0", "0.5")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set in every format that we write."""
    root = tmp_path_factory.mktemp("sound")
    nan = float("nan")
    truth = Detections([[1, 1, 9, 9], [nan] * 4], point_xy=[[5, 5], [9, 9]], origin=["human"] * 2, cell_type=["a", ""])
    dataset = a_set(root / "in", "a.jpg", mpp=(0.1, 0.1), group="g", split="train", annotated=("wbc",), truth=truth)
    for name in registry.WRITERS:
        registry.write(dataset, root / "o", name)
    return root / "o"


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("coco", "annotations/instances_train.json"),
        ("yolo", "blastdet.json"),
        ("yolo", "data.yaml"),
        ("geojson", "geojson/train/a.geojson"),
    ],
)
def test_a_damaged_file_is_read_or_refused_in_one_line(sound: Path, name: str, file: str, data: st.DataObject) -> None:
    path = sound / file
    text = path.read_text()
    try:
        path.write_text(json.dumps(data.draw(damaged(yaml.safe_load(text)))))
        try:
            registry.read(sound, name)
        except FormatError as error:
            assert "\n" not in str(error).replace("\\n", "") and str(sound) in str(error)
    finally:
        path.write_text(text)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_results_are_read_or_refused_in_one_line(sound: Path, data: st.DataObject) -> None:
    dataset = registry.read(sound, "coco")
    rows = [{"image_id": 1, "category_id": 2, "bbox": [1, 1, 3, 3], "score": 0.5}]
    whole = json.loads((sound / "annotations" / "instances_train.json").read_text())
    whole["annotations"] = [{**row, "score": 0.5} for row in whole["annotations"]]
    path = sound.parent / "results.json"
    path.write_text(json.dumps(data.draw(damaged(data.draw(st.sampled_from([rows, whole]))))))
    try:
        assert len(coco.read_results(path, dataset)) == 1
    except FormatError as error:
        assert "\n" not in str(error) and "results.json" in str(error)
