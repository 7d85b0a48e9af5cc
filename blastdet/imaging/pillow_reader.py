"""Reader of JPEG, PNG and BMP images, which are decoded as a whole, and helpers that the TIFF reader shares.

The helpers are the pixel limit, the EXIF orientation and composition on white. 16-bit samples lose their low byte.
Nothing here reads or changes a global setting of Pillow.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin

from blastdet.core.errors import ImageError, one_line
from blastdet.core.types import RGB, Scale, WidthHeight

Window = Callable[[int, int, int, int], RGB]
"""Pixels [x0, x1) x [y0, y1) of an image, by x0, y0, x1, y1."""

MAX_PIXELS = 400_000_000
"""Largest number of pixels that is decoded at once."""

_ENOUGH = 0.95  # of the rows of a JPEG that ends early
_TAIL = 65536  # bytes in which the end marker of a JPEG is looked for
_LARGE = 8_000_000  # pixels; smaller JPEGs are decoded in full: it takes little time, and they look the same as PNG

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
"""Exceptions that Pillow, tifffile and imagecodecs raise on damaged files."""

# The classes, not Image.open, whose pixel limit is a global that other code may set.
PILLOW_HEADS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}
_quiet = threading.Lock()

# EXIF and TIFF tag 274: how the stored image becomes the displayed one, as (transpose, flip x, flip y).
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
    """The image (h, w, ...) in its displayed orientation, as a view: transposed first, then flipped."""
    transpose, flip_x, flip_y = ORIENTATIONS[orientation]
    if transpose:
        rgb = rgb.swapaxes(0, 1)
    return rgb[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def on_white(colour: RGB, alpha: RGB) -> RGB:
    """Straight (not premultiplied) colour (h, w, 3) with alpha (h, w), composed on white."""
    opacity = alpha.astype(np.uint16)[..., None]
    return ((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


class PillowPixels:
    """A JPEG, PNG or BMP file, decoded as a whole on the first read."""

    mpp: Scale | None = None  # such files state the resolution for printing, not of the microscope
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, plugin: type[ImageFile.ImageFile]) -> None:
        self._path, self._plugin = path, plugin
        self._rgb: RGB | None = None
        self._small: dict[int, RGB] = {}
        self._lock = threading.Lock()
        try:
            with path.open("rb") as file:
                image = self._header(file)
                self.size_wh, self._turned = _shown_size(image), _orientation(image) != 1
        except BROKEN as error:
            raise ImageError(f"{path}: damaged header ({one_line(error)})") from error
        w, h = self.size_wh
        if w * h > MAX_PIXELS:
            raise ImageError(
                f"{path}: expected at most {MAX_PIXELS // 10**6} megapixels, got {w} x {h} = {w * h / 1e6:.0f}. "
                f"Store larger images as tiled TIFF."
            )
        self._ends_early = plugin is JpegImagePlugin.JpegImageFile and _ends_early(path)
        if self._ends_early:  # decoded now, for the note; a file that lacks too much fails when it is read
            with suppress(ImageError):
                self._rgb = self._decode()

    def _header(self, file: Any) -> ImageFile.ImageFile:
        with _quiet, warnings.catch_warnings():  # the filters are global: one thread at a time
            warnings.simplefilter("ignore")
            return self._plugin(file)

    def _decode(self, factor: int = 1) -> RGB:
        size_wh = -(-self.size_wh[0] // factor), -(-self.size_wh[1] // factor)
        try:
            with self._path.open("rb") as file:
                # Zeros that a broken copy left at the end decode as pixels that were never there.
                image = self._header(io.BytesIO(file.read().rstrip(b"\0")) if self._ends_early else file)
                if factor > 1:
                    image.draft(None, (self.size_wh[0] // factor, self.size_wh[1] // factor))
                shown = self._rows_there(image) if self._ends_early else to_rgb(image)
                rgb = np.ascontiguousarray(orient(shown, _orientation(image)))
        except BROKEN as error:
            raise ImageError(f"{self._path}: truncated or damaged image data ({one_line(error)})") from error
        if rgb.shape[1::-1] != size_wh:
            raise ImageError(f"{self._path}: expected {size_wh} pixels as in the header, got {rgb.shape[1::-1]}")
        return rgb

    def _rows_there(self, image: ImageFile.ImageFile) -> RGB:
        """Pixels of a JPEG of which few rows may be missing; `OSError` where it is more."""
        try:
            image.load()
            return to_rgb(image)
        except OSError:
            image.tile = []  # else Pillow tries again
        filled = np.flatnonzero(np.asarray(image).reshape(image.height, -1).any(axis=1))  # Pillow leaves the rest 0
        rows = int(filled[-1]) + 1 if len(filled) else 0
        if rows < _ENOUGH * image.height:
            raise OSError(f"the file ends early, {rows} of {image.height} rows are there")
        self.notes = (f"the file ends early: {rows} of {image.height} rows were read, the last one fills the rest",)
        rgb = to_rgb(image).copy()
        rgb[rows:] = rgb[rows - 1]
        return rgb

    def window(self, x0: int, y0: int, x1: int, y1: int) -> RGB:
        with self._lock:
            if self._rgb is None:
                self._rgb = self._decode()
        return self._rgb[y0:y1, x0:x1]

    def reduced(self, most: float) -> tuple[int, Window]:
        """A factor of 1, 2, 4 or 8, at most `most`, and a function for windows of the image reduced by it.

        A large JPEG is decoded directly at that size, in a fraction of the time and memory. Images with an EXIF
        orientation are not: their last, incomplete block of pixels would come first.
        """
        factor = max((k for k in (2, 4, 8) if k <= most), default=1)
        width, height = self.size_wh
        if (
            factor == 1
            or self.notes
            or self._plugin is not JpegImagePlugin.JpegImageFile
            or self._turned
            or width * height < _LARGE
        ):
            return 1, self.window

        def window(x0: int, y0: int, x1: int, y1: int) -> RGB:
            with self._lock:
                if factor not in self._small:
                    self._small[factor] = self._decode(factor)
            return self._small[factor][y0:y1, x0:x1]

        return factor, window

    def close(self) -> None:
        self._rgb = None
        self._small.clear()


def to_rgb(image: Image.Image) -> RGB:
    """A decoded image as uint8 (h, w, 3): transparency on white, 16 bits reduced to their upper 8."""
    if image.mode.startswith("I"):  # 16-bit grey PNG; Pillow's own conversion would clip
        return np.repeat((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        return on_white(rgba[..., :3], rgba[..., 3])
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))  # a copy costs as much as decoding


def _ends_early(path: Path) -> bool:
    """Whether a JPEG has no end marker in its last part; one with a long appendix does not either."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _TAIL, 0))
        tail = file.read()
    # The marker of a thumbnail in the header comes before the start of the scan.
    return tail.rfind(b"\xff\xd9") <= tail.rfind(b"\xff\xda")


def _shown_size(image: Image.Image) -> WidthHeight:
    w, h = image.size
    return (h, w) if ORIENTATIONS[_orientation(image)][0] else (w, h)


def _orientation(image: Image.Image) -> int:
    """EXIF tag 274 of the first directory; 1 if it is missing or damaged."""
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
