"""Rendering of synthetic smears with exact ground truth, of any size, from a seed.

Cells are placed in blocks that are seeded by (seed, block), drawn one by one (`cell_rendering`), and summed in optical
density. Any part of a smear can therefore be rendered alone, with the same pixels. No images of patients are used.
"""

from __future__ import annotations

import io
import os
from array import array
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from blastdet.core.errors import ImageError
from blastdet.core.types import RGB, WBC, Detections, WidthHeight
from blastdet.synth.cell_rendering import DEBRIS, OD_UNIT, SMUDGE, Cell, Patch, draw
from blastdet.synth.scene import PALETTES, Scene, SynthConfig, configure, varied

__all__ = ["PALETTES", "SynthConfig", "configure", "render", "render_tiff", "varied"]

_TILE = 256  # grid of JPEG compression and sensor noise, whatever is rendered at once
_STEP = (4, 4)  # tiles across and down that are rendered at once in memory
_BAND = (8, 2)  # the same for a file: a row of tiles is kept until it is complete
_VISIBLE = 0.2  # cells with a smaller visible fraction at the edge of the image are ignored


class _Truth:
    """Ground truth of the cells drawn so far. A cell that is drawn several times is recorded once.

    Stored in flat arrays, because a gigapixel has more than a hundred thousand cells.
    """

    def __init__(self, size_wh: WidthHeight) -> None:
        self._size_wh = size_wh
        self._seen: set[int] = set()
        self._boxes, self._labels, self._ignored = array("i"), array("b"), array("b")
        self._types: list[str] = []

    def add(self, cell: Cell, patch: Patch) -> None:
        if cell.kind == DEBRIS or cell.seed in self._seen:
            return
        w, h = self._size_wh
        x1, y1 = max(0, -patch.x), max(0, -patch.y)
        seen = patch.mask[y1 : max(y1, h - patch.y), x1 : max(x1, w - patch.x)]
        area = int(seen.sum())
        if not area:
            return
        columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
        left, top = patch.x + x1, patch.y + y1
        box = (left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1)
        self._seen.add(cell.seed)
        self._boxes.extend(box)
        self._labels.append(WBC if cell.kind == SMUDGE else cell.kind)
        self._ignored.append(cell.kind == SMUDGE or area < _VISIBLE * int(patch.mask.sum()))
        self._types.append(cell.cell_type)

    def detections(self) -> Detections:
        if not self._types:
            return Detections.empty()
        return Detections(
            np.array(self._boxes, np.float32).reshape(-1, 4),
            label=np.array(self._labels),
            cell_type=np.array(self._types),
            ignore=np.array(self._ignored, bool),
        ).sorted()


def render(config: SynthConfig, seed: int, *, tiles_wh: WidthHeight = _STEP) -> tuple[RGB, Detections]:
    """Render a synthetic smear in memory.

    Parameters
    ----------
    seed : int
        The same seed and config give the same image.
    tiles_wh : (int, int)
        Tiles of 256 pixels that are rendered at once, across and down. Changes the speed, not the image.

    Returns
    -------
    image : uint8 (height, width, 3)
    truth : Detections
        Half-open boxes of the visible part of every cell. Smudge cells, and cells of which less than a fifth is
        visible at the edge of the image, are marked as ``ignore``.

    Examples
    --------
    >>> image, truth = render(SynthConfig(size_wh=(320, 240)), seed=1)
    >>> image.shape
    (240, 320, 3)
    """
    w, h = config.size_wh
    image = np.empty((h, w, 3), np.uint8)
    scene, truth = Scene(config, seed), _Truth(config.size_wh)
    for x, y, part in _parts(scene, truth, tiles_wh, config.jpeg_quality):
        image[y : y + part.shape[0], x : x + part.shape[1]] = part
    return image, truth.detections()


def render_tiff(path: Path, size_wh: WidthHeight, config: SynthConfig, seed: int) -> Detections:
    """Render a synthetic smear to a tiled BigTIFF file, in memory that does not grow with the height.

    Raises `ConfigError` if the image has more than a gigapixel. Raises `ImageError` if the file cannot be written.

    Parameters
    ----------
    path : Path
        Written atomically.
    size_wh : (int, int)
        Overrides ``config.size_wh``; up to one gigapixel.
    config : SynthConfig
        With a ``jpeg_quality``, tiles are stored as JPEG. Otherwise they are lossless, and equal to `render`.

    Returns
    -------
    Detections
        Ground truth; see `render`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     truth = render_tiff(Path(folder, "smear.tif"), (320, 240), SynthConfig(mpp=0.2), seed=1)
    >>> len(truth) > 10
    True
    """
    config = configure(**(config.model_dump() | {"size_wh": size_wh}))
    scene, truth = Scene(config, seed), _Truth(size_wh)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with tifffile.TiffWriter(temporary, bigtiff=True) as writer:
            writer.write(
                _tiles(scene, truth),
                shape=(size_wh[1], size_wh[0], 3),
                dtype=np.uint8,
                tile=(_TILE, _TILE),
                resolution=tuple(1e4 / m for m in config.mpp_xy),
                resolutionunit="CENTIMETER",
                metadata=None,
                software="blastdet synth",
                **_compression(config.jpeg_quality),
            )
        temporary.replace(path)
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return truth.detections()


def _compression(quality: int | None) -> dict[str, object]:
    if quality is None:
        return {"photometric": "rgb", "compression": "adobe_deflate", "compressionargs": {"level": 1}}
    return {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": quality}}  # stored as YCbCr 4:2:0


def _tiles(scene: Scene, truth: _Truth) -> Iterator[RGB]:
    """Yield complete tiles in the order of the file, padded by repeating the last row and column."""
    across = -(-scene.config.size_wh[0] // _TILE)
    band: dict[tuple[int, int], RGB] = {}
    for x, y, part in _parts(scene, truth, _BAND, None):
        for top in range(0, part.shape[0], _TILE):
            for left in range(0, part.shape[1], _TILE):
                tile = part[top : top + _TILE, left : left + _TILE]
                rest = ((0, _TILE - tile.shape[0]), (0, _TILE - tile.shape[1]), (0, 0))
                band[y + top, (x + left) // _TILE] = np.ascontiguousarray(np.pad(tile, rest, mode="edge"))
        if (y, across - 1) in band:
            yield from (band[place] for place in sorted(band))
            band.clear()


def _parts(scene: Scene, truth: _Truth, tiles_wh: WidthHeight, quality: int | None) -> Iterator[tuple[int, int, RGB]]:
    """Yield the image in rectangles of whole tiles, row by row: ``x, y, pixels``."""
    w, h = scene.config.size_wh
    across, down = (n * _TILE for n in tiles_wh)
    for y in range(0, h, down):
        for x in range(0, w, across):
            part = _region(scene, truth, (x, y, min(x + across, w), min(y + down, h)))
            yield x, y, part if quality is None else _through_jpeg(part, quality)


def _region(scene: Scene, truth: _Truth, box: tuple[int, int, int, int]) -> RGB:
    """Render one rectangle of the image, without JPEG compression; its corner must be on the tile grid."""
    config = scene.config
    mx, my = config.mpp_xy
    sigma = (config.blur_um / mx, config.blur_um / my)
    pad = int(np.ceil(4 * max(sigma))) if max(sigma) > 0.05 else 0
    x1, y1, x2, y2 = box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad
    density = np.zeros((y2 - y1, x2 - x1, 3), np.int16)
    for cell in scene.near((x1 * mx, y1 * my, x2 * mx, y2 * my)):
        patch = draw(cell, scene.stain, (mx, my))
        _add(density, patch, (x1, y1))
        truth.add(cell, patch)
    density += _background(scene, (x1, y1, x2, y2))
    light = np.take(_transmission(), density, mode="clip")
    if pad:
        light = cv2.GaussianBlur(light, (2 * pad + 1, 2 * pad + 1), sigmaX=sigma[0], sigmaY=sigma[1])
        light = light[pad:-pad, pad:-pad]
    return _digitise(light, config.noise, scene.seed, (box[0], box[1]))


def _add(canvas: NDArray[np.int16], patch: Patch, origin: tuple[int, int]) -> None:
    """Add the density of a cell to the canvas. White cells hide what is below them."""
    x, y = patch.x - origin[0], patch.y - origin[1]
    h, w = patch.mask.shape
    left, top, right, bottom = max(0, -x), max(0, -y), min(w, canvas.shape[1] - x), min(h, canvas.shape[0] - y)
    if left >= right or top >= bottom:
        return
    here = canvas[y + top : y + bottom, x + left : x + right]
    if patch.cover is not None:
        cover = patch.cover[top:bottom, left:right, None].astype(np.int32)
        here -= ((here * cover) >> 8).astype(np.int16)
    added = patch.density[top:bottom, left:right]
    # Overlapping red cells flatten each other: darker than one cell, lighter than the sum of two.
    both = np.minimum(here, added)
    here += added - ((np.maximum(both, 0) * np.int16(5)) >> 3)


@lru_cache(maxsize=1)
def _transmission() -> NDArray[np.uint16]:
    """Transmitted light, from 0 to 65280, by optical density in units of `OD_UNIT`."""
    return np.rint(65280 * 10.0 ** (-np.arange(4 * OD_UNIT) / OD_UNIT)).astype(np.uint16)


def _background(scene: Scene, box: tuple[int, int, int, int]) -> NDArray[np.int16]:
    """Optical density of the empty background: a vignette, a gradient of brightness, and stained plasma."""
    config, wave = scene.config, scene.waves
    w, h = config.size_wh
    x = np.arange(box[0], box[2], dtype=np.float64)[None, :]
    y = np.arange(box[1], box[3], dtype=np.float64)[:, None]
    u, v = x / w - 0.5, y / h - 0.5
    fall = config.illumination / 2.3
    shade = fall * (0.6 * (u * np.cos(wave[2]) + v * np.sin(wave[2])) + 0.8 * (u * u + v * v) - 0.13)
    um = (x * config.mpp_xy[0], y * config.mpp_xy[1])
    plasma = 0.006 * np.sin(um[0] / 17 + wave[3]) * np.sin(um[1] / 23 + wave[4])
    plasma = plasma + 0.004 * np.sin(um[0] / 7.1 + wave[5]) * np.sin(um[1] / 8.3 + wave[0])
    base = -np.log10(np.asarray(scene.stain.background) / 255)
    tint = scene.stain.density("pale")
    tint = tint / max(float(np.abs(tint).max()), 1e-3)
    parts = [np.rint(OD_UNIT * (shade + plasma * tint[i] + base[i])).astype(np.int16) for i in range(3)]
    return np.stack(parts, axis=2)


@lru_cache(maxsize=4)
def _noise_tile(sigma: float) -> NDArray[np.int16]:
    rng = np.random.default_rng(30011)
    return np.rint(rng.normal(0, sigma * 16, (2 * _TILE, 2 * _TILE, 3))).astype(np.int16)


def _digitise(light: NDArray[np.uint16], sigma: float, seed: int, origin: tuple[int, int]) -> RGB:
    """Convert 16 to 8 bits with sensor noise: a different section of one noise field for every tile."""
    level = (light >> 4).astype(np.int16)
    if sigma:
        field = _noise_tile(sigma)
        for y in range(0, level.shape[0], _TILE):
            for x in range(0, level.shape[1], _TILE):
                tile = level[y : y + _TILE, x : x + _TILE]
                at = np.random.default_rng([seed, 3, (origin[1] + y) // _TILE, (origin[0] + x) // _TILE])
                dy, dx = at.integers(0, _TILE, 2)
                tile += field[dy : dy + tile.shape[0], dx : dx + tile.shape[1]]
    return np.asarray(np.clip((level + 8) >> 4, 0, 255), np.uint8)


def _through_jpeg(image: RGB, quality: int) -> RGB:
    """Apply JPEG compression tile by tile; the corner of `image` must be on the tile grid."""
    out = np.empty_like(image)
    for y in range(0, image.shape[0], _TILE):
        for x in range(0, image.shape[1], _TILE):
            buffer = io.BytesIO()
            Image.fromarray(image[y : y + _TILE, x : x + _TILE]).save(buffer, "JPEG", quality=quality, subsampling=2)
            out[y : y + _TILE, x : x + _TILE] = np.asarray(Image.open(buffer))
    return out
