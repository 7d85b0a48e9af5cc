"""Cells cut out of their smear: recognised, and brought to the colours of normalized smears."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from blastdet.imaging.io import open_image, read_image
from blastdet.imaging.isolated_cells import CELL, cell_mask, even, field_of_view, on_black, on_ground
from blastdet.imaging.optical_density import channel_range, to_density
from blastdet.imaging.stain_normalization import normalize_stain

_LEVELS = st.sampled_from([0, 23, 24, 25, 128, 254, 255])


def _cell(ground: int, colour: tuple[int, int, int] = (90, 40, 110), side: int = 120) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    inside = (x - 60) ** 2 + ((y - 55) * 1.2) ** 2 < 40**2
    texture = np.random.default_rng(0).integers(-12, 13, (side, side, 1))
    return np.where(inside[..., None], np.clip(np.array(colour) + texture, 30, 254), ground).astype(np.uint8)


@pytest.mark.parametrize("ground", [0, 255])
def test_the_cell_on_black_and_on_white(ground: int) -> None:
    image = _cell(ground)
    image[5:8, 5:8] = (100, 50, 100)  # a speck
    mask = cell_mask(image)
    assert mask is not None and mask.sum() == pytest.approx(np.pi * 40 * 40 / 1.2, rel=0.02)
    assert not mask[6, 6] and mask[55, 60]


def test_jpeg_noise_is_not_a_cell() -> None:
    stream = io.BytesIO()
    Image.fromarray(_cell(0)).save(stream, "JPEG", quality=90)
    mask = cell_mask(np.asarray(Image.open(stream)))
    assert mask is not None and mask.sum() == pytest.approx(np.pi * 40 * 40 / 1.2, rel=0.08)


def test_an_image_of_a_smear_has_no_plain_ground(data_dir: Path) -> None:
    assert cell_mask(read_image(Path("datasets/demo/smear.jpg"))) is None
    rng = np.random.default_rng(1)
    assert cell_mask(rng.integers(225, 250, (80, 80, 3), dtype=np.uint8)) is None
    assert cell_mask(np.zeros((50, 50, 3), np.uint8)) is None  # nothing but ground


@pytest.mark.parametrize("colour", [(90, 40, 110), (150, 90, 160), (60, 30, 60)])
def test_cells_of_all_stains_get_one_median_colour(colour: tuple[int, int, int]) -> None:
    image = _cell(0, colour)
    mask = cell_mask(image)
    assert mask is not None
    out = even(image, mask)
    assert (out[~mask] == 240).all()
    median = to_density(np.median(out[mask], axis=0), 240.0)
    np.testing.assert_allclose(median, CELL, atol=0.03)


def test_a_normalized_source_does_the_same() -> None:
    image = _cell(0)
    mask = cell_mask(image)
    assert mask is not None
    with normalize_stain(open_image(image, "cell"), "canonical") as source:
        np.testing.assert_array_equal(source.read(), even(image, mask))


def _field(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A smear as a phone at the eyepiece sees it, and the mask of what it shows."""
    height, width = rgb.shape[:2]
    y, x = np.mgrid[:height, :width]
    shown = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (0.48 * height) ** 2
    return np.where(shown[..., None], rgb, 0).astype(np.uint8), shown


def test_a_round_field_of_view_on_black_is_a_smear_and_not_a_cell() -> None:
    smear = read_image(Path("datasets/demo/smear.jpg"))
    field, shown = _field(smear)
    assert cell_mask(field) is None
    with (
        normalize_stain(open_image(smear, "a"), "canonical") as a,
        normalize_stain(open_image(field, "b"), "canonical") as b,
    ):
        whole, part = a.read(), b.read()
    np.testing.assert_allclose(np.median(part[shown], axis=0), np.median(whole[shown], axis=0), atol=4)
    np.testing.assert_array_equal(part[~shown], 0)


def test_what_is_too_large_or_ragged_is_no_cell() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[2:98, 2:98] = (90, 40, 110)
    assert cell_mask(image) is None
    image[:] = 0
    image[20:80, 20:26] = image[20:26, 20:80] = (90, 40, 110)  # an L
    assert cell_mask(image) is None


def test_black_ground_is_that_of_the_corners() -> None:
    image = np.full((60, 60, 3), 200, np.uint8)
    image[20:40, 20:40] = 0  # as black, but inside
    assert field_of_view(image) is None
    image[:, :10] = 0
    shown = field_of_view(image)
    assert shown is not None and shown[30, 30] and shown[30, 20:].all() and not shown[:, :10].any()


@pytest.mark.parametrize("corner", [(0, 0), (0, 59), (79, 0), (79, 59)])
def test_ground_in_one_corner_is_enough(corner: tuple[int, int]) -> None:
    image = np.full((80, 60, 3), 200, np.uint8)
    y, x = (slice(0, 30) if at == 0 else slice(at - 29, at + 1) for at in corner)
    image[y, x] = 0
    shown = field_of_view(image)
    assert shown is not None and not shown[corner] and shown[40, 30] != shown[corner]
    image[corner] = 25  # the lightest that is not black
    assert field_of_view(image) is None


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)), elements=_LEVELS))
def test_ground_is_what_the_channels_say(rgb: np.ndarray) -> None:
    assert (on_black(rgb) == (rgb.max(axis=2) <= 24)).all()
    assert (on_ground(rgb) == ((rgb.max(axis=2) <= 24) | (rgb.min(axis=2) == 255))).all()
    for image in (rgb, rgb.astype(np.float32)):
        lowest, highest = channel_range(image)
        assert (lowest == image.min(axis=2)).all() and (highest == image.max(axis=2)).all()
        assert lowest.dtype == highest.dtype == image.dtype
