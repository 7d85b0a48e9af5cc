"""The scale of a picture, measured by the ruler and the shipped detector together."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import blastdet
from blastdet.core.errors import ScaleError
from blastdet.core.types import CELL_CLASSES, Detections
from blastdet.imaging.io import read_image, resize
from blastdet.inference.scale import ScaleEstimate, doubt_of, estimate_scale, scaled_size
from blastdet.models.detector import load_detector
from blastdet.models.fake_detector import FakeDetector
from blastdet.service.results.viewer_data import viewer_data

SMEAR = Path(__file__).parents[2] / "datasets/demo/smear.jpg"
MPP = 0.1


class Memory:
    """A picture as a `Source`."""

    mpp = None

    def __init__(self, rgb):
        self.rgb, self.size_wh = rgb, (rgb.shape[1], rgb.shape[0])

    def read(self, box_xyxy):
        x1, y1, x2, y2 = box_xyxy
        return self.rgb[y1:y2, x1:x2]


@pytest.fixture(scope="module")
def detector():
    return load_detector("default", "cpu")


@pytest.fixture(scope="module")
def sample():
    return read_image(SMEAR)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.2, 0.35, 0.6, 1.0, 1.4])
def test_any_magnification(sample, detector, factor):
    rgb = resize(sample, (round(1600 * factor), round(1200 * factor)))
    found = estimate_scale(Memory(rgb), None, detector)
    assert found.mpp == pytest.approx((MPP / factor, MPP / factor), rel=0.12)
    assert found.origin == "red_cells" and found.describe().startswith("red cells (n=") and found.is_measured


def test_a_squeezed_picture_is_told_and_measured_on_each_axis(sample, detector):
    rgb = resize(sample, (450, 450))  # from 4:3
    found = estimate_scale(Memory(rgb), "auto", detector)
    assert found.mpp == pytest.approx((MPP * 1600 / 450, MPP * 1200 / 450), rel=0.12)
    assert any("looks squeezed" in line for line in found.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("corner", [(0, 0), (700, 400), (1100, 800)])
def test_a_crop_of_few_cells(sample, detector, corner):
    rgb = sample[corner[1] : corner[1] + 360, corner[0] : corner[0] + 360]
    found = estimate_scale(Memory(rgb), None, detector)
    assert found.mpp == pytest.approx((MPP, MPP), rel=0.15)


@pytest.mark.parametrize("kind", ["blank", "noise", "ramp"])
def test_where_there_are_no_red_cells_nothing_is_guessed(detector, kind):
    rgb = np.full((300, 400, 3), 230, np.uint8)
    if kind == "noise":
        rgb = np.random.default_rng(0).integers(0, 256, rgb.shape, dtype=np.uint8)
    if kind == "ramp":
        rgb[:] = np.linspace(150, 255, 400).astype(np.uint8)[None, :, None]
    found = estimate_scale(Memory(rgb), None, detector)
    assert found.mpp is None and found.origin == "unknown" and found.is_weak and found.reason


@pytest.mark.slow
def test_a_detector_without_red_cells_leaves_it_to_the_ruler(sample):
    white = FakeDetector()
    white.card = white.card.model_copy(update={"classes": ("wbc",)})
    found = estimate_scale(Memory(sample), None, white)
    assert found.mpp == pytest.approx((MPP, MPP), rel=0.15)


@pytest.mark.slow
def test_what_is_given_or_stated_is_not_measured(sample, detector):
    source = Memory(sample)
    assert estimate_scale(source, (0.3, 0.4), detector).mpp == (0.3, 0.4)
    source.mpp = (0.25, 0.25)
    assert estimate_scale(source, None, detector).origin == "file"
    assert estimate_scale(source, "auto", detector).origin == "red_cells"


def test_sizes_at_the_cards_scale():
    assert scaled_size((640, 480), (0.1, 0.05), 0.2, SMEAR) == (320, 120)
    assert scaled_size((1, 1), (0.01, 0.01), 0.2, SMEAR) == (1, 1)
    with pytest.raises(ScaleError, match=r"smear\.jpg: expected at most 0\.8 µm/px to show cells, got 1"):
        scaled_size((640, 480), (1, 1), 0.2, SMEAR)


@pytest.mark.realdata
def test_a_squeezed_field_does_as_well_as_the_same_field_unsqueezed(data_dir, detector):
    """Hand-boxed ALL fields, 224 px squeezed from 4:3: the same cells are found in them and in the stretched ones."""
    from blastdet.core.boxes import iou_matrix
    from blastdet.datasets.formats.coco import read
    from blastdet.inference.tiled_detection import find_cells

    boxes = Path(__file__).parents[2] / "datasets/all_fields_boxes.json"
    found = {"squeezed": 0, "stretched": 0}
    for sample in read(boxes, images=data_dir / "all_fields").samples[::4]:
        rgb = read_image(sample.path)
        ignore = sample.truth.ignore if sample.truth.ignore is not None else np.zeros(len(sample.truth), bool)
        cells = sample.truth.boxes_xyxy[~ignore]
        for name, width in (("squeezed", 224), ("stretched", 299)):
            source = _Full(resize(rgb, (width, 224)))
            scale = estimate_scale(source, None, detector).mpp
            hits = find_cells(source, scale, detector).with_classes("wbc")
            hits = hits[hits.score > 0.4].boxes_xyxy * np.array([224 / width, 1, 224 / width, 1])
            found[name] += int((iou_matrix(cells, hits).max(axis=1, initial=0) > 0.5).sum())
    assert found["squeezed"] >= 0.97 * found["stretched"] > 60


class _Full(Memory):
    """A `Source` that resamples too."""

    path = SMEAR

    def read(self, box_xyxy, scale_xy=(1.0, 1.0)):
        x1, y1, x2, y2 = box_xyxy
        size = max(1, round((x2 - x1) * scale_xy[0])), max(1, round((y2 - y1) * scale_xy[1]))
        return resize(self.rgb[round(y1) : round(y2), round(x1) : round(x2)], size)


# A scale that is given is doubted


def _reds(width: float, n: int = 40, spread: float = 0.1) -> Detections:
    """Red cells in rows, 150 px apart, whose widths vary."""
    middle = np.stack([np.arange(n) % 8, np.arange(n) // 8], axis=1) * 150 + 100
    half = width * np.exp(np.linspace(-spread, spread, n))[:, None] / 2
    boxes = np.hstack([middle - half, middle + half]).astype(np.float32)
    return Detections(boxes, np.full(n, 0.9, np.float32), np.full(n, CELL_CLASSES.index("rbc")))


@pytest.mark.parametrize(
    ("cells", "scale", "warning"),
    [
        (_reds(75), ScaleEstimate((0.07, 0.07), "given"), "red cells suggest 0.10 µm/px (n=40); 0.07 was given. "),
        (_reds(75), ScaleEstimate((0.2, 0.2), "file"), "red cells suggest 0.10 µm/px (n=40); the file states 0.2. "),
        (_reds(75), ScaleEstimate((0.1, 0.1), "given"), ""),
        (_reds(75), ScaleEstimate((0.085, 0.085), "given"), ""),  # 18 %
        (_reds(75), ScaleEstimate((0.13, 0.13), "given"), ""),  # boxes of the detector may be that much too wide
        (_reds(75), ScaleEstimate((0.12, 0.08), "given"), ""),  # the mean of both sides
        (_reds(75, n=7), ScaleEstimate((0.05, 0.05), "given"), ""),  # too few
        (_reds(75, n=9, spread=0.5), ScaleEstimate((0.075, 0.075), "given"), ""),  # too different to tell
        (_reds(75), ScaleEstimate((0.07, 0.07), "red_cells", 40), ""),
        (_reds(75), ScaleEstimate((0.07, 0.07), "run"), ""),
    ],
)
def test_a_scale_is_doubted_where_red_cells_contradict_it(cells, scale, warning):
    found = doubt_of(scale, cells, (1300, 1300))
    assert found.startswith(warning) and bool(found) == bool(warning), found


def test_red_cells_that_an_edge_cuts_say_nothing():
    assert doubt_of(ScaleEstimate((0.05, 0.05), "given"), _reds(75), (1300, 130)) == ""


def test_of_the_demo_images_only_a_wrong_scale_is_doubted():
    model = blastdet.load("default", "cpu", second_stage=False)
    for mpp, warned in ((0.04, True), (0.07, True), (0.1, False), (0.25, True), (0.4, True)):
        doubts = [one for one in model(SMEAR, mpp=mpp).warnings if one.startswith("red cells suggest")]
        assert bool(doubts) == warned
    for path in sorted((SMEAR.parent / "blood").glob("*.jpg")):
        mpp = 0.1 if path.stem in ("lymphocyte", "monocyte", "eosinophil") else 0.07
        assert not any("Check the scale" in one for one in model(path, mpp=mpp).warnings), path.name


def test_a_page_blames_the_stated_scale_before_the_stain():
    model = blastdet.load("default", "cpu")
    found = model(SMEAR, mpp=0.25)
    offered = SimpleNamespace(classifier=model.classifier.card)
    said = viewer_data(found, offered, ("smear", "analysis"))["unknown"]
    assert re.match(
        r"red cells suggest 0\.10 µm/px \(n=\d+\); 0\.25 was given\. Check the scale\. \d+ of \d+ white", said
    )
    assert not viewer_data(model(SMEAR, mpp=0.1), offered, ("smear", "analysis"))["unknown"]
