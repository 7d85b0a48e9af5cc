"""Images that no second stage should be sure about: without colour or stain, black, blurred."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import blastdet
from blastdet.imaging.io import read_image
from blastdet.imaging.optical_density import faults_of

DEMO = Path(__file__).parents[2] / "datasets/demo"


def grey(rgb):  # type: ignore[no-untyped-def]
    return np.repeat(rgb.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rgb: rgb, None),
        (lambda rgb: np.clip(rgb * 0.5, 0, 255).astype(np.uint8), None),  # an underexposed one is usable
        (grey, "the image has no colour"),
        (lambda rgb: (245 - (245 - rgb.clip(0, 245)) * 0.08).astype(np.uint8), "shows hardly any stain"),
        (lambda rgb: cv2.GaussianBlur(rgb, (0, 0), 12), "the image is blurred"),
        (lambda rgb: rgb // 16, "the image is nearly black"),
    ],
    ids=["as it is", "underexposed", "grey", "pale", "blurred", "black"],
)
def test_faults_of_an_image(change, words: str | None) -> None:  # type: ignore[no-untyped-def]
    for name in ("smear.jpg", "blood/monocyte.jpg"):
        found = faults_of(change(read_image(DEMO / name)), 0.1)
        assert any(words in line for line in found) if words else found == ()


def test_black_around_a_field_of_view_is_no_fault() -> None:
    rgb = read_image(DEMO / "smear.jpg")
    y, x = np.ogrid[: rgb.shape[0], : rgb.shape[1]]
    radius = min(rgb.shape[:2]) / 2
    rgb[(y - rgb.shape[0] / 2) ** 2 + (x - rgb.shape[1] / 2) ** 2 > radius**2] = 0
    assert faults_of(rgb, 0.1) == ()


def test_an_empty_field_is_read() -> None:
    assert faults_of(np.full((1, 1, 3), 240, np.uint8), 0.1)
    assert faults_of(np.full((90, 90, 3), 240, np.uint8), 0.1)


def test_no_cell_of_a_grey_image_is_certain() -> None:
    result = blastdet.load("default", device="cpu")(grey(read_image(DEMO / "blood/aml-blast-2.jpg")), mpp=0.1)
    assert result.warnings[0] == "the image has no colour; no cell is certain"
    white = result.detections.with_classes("blast", "wbc")
    assert len(white) and white.unsure is not None and white.unsure.all()
