"""labelme: one JSON file next to each image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import image_file

from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, RBC, WBC
from blastdet.datasets.formats import registry

SHAPES: list[tuple[str, list[list[float]], list[float]]] = [
    ("polygon", [[5, 5], [15, 7], [9, 30]], [5, 5, 15, 30]),
    ("rectangle", [[11, 22], [1, 2]], [1, 2, 11, 22]),
    ("circle", [[30, 20], [33, 24]], [25, 15, 35, 25]),
    ("mask", [[2, 3], [5, 4]], [2, 3, 6, 5]),
]


def shape(kind: str, points: list[list[float]], label: str = "WBC") -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}}


def written(folder: Path, *shapes: Any, image: str = "a.jpg", **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    document = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": image, "imageData": None}
    document |= {"imageHeight": 48, "imageWidth": 64, **more}
    (folder / "a.json").write_text(json.dumps(document))


def test_every_region_becomes_its_box(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    image_file(tmp_path / "b.jpg")
    written(tmp_path, *(shape(kind, points) for kind, points, _ in SHAPES), shape("point", [[1, 1]]))
    a, b = dataset = registry.read(tmp_path)
    assert registry.detect_format(tmp_path) == registry.detect_format(tmp_path / "a.json") == "labelme"
    np.testing.assert_allclose(a.truth.boxes_xyxy, [box for *_, box in SHAPES], atol=1e-4)
    assert a.truth.label.tolist() == [WBC] * 4 and a.annotated == ("wbc",)
    assert b.truth is None  # nobody annotated it
    assert dataset.dropped == ("a.json: shape 5: a point, left out",)


def test_files_in_a_folder_of_their_own(tmp_path: Path) -> None:
    image = image_file(tmp_path / "train" / "images" / "a.jpg")
    written(tmp_path / "train" / "labels", shape(*SHAPES[1][:2], "blast"), image="..\\images\\a.jpg")
    (sample,) = registry.read(tmp_path / "train")
    assert (sample.path, sample.truth.label.tolist()) == (image, [BLAST])
    with pytest.raises(FormatError, match="--images DIR"):
        registry.read(tmp_path / "train" / "labels")
    (sample,) = registry.read(tmp_path / "train" / "labels", images=image.parent, class_map={"blast": "rbc"})
    assert (sample.path, sample.truth.label.tolist()) == (image, [RBC])


@pytest.mark.parametrize("wrong", [3, {"points": 3}, shape("circle", [[1, 1]]), shape("rectangle", [[1, "x"], [2, 2]])])
def test_faults_are_one_line(tmp_path: Path, wrong: Any) -> None:
    image_file(tmp_path / "a.jpg")
    written(tmp_path, wrong)
    with pytest.raises(FormatError, match=r"a\.json: shape 1 is faulty") as caught:
        registry.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_files_at_any_depth_are_read(tmp_path: Path, depth: int) -> None:
    image_file(tmp_path / "b.jpg")
    written(tmp_path, shape(*SHAPES[1][:2]), image="b.jpg")
    (tmp_path / "a.json").rename(tmp_path / "b.json")
    folder = tmp_path / "/".join("xyzuv"[:depth])
    image_file(folder / "a.jpg")
    written(folder, shape(*SHAPES[1][:2]))
    written(tmp_path / ".trash", shape(*SHAPES[1][:2]))  # not a part of the dataset
    assert [len(sample.truth) for sample in registry.read(tmp_path)] == [1, 1]


def test_files_in_a_linked_folder_are_read_once(tmp_path: Path) -> None:
    image_file(tmp_path / "elsewhere" / "a.jpg")
    written(tmp_path / "elsewhere", shape(*SHAPES[1][:2]))
    (tmp_path / "mine").mkdir()
    for name in ("link", "same"):
        (tmp_path / "mine" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mine" / "link" / "round").symlink_to(tmp_path / "mine")
    assert [len(sample.truth) for sample in registry.read(tmp_path / "mine")] == [1]
