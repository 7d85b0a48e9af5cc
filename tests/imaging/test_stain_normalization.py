"""Stain normalization: differences of brightness and stain are removed, and blank images are accepted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from blastdet.imaging import stain_normalization
from blastdet.imaging.io import open_smear
from blastdet.imaging.optical_density import to_density, to_levels
from blastdet.imaging.stain_normalization import (
    BACKGROUND,
    RED_CELL,
    StainNormalizedSource,
    apply,
    normalize_stain,
    table,
)
from blastdet.synth.render import SynthConfig, render

LIGHT = np.array([235.0, 228.0, 220.0])


def _densities(seed=0, side=160):
    """Red cells and two nuclei as optical density (natural log), float (h, w, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    density = np.zeros((side, side, 3))
    for cx, cy in rng.uniform(10, side - 10, (28, 2)):
        density[np.hypot(x - cx, y - cy) < 9] = (0.17, 0.30, 0.20)
    for cx, cy in ((40, 50), (110, 100)):
        density[np.hypot(x - cx, y - cy) < 14] = (0.75, 0.95, 0.25)
    return density + rng.normal(0, 0.004, density.shape)


def _image(density, background):
    return np.clip(to_levels(density, background), 0, 255).astype(np.uint8)


stains = st.tuples(*[st.floats(0.65, 1.5)] * 3)
brightness = st.tuples(*[st.floats(0.7, 1.05)] * 3)


@given(stains, brightness)
@settings(max_examples=25, deadline=None)
def test_differences_of_brightness_and_stain_are_removed(stain, factor):
    one = _image(_densities(), LIGHT)
    other = _image(_densities() * stain, np.minimum(LIGHT * factor, 250))
    first, second = (apply(rgb, table(rgb)).astype(int) for rgb in (one, other))
    difference = np.abs(first - second)
    assert difference.mean() < 3 and np.quantile(difference, 0.98) < 16


@pytest.mark.parametrize("palette", ["bccd", "pbc", "all", "chula"])
def test_background_and_red_cells_of_every_laboratory_have_the_same_colours(palette):
    rgb, truth = render(SynthConfig(size_wh=(700, 500), mpp=0.15, palette=palette, white_cells=300), 5)
    normalized = apply(rgb, table(rgb)).astype(float)
    assert np.abs(np.percentile(normalized.reshape(-1, 3), 92, axis=0) - BACKGROUND).max() < 14
    middle = []
    for x1, y1, x2, y2 in truth.with_classes("rbc").boxes_xyxy.astype(int):
        middle.append(normalized[max(y1, 0) : y2, max(x1, 0) : x2].reshape(-1, 3))
    density = to_density(np.concatenate(middle), BACKGROUND)
    stained = np.median(density[density.mean(axis=1) > 0.1], axis=0)
    assert truth.counts()["rbc"] > 20
    np.testing.assert_allclose(stained, RED_CELL, atol=0.08)


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))))
@settings(max_examples=80, deadline=None)
def test_tables_of_any_image_are_monotonic(rgb):
    colours = table(rgb)
    assert colours.shape == (256, 3) and colours.dtype == np.uint8
    assert (np.diff(colours.astype(int), axis=0) >= 0).all()


def _in_uneven_light(hue, loss):
    """A smear with red cells of a hue, the corners `loss` times darker, and the red cells' mask."""
    density = _densities(side=240)
    red = (density.mean(axis=2) > 0.15) & (density.mean(axis=2) < 0.35)
    density[red] = 0.2 * np.array(hue)
    y, x = np.linspace(-1, 1, 240)[:, None], np.linspace(-1, 1, 240)[None]
    return np.clip(to_levels(density, LIGHT) * (1 - loss * (x**2 + y**2) / 2)[..., None], 0, 255).astype(np.uint8), red


@pytest.mark.parametrize("loss", [0.0, 0.25, 0.4])
def test_violet_red_cells_are_found_in_uneven_light(loss):
    rgb, red = _in_uneven_light((0.98, 1.45, 0.57), loss)
    red[:60], red[180:], red[:, :60], red[:, 180:] = False, False, False, False  # the light is even in the middle
    density = to_density(apply(rgb, table(rgb))[red].astype(float), BACKGROUND)
    np.testing.assert_allclose(np.median(density, axis=0), RED_CELL, atol=0.1)


@pytest.mark.parametrize("loss", [0.0, 0.3])
@pytest.mark.parametrize("is_partly_black", [False, True])
def test_the_surface_below_an_image_is_that_of_all_rounds(loss, is_partly_black):
    rgb, _ = _in_uneven_light((0.98, 1.45, 0.57), loss)
    density = to_density(rgb[::5, ::5].astype(float), LIGHT).mean(axis=2)
    used = np.ones(density.shape, bool)
    used[: 20 * is_partly_black] = False
    y, x = (grid.ravel() for grid in np.meshgrid(*[np.linspace(-1, 1, 48)] * 2, indexing="ij"))
    terms, weight = np.stack([np.ones(48 * 48), x, y, x**2, x * y, y**2], axis=1), used.ravel().astype(float)
    for _ in range(12):
        weighted = terms * weight[:, None]
        surface = terms @ np.linalg.lstsq(weighted.T @ terms, weighted.T @ density.ravel(), rcond=None)[0]
        weight = np.where(density.ravel() > surface + 0.02, 0.01, 1.0) * used.ravel()
    np.testing.assert_array_equal(stain_normalization._lower_surface(density, used), surface.reshape(density.shape))


def test_without_red_cells_only_the_background_is_corrected():
    rgb = np.full((40, 40, 3), (200, 180, 160), np.uint8)
    assert np.abs(apply(rgb, table(rgb)).astype(int) - BACKGROUND).max() <= 1


@pytest.mark.parametrize("size_wh", [(1, 3000), (3000, 1), (1, 1)])
def test_images_one_pixel_wide_are_accepted(tmp_path, size_wh):
    Image.new("RGB", size_wh, (250, 240, 245)).save(tmp_path / "line.png")
    with normalize_stain(open_smear(tmp_path / "line.png"), "canonical") as source:
        assert source.read().shape == (size_wh[1], size_wh[0], 3)


def test_reading_a_box_equals_cropping_the_whole_image(tmp_path):
    Image.fromarray(_image(_densities(), LIGHT)).save(tmp_path / "a.png")
    with normalize_stain(open_smear(tmp_path / "a.png"), "canonical") as source:
        assert isinstance(source, StainNormalizedSource) and source.size_wh == (160, 160)
        np.testing.assert_array_equal(source.read((20, 30, 90, 80)), source.read()[30:80, 20:90])
    with normalize_stain(open_smear(tmp_path / "a.png"), "as it is") as source:
        assert not isinstance(source, StainNormalizedSource)
