"""Hand-made features against scikit-image, scipy and counting by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from drawn import sample
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.measure import label, perimeter, regionprops

from blastdet.imaging.io import resize
from blastdet.models import features as f

STEPS = {(0, 1): 0.0, (1, 1): np.pi / 4, (1, 0): np.pi / 2, (1, -1): 3 * np.pi / 4}
levels = hnp.arrays(np.int64, (9, 11), elements=st.integers(0, f.LEVELS - 1))
masks = hnp.arrays(np.bool_, (9, 11)).filter(np.any)


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


@given(mask=masks)
def test_shape_of_anything_is_scikit_images(mask):
    region = regionprops(mask.astype(np.uint8))[0]
    area, around, circularity, solidity, eccentricity = f._geometry(mask, 1.0)
    assert area == region.area and eccentricity == pytest.approx(region.eccentricity, abs=1e-6)
    assert 0 < solidity <= 1 and 0 < circularity <= 1 and around > 0
    if label(mask, connectivity=2).max() == 1 and area > 30:
        assert around == pytest.approx(perimeter(np.pad(mask, 1), 8), rel=0.6)


def test_colour_moments_are_scipys():
    rgb = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    mask = _ellipse(8, 6, side=21)[:20, :20]
    found = np.array(list(f._colour_moments(rgb, mask))).reshape(3, 3, 3)
    pixels = rgb[mask].astype(float)
    np.testing.assert_allclose(found[0, :, 0], pixels.mean(axis=0))
    np.testing.assert_allclose(found[0, :, 1], pixels.std(axis=0))
    np.testing.assert_allclose(found[0, :, 2], stats.skew(pixels, axis=0))


@pytest.mark.parametrize("step", STEPS)
@given(levels=levels)
def test_glcm_is_scikit_images(step, levels):
    angle = STEPS[step]
    matrix = graycomatrix(levels.astype(np.uint8), [1], [angle], f.LEVELS, symmetric=True, normed=True)
    found = f.glcm(levels, np.ones(levels.shape, bool), step)
    names = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
    np.testing.assert_allclose(found[:5], [graycoprops(matrix, name)[0, 0] for name in names], atol=1e-9)
    p = matrix[matrix > 0]
    assert found[5] == pytest.approx(-(p * np.log2(p)).sum())


@pytest.mark.parametrize("step", STEPS)
@given(levels=levels, mask=masks)
def test_outside_the_mask_nothing_counts(step, levels, mask):
    other = np.where(mask, levels, f.LEVELS - 1 - levels)
    for measure in (f.glcm, f.glrlm):
        np.testing.assert_array_equal(measure(levels, mask, step), measure(other, mask, step))


@pytest.mark.parametrize("step", STEPS)
@given(levels=levels, mask=masks)
def test_runs_are_those_counted_by_hand(step, levels, mask):
    h, w = mask.shape
    wanted = []
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
        wanted.append((at((y, x)), n))
    grey, length = f._runs(levels, mask, step)
    assert sorted(zip(grey.tolist(), length.tolist(), strict=True)) == sorted(wanted)
    assert length.sum() == mask.sum()


def test_glrlm_of_a_flat_region():
    flat = np.full((4, 6), 3)
    found = f.glrlm(flat, np.ones(flat.shape, bool), (0, 1))
    np.testing.assert_allclose(found, [1 / 36, 36, 1, 1, 4 / 24, 1 / 16, 16])


@given(grey=hnp.arrays(np.uint8, (12, 13)))
def test_lbp_is_scikit_images(grey):
    inside = np.zeros(grey.shape, bool)
    inside[1:-1, 1:-1] = True  # scikit-image sees zeros beyond the border
    pattern = local_binary_pattern(grey, 8, 1, "uniform")[inside].astype(int)
    np.testing.assert_allclose(f.lbp(grey, inside), np.bincount(pattern, minlength=10) / inside.sum(), atol=0.02)


def test_names_are_unique_and_one_a_value():
    names = [feature.name for feature in f.FEATURES]
    assert len(set(names)) == len(names) and all(feature.source for feature in f.FEATURES)
    row = f.features(np.full((40, 40, 3), 240, np.uint8), 0.3)
    assert row.shape == (len(names),) and row.dtype == np.float32


@given(rgb=hnp.arrays(np.uint8, st.integers(1, 24).map(lambda n: (n, n, 3))), mpp=st.floats(0.05, 2))
def test_any_crop_gives_finite_features(rgb, mpp):
    assert np.isfinite(f.features(rgb, mpp)).all()


def test_size_and_shape_do_not_depend_on_the_microscope():
    rgb = sample([(60, 60, 40)])[:120, :120]  # 7.5 µm are 48 pixels
    fine, coarse = (f.features(resize(rgb, (n, n)), 7.5 / 48 * 120 / n) for n in (60, 40))
    for name in ("nucleus area", "cell area", "nucleus to cell area", "nucleus circularity"):
        i = [feature.name for feature in f.FEATURES].index(name)
        assert coarse[i] == pytest.approx(fine[i], rel=0.15), name
