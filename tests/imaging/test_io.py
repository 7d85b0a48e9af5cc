"""Reading and writing images: all formats, hostile files, and regions that equal the whole."""

from __future__ import annotations

import io
import os
import resource
import stat
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blastdet.core.errors import ImageError
from blastdet.core.types import RGB
from blastdet.imaging.io import (
    WRITTEN_SUFFIXES,
    find_images,
    image_size,
    open_smear,
    read_image,
    resize,
    write_image,
)
from blastdet.imaging.resampling import spans as grid_spans


def smooth_image(w: int = 61, h: int = 47, seed: int = 0) -> RGB:
    """Smooth colours with some texture, which lossy codecs keep; all rows and columns differ."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    smooth = np.stack([x * 200 / w, y * 200 / h, (x + y) * 200 / (w + h)], axis=2)
    return np.clip(smooth + rng.integers(0, 30, (h, w, 1)), 0, 255).astype(np.uint8)


def difference(a: RGB, b: RGB) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No decoder may print anything."""
    yield
    out = capfd.readouterr()
    assert (out.out, out.err) == ("", "")


# ---------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("suffix", sorted(WRITTEN_SUFFIXES))
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    rgb = smooth_image()
    path = tmp_path / f"Ausstrich März 髄芽球{suffix.upper()}"
    write_image(path, rgb, quality=95)
    read = read_image(path)
    assert read.dtype == np.uint8
    assert read.flags.writeable
    assert difference(read, rgb) <= (20 if suffix in {".jpg", ".jpeg"} else 0)
    assert image_size(path) == (61, 47)
    assert list(tmp_path.iterdir()) == [path]


def test_webp_and_jfif_are_read_and_found_in_folders(tmp_path: Path) -> None:
    rgb = smooth_image()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(rgb).save(tmp_path / "a.webp", lossless=True, exif=exif)
    Image.fromarray(rgb).save(tmp_path / "b.jfif", "JPEG", quality=95)
    assert find_images(tmp_path) == [tmp_path / "a.webp", tmp_path / "b.jfif"]
    assert image_size(tmp_path / "a.webp") == (47, 61)  # turned
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp"), np.rot90(rgb, -1))
    assert difference(read_image(tmp_path / "b.jfif"), rgb) < 20


def test_the_first_frame_of_an_animated_webp_is_read_with_a_note(tmp_path: Path) -> None:
    frames = [Image.fromarray(smooth_image(seed=seed)) for seed in (0, 1)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    with open_smear(tmp_path / "a.webp") as source:
        assert source.notes == ("2 frames found, only the first is read",)
        np.testing.assert_array_equal(source.read(), smooth_image())


def test_heic_is_read_if_its_package_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    rgb = smooth_image(64, 48)
    heif.from_pillow(Image.fromarray(rgb)).save(tmp_path / "a.heic", quality=95)
    assert find_images(tmp_path) == [tmp_path / "a.heic"]
    assert image_size(tmp_path / "a.heic") == (64, 48)
    assert difference(read_image(tmp_path / "a.heic"), rgb) < 40
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"a\.heic: HEIC needs the package pillow-heif.*blastdet\[heic\]"):
        image_size(tmp_path / "a.heic")


def test_jpeg_keeps_colour_resolution(tmp_path: Path) -> None:
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = (200, 60, 60)
    stripes[:, 1::2] = (60, 60, 200)
    write_image(tmp_path / "a.jpg", stripes, quality=95)
    assert difference(read_image(tmp_path / "a.jpg"), stripes) < 30


MODES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "L": lambda im: im.convert("L"),
    "1": lambda im: im.convert("1"),
    "P": lambda im: im.quantize(64),
    "RGBA": lambda im: im.convert("RGBA"),
    "LA": lambda im: im.convert("LA"),
    "CMYK": lambda im: im.convert("CMYK"),
}


@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [(m, ".png", {}) for m in ("L", "1", "P", "RGBA", "LA")]
    + [(m, ".tif", {}) for m in ("L", "1", "P", "RGBA", "LA", "CMYK")]
    + [(m, ".tif", {"compression": "tiff_lzw"}) for m in ("L", "P", "RGBA", "CMYK")]
    + [("1", ".tif", {"compression": "group4"}), ("L", ".tif", {"compression": "packbits"})]
    + [(m, ".bmp", {}) for m in ("L", "1", "P")]
    + [("L", ".jpg", {"quality": 100}), ("CMYK", ".jpg", {"quality": 100, "subsampling": 0})],
)
def test_modes_equal_pillow(tmp_path: Path, mode: str, suffix: str, options: dict[str, object]) -> None:
    image = MODES[mode](Image.fromarray(smooth_image()))
    path = tmp_path / f"a{suffix}"
    image.save(path, **options)
    with Image.open(path) as saved:
        expected = np.asarray(saved.convert("RGB"))
    assert difference(read_image(path), expected) == 0


def test_transparency_is_composed_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([smooth_image(), np.linspace(0, 255, 61 * 47).reshape(47, 61).astype(np.uint8)])
    white = Image.new("RGBA", (61, 47), "white")
    expected = np.asarray(Image.alpha_composite(white, Image.fromarray(rgba)).convert("RGB"))
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(rgba).save(tmp_path / "a.tif")
    premultiplied = (rgba[..., :3] * (rgba[..., 3:] / 255)).round().astype(np.uint8)
    tifffile.imwrite(tmp_path / "b.tif", np.dstack([premultiplied, rgba[..., 3]]), extrasamples=["assocalpha"])
    palette = Image.fromarray(smooth_image()).quantize(8)
    palette.save(tmp_path / "p.png", transparency=0)
    for name in ("a.png", "a.tif", "b.tif"):
        assert difference(read_image(tmp_path / name), expected) <= 1, name
    assert (read_image(tmp_path / "p.png")[np.asarray(palette) == 0] == 255).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile": (16, 32)},
        {"tile": (16, 32), "compression": "zlib", "predictor": True},
        {"rowsperstrip": 5, "compression": "lzw"},
        {"planarconfig": "separate", "rowsperstrip": 7},
        {"planarconfig": "separate", "tile": (32, 16), "compression": "deflate"},
        {"bigtiff": True, "byteorder": ">", "rowsperstrip": 9},
    ],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_layouts(tmp_path: Path, options: dict[str, object], bits: int) -> None:
    rgb = smooth_image()
    low_byte = np.random.default_rng(1).integers(0, 256, rgb.shape)
    stored = rgb if bits == 8 else (rgb.astype(np.uint16) * 256 + low_byte.astype(np.uint16))
    shape = stored.transpose(2, 0, 1) if options.get("planarconfig") else stored
    tifffile.imwrite(tmp_path / "a.tif", shape, photometric="rgb", **options)
    with open_smear(tmp_path / "a.tif") as source:
        assert source.size_wh == (61, 47)
        assert difference(source.read(), rgb) == 0
        assert difference(source.read((20, 3, 41, 40)), rgb[3:40, 20:41]) == 0


def test_tiff_jpeg_compression(tmp_path: Path) -> None:
    rgb = resize(smooth_image(16, 16), (256, 192))
    tifffile.imwrite(
        tmp_path / "a.tif", rgb, photometric="rgb", tile=(64, 64), compression="jpeg", compressionargs={"level": 95}
    )
    Image.fromarray(rgb).save(tmp_path / "b.tif", compression="jpeg", quality=95)  # YCbCr with tables
    for name in ("a.tif", "b.tif"):
        assert difference(read_image(tmp_path / name), rgb) < 24, name


def test_16_bit_range(tmp_path: Path) -> None:
    grey = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    tifffile.imwrite(tmp_path / "full.tif", grey, photometric="minisblack")
    tifffile.imwrite(tmp_path / "camera.tif", grey, photometric="minisblack", extratags=[(281, 3, 1, 4095, True)])
    tifffile.imwrite(tmp_path / "inverted.tif", grey * 16, photometric="miniswhite")
    Image.fromarray(grey * 16).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "full.tif")[..., 0] == grey >> 8).all()
    assert (read_image(tmp_path / "camera.tif")[..., 1] == grey >> 4).all()
    assert (read_image(tmp_path / "inverted.tif")[..., 2] == 255 - (grey >> 4)).all()
    assert (read_image(tmp_path / "a.png")[..., 0] == grey >> 4).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = Image.fromarray(resize(smooth_image(6, 5), (60, 40)))
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a{suffix}"
    stored.save(path, exif=exif)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    plain = stored
    if suffix == ".jpg":
        with Image.open(path) as saved:
            plain = saved.convert("RGB")
    shown = plain.transpose(turn[orientation]) if orientation in turn else plain
    assert image_size(path) == shown.size
    assert difference(read_image(path), np.asarray(shown)) == 0
    with open_smear(path) as source:
        assert difference(source.read((3, 7, 22, 31)), np.asarray(shown)[7:31, 3:22]) == 0


def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth_image()).save(buffer, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert read_image(tmp_path / "a.jpg").shape == (47, 61, 3)


# ------------------------------------------------------------------------------------------------ scale


def test_mpp(tmp_path: Path) -> None:
    rgb = smooth_image()

    def mpp(name: str) -> tuple[float, float] | None:
        with open_smear(tmp_path / name) as source:
            return source.mpp

    ome = {"axes": "YXS", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.3}
    tifffile.imwrite(tmp_path / "ome.ome.tif", rgb, photometric="rgb", metadata=ome)
    tifffile.imwrite(tmp_path / "cm.tif", rgb, photometric="rgb", resolution=(1e5, 5e4), resolutionunit="CENTIMETER")
    turned = [(274, 3, 1, 6, True)]
    tifffile.imwrite(tmp_path / "turned.tif", rgb, resolution=(1e5, 5e4), resolutionunit=3, extratags=turned)
    tifffile.imwrite(tmp_path / "inch.tif", rgb, photometric="rgb", resolution=(254000, 254000), resolutionunit="INCH")
    tifffile.imwrite(tmp_path / "none.tif", rgb, photometric="rgb", resolution=(1e5, 1e5), resolutionunit="NONE")
    tifffile.imwrite(tmp_path / "printer.tif", rgb, photometric="rgb", resolution=(300, 300), resolutionunit="INCH")
    Image.fromarray(rgb).save(tmp_path / "a.jpg", dpi=(254000, 254000))
    Image.fromarray(rgb).save(tmp_path / "a.png", dpi=(300, 300))
    assert mpp("ome.ome.tif") == pytest.approx((0.25, 0.3))
    assert mpp("cm.tif") == pytest.approx((0.1, 0.2))
    assert mpp("turned.tif") == pytest.approx((0.2, 0.1))
    assert mpp("inch.tif") == pytest.approx((0.1, 0.1))
    assert [mpp(name) for name in ("none.tif", "printer.tif", "a.jpg", "a.png")] == [None] * 4


# ------------------------------------------------------------------------------------------- resampling


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One noisy image as PNG (decoded as a whole), as tiled TIFF, and as a rotated TIFF in strips."""
    folder = tmp_path_factory.mktemp("sources")
    rgb = np.random.default_rng(5).integers(0, 256, (157, 203, 3), dtype=np.uint8)
    write_image(folder / "whole.png", rgb)
    tifffile.imwrite(folder / "tiles.tif", rgb, photometric="rgb", tile=(32, 48), compression="zlib")
    turned = np.ascontiguousarray(np.rot90(rgb))  # orientation 6 turns it back, clockwise
    extra = [(274, 3, 1, 6, True)]
    tifffile.imwrite(
        folder / "strips.tif", turned, photometric="rgb", rowsperstrip=10, compression="lzw", extratags=extra
    )
    return {path.stem: path for path in folder.iterdir()}


scales = st.one_of(st.just(1.0), st.floats(0.07, 3.0))


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["whole", "tiles", "strips"]), sx=scales, sy=scales, data=st.data())
def test_tile_equals_whole(sources: dict[str, Path], kind: str, sx: float, sy: float, data: st.DataObject) -> None:
    with open_smear(sources[kind]) as source, open_smear(sources["whole"]) as reference:
        whole = reference.read(scale_xy=(sx, sy))
        h, w = whole.shape[:2]
        assert (w, h) == (round(203 * sx), round(157 * sy))
        x0 = data.draw(st.integers(0, w - 1))
        y0 = data.draw(st.integers(0, h - 1))
        x1 = data.draw(st.integers(x0 + 1, w))
        y1 = data.draw(st.integers(y0 + 1, h))
        tile = source.read((x0 / sx, y0 / sy, x1 / sx, y1 / sy), (sx, sy))
        assert difference(tile, whole[y0:y1, x0:x1]) == 0


@settings(max_examples=60, deadline=None)
@given(
    sx=scales, sy=scales, x=st.integers(-80, 230), y=st.integers(-80, 200), w=st.integers(1, 120), h=st.integers(1, 120)
)
def test_regions_outside_the_image_repeat_its_edge(
    sources: dict[str, Path], sx: float, sy: float, x: int, y: int, w: int, h: int
) -> None:
    with open_smear(sources["tiles"]) as source:
        padded = np.pad(source.read(), ((250, 250), (250, 250), (0, 0)), mode="edge")
        read = source.read((x, y, x + w, y + h), (sx, sy))
    around = 80  # beyond the reach of the filter at the smallest scale
    piece = padded[250 + y - around : 250 + y + h + around, 250 + x - around : 250 + x + w + around]
    out_wh = (read.shape[1], read.shape[0])
    if 0 in out_wh:
        return
    box = (around, around, around + out_wh[0] / sx, around + out_wh[1] / sy)
    expected = Image.fromarray(piece).resize(out_wh, Image.Resampling.BILINEAR, box=box)
    assert difference(read, np.asarray(expected)) <= 2  # a shift of 0.003 px, on noise


@pytest.mark.parametrize("scale", [(0.37, 0.61), (1.0, 1.0), (1.7, 0.9), (4.0, 3.3)])
def test_two_halves_of_a_fractional_box_equal_the_whole(sources: dict[str, Path], scale: tuple[float, float]) -> None:
    x, y = -11.5, 3.3
    with open_smear(sources["tiles"]) as source:
        whole = source.read((x, y, x + 180 / scale[0], y + 90 / scale[1]), scale)
        middle = x + 77 / scale[0]
        left = source.read((x, y, middle, y + 90 / scale[1]), scale)
        right = source.read((middle, y, x + 180 / scale[0], y + 90 / scale[1]), scale)
    assert difference(np.hstack([left, right]), whole) == 0


@settings(max_examples=200, deadline=None)
@given(start=st.floats(-1e5, 1e5), pitch=st.floats(0.01, 300), count=st.integers(1, 1000))
def test_spans_follow_the_grid(start: float, pitch: float, count: int) -> None:
    spans = list(grid_spans(start, pitch, count))
    assert [s.first for s in spans] == [0, *(s.stop for s in spans[:-1])]
    assert spans[-1].stop == count
    for span in spans:
        tolerance = 0.004 * max(1.0, pitch / 32)
        assert abs(span.left + span.start - (start + span.first * pitch)) < tolerance
        assert abs(span.left + span.end - (start + span.stop * pitch)) < tolerance
        assert max(1.0, pitch) <= span.start
        assert span.end <= span.right - span.left - max(1.0, pitch)
        assert (np.float32(span.start), np.float32(span.end)) == (span.start, span.end)


def test_downsampling_averages() -> None:
    checks = np.indices((400, 600)).sum(axis=0)[..., None] % 2 * np.full(3, 255)
    small = resize(checks.astype(np.uint8), (150, 100))
    assert small.shape == (100, 150, 3)
    assert abs(small[1:-1, 1:-1].astype(int) - 128).max() <= 1
    assert abs(small.astype(int) - 128).max() <= 8  # the repeated edge weighs a little more


def test_pixel_grid() -> None:
    """An edge keeps its position at any scale: no shift by half a pixel."""
    step = np.zeros((40, 200, 3), np.uint8)
    step[:, 120:] = 255
    for scale in (0.1, 0.25, 0.5, 2.0, 5.0):
        row = resize(step, (round(200 * scale), round(40 * scale)))[0, :, 0] / 255.0
        assert row.sum() == pytest.approx(80 * scale, abs=0.02)


def test_resizing_to_the_same_size_copies() -> None:
    rgb = smooth_image()
    same = resize(rgb, (61, 47))
    assert difference(same, rgb) == 0
    assert not np.shares_memory(same, rgb)


def test_read_returns_a_copy(sources: dict[str, Path]) -> None:
    for path in sources.values():
        with open_smear(path) as source:
            first = source.read()
            kept = first.copy()
            first[:] = 0
            assert difference(source.read(), kept) == 0


@pytest.mark.parametrize(
    ("box", "scale"),
    [
        ((5, 5, 5, 9), (1, 1)),
        ((9, 5, 5, 9), (1, 1)),
        ((0, 0, float("nan"), 9), (1, 1)),
        ((0, 0, 9, 9), (0, 1)),
        ((0, 0, 9, 9), (1, float("inf"))),
    ],
)
def test_invalid_boxes_raise_an_error(
    sources: dict[str, Path], box: tuple[float, ...], scale: tuple[float, float]
) -> None:
    with open_smear(sources["whole"]) as source, pytest.raises(ValueError, match="expected a box with x1 < x2"):
        source.read(box, scale)


# ----------------------------------------------------------------------------------------- large images


def png_header(w: int, h: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_huge_png_raises_an_error_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(60000, 60000))
    with pytest.raises(ImageError, match="expected at most 400 megapixels, got 60000 x 60000 = 3600"):
        open_smear(path)
    path.write_bytes(png_header(20000, 19999))  # within the limit, beyond Pillow's own: the data is missing
    assert image_size(path) == (20000, 19999)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TIFF of 600 megapixels in 512-pixel tiles, each of one grey level: row + column."""
    path = tmp_path_factory.mktemp("slide") / "slide.tif"

    def tiles() -> Iterator[np.ndarray]:
        for row in range(40):
            for column in range(59):
                yield np.full((512, 512), row + column, np.uint8)

    tifffile.imwrite(
        path,
        tiles(),
        shape=(20000, 30000),
        dtype=np.uint8,
        photometric="minisblack",
        tile=(512, 512),
        compression="zlib",
        compressionargs={"level": 1},
        bigtiff=True,
    )
    return path


def test_a_region_of_a_slide_is_read_alone(slide: Path) -> None:
    tracemalloc.start()
    try:
        with open_smear(slide) as source:
            assert source.size_wh == (30000, 20000)
            region = source.read((15000, 10000, 15640, 10640), (0.5, 0.5))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert region.shape == (320, 320, 3)
    assert tuple(region[0, 0]) == (10000 // 512 + 15000 // 512,) * 3
    assert tuple(region[-1, -1]) == (10639 // 512 + 15639 // 512,) * 3
    assert peak < 20 * 2**20
    with pytest.raises(ImageError, match="expected at most 400 megapixels at once, got 30000 x 20000 pixels"):
        read_image(slide)


def test_a_slide_overview_needs_little_memory(slide: Path) -> None:
    tracemalloc.start()
    try:
        with open_smear(slide) as source:
            overview = source.read((0, 0, 30000, 5000), (0.01, 0.01))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert overview.shape == (50, 300, 3)
    y, x = np.mgrid[:50, :300] * 100 + 50
    assert abs(overview[..., 1] - (y / 512 + x / 512 - 1)).max() < 2
    assert peak < 200 * 2**20  # the decoded pixels are 430 MiB


def test_a_huge_uncompressed_strip_is_memory_mapped(tmp_path: Path) -> None:
    path = tmp_path / "fiji.tif"
    tifffile.memmap(path, shape=(20001, 20001), dtype=np.uint8, photometric="minisblack")[-1, -1] = 77
    with open_smear(path) as source:
        assert source.size_wh == (20001, 20001)
        assert tuple(source.read((20000, 20000, 20001, 20001))[0, 0]) == (77, 77, 77)


def test_a_huge_compressed_strip_raises_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), compression="zlib", rowsperstrip=64)
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages.first.tags[tag].overwrite(30000)
    with pytest.raises(ImageError, match="900 megapixels in pieces of 30000 x 30000"):
        open_smear(path)


def test_missing_tiles_are_white(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    tifffile.imwrite(path, shape=(64, 64, 3), dtype=np.uint8, photometric="rgb", tile=(32, 32), data=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages.first
        page.tags["TileByteCounts"].overwrite([0, 0, 0, 0])
        page.tags["TileOffsets"].overwrite([0, 0, 0, 0])
    assert (read_image(path) == 255).all()


def test_the_first_of_several_pages_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for seed in range(3):
            file.write(smooth_image(seed=seed), photometric="rgb")
        file.write(smooth_image(20, 16), photometric="rgb", subfiletype=1)  # a thumbnail does not count
    with open_smear(path) as source:
        assert source.notes == ("3 pages found, only the first is read",)
        assert difference(source.read(), smooth_image()) == 0
    write_image(path, smooth_image())
    with open_smear(path) as source:
        assert source.notes == ()


# ------------------------------------------------------------------------------------------ hostile files


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(smooth_image()).save(buffer, kind, **options)
    return buffer.getvalue()


CONTENT: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "got an empty file"),
    "drawing.jpg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "got XML, SVG or HTML text"),
    "notes.jpg": (b"this is no image\r\n", "got text"),
    "movie.jpg": (b"GIF89a" + bytes(20), "got a GIF"),
    "noise.png": (bytes([0, 1, 2, 3]), r"content of unknown kind \(first bytes 00 01 02 03\)"),
    "zero.png": (png_header(0, 0), "damaged header"),
    "zero.bmp": (b"BM" + bytes(60), "damaged header"),
    "head.tif": (b"II*\0\x08\0\0\0", "damaged TIFF header"),
    "short.jpg": (b"\xff\xd8\xff\xe0", "damaged header"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_files_that_are_not_images(tmp_path: Path, name: str) -> None:
    content, message = CONTENT[name]
    path = tmp_path / name
    path.write_bytes(content)
    for function in (open_smear, image_size, read_image):
        with pytest.raises(ImageError, match=message) as caught:
            function(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {}), ("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})]
)
@pytest.mark.parametrize("part", [0.2, 0.6, 0.9])
def test_truncated_files(tmp_path: Path, kind: str, options: dict[str, object], part: float) -> None:
    data = encoded(kind, **options)
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ImageError, match=r"damaged|truncated") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zeros", [0, 3000])
@pytest.mark.parametrize("size_wh", [(60, 400), (96, 64)])
def test_a_jpeg_that_lacks_its_last_bytes_is_read_with_a_note(
    tmp_path: Path, size_wh: tuple[int, int], zeros: int
) -> None:
    path = tmp_path / "a.jpg"
    write_image(path, smooth_image(*size_wh))
    whole, data = read_image(path), path.read_bytes()
    for missing in (1, 2, 13):
        path.write_bytes(data[:-missing] + bytes(zeros))
        with open_smear(path) as source:
            note = f"the file ends early: {size_wh[1]} of {size_wh[1]} rows were read, a few pixels of the last one"
            assert len(source.notes) == 1 and source.notes[0].startswith(note)
            rows, columns = np.nonzero((source.read() != whole).any(axis=2))
        if missing < 3:  # the end marker only
            assert len(rows) == 0
        assert not len(rows) or (rows.min() >= size_wh[1] - 8 and columns.min() >= size_wh[0] - 8)  # the last block
    path.write_bytes(data[: int(len(data) * 0.8)] + bytes(zeros))
    with pytest.raises(ImageError, match=r"the file ends early, \d+ of \d+ rows are there"):
        read_image(path)


def test_the_last_row_of_a_jpeg_fills_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(1).integers(60, 200, (400, 60, 3), np.uint8)  # its blocks have many bytes
    write_image(path, noise)
    whole, data = read_image(path), path.read_bytes()
    path.write_bytes(data[:-1000])
    with open_smear(path) as source:
        assert source.notes == ("the file ends early: 382 of 400 rows were read, the last one fills the rest",)
        part = source.read()
    np.testing.assert_array_equal(part[:382], whole[:382])
    np.testing.assert_array_equal(part[382:], np.broadcast_to(part[381], part[382:].shape))


def test_a_progressive_jpeg_that_lacks_its_last_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth_image(60, 400)).save(path, "JPEG", progressive=True)
    whole, data = read_image(path), path.read_bytes()
    path.write_bytes(data[:-10])
    with open_smear(path) as source:
        assert source.notes == ("the file ends early: every pixel is there, the last of them less sharp",)
        assert np.abs(source.read().astype(int) - whole).mean() < 0.5
    path.write_bytes(data[: len(data) // 5])
    with pytest.raises(ImageError, match=r"truncated or damaged image data"):
        read_image(path)


def test_a_png_with_its_orientation_after_the_pixels_is_read_as_stored(tmp_path: Path) -> None:
    rgb = smooth_image()
    Image.fromarray(rgb).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    exif = Image.Exif()
    exif[274] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end = data.rindex(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(data[:end] + chunk + data[end:])
    assert image_size(tmp_path / "a.png") == (61, 47)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), rgb)


def test_a_jpeg_with_an_appendix_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    write_image(path, smooth_image(60, 400))
    whole = read_image(path)
    path.write_bytes(path.read_bytes() + b"video" * 20000)
    with open_smear(path) as source:
        assert source.notes == ()
        np.testing.assert_array_equal(source.read(), whole)


def test_a_truncated_jpeg_tile_raises_an_error(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, smooth_image(96, 96), photometric="rgb", tile=(32, 32), compression="jpeg")
    with tifffile.TiffFile(path) as file:
        offset, count = (values[4] for values in (file.pages.first.dataoffsets, file.pages.first.databytecounts))
    assert read_image(path).shape == (96, 96, 3)
    with path.open("r+b") as stream:
        stream.seek(offset + count // 2)
        stream.write(bytes(count - count // 2))
    with open_smear(path) as source:
        assert source.read((0, 0, 32, 32)).shape == (32, 32, 3)
        with pytest.raises(ImageError, match="strip or tile 4"):
            source.read((40, 40, 50, 50))


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    expected = {
        "missing.jpg": "no such file",
        "folder.jpg": "expected an image, got a folder",
        "pipe.jpg": "not a regular file",
        "loop.jpg": "cannot be opened",
        "x" * 300 + ".jpg": "cannot be opened",
        "nul\0.jpg": "cannot be opened",
        "folder.jpg/../a\n.jpg": "no such file",
    }
    for name, message in expected.items():
        with pytest.raises(ImageError, match=message):
            open_smear(tmp_path / name)


def test_a_file_without_read_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    write_image(path, smooth_image())
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(ImageError, match="cannot be opened"):
            open_smear(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.complex64])
def test_unsupported_sample_formats(tmp_path: Path, dtype: type[np.generic]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((20, 20), dtype), photometric="minisblack")
    with pytest.raises(ImageError, match="expected 8 or 16-bit unsigned samples"):
        open_smear(tmp_path / "a.tif")


def test_a_webp_that_pillow_takes_for_a_bomb_is_one_line(tmp_path: Path) -> None:
    size = struct.pack("<BIBBB", 0x2F, 16382 | 16382 << 14, 0x88, 0x88, 0x08) + bytes(60)
    chunk = b"VP8L" + struct.pack("<I", len(size)) + size
    (tmp_path / "a.webp").write_bytes(b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk)
    with pytest.raises(ImageError, match="expected at most 178 megapixels for WEBP, got more"):
        open_smear(tmp_path / "a.webp")


def test_a_jpeg_of_thousands_of_scans_is_not_decoded(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg", progressive=True)
    content = (tmp_path / "a.jpg").read_bytes()
    last = content[content.rfind(b"\xff\xda") : -2]
    (tmp_path / "b.jpg").write_bytes(content[:-2] + 3000 * last + content[-2:])
    with open_smear(tmp_path / "a.jpg") as source:
        source.read()
    video = np.random.default_rng(0).bytes(2**24)  # as a phone appends it: some 256 of its bytes look like the marker
    (tmp_path / "c.jpg").write_bytes(content + video + b"\xff\xd9")
    with open_smear(tmp_path / "c.jpg") as source:
        assert source.read().shape == (64, 64, 3)
    with open_smear(tmp_path / "b.jpg") as source, pytest.raises(ImageError, match="at most 100 scans, got 30"):
        source.read()


def test_a_codec_that_is_not_there_is_named(tmp_path: Path) -> None:
    """imagecodecs has the name of JetRaw, and no code of it."""
    page = Image.new("RGB", (64, 64))
    page.save(tmp_path / "a.tif", compression="raw")
    content = (tmp_path / "a.tif").read_bytes()
    plain, jetraw = (struct.pack("<HHII", 259, 3, 1, compression) for compression in (1, 48124))
    assert content.count(plain) == 1
    (tmp_path / "a.tif").write_bytes(content.replace(plain, jetraw))
    with open_smear(tmp_path / "a.tif") as source, pytest.raises(ImageError, match="common compression, got JETRAW"):
        source.read()


def test_a_long_ome_xml_is_read_in_part(tmp_path: Path) -> None:
    """Of 30 MB, thirty seconds went by."""
    pixels = '<Image><Pixels PhysicalSizeX="0.25" PhysicalSizeY="0.25"/></Image>'
    for name, inside in {"first": pixels + "<Image/>" * 200_000, "last": "<Image/>" * 200_000 + pixels}.items():
        text = f'<?xml version="1.0"?><OME>{inside}</OME>'
        tifffile.imwrite(tmp_path / f"{name}.tif", smooth_image(), photometric="rgb", description=text, metadata=None)
    with open_smear(tmp_path / "first.tif") as first, open_smear(tmp_path / "last.tif") as last:
        assert (first.mpp, last.mpp) == ((0.25, 0.25), None)


def test_header_and_data_that_disagree(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_header(40, 30))
    with open_smear(path) as source, pytest.raises(ImageError, match="truncated or damaged"):
        source.read()
    write_image(path, smooth_image())
    with open_smear(path) as source:
        write_image(path, smooth_image(20, 20))
        with pytest.raises(ImageError, match="as in the header, got"):
            source.read()


SEEDS = {
    "a.jpg": encoded("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    "a.png": encoded("PNG", dpi=(72, 72)),
    "a.bmp": encoded("BMP"),
    "a.tif": encoded("TIFF"),
    "b.tif": encoded("TIFF", compression="tiff_lzw"),
    "c.tif": encoded("TIFF", compression="jpeg"),
}


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(SEEDS)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    where=st.sampled_from(["head", "tail", "all"]),
)
def test_damaged_bytes(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[tuple[float, int]], where: str
) -> None:
    """Any damage gives an image of the size in the header, or a one-line error."""
    data = bytearray(SEEDS[name])
    start, length = {"head": (0, 250), "tail": (len(data) - 250, 250), "all": (0, len(data))}[where]
    for position, value in changes:
        data[start + int(position * length)] = value
    path = tmp_path_factory.getbasetemp() / f"fuzz-{name}"
    path.write_bytes(data)
    try:
        with open_smear(path) as source:
            if source.size_wh[0] * source.size_wh[1] < 10**6:
                assert source.read().shape == (*source.size_wh[::-1], 3)
    except ImageError as error:
        assert "\n" not in str(error)


# ------------------------------------------------------------------------------------------------ writing


def test_write_errors_leave_no_files(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", smooth_image())
    with pytest.raises(ImageError, match=r"got suffix '\.gif'"):
        write_image(tmp_path / "a.gif", smooth_image())
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / "missing" / "a.png", smooth_image())
    with pytest.raises(ImageError, match="expected at most 65500 pixels a side"):
        write_image(tmp_path / "wide.jpg", np.zeros((1, 70000, 3), np.uint8))
    with pytest.raises(ValueError, match="expected uint8"):
        write_image(tmp_path / "b.png", np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match="expected uint8"):
        write_image(tmp_path / "b.png", np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="at least one pixel"):
        resize(smooth_image(), (0, 5))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / "folder.png", smooth_image())
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a.png", tmp_path / "folder.png"]


def test_written_files_have_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "reference").touch()
    write_image(tmp_path / "a.png", smooth_image())
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == stat.S_IMODE((tmp_path / "reference").stat().st_mode)


# ------------------------------------------------------------------------------------------------ finding


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b.JPG",
        "a.png",
        "sub/c.tiff",
        "sub/notes.txt",
        ".hidden.png",
        ".cache/d.png",
        "empty/x.xml",
        "w[1].bmp",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "sub" / "again").symlink_to(tmp_path)
    return tmp_path


def test_find_images(tree: Path) -> None:
    def names(*paths: str) -> list[str]:
        return [path.relative_to(tree).as_posix() for path in find_images([tree / path for path in paths])]

    assert names(".") == ["a.png", "b.JPG", "sub/c.tiff", "w[1].bmp"]
    assert names("*.png") == ["a.png"]
    assert names("**/*.tiff", "a.png", "sub", "./a.png") == ["a.png", "sub/c.tiff"]
    assert names("*") == names(".")
    assert names("w[1].bmp") == ["w[1].bmp"]
    assert names("sub/notes.txt", ".hidden.png") == [".hidden.png", "sub/notes.txt"]
    assert find_images(str(tree / "a.png")) == find_images(tree / "a.png") == [tree / "a.png"]
    assert find_images([]) == []


@pytest.mark.parametrize("name", ["nothing.png", "*.gif", "empty", "nul\0", "x" * 300])
def test_paths_that_match_no_image(tree: Path, name: str) -> None:
    with pytest.raises(ImageError):
        find_images([tree / "a.png", tree / name])


# ------------------------------------------------------------------------------------------- large JPEGs


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG above the 8 megapixels from which it is decoded at reduced size, and the same pixels as BMP.

    No power of two divides its sides.
    """
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    x, y = np.arange(3403, dtype=np.float32), np.arange(2357, dtype=np.float32)[:, None]
    rgb = np.empty((2357, 3403, 3), np.uint8)
    rgb[..., 0], rgb[..., 1] = 128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7)
    rgb[..., 2] = 128 + 90 * np.sin((x + y) / 11)
    Image.fromarray(rgb).save(path, quality=95, subsampling=0)
    with Image.open(path) as image:
        image.save(path.with_suffix(".bmp"))
    return path


@pytest.mark.parametrize("scale", [0.5, 0.33, 0.2, 0.13, 0.05])
def test_a_large_jpeg_decoded_at_reduced_size_resembles_one_reduced_afterwards(large, scale):
    with open_smear(large) as source:
        found = source.read(None, (scale, scale))
        assert bool(source._pixels._small) == (scale <= 0.33)
    with open_smear(large.with_suffix(".bmp")) as source:
        expected = source.read(None, (scale, scale))
    inner = np.s_[1:-1, 1:-1]
    assert np.abs(found[inner].astype(int) - expected[inner]).mean() < 2
    assert np.abs(found[inner].astype(int) - expected[inner]).max() < 16


def test_regions_of_a_large_jpeg_equal_the_whole(large):
    scale = (0.21, 0.17)
    with open_smear(large) as source:
        whole = source.read(None, scale)
        for x, y in ((0, 0), (10, 5), (331, 217)):
            box = (x / scale[0], y / scale[1], (x + 20) / scale[0], (y + 12) / scale[1])
            np.testing.assert_array_equal(source.read(box, scale), whole[y : y + 12, x : x + 20])


def test_a_large_rotated_jpeg_is_decoded_in_full(large, tmp_path):
    with Image.open(large) as image:
        exif = image.getexif()
        exif[274] = 6
        image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    with open_smear(tmp_path / "turned.jpg") as source:
        source.read(None, (0.1, 0.1))
        assert not source._pixels._small


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_large_jpegs_in_other_colour_spaces(large, tmp_path, mode):
    with Image.open(large) as image:
        image.convert(mode).save(tmp_path / "other.jpg", quality=95)
    with open_smear(tmp_path / "other.jpg") as source:
        small, whole = source.read(None, (0.2, 0.2)), source.read()
        assert list(source._pixels._small) == [2]
    Image.fromarray(whole).save(tmp_path / "other.bmp")
    with open_smear(tmp_path / "other.bmp") as source:
        expected = source.read(None, (0.2, 0.2))
    assert np.abs(small[1:-1, 1:-1].astype(int) - expected[1:-1, 1:-1]).mean() < 2


def test_a_jpeg_on_a_full_disk_is_an_error(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))  # files cannot grow further, as on a full disk
    try:
        with pytest.raises(ImageError, match=r"a\.jpg: cannot be written"):
            write_image(tmp_path / "a.jpg", rgb)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
