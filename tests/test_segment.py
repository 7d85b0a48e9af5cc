"""Classical segmentation: exact on drawn cells, within its stated bounds on real ones, quiet where there is nothing."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet import boxes, segment
from blastdet.types import RGB

MPP = (7.5 / 48, 7.5 / 48)
FILM, RED, CYTOPLASM, NUCLEUS = (238, 234, 230), (214, 170, 165), (190, 175, 220), (95, 45, 140)
STAINS = {
    "pink on cream": (FILM, RED, CYTOPLASM, NUCLEUS),
    "grey-blue on lilac": ((225, 220, 238), (165, 175, 190), (165, 150, 215), (100, 60, 170)),
    "dark red on green-grey": ((180, 200, 188), (130, 75, 90), (120, 110, 150), (60, 30, 95)),
}


def smear(cells_xyr: list[tuple[int, int, int]], stain: str = "pink on cream", seed: int = 0) -> RGB:
    """Red cells on a loose grid, nucleated cells where asked, a little noise."""
    film, red, cytoplasm, nucleus = STAINS[stain]
    image = np.full((360, 480, 3), film, np.uint8)
    for x in range(40, 480, 80):
        for y in range(40, 360, 80):
            if all(np.hypot(x - cx, y - cy) > r + 30 for cx, cy, r in cells_xyr):
                cv2.circle(image, (x, y), 24, red, cv2.FILLED, cv2.LINE_AA)
    for x, y, radius in cells_xyr:
        cv2.circle(image, (x, y), radius, cytoplasm, cv2.FILLED, cv2.LINE_AA)
    for x, y, radius in cells_xyr:
        cv2.circle(image, (x, y), int(0.75 * radius), nucleus, cv2.FILLED, cv2.LINE_AA)
    noise = np.random.default_rng(seed).normal(0, 2, image.shape)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 1.0) + noise, 0, 255).astype(np.uint8)


def box(x: int, y: int, radius: int) -> list[float]:
    return [x - radius, y - radius, x + radius, y + radius]


@pytest.mark.parametrize("stain", STAINS)
def test_every_drawn_cell_is_found_whole_and_no_red_cell(stain: str) -> None:
    cells = [(120, 110, 44), (330, 220, 36)]
    found = segment.segment_cells(smear(cells, stain), MPP)
    assert len(found) == 2
    iou = boxes.iou_matrix(found.boxes_xyxy, [box(*cell) for cell in cells])
    assert iou.max(axis=0).min() > 0.7
    assert set(found.origin) == {"segment"}


def test_touching_cells_are_split_and_seeds_keep_their_order() -> None:
    cells = [(200, 180, 40), (278, 180, 40)]
    image = smear(cells)
    truth = np.array([box(*cell) for cell in cells])
    found = segment.segment_cells(image, MPP)
    assert len(found) == 2
    points = np.array([cell[:2] for cell in cells])
    assert boxes.pair_iou(segment.grow_boxes(image, points, MPP), truth).min() > 0.7
    assert boxes.pair_iou(segment.grow_boxes(image, points[::-1], MPP), truth[::-1]).min() > 0.7


def test_masks_hold_their_point_and_agree_with_the_boxes() -> None:
    cells = [(120, 110, 44), (330, 220, 36)]
    image = smear(cells)
    labels = segment.cell_masks(image, [cell[:2] for cell in cells], MPP)
    assert labels.shape == image.shape[:2] and labels.dtype == np.int32
    assert [labels[y, x] for x, y, _ in cells] == [1, 2]
    ys, xs = np.nonzero(labels == 1)
    grown = segment.grow_boxes(image, [cells[0][:2]], MPP)
    assert boxes.pair_iou(grown, [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]])[0] > 0.85


@settings(max_examples=15, deadline=None)
@given(st.integers(60, 420), st.integers(60, 300), st.integers(30, 48))
def test_box_follows_the_cell_wherever_it_is(x: int, y: int, radius: int) -> None:
    grown = segment.grow_boxes(smear([(x, y, radius)]), [(x, y)], MPP)
    assert boxes.pair_iou(grown, [box(x, y, radius)])[0] > 0.6


def test_squeezed_picture_gives_the_same_cells() -> None:
    cells = [(120, 110, 44), (330, 220, 36)]
    image = cv2.resize(smear(cells), (360, 360), interpolation=cv2.INTER_AREA)
    found = segment.segment_cells(image, (MPP[0] / 0.75, MPP[1]))
    truth = boxes.scale([box(*cell) for cell in cells], (0.75, 1.0))
    assert len(found) == 2
    assert boxes.iou_matrix(found.boxes_xyxy, truth).max(axis=0).min() > 0.7


@pytest.mark.parametrize("level", [0, 130, 255])
def test_blank_picture_has_no_cells(level: int) -> None:
    image = np.full((120, 160, 3), level, np.uint8)
    assert len(segment.segment_cells(image, MPP)) == 0
    assert not segment.nucleus_mask(image).any()
    assert segment.cell_masks(image, np.empty((0, 2)), MPP).max() == 0


def test_red_cells_alone_have_no_nuclei() -> None:
    assert len(segment.segment_cells(smear([]), MPP)) == 0


def test_a_point_without_nucleus_gives_nan_not_a_guess() -> None:
    assert np.isnan(segment.grow_boxes(smear([(120, 110, 44)]), [(440, 330)], MPP)).all()


def test_input_is_left_alone() -> None:
    image = smear([(120, 110, 44)])
    before = image.copy()
    segment.segment_cells(image, MPP)
    segment.cell_masks(image, [(120, 110)], MPP)
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
        grown = segment.grow_boxes(image, (truth[:, :2] + truth[:, 2:]) / 2, (7.5 / 105, 7.5 / 105))
        iou.extend(boxes.pair_iou(grown, truth))
    assert np.median(iou) >= 0.75
    assert np.mean(np.array(iou) > 0.5) >= 0.9
