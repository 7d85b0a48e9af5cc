"""Training samples: boxes stay on their cells, and what is not known is marked so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blastdet.core.errors import ScaleError
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.training.config import AugmentConfig, TrainConfig
from blastdet.training.detection.samples import KNOWN_STRIDE, Picture, compose, load_picture
from blastdet.training.detection.training_data import blasts_as_white_cells
from blastdet.training.photometric import photometric

PLAIN = AugmentConfig(mosaic=0, scale=(1, 1), squeeze=0, stain=0, photometric=0)


def _config(**settings):
    return TrainConfig.model_validate({"name": "t", "mpp": 0.5, "crop": 128, "data": [{"path": "x"}]} | settings)


def _picture(boxes, size=(150, 110), known=(True, True, True), unknown=()):
    rgb = np.full((size[1], size[0], 3), 255, np.uint8)
    for x1, y1, x2, y2 in boxes:
        rgb[y1:y2, x1:x2] = 0
    labels = np.arange(len(boxes)) % 3
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return Picture(rgb, xyxy, labels, np.array(known), np.array(unknown, np.float32).reshape(-1, 4), 1.0, "p")


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0]))
@settings(max_examples=60, deadline=None)
def test_boxes_lie_on_dark_pixels_after_every_move(seed, mosaic):
    picture = _picture([(10, 12, 40, 50), (70, 20, 100, 45), (60, 70, 100, 100)])
    config = _config(augment=PLAIN.model_copy(update={"mosaic": mosaic, "scale": (0.7, 1.4), "squeeze": 0.2}))
    sample = compose([picture], np.ones(1), config, np.random.default_rng(seed), mosaic=True)
    assert sample.rgb.shape == (128, 128, 3)
    for x1, y1, x2, y2 in sample.boxes_xyxy:
        assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 128
        inner = sample.rgb[int(np.ceil(y1 + 2)) : int(y2 - 2), int(np.ceil(x1 + 2)) : int(x2 - 2)]
        assert inner.size == 0 or inner.max() < 100


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_every_visible_cell_is_boxed_or_unknown(seed):
    picture = _picture([(10, 12, 40, 50), (70, 20, 100, 45), (60, 70, 100, 100)])
    config = _config(augment=PLAIN.model_copy(update={"mosaic": 1.0}))
    sample = compose([picture], np.ones(1), config, np.random.default_rng(seed), mosaic=True)
    explained = np.kron(~sample.known.all(axis=0), np.ones((KNOWN_STRIDE, KNOWN_STRIDE))).astype(bool)
    for x1, y1, x2, y2 in sample.boxes_xyxy.round().astype(int):
        explained[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = True
    assert (sample.rgb[~explained] > 100).all()


def test_a_class_nobody_annotated_is_unknown_on_that_picture_only():
    whole = _picture([], size=(128, 128))
    partly = _picture([], size=(128, 128), known=(True, False, True))
    config = _config(augment=PLAIN)
    rng = np.random.default_rng(0)
    assert compose([whole], np.ones(1), config, rng, False).known.all()
    known = compose([partly], np.ones(1), config, rng, False).known
    assert known[[0, 2]].all() and not known[1].any()


def test_ignored_cells_are_unknown_for_every_class(tmp_path):
    Image.new("RGB", (128, 128)).save(tmp_path / "x.png")
    truth = Detections([[8, 8, 40, 40], [80, 80, 120, 120]], label=[1, 1], ignore=[False, True])
    smear = Sample(tmp_path / "x.png", (128, 128), (0.5, 0.5), annotated=("wbc", "rbc", "platelet"), truth=truth)
    picture = load_picture(smear, _config())
    assert len(picture.boxes_xyxy) == 1 and len(picture.unknown_xyxy) == 1
    sample = compose([picture], np.ones(1), _config(augment=PLAIN), np.random.default_rng(3), False)
    assert len(sample.boxes_xyxy) == 1
    assert (~sample.known).any(axis=0).sum() == pytest.approx((40 / KNOWN_STRIDE + 1) ** 2, abs=12)


def test_a_blast_is_a_white_cell_to_a_detector_without_blasts(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "x.png")
    truth = Detections([[8, 8, 40, 40]], label=[0])
    smear = Sample(tmp_path / "x.png", (64, 48), (0.25, 0.5), annotated=("blast", "wbc"), truth=truth)
    folded = blasts_as_white_cells(Dataset("x", tmp_path, (smear,))).samples[0]
    assert folded.annotated == ("wbc",) and smear.truth.label.tolist() == [0]
    picture = load_picture(folded, _config(classes=["wbc", "rbc"]))
    assert picture.label.tolist() == [0] and picture.rgb.shape == (48, 32, 3)
    np.testing.assert_allclose(picture.boxes_xyxy, [[4, 8, 20, 40]])
    with pytest.raises(ScaleError, match="a scale and annotations expected"):
        load_picture(Sample(tmp_path / "x.png", (64, 48), truth=truth), _config(classes=["wbc"]))


def test_a_sample_depends_on_its_seed_alone():
    picture = _picture([(10, 12, 40, 50)])
    config = _config()
    first, again, other = (
        compose([picture], np.ones(1), config, np.random.default_rng(seed), True) for seed in ((1, 2), (1, 2), (1, 3))
    )
    np.testing.assert_array_equal(first.rgb, again.rgb)
    assert (first.rgb != other.rgb).any()


def test_strength_zero_changes_nothing():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(photometric(rgb, 0, rng), rgb)
