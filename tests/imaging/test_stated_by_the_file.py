"""What other programs state in a TIFF file: scale, bits, and which pages are colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from blastdet.imaging.io import open_smear

RGB = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
PAGES = np.ascontiguousarray(RGB.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("unit", "per_unit", "mpp"),
    [
        ("\\u00B5m", 10, (0.1, 0.1)),
        ("um", 5, (0.2, 0.2)),
        ("micron", 10, (0.1, 0.1)),
        ("microns", 10, (0.1, 0.1)),
        ("Micron", 10, (0.1, 0.1)),
        ("mm", 1e4, (0.1, 0.1)),
        ("nm", 0.01, (0.1, 0.1)),
        ("pixel", 10, None),
        ("pixels", 10, None),
        ("um", 1000, None),  # 0.001 µm/px is no microscope's
    ],
)
def test_scale_of_imagej(tmp_path: Path, unit: str, per_unit: float, mpp: tuple[float, float] | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, imagej=True, resolution=(per_unit, per_unit), metadata={"unit": unit})
    with open_smear(path) as source:
        assert source.mpp == (None if mpp is None else pytest.approx(mpp))


def test_scale_of_aperio(tmp_path: Path) -> None:
    path, words = tmp_path / "a.tif", "Aperio Image Library v11\n50x40|AppMag = 40|MPP = 0.2528|Left = 25"
    tifffile.imwrite(path, RGB, photometric="rgb", description=words, metadata=None)
    with open_smear(path) as source:
        assert source.mpp == (0.2528, 0.2528)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_bits_of_ome(tmp_path: Path, bits: int) -> None:
    path, stored = tmp_path / "a.ome.tif", RGB.astype(np.uint16) << (bits - 8)
    tifffile.imwrite(path, stored, photometric="rgb", metadata={"axes": "YXS", "SignificantBits": bits})
    with open_smear(path) as source:
        np.testing.assert_array_equal(source.read(), RGB)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.tif", {"metadata": None}),
        ("a.tif", {"imagej": True, "metadata": {"axes": "CYX"}}),
        ("a.ome.tif", {"metadata": {"axes": "CYX"}}),
        ("a.tif", {"metadata": None, "compression": "zlib"}),
    ],
)
def test_three_grey_pages_are_red_green_and_blue(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    tifffile.imwrite(tmp_path / name, PAGES, photometric="minisblack", **options)
    with open_smear(tmp_path / name) as source:
        np.testing.assert_array_equal(source.read(), RGB)
        assert source.notes == ("its three grey pages are read as red, green and blue",)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.tif", {"imagej": True, "metadata": {"axes": "ZYX"}}),
        ("a.ome.tif", {"metadata": {"axes": "TYX"}}),
    ],
)
def test_three_levels_or_times_are_no_colours(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    tifffile.imwrite(tmp_path / name, PAGES, photometric="minisblack", **options)
    with open_smear(tmp_path / name) as source:
        np.testing.assert_array_equal(source.read()[..., 0], PAGES[0])
        assert source.notes == ("3 pages found, only the first is read",)


def test_a_chain_of_pages_without_end_is_not_followed(tmp_path: Path) -> None:
    """Found by the fuzzing: a damaged chain of millions of pages took minutes."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for _ in range(120):
            file.write(np.zeros((2, 2), np.uint8), photometric="minisblack", contiguous=False)
    with open_smear(path) as source:
        assert source.notes == ("100 or more pages found, only the first is read",)
