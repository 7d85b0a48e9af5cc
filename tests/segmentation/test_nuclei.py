"""Classical segmentation: precise on drawn cells, within its stated bounds on real ones, no cells in blank images."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import STAINS, box, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blastdet.core import boxes
from blastdet.core.errors import ScaleError
from blastdet.segmentation import nuclei

MPP = (7.5 / 48, 7.5 / 48)
LIMIT_GB = 1.0


@pytest.mark.parametrize("stain", STAINS)
def test_all_nucleated_cells_and_no_red_cells_are_found(stain: str) -> None:
    cells = [(120, 110, 44), (330, 220, 36)]
    found = nuclei.segment_cells(sample(cells, stain), MPP)
    assert len(found) == 2
    iou = boxes.iou_matrix(found.boxes_xyxy, [box(*cell) for cell in cells])
    assert iou.max(axis=0).min() > 0.7
    assert set(found.origin) == {"segment"}


def test_touching_cells_are_split_and_results_keep_the_order_of_the_points() -> None:
    cells = [(200, 180, 40), (278, 180, 40)]
    image = sample(cells)
    truth = np.array([box(*cell) for cell in cells])
    found = nuclei.segment_cells(image, MPP)
    assert len(found) == 2
    points = np.array([cell[:2] for cell in cells])
    assert boxes.pair_iou(nuclei.nucleated_boxes_from_points(image, points, MPP), truth).min() > 0.7
    assert boxes.pair_iou(nuclei.nucleated_boxes_from_points(image, points[::-1], MPP), truth[::-1]).min() > 0.7


def test_masks_contain_their_point_and_agree_with_the_boxes() -> None:
    cells = [(120, 110, 44), (330, 220, 36)]
    image = sample(cells)
    labels = nuclei.cell_masks(image, [cell[:2] for cell in cells], MPP)
    assert labels.shape == image.shape[:2] and labels.dtype == np.int32
    assert [labels[y, x] for x, y, _ in cells] == [1, 2]
    ys, xs = np.nonzero(labels == 1)
    found = nuclei.nucleated_boxes_from_points(image, [cells[0][:2]], MPP)
    assert boxes.pair_iou(found, [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]])[0] > 0.85


@settings(max_examples=15, deadline=None)
@given(st.integers(60, 420), st.integers(60, 300), st.integers(30, 48))
def test_boxes_from_points_at_any_position_and_size(x: int, y: int, radius: int) -> None:
    found = nuclei.nucleated_boxes_from_points(sample([(x, y, radius)]), [(x, y)], MPP)
    assert boxes.pair_iou(found, [box(x, y, radius)])[0] > 0.6


def test_squeezed_images_give_the_same_cells() -> None:
    cells = [(120, 110, 44), (330, 220, 36)]
    image = cv2.resize(sample(cells), (360, 360), interpolation=cv2.INTER_AREA)
    found = nuclei.segment_cells(image, (MPP[0] / 0.75, MPP[1]))
    truth = boxes.scale([box(*cell) for cell in cells], (0.75, 1.0))
    assert len(found) == 2
    assert boxes.iou_matrix(found.boxes_xyxy, truth).max(axis=0).min() > 0.7


@pytest.mark.parametrize("level", [0, 130, 255])
def test_blank_images_have_no_cells(level: int) -> None:
    image = np.full((120, 160, 3), level, np.uint8)
    assert len(nuclei.segment_cells(image, MPP)) == 0
    assert not nuclei.nucleus_mask(image).any()
    assert nuclei.cell_masks(image, np.empty((0, 2)), MPP).max() == 0


def test_red_cells_are_not_taken_for_nucleated_cells() -> None:
    assert len(nuclei.segment_cells(sample([]), MPP)) == 0


def test_a_point_without_a_nucleus_gives_nan() -> None:
    assert np.isnan(nuclei.nucleated_boxes_from_points(sample([(120, 110, 44)]), [(440, 330)], MPP)).all()


def test_the_input_is_not_modified() -> None:
    image = sample([(120, 110, 44)])
    before = image.copy()
    nuclei.segment_cells(image, MPP)
    nuclei.cell_masks(image, [(120, 110)], MPP)
    assert np.array_equal(image, before)


def test_lobes_are_joined_and_a_stained_sheet_is_not_one_cell() -> None:
    mask = np.zeros((80, 400), bool)
    mask[30:50, 5:395] = True  # 122 µm long
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    labels = np.where(mask, np.arange(400) // 20 + 1, 0).astype(np.int32)
    joined = nuclei._join_lobes(labels, depth)
    assert (joined[~mask] == 0).all() and (joined[mask] > 0).all()
    widths = [np.ptp(np.nonzero(joined == i)[1]) + 1 for i in np.unique(joined[mask])]
    assert sum(widths) == 390 and max(widths) > 20  # some are joined
    assert max(widths) * nuclei.WORK_MPP <= 48


@pytest.mark.parametrize("mpp", [0, (0.1, -0.1), float("nan"), "0.1", (0.1, 0.1, 0.1)])
def test_an_invalid_scale_raises_an_error(mpp) -> None:
    image = sample([])
    for measure in (nuclei.segment_cells, nuclei.nucleus_mask):
        with pytest.raises(ScaleError, match="mpp: expected"):
            measure(image, mpp)
    for measure in (nuclei.cell_masks, nuclei.nucleated_boxes_from_points):
        with pytest.raises(ScaleError, match="mpp: expected"):
            measure(image, [(5, 5)], mpp)


def test_a_scale_that_needs_too_large_a_working_image_raises_an_error() -> None:
    with pytest.raises(ScaleError, match=r"expected at most 30000 pixels a side at 0\.3125 µm/px, got 96000 x 72000"):
        nuclei.segment_cells(np.zeros((300, 400, 3), np.uint8), (75.0, 75.0))


@settings(deadline=None)
@given(hnp.arrays(np.int32, (7, 9), elements=st.integers(0, 5)))
def test_boxes_of_labels_are_their_extents(labels) -> None:
    expected = np.full((6, 4), np.nan)
    for i in range(6):
        ys, xs = np.nonzero(labels == i + 1)
        if len(xs):
            expected[i] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    np.testing.assert_array_equal(nuclei._boxes(labels, 6), expected)


@settings(deadline=None)
@given(hnp.arrays(np.bool_, (12, 60)), hnp.arrays(np.float64, (4, 2), elements=st.floats(-20, 80)))
def test_nucleus_pixels_go_to_the_nearest_point_within_reach(mask, points) -> None:
    labels = nuclei._nearest(mask, points)
    ys, xs = np.nonzero(mask)
    distance = np.hypot(xs[:, None] - points[:, 0], ys[:, None] - points[:, 1])
    nearest = distance.min(axis=1, initial=np.inf)
    owner = labels[ys, xs]
    assert (labels[~mask] == 0).all()
    assert ((owner > 0) == (nearest < 8 / nuclei.WORK_MPP)).all()
    owned = np.flatnonzero(owner)
    np.testing.assert_allclose(distance[owned, owner[owned] - 1], nearest[owned], atol=1e-9)


LARGE_FIELD = """
import numpy as np
from drawn import sample
from blastdet.segmentation import nuclei
mpp = 7.5 / 48
cells = [(x, y) for y in (90, 270) for x in (120, 360)]
image = np.tile(sample([(x, y, 32) for x, y in cells]), (17, 13, 1))
points = [(x + 480 * i, y + 360 * j) for x, y in cells for i in range(13) for j in range(17)]
boxes = nuclei.nucleated_boxes_from_points(image, points, (mpp, mpp))
found = len(nuclei.segment_cells(image, (mpp, mpp)))
print(image.shape, len(points), int(np.isfinite(boxes).all(axis=1).sum()), found, sep="|", end="|")
# VmHWM: ru_maxrss would include the memory of the process that started this one
print(int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_image_with_many_points_needs_little_memory() -> None:
    """A distance matrix of nucleus pixels and points would take 3 GB here."""
    path = [str(Path(nuclei.__file__).parents[2]), str(Path(__file__).parents[1])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    run = subprocess.run([sys.executable, "-c", LARGE_FIELD], capture_output=True, text=True, env=env, check=True)
    shape, points, with_box, found, gigabytes = run.stdout.split("|")
    assert (shape, points, with_box, found) == ("(6120, 6240, 3)", "884", "884", "884")
    assert float(gigabytes) < LIMIT_GB


@pytest.mark.realdata
def test_bccd_train_boxes(data_dir: Path) -> None:
    root = data_dir / "bccd" / "BCCD"
    iou: list[float] = []
    for name in (root / "ImageSets/Main/train.txt").read_text().split()[::6]:
        objects = ET.parse(root / f"Annotations/{name}.xml").getroot().iter("object")
        corners = [[int(v.text or 0) for v in o.find("bndbox") or []] for o in objects if o.findtext("name") == "WBC"]
        truth = np.array(corners, float).reshape(-1, 4) - (1, 1, 0, 0)
        image = cv2.cvtColor(cv2.imread(str(root / f"JPEGImages/{name}.jpg")), cv2.COLOR_BGR2RGB)
        found = nuclei.nucleated_boxes_from_points(image, (truth[:, :2] + truth[:, 2:]) / 2, (7.5 / 105, 7.5 / 105))
        iou.extend(boxes.pair_iou(found, truth))
    assert np.median(iou) >= 0.75
    assert np.mean(np.array(iou) > 0.5) >= 0.9
