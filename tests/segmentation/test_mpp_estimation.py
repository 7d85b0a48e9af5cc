"""Estimation of the scale: right on drawn images of any stain, size and aspect; no estimate without red cells."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet.core.types import RGB
from blastdet.segmentation import mpp_estimation

STAINS = {
    "pink on cream": ((250, 235, 215), (205, 160, 160)),
    "grey-blue on lilac": ((225, 220, 238), (165, 175, 195)),
    "dark red on green-grey": ((180, 200, 188), (130, 75, 90)),
    "pale grey on white": ((252, 253, 252), (205, 210, 212)),
}


def red_cells(
    diameter: float, size_wh: tuple[int, int], stain: str = "pink on cream", crowd: float = 0.5, seed: int = 0
) -> RGB:
    """Image of red cells with central pallor at random positions, some touching, some cut by the border."""
    background, red = (np.array(c, np.float32) for c in STAINS[stain])
    rng = np.random.default_rng(seed)
    w, h = size_wh
    y, x = np.mgrid[:h, :w].astype(np.float32)
    through = np.ones((h, w), np.float32)
    placed: list[tuple[float, float]] = []
    for _ in range(int(2.5 * crowd * w * h / diameter**2)):
        cx, cy = rng.uniform(0, w), rng.uniform(0, h)
        if any(np.hypot(cx - px, cy - py) < 0.95 * diameter for px, py in placed):
            continue
        placed.append((cx, cy))
        near = tuple(slice(max(int(c - diameter), 0), int(c + diameter) + 2) for c in (cy, cx))
        rho = np.hypot(x[near] - cx, y[near] - cy) / (diameter * rng.normal(1, 0.05) / 2)
        inside = np.clip((1 - rho) * diameter / 2 + 0.5, 0, 1)
        through[near] += inside * (1 - 0.5 * np.exp(-((rho / 0.4) ** 2)))
    image = background * (red / background) ** (through - 1)[..., None]
    image = cv2.GaussianBlur(image, (0, 0), 0.8) + rng.normal(0, 2, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def size_of(found: mpp_estimation.MppEstimate) -> float:
    assert found.diameter_px is not None, found.reason
    return float(np.sqrt(np.prod(found.diameter_px)))


@pytest.mark.parametrize("stain", STAINS)
@pytest.mark.parametrize("diameter", [14, 30, 75])
def test_the_scale_is_estimated_for_any_stain(stain: str, diameter: int) -> None:
    found = mpp_estimation.estimate_mpp(red_cells(diameter, (420, 340), stain))
    assert size_of(found) == pytest.approx(diameter, rel=0.15)
    assert found.mpp == pytest.approx((7.5 / size_of(found),) * 2, rel=1e-6)
    assert not found.squeezed
    assert len(found.boxes_xyxy) == found.n_cells > 0


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.floats(14, 80), st.sampled_from([0.3, 0.6, 1.0]), st.integers(0, 99))
def test_the_scale_is_estimated_at_any_size_and_density(diameter: float, crowd: float, seed: int) -> None:
    assert size_of(
        mpp_estimation.estimate_mpp(red_cells(diameter, (440, 360), crowd=crowd, seed=seed))
    ) == pytest.approx(diameter, rel=0.15)


@pytest.mark.parametrize("stretch_xy", [(0.75, 1.0), (1.0, 0.75)])
def test_the_scale_of_each_axis_of_a_squeezed_image(stretch_xy: tuple[float, float]) -> None:
    image = red_cells(40, (480, 400))
    size = round(480 * stretch_xy[0]), round(400 * stretch_xy[1])
    found = mpp_estimation.estimate_mpp(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    assert found.squeezed and found.diameter_px is not None
    assert found.aspect == pytest.approx(stretch_xy[1] / stretch_xy[0], rel=0.1)
    assert found.diameter_px == pytest.approx([40 * s for s in stretch_xy], rel=0.15)


def test_doubling_the_image_halves_the_scale() -> None:
    image = red_cells(24, (300, 240))
    twice = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    assert size_of(mpp_estimation.estimate_mpp(twice)) == pytest.approx(
        2 * size_of(mpp_estimation.estimate_mpp(image)), rel=0.08
    )


def test_a_large_image_of_small_cells_is_analysed_at_full_resolution() -> None:
    image = np.tile(red_cells(16, (400, 300)), (5, 5, 1))
    found = mpp_estimation.estimate_mpp(image)
    assert size_of(found) == pytest.approx(16, rel=0.15)
    assert (found.boxes_xyxy[:, 2] <= image.shape[1] + 16).all()


@pytest.mark.parametrize("size_wh", [(1, 1), (3, 40), (60, 60), (400, 300)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_image_gives_no_estimate(size_wh: tuple[int, int], level: int) -> None:
    found = mpp_estimation.estimate_mpp(np.full((size_wh[1], size_wh[0], 3), level, np.uint8))
    assert found.mpp is None and found.diameter_px is None and found.n_cells == 0
    assert found.reason and "\n" not in found.reason


@pytest.mark.parametrize("blur", [0, 1, 2, 4])
def test_noise_gives_no_estimate(blur: int) -> None:
    noise = np.random.default_rng(blur).normal(0, 1, (300, 400, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), blur) if blur else noise
    image = np.clip(180 + 30 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    assert mpp_estimation.estimate_mpp(image).mpp is None


def test_the_input_is_not_modified_and_the_result_is_reproducible() -> None:
    image = red_cells(30, (300, 240))
    before = image.copy()
    first, second = mpp_estimation.estimate_mpp(image), mpp_estimation.estimate_mpp(image)
    assert np.array_equal(image, before)
    assert first.mpp == second.mpp
    assert np.array_equal(first.boxes_xyxy, second.boxes_xyxy)


@pytest.mark.realdata
def test_all_fields_are_recognized_as_squeezed(data_dir: Path) -> None:
    paths = sorted(data_dir.glob("all_fields/*/*.jpg"))[::140]
    found = [mpp_estimation.estimate_mpp(cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB)) for p in paths]
    diameters = np.array([m.diameter_px for m in found if m.diameter_px is not None])
    assert len(diameters) >= 0.9 * len(paths)
    assert 13 < np.median(diameters[:, 0]) < 19 and 17 < np.median(diameters[:, 1]) < 25
    assert np.mean([m.squeezed for m in found]) > 0.7


@pytest.mark.realdata
def test_pbc_red_cells_measure_about_75_px(data_dir: Path) -> None:
    paths = sorted((data_dir / "pbc_wbc/images").glob("*.jpg"))[::200]
    found = [mpp_estimation.estimate_mpp(cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB)) for p in paths]
    sizes = np.array([size_of(m) for m in found if m.mpp is not None])
    assert np.mean(np.abs(sizes / 75 - 1) < 0.25) > 0.8
