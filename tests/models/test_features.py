"""Hand-made features compared with scikit-image, SciPy, counting by hand, and values of version 0.1."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from drawn import sample
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from skimage.measure import regionprops

from blastdet.imaging.io import resize
from blastdet.models import features as f

STEPS = ((0, 1), (1, 1), (1, 0), (1, -1))
levels = hnp.arrays(np.int64, (9, 11), elements=st.integers(0, f.LEVELS - 1))
masks = hnp.arrays(np.bool_, (9, 11)).filter(np.any)

VERSION_0_1 = {
    "GLCM contrast": 0.710402787,
    "GLCM dissimilarity": 0.334084153,
    "GLCM homogeneity": 0.86716795,
    "GLCM energy": 0.458233088,
    "GLCM correlation": 0.991240382,
    "GLCM entropy": 3.35019422,
    "LBP 0": 0.0878831446,
    "LBP 1": 0.0792624503,
    "LBP 2": 0.0298132189,
    "LBP 3": 0.0569923371,
    "LBP 4": 0.177203059,
    "LBP 5": 0.0763888881,
    "LBP 6": 0.0440613031,
    "LBP 7": 0.0877634063,
    "LBP 8": 0.159841955,
    "LBP 9": 0.200790226,
    "nucleus area": 203.90625,
    "nucleus perimeter": 56.7402496,
    "cell area": 203.90625,
    "GLRLM short runs": 0.637085795,
    "HSV saturation skewness": 0.460156202,
}


def _ellipse(a: float, b: float, turn: float = 0.0, side: int = 101) -> np.ndarray:
    ys, xs = np.mgrid[:side, :side] - side // 2
    x, y = xs * np.cos(turn) + ys * np.sin(turn), ys * np.cos(turn) - xs * np.sin(turn)
    return (x / a) ** 2 + (y / b) ** 2 <= 1


@pytest.mark.parametrize(("a", "b", "turn"), [(30, 30, 0), (40, 20, 0), (35, 12, 0.6), (20, 18, 1.2)])
def test_shape_of_ellipses(a, b, turn):
    area, around, circularity, solidity, eccentricity = f._geometry(_ellipse(a, b, turn), 0.25)
    exact = np.pi * (3 * (a + b) - np.sqrt((3 * a + b) * (a + 3 * b)))
    assert area == pytest.approx(np.pi * a * b / 16, rel=0.01)
    assert around == pytest.approx(exact / 4, rel=0.03)
    assert circularity == pytest.approx(4 * np.pi * np.pi * a * b / exact**2, rel=0.05)
    assert solidity > 0.93 and eccentricity == pytest.approx(np.sqrt(1 - (b / a) ** 2), abs=0.03)


@settings(deadline=None)
@given(st.floats(15, 40), st.floats(0.5, 1), st.floats(0, np.pi))
def test_perimeter_of_ellipses(a, ratio, turn):
    mask = _ellipse(a, a * ratio, turn)
    around = f._geometry(mask, 1.0)[1]
    b = a * ratio
    exact = np.pi * (3 * (a + b) - np.sqrt((3 * a + b) * (a + 3 * b)))
    assert around == pytest.approx(exact, rel=0.05)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_perimeter_of_rectangles(height, width):
    around = f._geometry(np.pad(np.ones((height, width), bool), 2), 0.5)[1]
    assert around == pytest.approx(0.5 * (0.948 * 2 * (height - 1 + width - 1) + np.pi))


@settings(deadline=None)
@given(mask=masks)
def test_shape_of_any_mask(mask):
    region = regionprops(mask.astype(np.uint8))[0]
    area, around, circularity, solidity, eccentricity = f._geometry(mask, 1.0)
    assert area == region.area and eccentricity == pytest.approx(region.eccentricity, abs=1e-6)
    assert 0 < solidity <= 1 and 0 < circularity <= 1
    edges = sum(np.diff(np.pad(mask, 1).astype(int), axis=axis).astype(bool).sum() for axis in (0, 1))
    shortest = 2 * np.sqrt(np.pi * area)  # of all shapes of this area, a circle has the shortest outline
    assert 0.85 * shortest <= around <= edges


def test_colour_moments_equal_scipy():
    rgb = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    mask = _ellipse(8, 6, side=21)[:20, :20]
    found = np.array(list(f._colour_moments(rgb, mask))).reshape(3, 3, 3)
    pixels = rgb[mask].astype(float)
    np.testing.assert_allclose(found[0, :, 0], pixels.mean(axis=0))
    np.testing.assert_allclose(found[0, :, 1], pixels.std(axis=0))
    np.testing.assert_allclose(found[0, :, 2], stats.skew(pixels, axis=0))


def _pairs(levels, mask, step):
    """Grey levels of all pairs of masked pixels one step apart, in both orders."""
    h, w = mask.shape
    for y, x in itertools.product(range(h), range(w)):
        y2, x2 = y + step[0], x + step[1]
        if 0 <= y2 < h and 0 <= x2 < w and mask[y, x] and mask[y2, x2]:
            yield levels[y, x], levels[y2, x2]
            yield levels[y2, x2], levels[y, x]


@settings(deadline=None)
@given(levels=levels, mask=masks)
def test_glcm_equals_counting_by_hand(levels, mask):
    rows = []
    for step in STEPS:
        pairs = np.array(list(_pairs(levels, mask, step)), float).reshape(-1, 2)
        if not len(pairs):
            rows.append([0, 0, 1, 1, 1, 0])
            continue
        apart = np.abs(pairs[:, 0] - pairs[:, 1])
        p = np.unique(pairs, axis=0, return_counts=True)[1] / len(pairs)
        correlation = np.corrcoef(pairs.T)[0, 1] if np.ptp(pairs) else 1.0
        texture = ((apart**2).mean(), apart.mean(), (1 / (1 + apart**2)).mean(), np.sqrt((p**2).sum()))
        rows.append([*texture, correlation, -(p * np.log2(p)).sum()])
    np.testing.assert_allclose(f.glcm(levels, mask), np.mean(rows, axis=0), atol=1e-9)


@settings(deadline=None)
@given(levels=levels, mask=masks)
def test_texture_ignores_pixels_outside_the_mask(levels, mask):
    other = np.where(mask, levels, f.LEVELS - 1 - levels)
    np.testing.assert_array_equal(f.glcm(levels, mask), f.glcm(other, mask))
    for step in STEPS:
        np.testing.assert_array_equal(f.glrlm(levels, mask, step), f.glrlm(other, mask, step))


@pytest.mark.parametrize("step", STEPS)
@settings(deadline=None)
@given(levels=levels, mask=masks)
def test_runs_equal_counting_by_hand(step, levels, mask):
    h, w = mask.shape
    expected = []
    for y, x in itertools.product(range(h), range(w)):
        before = y - step[0], x - step[1]

        def at(p):
            inside = 0 <= p[0] < h and 0 <= p[1] < w
            return levels[p] if inside and mask[p] else None

        if at((y, x)) is None or at(before) == at((y, x)):
            continue  # outside, or not the first of its run
        n, place = 0, (y, x)
        while at(place) == at((y, x)):
            n, place = n + 1, (place[0] + step[0], place[1] + step[1])
        expected.append((at((y, x)), n))
    grey, length = f._runs(levels, mask, step)
    assert sorted(zip(grey.tolist(), length.tolist(), strict=True)) == sorted(expected)
    assert length.sum() == mask.sum()


def test_glrlm_of_a_flat_region():
    flat = np.full((4, 6), 3)
    found = f.glrlm(flat, np.ones(flat.shape, bool), (0, 1))
    np.testing.assert_allclose(found, [1 / 36, 36, 1, 1, 4 / 24, 1 / 16, 16])


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("flat", 8), ("bright dot", 0), ("dark dot", 8), ("edge", 5), ("saddle", 9)],
)
def test_lbp_of_known_neighbourhoods(name, pattern):
    ys, xs = np.mgrid[:5, :5]
    grey = {
        "flat": np.full((5, 5), 100),
        "bright dot": np.where((ys == 2) & (xs == 2), 200, 100),
        "dark dot": np.where((ys == 2) & (xs == 2), 50, 100),
        "edge": np.where(xs >= 2, 200, 100),  # the five neighbours on the bright side are as bright as the pixel
        "saddle": np.where(ys == 2, np.where(xs == 2, 150, 200), 100),
    }[name].astype(np.uint8)
    middle = (ys == 2) & (xs == 2)
    np.testing.assert_array_equal(f.lbp(grey, middle), np.eye(10)[pattern])


def test_lbp_repeats_the_pixels_of_the_border():
    grey = np.full((3, 4), 7, np.uint8)
    np.testing.assert_array_equal(f.lbp(grey, np.ones(grey.shape, bool)), np.eye(10)[8])


def test_features_equal_those_of_version_0_1():
    """Classifiers trained with version 0.1 rely on these values."""
    rgb = sample([(60, 60, 40)])[:120, :120]
    found = dict(zip((feature.name for feature in f.FEATURES), f.features(rgb, 7.5 / 48).tolist(), strict=True))
    assert {name: found[name] for name in VERSION_0_1} == pytest.approx(VERSION_0_1, rel=1e-6, abs=1e-6)


def test_every_feature_has_a_unique_name_and_a_source():
    names = [feature.name for feature in f.FEATURES]
    assert len(set(names)) == len(names) and all(feature.source for feature in f.FEATURES)
    row = f.features(np.full((40, 40, 3), 240, np.uint8), 0.3)
    assert row.shape == (len(names),) and row.dtype == np.float32


@pytest.mark.slow
@settings(deadline=None)
@given(rgb=hnp.arrays(np.uint8, st.integers(1, 24).map(lambda n: (n, n, 3))), mpp=st.floats(0.05, 2))
def test_any_crop_gives_finite_features(rgb, mpp):
    assert np.isfinite(f.features(rgb, mpp)).all()


def test_size_and_shape_do_not_depend_on_the_scale():
    rgb = sample([(60, 60, 40)])[:120, :120]  # 7.5 µm are 48 pixels
    fine, coarse = (f.features(resize(rgb, (n, n)), 7.5 / 48 * 120 / n) for n in (60, 40))
    for name in ("nucleus area", "cell area", "nucleus to cell area", "nucleus circularity"):
        i = [feature.name for feature in f.FEATURES].index(name)
        assert coarse[i] == pytest.approx(fine[i], rel=0.15), name
