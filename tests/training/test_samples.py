"""Training samples: boxes stay on their cells, and regions or classes that are not known are marked as such."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blastdet.core.errors import ScaleError
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.datasets.formats.registry import write
from blastdet.evaluation.evaluate import as_nucleated
from blastdet.imaging.restaining import CANONICAL
from blastdet.training.config import AugmentConfig, TrainConfig
from blastdet.training.detection.samples import KNOWN_STRIDE, TrainingImage, compose, load_image
from blastdet.training.detection.training_data import load_data
from blastdet.training.photometric import photometric

PLAIN = AugmentConfig(mosaic=0, scale=(1, 1), aspect_jitter=0, stain=0, photometric=0)


def _config(**settings):
    return TrainConfig.model_validate({"name": "t", "mpp": 0.5, "crop": 128, "data": [{"path": "x"}]} | settings)


def _image(boxes, size=(150, 110), known=(True, True, True), unknown=()):
    rgb = np.full((size[1], size[0], 3), 255, np.uint8)
    for x1, y1, x2, y2 in boxes:
        rgb[y1:y2, x1:x2] = 0
    labels = np.arange(len(boxes)) % 3
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return TrainingImage(rgb, xyxy, labels, np.array(known), np.array(unknown, np.float32).reshape(-1, 4), 1.0, "p")


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0]))
@settings(max_examples=60, deadline=None)
def test_boxes_lie_on_dark_pixels_after_every_move(seed, mosaic):
    image = _image([(10, 12, 40, 50), (70, 20, 100, 45), (60, 70, 100, 100)])
    config = _config(augment=PLAIN.model_copy(update={"mosaic": mosaic, "scale": (0.7, 1.4), "aspect_jitter": 0.2}))
    sample = compose([image], np.ones(1), config, np.random.default_rng(seed), mosaic=True)
    assert sample.rgb.shape == (128, 128, 3)
    for x1, y1, x2, y2 in sample.boxes_xyxy:
        assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 128
        inner = sample.rgb[int(np.ceil(y1 + 2)) : int(y2 - 2), int(np.ceil(x1 + 2)) : int(x2 - 2)]
        assert inner.size == 0 or inner.max() < 100


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_every_visible_cell_is_boxed_or_unknown(seed):
    image = _image([(10, 12, 40, 50), (70, 20, 100, 45), (60, 70, 100, 100)])
    config = _config(augment=PLAIN.model_copy(update={"mosaic": 1.0}))
    sample = compose([image], np.ones(1), config, np.random.default_rng(seed), mosaic=True)
    explained = np.kron(~sample.known.all(axis=0), np.ones((KNOWN_STRIDE, KNOWN_STRIDE))).astype(bool)
    for x1, y1, x2, y2 in sample.boxes_xyxy.round().astype(int):
        explained[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = True
    assert (sample.rgb[~explained] > 100).all()


@pytest.mark.parametrize("colour", ["canonical", "as it is"])
def test_stains_are_measured_only_for_restaining(tmp_path, colour):
    Image.new("RGB", (128, 128), (240, 240, 240)).save(tmp_path / "x.png")
    sample = Sample(tmp_path / "x.png", (128, 128), (0.5, 0.5), truth=Detections.empty())
    assert load_image(sample, _config(colour=colour)).stains is None
    stains = load_image(sample, _config(colour=colour, augment={"restain": 0.5})).stains
    assert stains is (CANONICAL if colour == "canonical" else None)  # a blank image has no red cells


def test_restaining_changes_samples_as_often_as_asked_and_without_it_nothing():
    red = np.full((128, 128, 3), (190, 163, 186), np.uint8)
    none = np.empty((0, 4), np.float32)
    plain = TrainingImage(red, none, np.empty(0, np.int64), np.ones(3, bool), none, 1.0, "p")
    measured = TrainingImage(red, none, np.empty(0, np.int64), np.ones(3, bool), none, 1.0, "p", CANONICAL)

    def composed(image, restain, seed):
        config = _config(augment=PLAIN.model_copy(update={"restain": restain}))
        return compose([image], np.ones(1), config, np.random.default_rng(seed), False).rgb

    for seed in range(5):
        np.testing.assert_array_equal(composed(measured, 0.0, seed), composed(plain, 0.0, seed))
    changed = sum((composed(measured, 0.5, seed) != red).any() for seed in range(100))
    assert 25 < changed < 75


def test_a_class_that_is_not_annotated_is_unknown_on_that_image_only():
    whole = _image([], size=(128, 128))
    partly = _image([], size=(128, 128), known=(True, False, True))
    config = _config(augment=PLAIN)
    rng = np.random.default_rng(0)
    assert compose([whole], np.ones(1), config, rng, False).known.all()
    known = compose([partly], np.ones(1), config, rng, False).known
    assert known[[0, 2]].all() and not known[1].any()


def test_ignored_cells_are_unknown_for_every_class(tmp_path):
    Image.new("RGB", (128, 128)).save(tmp_path / "x.png")
    truth = Detections([[8, 8, 40, 40], [80, 80, 120, 120]], label=[1, 1], ignore=[False, True])
    smear = Sample(tmp_path / "x.png", (128, 128), (0.5, 0.5), annotated=("wbc", "rbc", "platelet"), truth=truth)
    image = load_image(smear, _config())
    assert len(image.boxes_xyxy) == 1 and len(image.unknown_xyxy) == 1
    sample = compose([image], np.ones(1), _config(augment=PLAIN), np.random.default_rng(3), False)
    assert len(sample.boxes_xyxy) == 1
    assert (~sample.known).any(axis=0).sum() == pytest.approx((40 / KNOWN_STRIDE + 1) ** 2, abs=12)


def test_a_blast_is_a_white_cell_to_a_detector_without_blasts(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "x.png")
    truth = Detections([[8, 8, 40, 40]], label=[0])
    smear = Sample(tmp_path / "x.png", (64, 48), (0.25, 0.5), annotated=("blast", "wbc"), truth=truth)
    folded = as_nucleated(Dataset("x", tmp_path, (smear,))).samples[0]
    assert folded.annotated == ("wbc",) and smear.truth.label.tolist() == [0]
    image = load_image(folded, _config(classes=["wbc", "rbc"]))
    assert image.label.tolist() == [0] and image.rgb.shape == (48, 32, 3)
    np.testing.assert_allclose(image.boxes_xyxy, [[4, 8, 20, 40]])
    with pytest.raises(ScaleError, match="expected a scale \\(µm/px\\) and annotations"):
        load_image(Sample(tmp_path / "x.png", (64, 48), truth=truth), _config(classes=["wbc"]))


def test_where_blasts_may_be_unboxed_white_cells_are_unknown(tmp_path):
    """A dataset that labels blasts on one image only: on the other, an unboxed cell may be a blast."""
    rng, samples = np.random.default_rng(0), []
    for i, annotated in enumerate([("blast", "wbc"), ("wbc",), ("blast", "wbc")]):
        Image.fromarray(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        truth = Detections([[8, 8, 40, 40], [60, 60, 90, 90]], label=[0 if "blast" in annotated else 1, 1])
        split = "val" if i == 2 else "train"
        known = {"split": split, "annotated": annotated, "truth": truth}
        samples.append(Sample(tmp_path / f"{i}.png", (128, 128), (0.5, 0.5), **known))
    write(Dataset("mixed", tmp_path, tuple(samples)), tmp_path / "mixed", "coco")
    config = _config(
        classes=["wbc", "rbc"], data=[{"path": str(tmp_path / "mixed"), "split": "official"}], augment=PLAIN
    )
    images = {sample.path.name: load_image(sample, config) for sample, _ in load_data(config, tmp_path).train}
    both, mixed = (compose([images[f"{i}.png"]], np.ones(1), config, np.random.default_rng(0), False) for i in range(2))
    assert both.known[0].all() and not mixed.known[0].any()
    assert both.label.tolist() == mixed.label.tolist() == [0, 0]  # boxed cells are white cells on both


def test_a_sample_depends_on_its_seed_alone():
    image = _image([(10, 12, 40, 50)])
    config = _config()
    first, again, other = (
        compose([image], np.ones(1), config, np.random.default_rng(seed), True) for seed in ((1, 2), (1, 2), (1, 3))
    )
    np.testing.assert_array_equal(first.rgb, again.rgb)
    assert (first.rgb != other.rgb).any()


def _noise(size=(40, 50)):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_strength_zero_changes_nothing():
    np.testing.assert_array_equal(photometric(_noise(), 0, np.random.default_rng(0)), _noise())


@pytest.mark.parametrize("size", [(40, 50), (1, 1), (3, 200)])
def test_photometric_augmentation_depends_on_its_generator_alone(size):
    """Whatever was augmented before, and in which order: what a resumed training needs."""
    rgb = _noise(size)
    forward = [photometric(rgb, 1.0, np.random.default_rng((0, i))) for i in range(8)]
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002  # the global state of a program around us
    backward = [photometric(rgb, 1.0, np.random.default_rng((0, i))) for i in reversed(range(8))][::-1]
    for first, second in zip(forward, backward, strict=True):
        assert first.shape == rgb.shape and first.dtype == np.uint8
        np.testing.assert_array_equal(first, second)
    assert len({image.tobytes() for image in forward}) > 1
    np.testing.assert_array_equal(rgb, _noise(size))


def test_photometric_augmentation_is_about_as_strong_as_documented():
    """Mean change of a smooth image by blur, noise, JPEG and light together, in grey levels."""
    smooth = cv2.GaussianBlur(_noise((96, 96)), (0, 0), 3)
    changes = [
        np.abs(photometric(smooth, 0.5, np.random.default_rng(i)).astype(int) - smooth).mean() for i in range(200)
    ]
    assert 2 < np.mean(changes) < 10 and np.mean(np.array(changes) == 0) < 0.3


def test_an_image_that_ends_a_few_bytes_early_is_trained_on(tmp_path):
    Image.new("RGB", (96, 64), (200, 180, 190)).save(tmp_path / "whole.jpg")
    (tmp_path / "short.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-2])
    truth = Detections([[8, 8, 40, 40]], label=[1])
    samples = [Sample(tmp_path / name, (96, 64), (0.2, 0.2), truth=truth) for name in ("whole.jpg", "short.jpg")]
    whole, short = (load_image(sample, _config()) for sample in samples)
    np.testing.assert_array_equal(whole.rgb, short.rgb)
