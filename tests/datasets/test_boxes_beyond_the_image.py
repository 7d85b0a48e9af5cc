"""One rule for boxes beyond the image: every format reads the same truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made import SIZE_WH, image_file

from blastdet.datasets.formats import coco, geojson, voc, yolo

W, H = SIZE_WH
STATED = [(-9, 5, 20, 25), (50, 40, W + 30, H + 30), (W + 5, 3, W + 25, 20), (1, 1, 9, 9)]
RIGHT = [[0, 5, 20, 25], [50, 40, W, H], [1, 1, 9, 9]]


def as_coco(root: Path) -> None:
    rows = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for i, (x1, y1, x2, y2) in enumerate(STATED)
    ]
    image = {"id": 1, "file_name": "a.jpg", "width": W, "height": H}
    document = {"images": [image], "annotations": rows, "categories": [{"id": 1, "name": "wbc"}]}
    (root / "instances.json").write_text(json.dumps(document))


def as_geojson(root: Path) -> None:
    features = [
        {
            "geometry": {"type": "Polygon", "coordinates": [[[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]]},
            "properties": {"classification": {"name": "wbc"}},
        }
        for x1, y1, x2, y2 in STATED
    ]
    (root / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def as_voc(root: Path) -> None:
    for name in ("Annotations", "JPEGImages"):
        (root / name).mkdir()
    (root / "a.jpg").rename(root / "JPEGImages" / "a.jpg")
    objects = "".join(
        f"<object><name>wbc</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for x1, y1, x2, y2 in STATED
    )
    size = f"<size><width>{W}</width><height>{H}</height></size>"
    (root / "Annotations" / "a.xml").write_text(f"<annotation>{size}{objects}</annotation>")


def as_yolo(root: Path) -> None:
    for name in ("images", "labels"):
        (root / name).mkdir()
    (root / "a.jpg").rename(root / "images" / "a.jpg")
    lines = [
        f"0 {(x1 + x2) / 2 / W} {(y1 + y2) / 2 / H} {(x2 - x1) / W} {(y2 - y1) / H}\n" for x1, y1, x2, y2 in STATED
    ]
    (root / "labels" / "a.txt").write_text("".join(lines))
    (root / "data.yaml").write_text("train: images\nnames: [wbc]\n")


@pytest.mark.parametrize(
    ("write", "reader"),
    [(as_coco, coco), (as_geojson, geojson), (as_voc, voc), (as_yolo, yolo)],
    ids=["coco", "geojson", "voc", "yolo"],
)
def test_every_format_reads_the_same_truth(tmp_path: Path, write, reader) -> None:  # type: ignore[no-untyped-def]
    image_file(tmp_path / "a.jpg")
    write(tmp_path)
    dataset = reader.read(tmp_path)
    assert dataset.samples[0].truth.boxes_xyxy == pytest.approx(np.array(RIGHT), abs=1e-4)
    assert len(dataset.dropped) == 1 and dataset.dropped[0].endswith("box outside the image")
    assert len(dataset.notes) == 1
    assert "2 boxes were partly beyond the image and clipped to it; first: " in dataset.notes[0]
