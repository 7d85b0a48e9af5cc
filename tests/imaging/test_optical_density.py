"""Conversion between grey levels and optical density, compared with the formulas of version 0.1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from blastdet.imaging import optical_density
from blastdet.imaging.augmentation import jitter_stain
from blastdet.imaging.optical_density import absorbance, background_colour, density_table, to_density, to_levels
from blastdet.imaging.stain_normalization import RED_CELL, table

images = arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3)))


@given(st.floats(1, 255), st.floats(0.5, 16), arrays(np.float64, 8, elements=st.floats(0, 255)))
def test_levels_are_the_inverse_of_density(background, offset, levels):
    back = to_levels(to_density(levels, background, offset), background, offset)
    np.testing.assert_allclose(back, levels, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_conversions_keep_the_precision_of_their_input(dtype):
    values = np.arange(3, dtype=dtype)
    assert to_density(values, np.array([250.0, 251, 252])).dtype == dtype
    assert to_levels(values, np.float64(250)).dtype == dtype


def test_the_background_has_density_zero_and_densities_of_two_layers_add_up():
    background = np.array([230.0, 220.0, 240.0])
    assert (to_density(background, background) == 0).all()
    layer = np.array([0.2, 0.5, 0.1])
    once = to_levels(layer, background)
    np.testing.assert_allclose(to_levels(2 * layer, background), to_levels(layer, once), rtol=1e-12)


@given(images)
@settings(max_examples=50, deadline=None)
def test_shipped_models_get_the_same_input_as_in_their_training(rgb):
    """The formulas of version 0.1. Any difference would change the input of the shipped models."""
    light = background_colour(rgb)
    old = np.asarray(np.log(light + 8) - np.log(np.arange(256, dtype=np.float32)[:, None] + 8), np.float32)
    np.testing.assert_array_equal(density_table(light), old)
    assert absorbance(rgb).tobytes() == np.take_along_axis(old, rgb.reshape(-1, 3).astype(int), axis=0).tobytes()


@pytest.mark.parametrize("seed", range(8))
def test_normalization_tables_equal_those_of_version_0_1(seed):
    rng = np.random.default_rng(seed)
    background, red = rng.uniform(170, 250, 3), rng.uniform(110, 200, 3)
    rgb = np.where(rng.random((40, 40, 1)) < 0.3, red, background) + rng.normal(0, 2, (40, 40, 3))
    rgb = np.clip(rgb, 0, 255).astype(np.uint8)
    light = background_colour(rgb)
    density = np.asarray(np.log(light + 8) - np.log(np.arange(256, dtype=np.float32)[:, None] + 8), np.float32)
    levels = [density[:, channel][rgb[..., channel].ravel()] for channel in range(3)]
    total = (levels[0] + levels[1] + levels[2]) / np.float32(3)
    where = np.flatnonzero(total > max(0.35 * float(np.percentile(total, 95)), 0.04))
    hue = (levels[0][where] / 2 + levels[1][where] - levels[2][where]) / total[where]
    cells = where[np.abs(hue - optical_density.first_mode(hue)) < 0.2]
    assert len(cells) > 0.02 * total.size
    median = np.array([np.median(channel[cells]) for channel in levels])
    factor = np.asarray(np.clip(np.array(RED_CELL) / np.maximum(median, 0.02), 0.35, 3.0), np.float32)
    shown = (240.0 + 8) * np.exp(-density * factor) - 8
    np.testing.assert_array_equal(table(rgb), np.clip(np.rint(shown), 0, 255).astype(np.uint8))


@given(images, st.integers(0, 99), st.floats(0.01, 2))
@settings(max_examples=50, deadline=None)
def test_stain_jitter_equals_version_0_1(rgb, seed, strength):
    rng = np.random.default_rng(seed)
    level = strength * rng.random()
    mixing = np.eye(3) * np.exp(rng.normal(0, 0.35 * level, 3)) + rng.normal(0, 0.12 * level, (3, 3))
    gamma = np.exp(rng.normal(0, 0.2 * level))
    light = np.exp(rng.normal(-0.05 * level, 0.13 * level, 3) - abs(rng.normal(0, 0.15 * level)))
    lookup = ((-np.log((np.arange(256) + 1.0) / 256)) ** gamma).astype(np.float32)
    mixed = lookup[rgb] @ mixing.T.astype(np.float32)
    out = 256 * light.astype(np.float32) * np.exp(-np.clip(mixed, 0, 2.5)) - 1
    old = np.asarray(np.clip(out, 0, 255), np.uint8)
    # one grey level: the float64 table may differ in its last bit before it is rounded to float32
    assert np.abs(jitter_stain(rgb, strength, np.random.default_rng(seed)).astype(int) - old).max() <= 1


@given(arrays(np.uint8, st.integers(1, 400), elements=st.sampled_from([0, 1, 2, 97, 254, 255])))
def test_middle_levels_are_those_of_the_median(levels):
    assert np.mean(optical_density.middle_levels(levels)) == np.median(levels)


@given(st.lists(st.tuples(st.integers(-2, 62), st.integers(-3, 3)), max_size=60), st.sampled_from("fd"))
def test_bins_equal_those_of_numpy_at_and_beside_their_edges(steps, dtype):
    edges = np.linspace(-1.5, 1.5, 61, dtype=dtype)
    values = np.array([edges[k] if 0 <= k <= 60 else -1.5 + k / 20 for k, _ in steps], dtype)
    for i, (_, ulps) in enumerate(steps):
        for _ in range(abs(ulps)):
            values[i] = np.nextafter(values[i], values.dtype.type(9 * np.sign(ulps)))
    values = np.concatenate([values, np.random.default_rng(len(steps)).normal(0, 1, 500).astype(dtype)])
    for found, expected in zip(optical_density._bins(values), np.histogram(values, 60, (-1.5, 1.5)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_background_colour_ignores_highlights():
    rgb = np.full((60, 60, 3), (150, 90, 140), np.uint8)
    rgb[:, 20:] = (231, 225, 219)
    rgb[0, :4] = 255
    np.testing.assert_allclose(background_colour(rgb), (231, 225, 219), atol=1)
