"""Optical density, white point, normalisation and jitter: round trips, identities, and pictures without stain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from blastdet.images import read_image
from blastdet.stain import (
    WHITE,
    MacenkoTarget,
    correct_white,
    estimate_white,
    fit_macenko,
    fit_reinhard,
    from_optical_density,
    jitter_stain,
    normalise_macenko,
    normalise_reinhard,
    stain_axes,
    to_optical_density,
)
from blastdet.types import RGB

AZURE = np.array([0.72, 0.62, 0.31])
EOSIN = np.array([0.12, 0.75, 0.65])


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def smear(azure: np.ndarray = AZURE, eosin: np.ndarray = EOSIN, strength: float = 1.0, side: int = 160) -> RGB:
    """Background, red cells (eosin) and nuclei (azure with some eosin), each with noise, in optical density."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:side, :side]
    red = ((x // 40 + y // 40) % 2 == 0) & ((x % 40 - 20) ** 2 + (y % 40 - 20) ** 2 < 300)
    nucleus = ((x // 40 + y // 40) % 4 == 1) & ((x % 40 - 20) ** 2 + (y % 40 - 20) ** 2 < 350)
    amount_e = red * rng.uniform(0.3, 0.5, red.shape) + nucleus * rng.uniform(0, 0.15, red.shape)
    amount_a = nucleus * rng.uniform(0.5, 0.9, red.shape)
    density = strength * (amount_a[..., None] * unit(azure) + amount_e[..., None] * unit(eosin))
    return from_optical_density(density)


def difference(a: RGB, b: RGB) -> int:
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.uint8
    return int(np.abs(a.astype(int) - b.astype(int)).max(initial=0))


pictures = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))
whites = st.tuples(*[st.integers(150, 255)] * 3)

ALL: dict[str, Callable[[RGB], RGB]] = {
    "macenko": lambda rgb: normalise_macenko(
        rgb, MacenkoTarget(np.stack([unit(AZURE), unit(EOSIN)]), np.ones(2), np.array(WHITE))
    ),
    "reinhard": lambda rgb: normalise_reinhard(rgb, fit_reinhard(smear())),
    "white": correct_white,
    "jitter": lambda rgb: jitter_stain(rgb, np.random.default_rng(0)),
    "stain jitter": lambda rgb: jitter_stain(rgb, np.random.default_rng(0), 0.3, 0.1, np.stack([AZURE, EOSIN])),
}


@given(rgb=pictures, white=whites)
def test_optical_density_round_trip(rgb: RGB, white: tuple[int, int, int]) -> None:
    density = to_optical_density(rgb, white)
    assert density.dtype == np.float32
    assert difference(from_optical_density(density, white), rgb) == 0


def test_optical_density_values() -> None:
    density = to_optical_density(np.array([[[255, 127, 0]]], np.uint8))
    assert density[0, 0] == pytest.approx([0.0, np.log10(2), np.log10(256)], abs=1e-6)
    assert to_optical_density(np.array([[[200, 180, 250]]], np.uint8), (200, 180, 250))[0, 0] == pytest.approx([0] * 3)


@given(rgb=pictures, seed=st.integers(0, 99), by_stain=st.booleans())
def test_jitter_of_no_strength_changes_nothing(rgb: RGB, seed: int, by_stain: bool) -> None:
    axes = np.stack([AZURE, EOSIN]) if by_stain else None
    assert difference(jitter_stain(rgb, np.random.default_rng(seed), 0, 0, axes), rgb) == 0


def test_jitter_changes_in_step_with_its_generator() -> None:
    rgb = smear()
    first = jitter_stain(rgb, np.random.default_rng(1))
    assert difference(first, jitter_stain(rgb, np.random.default_rng(1))) == 0
    assert difference(first, jitter_stain(rgb, np.random.default_rng(2))) > 3
    assert 3 < difference(first, rgb) < 80
    rng, other = np.random.default_rng(5), np.random.default_rng(5)
    jitter_stain(rgb, rng, 0, 0)
    jitter_stain(rgb, other, 0.5, 0.2, np.stack([AZURE, EOSIN]))
    assert rng.random() == other.random()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.sampled_from([0.0, 0.05]))
def test_jitter_by_stain_scales_amounts(seed: int, shift: float) -> None:
    """Amounts of stain change by one factor and one offset each, within the bounds asked for."""
    axes = np.stack([unit(AZURE), unit(EOSIN)])
    basis = np.vstack([axes, unit(np.cross(*axes))])
    amounts = np.random.default_rng(seed).uniform(0.1, 0.6, (40, 1, 3)) * [1, 1, 0]
    rgb = from_optical_density(amounts @ basis)
    before = to_optical_density(rgb) @ np.linalg.inv(basis)
    after = to_optical_density(jitter_stain(rgb, np.random.default_rng(seed), 0.25, shift, axes)) @ np.linalg.inv(basis)
    for axis in range(2):
        factor, offset = np.polyfit(before[:, 0, axis], after[:, 0, axis], 1)
        assert 0.74 < factor < 1.26
        assert abs(offset) < shift + 0.015


def test_stain_axes_are_found() -> None:
    axes = stain_axes(smear())
    assert axes is not None
    assert np.linalg.norm(axes, axis=1) == pytest.approx([1, 1])
    assert axes[0] @ unit(AZURE) > 0.99
    assert axes[1] @ unit(EOSIN) > 0.99


def test_normalising_to_itself_changes_nothing() -> None:
    rgb = smear()
    target = fit_macenko(rgb)
    assert target is not None
    assert difference(normalise_macenko(rgb, target), rgb) <= 1
    assert difference(normalise_reinhard(rgb, fit_reinhard(rgb)), rgb) <= 1


def test_macenko_brings_laboratories_together() -> None:
    reference = smear()
    azure = np.add(AZURE, [0.0, -0.15, 0.25])
    eosin = np.add(EOSIN, [0.15, 0, -0.2])
    other = smear(azure, eosin, strength=0.7)
    target = fit_macenko(reference)
    assert target is not None
    result = normalise_macenko(other, target).astype(float)
    assert np.abs(result - reference).mean() < 0.35 * np.abs(other.astype(float) - reference).mean()


def test_reinhard_takes_back_a_tint() -> None:
    reference = smear()
    other = from_optical_density(0.8 * to_optical_density(reference), (205, 190, 225))
    result = normalise_reinhard(other, fit_reinhard(reference)).astype(float)
    assert np.abs(result - reference).mean() < 0.35 * np.abs(other.astype(float) - reference).mean()


@settings(max_examples=40, deadline=None)
@given(white=whites)
def test_white_point_is_found_and_corrected(white: tuple[int, int, int]) -> None:
    rgb = smear()
    tinted = from_optical_density(to_optical_density(rgb), white)
    noise = np.random.default_rng(0).integers(-3, 4, tinted.shape)
    tinted = np.clip(tinted.astype(int) + noise, 0, 255).astype(np.uint8)
    assert np.abs(estimate_white(tinted) - white).max() <= 4
    corrected = correct_white(tinted)
    assert np.abs(np.median(corrected[(rgb == 255).all(axis=2)], axis=0) - 255).max() <= 6
    assert difference(correct_white(tinted, white), correct_white(tinted, np.array(white))) == 0


def test_bright_specks_are_no_background() -> None:
    rgb = from_optical_density(to_optical_density(smear()), (200, 190, 210))
    rgb[:8, :60] = 255  # under 2 per cent
    assert estimate_white(rgb) == pytest.approx([200, 190, 210], abs=1)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (128, 128, 128), (255, 0, 0), (120, 60, 150)])
@pytest.mark.parametrize("name", ["macenko", "reinhard"])
def test_no_stain_comes_back(name: str, colour: tuple[int, int, int]) -> None:
    flat = np.full((40, 40, 3), colour, np.uint8)
    result = ALL[name](flat)
    assert difference(result, flat) == 0
    assert not np.shares_memory(result, flat)
    assert fit_macenko(flat) is None


@pytest.mark.parametrize("level", [0, 255])
def test_white_correction_of_blank_pictures(level: int) -> None:
    flat = np.full((30, 30, 3), level, np.uint8)
    assert difference(correct_white(flat), flat) == 0
    assert estimate_white(flat) == pytest.approx([level] * 3)
    assert estimate_white(np.zeros((0, 5, 3), np.uint8)) == pytest.approx(WHITE)


@settings(max_examples=80, deadline=None)
@given(rgb=pictures, repeat=st.sampled_from([1, 12]), name=st.sampled_from(sorted(ALL)))
def test_any_picture_gives_a_picture(rgb: RGB, repeat: int, name: str) -> None:
    """No NaN, no warning (pytest turns those into errors), no change of the argument."""
    rgb = np.tile(rgb, (repeat, repeat, 1))
    before = rgb.copy()
    result = ALL[name](rgb)
    assert result.dtype == np.uint8
    assert result.shape == rgb.shape
    assert (rgb == before).all()


@pytest.mark.realdata
def test_real_laboratories(data_dir: Path) -> None:
    """BCCD shows two stains; a field of another laboratory gets its background."""
    bccd = read_image(sorted((data_dir / "bccd").rglob("BloodImage_00010.jpg"))[0])
    other = read_image(sorted((data_dir / "pbc_wbc").rglob("*.jpg"))[0])
    target = fit_macenko(bccd)
    assert target is not None
    assert difference(normalise_macenko(bccd, target), bccd) <= 1
    result = normalise_macenko(other, target)
    assert estimate_white(result) == pytest.approx(target.white, abs=6)
    assert np.abs(estimate_white(other) - target.white).max() > 30
