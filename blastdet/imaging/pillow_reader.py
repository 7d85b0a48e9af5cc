"""Reader of JPEG, PNG, BMP, WebP and HEIC images, which are decoded as a whole.

The pixel limit, the EXIF orientation and composition on white are shared with the TIFF reader.
16-bit samples lose their low byte.
Nothing here reads or changes a global setting of Pillow.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from blastdet.core.errors import ImageError, one_line
from blastdet.core.types import RGB, Scale

Window = Callable[[int, int, int, int], RGB]
"""Pixels [x0, x1) x [y0, y1) of an image, by x0, y0, x1, y1."""

MAX_PIXELS = 400_000_000
"""Largest number of pixels that is decoded at once."""

_MISSING = 0.05  # largest part of the pixels that a JPEG that ends early may lack
_END = b"\xff\xd9"  # end of a JPEG: with it, the decoder returns what is there
_TAIL = 65536  # bytes in which the end marker of a JPEG is looked for
_MOST_SCANS = 100  # of a JPEG; programs write up to 20
_SCAN = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")  # not the marker alone: phones append videos
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
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
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


def plugin_of(head: bytes, path: Path) -> type[ImageFile.ImageFile] | None:
    """The class of Pillow that reads a file with these first bytes; ``None`` if there is none.

    Raises `ImageError` for HEIC if its optional package is not installed.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            hint = "Install it: pip install 'blastdet[heic]', or save the image as JPEG or PNG"
            raise ImageError(f"{path}: HEIC needs the package pillow-heif, which is not installed. {hint}") from None
        return HeifImageFile  # type: ignore[no-any-return]
    return next((plugin for magic, plugin in PILLOW_HEADS.items() if head.startswith(magic)), None)


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
    """A file that Pillow reads, decoded as a whole on the first read."""

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
                # Of the header: a PNG may state another one after its pixels, which few programs apply.
                self._orientation = _orientation(image)
                if (n := getattr(image, "n_frames", 1)) > 1 and plugin is WebPImagePlugin.WebPImageFile:
                    self.notes = (f"{n} frames found, only the first is read",)
                self.size_wh = image.size[::-1] if ORIENTATIONS[self._orientation][0] else image.size
        except BROKEN as error:
            raise ImageError(f"{path}: damaged header ({one_line(error)})") from error
        except Image.DecompressionBombError as error:  # Pillow itself limits WebP
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
            line = (
                f"expected at most {most} megapixels for {plugin.format}, got more. Store larger images as tiled TIFF."
            )
            raise ImageError(f"{path}: {line}") from error
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
                self._check_scans(file)
                # Zeros that a broken copy left at the end decode as pixels that were never there.
                if self._ends_early:
                    shown = self._what_is_there(file.read().rstrip(b"\0"))
                else:
                    image = self._header(file)
                    if factor > 1:
                        image.draft(None, (self.size_wh[0] // factor, self.size_wh[1] // factor))
                    shown = to_rgb(image)
                rgb = np.ascontiguousarray(orient(shown, self._orientation))
        except BROKEN as error:
            raise ImageError(f"{self._path}: truncated or damaged image data ({one_line(error)})") from error
        if rgb.shape[1::-1] != size_wh:
            raise ImageError(f"{self._path}: expected {size_wh} pixels as in the header, got {rgb.shape[1::-1]}")
        return rgb

    def _check_scans(self, file: BinaryIO) -> None:
        """`ImageError` for a JPEG that shows its image thousands of times, each as long to decode as the first."""
        if self._plugin is JpegImagePlugin.JpegImageFile:
            if (n := len(_SCAN.findall(file.read()))) > _MOST_SCANS:
                raise ImageError(f"{self._path}: expected a JPEG of at most {_MOST_SCANS} scans, got {n}")
            file.seek(0)

    def _what_is_there(self, data: bytes) -> RGB:
        """Pixels of a JPEG of which little may be missing; `OSError` where it is more.

        Zeros that a broken copy left at the end would decode as pixels that were never there: `data` comes without.
        """
        with suppress(OSError):
            return to_rgb(self._header(io.BytesIO(data)))  # whole, with a long appendix
        image = self._header(io.BytesIO(data + _END))
        if image.mode not in ("L", "RGB"):
            raise OSError("the file ends early")
        rgb = to_rgb(image).copy()
        height = len(rgb)
        if image.info.get("progressive"):
            if not _reached_last_scans(data, len(image.getbands())):
                raise OSError("the file ends early, before all of its scans have begun")
            self.notes = ("the file ends early: every pixel is there, the last of them less sharp",)
            return rgb
        blank = (rgb == 128).all(axis=2)  # the decoder fills what is missing with grey
        rows = height - int(np.argmin(np.append(blank[::-1, -1], False)))
        if blank[rows:].sum() > _MISSING * blank.size:
            raise OSError(f"the file ends early, {rows} of {height} rows are there")
        if rows < height:
            rows = max(rows - 2, 1)  # two more are mixed with grey where colour has half the resolution
            rgb[rows:] = rgb[rows - 1]
        rest = "the last one fills the rest" if rows < height else "a few pixels of the last one may be wrong"
        self.notes = (f"the file ends early: {rows} of {height} rows were read, {rest}",)
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
            or self._ends_early
            or self._plugin is not JpegImagePlugin.JpegImageFile
            or self._orientation != 1
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
    return tail.rfind(_END) <= tail.rfind(b"\xff\xda")


def _reached_last_scans(data: bytes, components: int) -> bool:
    """Whether a progressive JPEG has begun the last scan of every coefficient of every component."""
    last: set[tuple[int, int]] = set()
    at = 2
    while (at := data.find(b"\xff\xda", at)) >= 0:
        n = data[at + 4] if at + 4 < len(data) else 0
        parameters = at + 5 + 2 * n
        if not 1 <= n <= components or parameters + 3 > len(data):
            break
        first, final, bits = data[parameters : parameters + 3]
        if bits & 15 == 0:
            last |= {(data[at + 5 + 2 * i], k) for i in range(n) for k in range(first, min(final, 63) + 1)}
        at = parameters + 3
    return len(last) == 64 * components


def _orientation(image: Image.Image) -> int:
    """EXIF tag 274 of the first directory; 1 if it is missing or damaged."""
    exif = (image.info.get("exif") or b"").removeprefix(b"Exif\0\0")
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
