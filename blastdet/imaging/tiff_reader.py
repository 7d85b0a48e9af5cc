"""Reader of TIFF images, strip by strip or tile by tile, so that a gigapixel needs little memory.

Samples are converted to 8-bit RGB:

- b-bit integers lose their low bits (``>> b - 8``), independent of the values in the image, so that images of one
  camera stay comparable. b is ``BitsPerSample``; a 16-bit file of a 12-bit camera states it in ``MaxSampleValue``.
- Transparency is composed on white (ExtraSamples 1 premultiplied, 2 straight; an unspecified channel is ignored).
- CMYK and YCbCr are converted by Pillow, without a colour profile. Floats and signed integers are rejected.
- A segment that is missing in the file (offset 0: sparse slides) is white, the colour of empty glass.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blastdet.core.errors import ImageError, one_line
from blastdet.core.types import RGB, Scale, WidthHeight
from blastdet.imaging.pillow_reader import BROKEN, MAX_PIXELS, ORIENTATIONS, Window, on_white, orient

_CACHE_BYTES = 128 * 2**20  # a row of 640-px tiles of a 30,000-px slide stored in strips is 60 MB
_MAPPED_ROWS = 64
_PLAUSIBLE_MPP = (0.02, 5.0)  # of a light microscope; narrower than core.mpp.MPP_RANGE, since files often state 72 dpi
_MICROMETRES = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "Å": 1e-4, "in": 25400.0}
_MICROMETRES |= dict.fromkeys(("micron", "microns", "micrometer", "micrometre", "micrometers", "micrometres", "u"), 1.0)
_MICROMETRES |= {"inch": 25400.0, "inches": 25400.0}
_APERIO_MPP = re.compile(r"\bMPP\s*=\s*(\d{0,6}\.?\d{1,12})")
_OME_LETTERS = 2**20  # of an OME-XML that are read: the first image of a whole plate is among them
_RGB, _MOST_PAGES = 3, 100
_DIGITS = 4  # fewer than that have the numbers of bits
_RESOLUTION_UNIT = {2: 25400.0, 3: 10000.0}
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}  # samples per photometric interpretation
_JPEG = {6, 7, 34892, 33007}  # compressions whose decoder answers in RGB
_NEW_JPEG, _JPEG_END = 7, b"\xff\xd9"


@dataclass(frozen=True)
class _Samples:
    """How to read the samples of one TIFF page."""

    photometric: int
    bits: int
    alpha: int  # 0 none, 1 premultiplied, 2 straight
    palette: RGB | None

    def to_rgb(self, samples: NDArray[Any], jpeg: bool) -> RGB:
        """Samples (h, w, n), unsigned integers, as RGB."""
        n = _COLOURS[self.photometric]
        if self.palette is not None:
            colour: RGB = self.palette[np.minimum(samples[..., 0], len(self.palette) - 1)]
        else:
            colour = self._to_bytes(samples[..., :n])
        if self.photometric == 0:
            colour = 255 - colour
        if n == 1 and self.palette is None:
            colour = np.repeat(colour, 3, axis=2)
        if self.photometric == 5 or (self.photometric == 6 and not jpeg):
            mode = "CMYK" if n == 4 else "YCbCr"
            size = (colour.shape[1], colour.shape[0])
            colour = np.asarray(Image.frombytes(mode, size, np.ascontiguousarray(colour).tobytes()).convert("RGB"))
        if not self.alpha:
            return colour
        alpha = self._to_bytes(samples[..., n])
        if self.alpha == 2:
            return on_white(colour, alpha)
        composed: RGB = np.minimum(colour.astype(np.uint16) + (255 - alpha[..., None]), 255).astype(np.uint8)
        return composed

    def _to_bytes(self, samples: NDArray[Any]) -> RGB:
        if samples.dtype.itemsize > 1:
            samples = np.minimum(samples >> (self.bits - 8), 255)
        elif self.bits < 8:
            samples = samples.astype(np.uint16) * 255 // (2**self.bits - 1)
        return samples.astype(np.uint8, copy=False)


class TiffPixels:
    """The first page of a TIFF file, read by window; decoded segments are kept up to 128 MiB.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    size_wh : (int, int)
        As shown, that is with the orientation tag applied.
    mpp : (float, float) or None
        From OME-XML, or from a resolution in dots per inch or centimetre that is a microscope's.
    notes : tuple of str
        What a user should know about how the file was read.

    Raises
    ------
    ImageError
        If the file is damaged, holds samples that are no colours, or must be decoded in too large pieces.
    """

    def __init__(self, path: Path) -> None:
        import tifffile

        log = logging.getLogger("tifffile")
        if not log.handlers:  # else Python prints tifffile's warnings to stderr
            log.addHandler(logging.NullHandler())
        self.path = path
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, RGB] = OrderedDict()
        self._cached_bytes = 0
        self._file: Any = None
        self._stream = path.open("rb")  # tifffile itself follows links, of which those to memory lead nowhere
        self._rows: NDArray[Any] | None = None
        try:
            self._file = tifffile.TiffFile(self._stream)
            self._page: Any = self._file.pages.first
            self._read_header()
        except BROKEN as error:
            self.close()
            raise ImageError(f"{path}: damaged TIFF header ({one_line(error)})") from error
        except ImageError:
            self.close()
            raise

    def _read_header(self) -> None:
        page = self._page
        self._ome = _ome_pixels(self._file)
        self._orientation = int(page.tags.valueof(274, 1))
        if self._orientation not in ORIENTATIONS:
            self._orientation = 1
        self._pages = self._colour_pages()
        self._samples = self._describe_samples()
        transpose = ORIENTATIONS[self._orientation][0]
        stored = (int(page.imagewidth), int(page.imagelength))
        self.size_wh: WidthHeight = stored[::-1] if transpose else stored
        mpp = _ome_mpp(self._ome) or _imagej_mpp(self._file) or _aperio_mpp(page) or _resolution_mpp(page)
        self.mpp: Scale | None = mpp[::-1] if mpp and transpose else mpp
        self._rows = self._mapped()
        self._segment_wh = self._segment_size(stored)
        self._columns = math.ceil(stored[0] / self._segment_wh[0])
        self._per_plane = self._columns * math.ceil(stored[1] / self._segment_wh[1])
        self._planes = int(page.samplesperpixel) if page.planarconfig == 2 else 1
        self._check_size()
        more = sum(not (other.subfiletype & 1) for other in self._first_pages()[1:])
        number = f"{more + 1}" if more + 1 < _MOST_PAGES else f"{more + 1} or more"
        self.notes: tuple[str, ...] = (f"{number} pages found, only the first is read",) if more else ()
        if len(self._pages) == _RGB:
            self.notes = ("its three grey pages are read as red, green and blue",)

    def _first_pages(self) -> list[Any]:
        """Some of the pages: the chain of a damaged file may have millions."""
        return list(islice(self._file.pages, _MOST_PAGES))

    def _colour_pages(self) -> list[Any]:
        """The page to read, or the three grey pages of equal kind that together are red, green and blue."""
        first = self._page
        pages = [page for page in self._first_pages() if not page.subfiletype & 1][: _RGB + 1]
        kind = [(p.shape, str(p.dtype), int(p.compression), p.dataoffsets and p.rowsperstrip) for p in pages]
        axes = _imagej(self._file)
        is_stack = any(int(axes.get(name, 1)) > 1 for name in ("slices", "frames")) or _ome_stack(self._ome)
        grey = first.samplesperpixel == 1 and int(first.photometric) == 1 and first.imagedepth == 1
        return pages if len(pages) == _RGB and grey and len(set(kind)) == 1 and not is_stack else [first]

    def _segment_size(self, stored_wh: WidthHeight) -> WidthHeight:
        if self._page.is_tiled:
            return int(self._page.tilewidth), int(self._page.tilelength)
        rows = _MAPPED_ROWS if self._rows is not None else int(self._page.rowsperstrip)
        return stored_wh[0], min(rows, stored_wh[1])

    def _mapped(self) -> NDArray[Any] | None:
        """Samples as a memory map, if they are stored uncompressed (Fiji writes one strip of any size)."""
        page = self._page
        if len(self._pages) > 1 or not page.is_memmappable or page.planarconfig != 1 or page.imagedepth != 1:
            return None
        self._check_length()
        shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
        dtype = np.dtype(page.dtype).newbyteorder(self._file.byteorder)
        return np.memmap(self.path, dtype, "r", int(page.dataoffsets[0]), shape)

    def _describe_samples(self) -> _Samples:
        page = self._page
        colours = _COLOURS.get(int(page.photometric))
        if page.dtype is None or page.dtype.kind not in "ub" or not isinstance(page.bitspersample, int):
            found = {"f": "floating-point", "i": "signed", "c": "complex"}.get(getattr(page.dtype, "kind", ""), "odd")
            raise ImageError(
                f"{self.path}: expected 8 or 16-bit unsigned samples, got {found} {page.bitspersample}-bit samples"
            )
        if colours is None or page.samplesperpixel < colours or page.imagedepth != 1:
            raise ImageError(
                f"{self.path}: expected grey, palette, RGB, YCbCr or CMYK, got {page.samplesperpixel} samples of "
                f"photometric {int(page.photometric)} and depth {page.imagedepth}"
            )
        bits = page.bitspersample
        highest = page.tags.valueof(281, 0)
        highest = int(max(highest) if isinstance(highest, tuple) else highest)
        if bits == 16 and 255 < highest < 4096:
            bits = highest.bit_length()
        stated = _ome_bits(self._ome)
        if stated is not None and 8 <= stated < bits:
            bits = stated
        extra = [int(kind) for kind in page.extrasamples]
        alpha = extra[0] if extra and extra[0] in (1, 2) and page.samplesperpixel > colours else 0
        palette = None
        if int(page.photometric) == 3:
            table = np.asarray(page.colormap)
            palette = (table >> 8 if table.max() > 255 else table).T.astype(np.uint8)
        photometric = 2 if len(self._pages) == _RGB else int(page.photometric)
        return _Samples(photometric, bits, alpha, palette)

    def _check_size(self) -> None:
        (w, h), (segment_w, segment_h) = self.size_wh, self._segment_wh
        if min(w, h) < 1 or min(segment_w, segment_h) < 1:
            raise ImageError(f"{self.path}: expected at least one pixel, got {w} x {h}")
        if segment_w * segment_h > MAX_PIXELS:
            raise ImageError(
                f"{self.path}: expected strips or tiles of at most {MAX_PIXELS // 10**6} megapixels, got {w} x {h} = "
                f"{w * h / 1e6:.0f} megapixels in pieces of {segment_w} x {segment_h}. Store it in tiles."
            )
        number = self._per_plane * self._planes
        for page in self._pages:
            if self._rows is None and not len(page.dataoffsets) == len(page.databytecounts) == number:
                raise ImageError(
                    f"{self.path}: damaged TIFF: expected {number} strips or tiles, got {len(page.dataoffsets)}"
                )
        self._check_length()

    def _check_length(self) -> None:
        parts = [part for page in self._pages for part in zip(page.dataoffsets, page.databytecounts, strict=False)]
        end = max((offset + count for offset, count in parts), default=0)
        length = self.path.stat().st_size
        if end > length:
            raise ImageError(f"{self.path}: truncated TIFF: expected {end} bytes, got {length}")

    def reduced(self, most: float) -> tuple[int, Window]:
        """See `PillowPixels.reduced`; a TIFF is never decoded at a smaller size."""
        return 1, self.window

    def close(self) -> None:
        """Close the file and forget the decoded segments."""
        self._cache.clear()
        self._cached_bytes = 0
        self._rows = None
        if self._file is not None:
            self._file.close()
        self._stream.close()

    def window(self, x0: int, y0: int, x1: int, y1: int) -> RGB:
        """Pixels [x0, x1) x [y0, y1) of the displayed image; the window is not empty and lies inside it."""
        transpose, flip_x, flip_y = ORIENTATIONS[self._orientation]
        w, h = self.size_wh
        if flip_x:
            x0, x1 = w - x1, w - x0
        if flip_y:
            y0, y1 = h - y1, h - y0
        stored = self._stored(y0, x0, y1, x1) if transpose else self._stored(x0, y0, x1, y1)
        return orient(stored, self._orientation)

    def _stored(self, x0: int, y0: int, x1: int, y1: int) -> RGB:
        segment_w, segment_h = self._segment_wh
        out = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        for row in range(y0 // segment_h, (y1 - 1) // segment_h + 1):
            for column in range(x0 // segment_w, (x1 - 1) // segment_w + 1):
                left, top = column * segment_w, row * segment_h
                ax, bx = max(x0, left), min(x1, left + segment_w)
                ay, by = max(y0, top), min(y1, top + segment_h)
                segment = self._segment(row * self._columns + column)
                out[ay - y0 : by - y0, ax - x0 : bx - x0] = segment[ay - top : by - top, ax - left : bx - left]
        return out

    def _segment(self, index: int) -> RGB:
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
            try:
                rgb = self._decode(index)
            except BROKEN as error:
                raise ImageError(f"{self.path}: damaged TIFF data ({one_line(error)})") from error
            except ImportError as error:  # of a codec that imagecodecs lacks
                name = getattr(self._page.compression, "name", self._page.compression)
                line = f"expected a TIFF in LZW, Deflate, JPEG or another common compression, got {name}. Save it so"
                raise ImageError(f"{self.path}: {line}") from error
            self._cache[index] = rgb
            self._cached_bytes += rgb.nbytes
            while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
            return rgb

    def _decode(self, index: int) -> RGB:
        if self._rows is not None:
            top = index * self._segment_wh[1]
            return self._samples.to_rgb(self._rows[top : top + self._segment_wh[1]], jpeg=False)
        planes = []
        for page, plane in ((page, plane) for page in self._pages for plane in range(self._planes)):
            tables = {}
            if page.compression in _JPEG:
                tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            number = index + plane * self._per_plane
            offset, count = page.dataoffsets[number], page.databytecounts[number]
            if not offset or not count:
                return np.full((*self._segment_wh[::-1], 3), 255, np.uint8)
            handle = self._file.filehandle
            handle.seek(offset)
            data = handle.read(count)  # in one go: tifffile's properties move the position in the file
            if page.compression == _NEW_JPEG and _JPEG_END not in data:  # else the decoder fills the rest with grey
                raise ImageError(f"{self.path}: truncated JPEG stream in strip or tile {number}")
            planes.append(page.decode(data, number, **tables)[0][0])
        samples = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        return self._samples.to_rgb(samples, jpeg=self._page.compression in _JPEG)


def _plausible(mpp: Scale) -> Scale | None:
    """The scale if a microscope can have it; 72 dots per inch is not a scale."""
    return mpp if all(_PLAUSIBLE_MPP[0] <= value <= _PLAUSIBLE_MPP[1] for value in mpp) else None


def _ome_mpp(pixels: dict[str, str]) -> Scale | None:
    """PhysicalSizeX and -Y of OME-XML; the unit is µm unless it says otherwise."""
    try:
        x, y = (
            float(pixels[f"PhysicalSize{axis}"]) * _MICROMETRES[pixels.get(f"PhysicalSize{axis}Unit", "µm")]
            for axis in "XY"
        )
    except (KeyError, ValueError):
        return None
    return _plausible((x, y))


def _ome_pixels(file: Any) -> dict[str, str]:
    """Attributes of the first OME-XML Pixels element; empty if there is none in its first part."""
    if not file.is_ome:
        return {}
    parser: Any = ElementTree.XMLPullParser(["start"])
    try:
        parser.feed(file.pages.first.description[:_OME_LETTERS])
        elements = (element for _, element in parser.read_events())
        return next((dict(one.attrib) for one in elements if one.tag.rpartition("}")[2] == "Pixels"), {})
    except (ElementTree.ParseError, ValueError):
        return {}


def _ome_bits(pixels: dict[str, str]) -> int | None:
    """Bits of a 16-bit file that the camera filled, as OME-XML states them."""
    text = pixels.get("SignificantBits", "")
    return int(text) if text.isdecimal() and len(text) < _DIGITS else None


def _ome_stack(pixels: dict[str, str]) -> bool:
    """Whether the pages are levels or times, as OME-XML states it."""
    return any(pixels.get(f"Size{axis}", "1") not in ("", "1") for axis in "ZT")


def _imagej(file: Any) -> dict[str, Any]:
    """What ImageJ or Fiji states about a file; empty for files of other programs."""
    found = file.imagej_metadata if file.is_imagej else None
    return {key: value for key, value in (found or {}).items() if isinstance(value, str | int | float)}


def _imagej_mpp(file: Any) -> Scale | None:
    """Pixels per unit are in the resolution tags, without a resolution unit; the unit is in the description."""
    text = str(_imagej(file).get("unit", ""))
    if text.startswith("\\u00"):  # ImageJ writes the µ as \u00B5
        text = "µ" + text[6:]
    factor = _MICROMETRES.get(text.strip()) or _MICROMETRES.get(text.strip().lower())
    page = file.pages.first
    if factor is None or int(page.tags.valueof(296, 1)) != 1:
        return None
    return _resolution_mpp(page, factor)


def _aperio_mpp(page: Any) -> Scale | None:
    """``MPP = 0.2528`` in the description of a slide by Aperio, and of programs that write as it does."""
    found = _APERIO_MPP.search(str(page.description)) if str(page.description).startswith("Aperio") else None
    return _plausible((float(found[1]), float(found[1]))) if found else None


def _resolution_mpp(page: Any, unit: float | None = None) -> Scale | None:
    unit = unit or _RESOLUTION_UNIT.get(int(page.tags.valueof(296, 2)))
    rationals = [page.tags.valueof(tag) for tag in (282, 283)]
    if unit is None or not all(isinstance(r, tuple) and len(r) == 2 and min(r) > 0 for r in rationals):
        return None
    (xn, xd), (yn, yd) = rationals
    return _plausible((unit * xd / xn, unit * yd / yn))
