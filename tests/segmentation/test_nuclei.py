"""Classical segmentation: exact on drawn cells, within its stated bounds on real ones, quiet where there is nothing."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import STAINS, box, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet.core import boxes
from blastdet.segmentation import nuclei

MPP = (7.5 / 48, 7.5 / 48)


@pytest.mark.parametrize("stain", STAINS)
def test_every_drawn_cell_is_found_whole_and_no_red_cell(stain: str) -> None:
    cells = [(120, 110, 44), (330, 220, 36)]
    found = nuclei.segment_cells(sample(cells, stain), MPP)
    assert len(found) == 2
    iou = boxes.iou_matrix(found.boxes_xyxy, [box(*cell) for cell in cells])
    assert iou.max(axis=0).min() > 0.7
    assert set(found.origin) == {"segment"}


def test_touching_cells_are_split_and_seeds_keep_their_order() -> None:
    cells = [(200, 180, 40), (278, 180, 40)]
    image = sample(cells)
    truth = np.array([box(*cell) for cell in cells])
    found = nuclei.segment_cells(image, MPP)
    assert len(found) == 2
    points = np.array([cell[:2] for cell in cells])
    assert boxes.pair_iou(nuclei.nucleated_boxes_from_points(image, points, MPP), truth).min() > 0.7
    assert boxes.pair_iou(nuclei.nucleated_boxes_from_points(image, points[::-1], MPP), truth[::-1]).min() > 0.7


def test_masks_hold_their_point_and_agree_with_the_boxes() -> None:
    cells = [(120, 110, 44), (330, 220, 36)]
    image = sample(cells)
    labels = nuclei.cell_masks(image, [cell[:2] for cell in cells], MPP)
    assert labels.shape == image.shape[:2] and labels.dtype == np.int32
    assert [labels[y, x] for x, y, _ in cells] == [1, 2]
    ys, xs = np.nonzero(labels == 1)
    grown = nuclei.nucleated_boxes_from_points(image, [cells[0][:2]], MPP)
    assert boxes.pair_iou(grown, [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]])[0] > 0.85


@settings(max_examples=15, deadline=None)
@given(st.integers(60, 420), st.integers(60, 300), st.integers(30, 48))
def test_box_follows_the_cell_wherever_it_is(x: int, y: int, radius: int) -> None:
    grown = nuclei.nucleated_boxes_from_points(sample([(x, y, radius)]), [(x, y)], MPP)
    assert boxes.pair_iou(grown, [box(x, y, radius)])[0] > 0.6


def test_squeezed_picture_gives_the_same_cells() -> None:
    cells = [(120, 110, 44), (330, 220, 36)]
    image = cv2.resize(sample(cells), (360, 360), interpolation=cv2.INTER_AREA)
    found = nuclei.segment_cells(image, (MPP[0] / 0.75, MPP[1]))
    truth = boxes.scale([box(*cell) for cell in cells], (0.75, 1.0))
    assert len(found) == 2
    assert boxes.iou_matrix(found.boxes_xyxy, truth).max(axis=0).min() > 0.7


@pytest.mark.parametrize("level", [0, 130, 255])
def test_blank_picture_has_no_cells(level: int) -> None:
    image = np.full((120, 160, 3), level, np.uint8)
    assert len(nuclei.segment_cells(image, MPP)) == 0
    assert not nuclei.nucleus_mask(image).any()
    assert nuclei.cell_masks(image, np.empty((0, 2)), MPP).max() == 0


def test_red_cells_alone_have_no_nuclei() -> None:
    assert len(nuclei.segment_cells(sample([]), MPP)) == 0


def test_a_point_without_nucleus_gives_nan_not_a_guess() -> None:
    assert np.isnan(nuclei.nucleated_boxes_from_points(sample([(120, 110, 44)]), [(440, 330)], MPP)).all()


def test_input_is_left_alone() -> None:
    image = sample([(120, 110, 44)])
    before = image.copy()
    nuclei.segment_cells(image, MPP)
    nuclei.cell_masks(image, [(120, 110)], MPP)
    assert np.array_equal(image, before)


@pytest.mark.realdata
def test_bccd_train_boxes(data_dir: Path) -> None:
    root = data_dir / "bccd" / "BCCD"
    iou: list[float] = []
    for name in (root / "ImageSets/Main/train.txt").read_text().split()[::6]:
        objects = ET.parse(root / f"Annotations/{name}.xml").getroot().iter("object")
        corners = [[int(v.text or 0) for v in o.find("bndbox") or []] for o in objects if o.findtext("name") == "WBC"]
        truth = np.array(corners, float).reshape(-1, 4) - (1, 1, 0, 0)
        image = cv2.cvtColor(cv2.imread(str(root / f"JPEGImages/{name}.jpg")), cv2.COLOR_BGR2RGB)
        grown = nuclei.nucleated_boxes_from_points(image, (truth[:, :2] + truth[:, 2:]) / 2, (7.5 / 105, 7.5 / 105))
        iou.extend(boxes.pair_iou(grown, truth))
    assert np.median(iou) >= 0.75
    assert np.mean(np.array(iou) > 0.5) >= 0.9
