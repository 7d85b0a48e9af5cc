"""Restained images: red cells reach the hue, and nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet.core.errors import ConfigError
from blastdet.imaging.optical_density import density_table, to_levels
from blastdet.imaging.restaining import (
    NUCLEAR_HUES,
    RED_CELL_HUES,
    Stains,
    hue_of,
    measure_stains,
    restain,
    restain_randomly,
    separate,
)

LIGHT = np.array([235.0, 228.0, 220.0])
RED, NUCLEUS = np.array([0.17, 0.30, 0.20]), np.array([0.75, 0.95, 0.25])


def _smear(side=160, seed=0):
    """An image, and the masks of background, red cells and each of three nuclei, the darkest last."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    amount, nuclei = np.zeros((side, side)), []
    red = np.zeros((side, side), bool)
    for cx, cy in rng.uniform(10, side - 10, (24, 2)):
        red |= np.hypot(x - cx, y - cy) < 9
    for dark, (cx, cy) in zip((0.8, 1.0, 1.3), ((40, 50), (110, 100), (40, 120)), strict=True):
        mask = np.hypot(x - cx, y - cy) < 14
        amount[mask] = dark
        red &= ~mask
        nuclei.append(mask)
    density = red[..., None] * RED + amount[..., None] * NUCLEUS + rng.normal(0, 0.004, (side, side, 3))
    background = ~red & (amount == 0)
    return np.clip(to_levels(density, LIGHT), 0, 255).astype(np.uint8), background, red, nuclei


SMEAR, BACKGROUND, RED_CELLS, NUCLEI = _smear()


def _density(rgb, where):
    table = density_table(LIGHT.astype(np.float32))
    return np.stack([table[rgb[where][:, c], c] for c in range(3)], axis=1)


def test_both_stains_are_measured():
    stains = measure_stains(SMEAR)
    np.testing.assert_allclose(stains.background, LIGHT, atol=2)
    np.testing.assert_allclose(stains.red_cell, RED, atol=0.03)
    np.testing.assert_allclose(stains.nucleus, NUCLEUS, atol=0.08)


@pytest.mark.parametrize("hue", RED_CELL_HUES)
def test_red_cells_reach_the_hue_and_nothing_else_moves(hue):
    before = SMEAR.copy()
    after = restain(SMEAR, hue)
    np.testing.assert_array_equal(SMEAR, before)
    reached = np.median(_density(after, RED_CELLS), axis=0)
    np.testing.assert_allclose(reached / reached.mean(), hue_of(hue, RED_CELL_HUES), atol=0.12)
    assert reached.mean() == pytest.approx(RED.mean(), abs=0.02)
    assert np.abs(after[BACKGROUND].astype(int) - SMEAR[BACKGROUND]).mean() < 1
    for nucleus in NUCLEI:
        assert np.abs(np.median(_density(after, nucleus) - _density(SMEAR, nucleus), axis=0)).max() < 0.06


@given(st.sampled_from(sorted(RED_CELL_HUES)), st.sampled_from([None, *NUCLEAR_HUES]), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_nuclei_keep_their_order_of_darkness(red_cells, nuclei, strength):
    after = restain(SMEAR, red_cells, strength, nuclei=nuclei)
    darkness = [float(_density(after, nucleus).mean()) for nucleus in NUCLEI]
    assert darkness == sorted(darkness) and darkness[0] > _density(after, RED_CELLS).mean()


def test_strength_moves_red_cells_in_proportion():
    whole, half = (_density(restain(SMEAR, "brown", s), RED_CELLS).mean(axis=0) for s in (1.0, 0.5))
    start = _density(SMEAR, RED_CELLS).mean(axis=0)
    np.testing.assert_allclose(half - start, (whole - start) / 2, atol=0.02)


@pytest.mark.parametrize("options", [{"red_cells": "blue", "strength": 0.0}, {}])
def test_nothing_asked_for_changes_nothing(options):
    np.testing.assert_array_equal(restain(SMEAR, **options), SMEAR)


def test_nuclei_and_background_are_moved_where_asked_for():
    after = restain(SMEAR, nuclei="blue", background=(250, 240, 200))
    np.testing.assert_allclose(np.median(after[BACKGROUND], axis=0), (250, 240, 200), atol=2)
    before, now = measure_stains(SMEAR).nucleus, measure_stains(after).nucleus
    assert now[0] / now[1] > before[0] / before[1] + 0.3


def test_given_stains_are_not_measured_again():
    blank = np.full((8, 8, 3), (200, 170, 195), np.uint8)
    assert measure_stains(blank) is None
    np.testing.assert_array_equal(restain(blank, "blue"), blank)
    stains = Stains(LIGHT.astype(np.float32), RED, NUCLEUS)
    assert (restain(blank, "blue", stains=stains) != blank).any()


def test_random_stains_differ_and_depend_on_nothing_but_the_seed():
    images = [restain_randomly(SMEAR, np.random.default_rng(seed)) for seed in (0, 0, 1, 2)]
    np.testing.assert_array_equal(images[0], images[1])
    assert len({image.tobytes() for image in images}) == 3
    for image in images:
        assert np.abs(image[BACKGROUND].astype(int) - SMEAR[BACKGROUND]).mean() < 2


def test_amounts_are_those_the_image_was_made_of():
    stains = Stains(LIGHT.astype(np.float32), RED, NUCLEUS)
    density = np.array([[0 * RED, RED, 1.5 * RED, 0.5 * NUCLEUS, NUCLEUS, 0.5 * RED + 0.2 * NUCLEUS]], np.float32)
    red, nuclei = separate(density, stains)
    np.testing.assert_allclose(red[0], [0, 1, 1.5, 0, 0, 0.5], atol=1e-4)
    np.testing.assert_allclose(nuclei[0], [0, 0, 0, 0.5, 1, 0.2], atol=1e-4)


@pytest.mark.parametrize("hue", ["pink-ish", (1, 2), (0, 0, 0), (-1, 1, 1), (np.nan, 1, 1)])
def test_an_impossible_hue_is_refused(hue):
    with pytest.raises(ConfigError, match="hue: expected"):
        restain(SMEAR, hue)


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_an_impossible_strength_is_refused(strength):
    with pytest.raises(ConfigError, match="strength"):
        restain(SMEAR, "blue", strength)


def test_pale_cells_that_let_more_red_through_than_the_background_are_restained():
    y, x = np.mgrid[:96, :96]
    cells = ((x % 32 - 16) ** 2 + (y % 32 - 16) ** 2 < 100)[..., None]
    image = np.where(cells, (244, 175, 180), (238, 238, 236)).astype(np.uint8)
    stains = measure_stains(image)
    assert stains.red_cell[0] < 0
    for seed in range(200):
        assert restain_randomly(image, np.random.default_rng(seed), stains).shape == image.shape
