"""Pixels of JPEG, PNG and BMP pictures, decoded as a whole; and what both readers of pictures need.

That is the limit of what is decoded at once, turning by the EXIF orientation, and composing on white.
16-bit samples lose their low byte. Nothing here asks or changes a global of Pillow.
"""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin

from blastdet.errors import ImageError, one_line
from blastdet.types import RGB, Scale, WidthHeight

MAX_PIXELS = 400_000_000
"""Most pixels that are ever decoded at once."""

BROKEN = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AttributeError,
    SyntaxError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What Pillow, tifffile and imagecodecs raise on damaged files."""

# The classes and not Image.open, whose limit on the number of pixels is a global that others set.
PILLOW_HEADS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}
_quiet = threading.Lock()

# EXIF and TIFF tag 274: how the stored picture is turned into the shown one, as (transpose, flip x, flip y).
ORIENTATIONS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def orient(rgb: RGB, orientation: int) -> RGB:
    """The picture (h, w, ...) as it is to be shown: a view, transposed first and flipped after."""
    transpose, flip_x, flip_y = ORIENTATIONS[orientation]
    if transpose:
        rgb = rgb.swapaxes(0, 1)
    return rgb[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def on_white(colour: RGB, alpha: RGB) -> RGB:
    """Straight (not premultiplied) colour (h, w, 3) with opacity (h, w), composed on white."""
    opacity = alpha.astype(np.uint16)[..., None]
    return ((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


class PillowPixels:
    """A JPEG, PNG or BMP file, decoded as a whole when first needed."""

    mpp: Scale | None = None  # the resolution in such files is a printer's, not a microscope's
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, plugin: type[ImageFile.ImageFile]) -> None:
        self._path, self._plugin = path, plugin
        self._rgb: RGB | None = None
        self._lock = threading.Lock()
        try:
            with path.open("rb") as file:
                self.size_wh = _shown_size(self._header(file))
        except BROKEN as error:
            raise ImageError(f"{path}: a damaged header found ({one_line(error)}), expected a picture") from error
        w, h = self.size_wh
        if w * h > MAX_PIXELS:
            raise ImageError(
                f"{path}: {w} x {h} = {w * h / 1e6:.0f} megapixels found, expected at most "
                f"{MAX_PIXELS // 10**6} (a larger picture as a tiled TIFF)"
            )

    def _header(self, file: Any) -> ImageFile.ImageFile:
        with _quiet, warnings.catch_warnings():  # the filters are global: one thread at a time
            warnings.simplefilter("ignore")
            return self._plugin(file)

    def _decode(self) -> RGB:
        try:
            with self._path.open("rb") as file:
                image = self._header(file)
                rgb = np.ascontiguousarray(orient(_to_rgb(image), _orientation(image)))
        except BROKEN as error:
            raise ImageError(f"{self._path}: truncated or damaged data found ({one_line(error)})") from error
        if rgb.shape[1::-1] != self.size_wh:
            raise ImageError(f"{self._path}: {rgb.shape[1::-1]} pixels found, expected {self.size_wh} as in its header")
        return rgb

    def window(self, x0: int, y0: int, x1: int, y1: int) -> RGB:
        with self._lock:
            if self._rgb is None:
                self._rgb = self._decode()
        return self._rgb[y0:y1, x0:x1]

    def close(self) -> None:
        self._rgb = None


def _to_rgb(image: Image.Image) -> RGB:
    if image.mode.startswith("I"):  # grey PNG of 16 bits; Pillow's own conversion would clip
        return np.repeat((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        return on_white(rgba[..., :3], rgba[..., 3])
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))  # a copy costs as much as decoding


def _shown_size(image: Image.Image) -> WidthHeight:
    w, h = image.size
    return (h, w) if ORIENTATIONS[_orientation(image)][0] else (w, h)


def _orientation(image: Image.Image) -> int:
    """EXIF tag 274 of the first directory, 1 where it is missing or damaged."""
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * entry)
            if (tag, kind, count) == (274, 3, 1):
                return value if value in ORIENTATIONS else 1
    except struct.error:
        pass
    return 1
