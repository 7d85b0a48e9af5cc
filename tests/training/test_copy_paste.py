"""Pasted cells are placed where their class is known, have exact boxes, and hide no white cell."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet.core import boxes
from blastdet.training.detection.copy_paste import Donors, copy_paste, rbc_overlap
from blastdet.training.detection.samples import KNOWN_STRIDE, PAD, TrainingImage, TrainingSample

LIGHT = 230


def _donor(label=0, box=(20, 20, 60, 56)):
    rgb = np.full((90, 100, 3), LIGHT, np.uint8)
    x1, y1, x2, y2 = box
    rgb[y1:y2, x1:x2] = (90, 40, 140)
    xyxy = np.array([box], np.float32)
    return TrainingImage(rgb, xyxy, np.array([label]), np.ones(3, bool), np.empty((0, 4), np.float32), 1.0, "donor")


def _film(xyxy=(), label=(), side=192):
    rgb = np.full((side, side, 3), 200, np.uint8)
    known = np.ones((3, side // KNOWN_STRIDE, side // KNOWN_STRIDE), bool)
    return TrainingSample(rgb, np.array(xyxy, np.float32).reshape(-1, 4), np.array(label, np.int64), known)


def _pasted(sample, seed, donor=None):
    donors = Donors([donor or _donor()], np.ones(1), [0])
    return copy_paste(sample, donors, (0.7, 1.4), np.random.default_rng(seed))


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_every_pasted_cell_is_dark_and_boxed(seed):
    before = _film([[80, 80, 120, 120]], [0])
    after = _pasted(before, seed)
    assert 2 <= len(after.boxes_xyxy) <= 4
    changed = (after.rgb != before.rgb).any(axis=2)
    for x1, y1, x2, y2 in after.boxes_xyxy[1:].astype(int):
        assert 0 <= x1 < x2 <= 192 and 0 <= y1 < y2 <= 192
        assert after.rgb[(y1 + y2) // 2, (x1 + x2) // 2, 1] < 150
        changed[y1:y2, x1:x2] = False
    assert not changed.any()
    assert (before.rgb == 200).all(), "the sample given was changed"


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_no_white_cell_hides_another_and_hidden_red_cells_lose_their_box(seed):
    after = _pasted(_film([[70, 70, 110, 110], [0, 0, 24, 24], [150, 150, 174, 174]], [0, 1, 1]), seed)
    white = after.boxes_xyxy[after.label == 0]
    for i in range(len(white)):
        for j in range(i):
            x1, y1 = np.maximum(white[i, :2], white[j, :2])
            x2, y2 = np.minimum(white[i, 2:], white[j, 2:])
            shared = max(x2 - x1, 0) * max(y2 - y1, 0)
            assert shared <= 0.25 * min(boxes.area(white[[i, j]])) + 1e-3
    for red in after.boxes_xyxy[after.label == 1]:
        for box in white:
            shared = np.clip(np.minimum(red[2:], box[2:]) - np.maximum(red[:2], box[:2]), 0, None).prod()
            assert shared < 0.6 * boxes.area(red[None])[0] + 1e-3


def test_nothing_is_pasted_where_the_class_is_unknown_or_on_padding():
    unknown = _film()
    unknown.known[0] = False
    padding = _film()
    padding.rgb[:] = PAD
    for seed in range(40):
        assert not len(_pasted(unknown, seed).label)
        assert not len(_pasted(padding, seed).label)


def test_cells_cut_by_the_border_and_other_classes_are_not_copied():
    for donor in (_donor(label=1), _donor(box=(0, 20, 40, 56)), _donor(box=(70, 20, 99, 89))):
        sample = _film()
        assert _pasted(sample, 0, donor) is sample


def test_half_the_cells_touch_a_white_cell():
    centre = np.array([[76, 76, 116, 116]], np.float32)
    touching = pasted = 0
    for seed in range(200):
        after = _pasted(_film(centre, [0]), seed)
        grown = after.boxes_xyxy[1:] + np.array([-3, -3, 3, 3])
        pasted += len(grown)
        touching += int((boxes.iou_matrix(grown, centre)[:, 0] > 0).sum())
    assert touching / pasted > 0.3


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_overlapping_red_cells_are_boxed_translucent_and_spare_white_cells(seed):
    before = _film([[80, 80, 120, 120]], [0])
    donors = Donors([_donor(label=1)], np.ones(1), [1])
    after = rbc_overlap(before, donors, [0], (0.7, 1.4), np.random.default_rng(seed))
    assert (after.label == 0).sum() == 1 and set(after.label) <= {0, 1}
    assert (after.rgb <= before.rgb).all(), "a red cell cannot make the image brighter"
    changed = (after.rgb != before.rgb).any(axis=2)
    white = np.zeros_like(changed)
    white[80:120, 80:120] = True
    assert changed[white].mean() <= 0.75
    if (after.label == 1).sum() >= 2:
        assert after.rgb.min() < 200 * np.exp(-0.3)


def test_without_donors_nothing_is_pasted():
    sample = _film()
    none = Donors([_donor(label=2)], np.ones(1), [0])
    assert copy_paste(sample, none, (1, 1), np.random.default_rng(0)) is sample
    assert rbc_overlap(sample, none, [0], (1, 1), np.random.default_rng(0)) is sample
