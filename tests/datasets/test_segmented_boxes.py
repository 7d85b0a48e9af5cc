"""``convert --boxes segment``: missing boxes are drawn, and a note lists what stays without a box."""

from __future__ import annotations

from pathlib import Path

import lookalike
import numpy as np
import pytest
from drawn import BACKGROUND, box, sample
from made import convert as run
from made import voc, voc_xml
from PIL import Image

from blastdet.core import boxes
from blastdet.core.errors import ConfigError, ScaleError
from blastdet.core.types import PLATELET, RBC, WBC, Dataset, Detections, Sample
from blastdet.datasets.formats import registry
from blastdet.segmentation.boxes_from_points import boxes_from_points, red_cell_boxes_from_points

MPP = 7.5 / 48
WHITE = [(120, 110, 44), (330, 220, 36)]


def fields(root: Path, **images: object) -> Path:
    """A folder like ALL fields, without any annotation."""
    for name in ("benign", "early", "pre", "pro"):
        (root / name).mkdir(parents=True)
    for name, pixels in images.items():
        Image.fromarray(np.asarray(pixels, np.uint8)).save(root / "early" / f"{name}.jpg", quality=95)
    return root


def unannotated(root: Path, **images: object) -> Path:
    """A COCO dataset without scale and cells."""
    fields(root / "src", **images)
    read = registry.read(root / "src")
    bare = Dataset("bare", read.root, tuple(Sample(s.path, s.size_wh) for s in read))
    registry.write(bare, root / "src", "coco")
    return root / "src"


def test_a_dataset_without_points_gets_white_cells(tmp_path: Path) -> None:
    blank = np.full((360, 480, 3), BACKGROUND, np.uint8)
    source = fields(tmp_path / "src", a=sample(WHITE), blank=blank)
    text = run(source, tmp_path / "o", "--boxes", "segment", "--mpp", f"{MPP},{MPP}")
    lines = text.splitlines()
    assert lines[:3] == [
        "read     all_fields: 2 images (without a split 2)",
        "cells    wbc 2",
        "drawn    segment 2; left: 0 cells and 1 image without a box",
    ]
    assert "note     early/blank.jpg: no boxes drawn, no nucleated cell found" in lines
    first, second = sorted(registry.read(tmp_path / "o"), key=lambda found: found.path.name)
    assert first.truth is not None and first.truth.origin is not None
    assert first.annotated == ("wbc",)
    assert set(first.truth.origin.tolist()) == {"segment"}
    assert boxes.iou_matrix(first.truth.boxes_xyxy, [box(*cell) for cell in WHITE]).max(axis=0).min() > 0.7
    assert second.truth is None
    assert second.path.parent.name == "unlabelled"


def test_an_unknown_scale_is_estimated_from_red_cells(tmp_path: Path) -> None:
    blank = np.full((360, 480, 3), BACKGROUND, np.uint8)
    text = run(unannotated(tmp_path, a=sample(WHITE), blank=blank), tmp_path / "o", "--boxes", "segment")
    assert "drawn    segment 2; left: 0 cells and 1 image without a box" in text
    assert "note     boxes of 1 images drawn at a scale estimated from red cells" in text
    assert "blank.jpg: no boxes drawn, the scale is unknown: nothing stands out from the background" in text
    assert all(found.mpp is None for found in registry.read(tmp_path / "o"))


def test_a_dataset_without_any_scale_is_refused(tmp_path: Path) -> None:
    source = unannotated(tmp_path, blank=np.full((60, 80, 3), 255))
    with pytest.raises(ScaleError, match=r"the scale of 1 images is unknown \(.*Pass --mpp"):
        run(source, tmp_path / "o", "--boxes", "segment")
    assert not (tmp_path / "o").exists()


def test_a_dataset_with_boxes_is_refused(tmp_path: Path) -> None:
    source = voc(tmp_path / "src", {"a": voc_xml([("WBC", 1, 1, 9, 9)])})
    with pytest.raises(ConfigError, match="every cell already has a box"):
        run(source, tmp_path / "o", "--boxes", "segment")


def test_allidb1_boxes_are_drawn_around_points_and_healthy_images_stay_empty(tmp_path: Path) -> None:
    points = {"Im048_1": [(600, 700), (1500, 900)]}
    lookalike.allidb1(tmp_path / "src", ["Im034_0", "Im048_1"], points)
    text = run(tmp_path / "src", tmp_path / "o", "--boxes", "segment")
    assert "cells    blast 2" in text
    assert "drawn    segment 2; left: 0 cells and 0 images without a box" in text
    found = {s.path.stem: s.truth for s in registry.read(tmp_path / "o")}
    half = lookalike.CELL_WIDTH / 2
    expected = [[x - half, y - half, x + half, y + half] for x, y in points["Im048_1"]]
    assert np.diag(boxes.iou_matrix(found["Im048_1"].boxes_xyxy, expected)).min() > 0.8
    assert len(found["Im034_0"]) == 0


def chula(root: Path) -> tuple[Path, list[tuple[int, int]]]:
    """An image of red cells 48 pixels wide, all but the first two with a point, and one point on the background."""
    points = [(x, y) for x in range(40, 480, 80) for y in range(40, 360, 80)]
    (root / "Label").mkdir(parents=True)
    (root / "Dataset").mkdir()
    for name in ("1", "2"):
        Image.fromarray(sample([])).save(root / "Dataset" / f"{name}.jpg", quality=95)
    rows = [f"{x} {y} 0" for x, y in [*points[2:], (80, 80)]]
    (root / "Label" / "1.txt").write_text("\n".join(rows))
    return root, points[2:]


def test_boxes_of_red_cells_are_drawn_around_points(tmp_path: Path) -> None:
    source, points = chula(tmp_path / "src")
    text = run(source, tmp_path / "o", "--boxes", "segment")
    assert f"drawn    segment {len(points)}; left: 1 cell and 1 image without a box" in text
    assert f"Dataset/1.jpg: no box drawn for 1 of {len(points) + 1} cells" in text
    (truth,) = (s.truth for s in registry.read(tmp_path / "o") if s.truth is not None)
    drawn = truth[~np.isnan(truth.boxes_xyxy[:, 0])]
    expected = [[x - 24, y - 24, x + 24, y + 24] for x, y in drawn.point_xy]
    assert np.diag(boxes.iou_matrix(drawn.boxes_xyxy, expected)).min() > 0.75


def test_existing_boxes_do_not_change_and_platelets_get_none() -> None:
    given = [10.0, 10.0, 60.0, 60.0]
    nan = [np.nan] * 4
    cells = Detections(
        [given, nan, nan, nan],
        label=[WBC, WBC, PLATELET, RBC],
        point_xy=[[35, 35], [120, 110], [300, 300], [40, 280]],
        origin=["human", "", "", ""],
    )
    before = cells.boxes_xyxy.copy()
    grown = boxes_from_points(sample(WHITE), cells, (MPP, MPP))
    kept = {tuple(p): (o, b) for p, o, b in zip(grown.point_xy.tolist(), grown.origin, grown.boxes_xyxy, strict=True)}
    assert kept[35, 35][0] == "human" and kept[35, 35][1].tolist() == given
    assert kept[120, 110][0] == kept[40, 280][0] == "segment"
    assert np.isnan(kept[300, 300][1]).all()
    np.testing.assert_array_equal(cells.boxes_xyxy, before)


@pytest.mark.parametrize("size_wh", [(1, 1), (40, 30)])
def test_a_blank_image_gives_no_boxes(size_wh: tuple[int, int]) -> None:
    blank = np.full((size_wh[1], size_wh[0], 3), 200, np.uint8)
    assert np.isnan(red_cell_boxes_from_points(blank, np.array([[0.0, 0.0]]), (0.1, 0.1))).all()
    assert red_cell_boxes_from_points(blank, np.empty((0, 2)), (0.1, 0.1)).shape == (0, 4)


@pytest.mark.realdata
def test_red_cells_of_bccd_from_their_centres(data_dir: Path) -> None:
    part = list(registry.read(data_dir / "bccd").with_split("train"))[::25]
    from blastdet.imaging.io import read_image

    iou, n = [], 0
    for found in part:
        truth = found.truth.with_classes("rbc")
        grown = red_cell_boxes_from_points(read_image(found.path), truth.centres_xy, (7.5 / 105, 7.5 / 105))
        there = ~np.isnan(grown[:, 0])
        iou += np.diag(boxes.iou_matrix(grown[there], truth.boxes_xyxy[there])).tolist()
        n += len(truth)
    assert np.median(iou) > 0.75
    assert len(iou) > 0.5 * n
