"""Pictures in and out: the only decoder and encoder of images. RGB uint8 (h, w, 3), turned as EXIF says.

A picture is a `Source`: its header is checked when it is opened, its pixels are decoded when they are first
read. TIFF is read strip by strip or tile by tile (`blastdet.imaging.tiff_reader`), other formats as a whole.

Resampling is Pillow's triangle filter (anti-aliased when shrinking, bilinear when enlarging) on the grid of the
whole picture, so that a tile cut from a scaled picture equals the scaled tile bit by bit: neither the position of
a tile nor the blocks that a large picture is worked through in can be seen in the result.
"""

from __future__ import annotations

import glob
import math
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from PIL import Image

from blastdet.core.errors import ImageError, one_line
from blastdet.core.types import RGB, Scale, WidthHeight
from blastdet.imaging.pillow_reader import MAX_PIXELS, PILLOW_HEADS, PillowPixels, Window
from blastdet.imaging.resampling import resample
from blastdet.imaging.tiff_reader import TiffPixels

Box = tuple[float, float, float, float]

_WRITERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".jpg": ("JPEG", {"subsampling": 0}),  # 4:4:4: half-resolution colour blurs nuclei
    ".jpeg": ("JPEG", {"subsampling": 0}),
    ".png": ("PNG", {"compress_level": 3}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".bmp": ("BMP", {}),
}
IMAGE_SUFFIXES: frozenset[str] = frozenset(_WRITERS)
"""Suffixes, in lower case, of the files that `find_images` takes from a folder and `write_image` writes."""

_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHER_HEADS = {b"GIF8": "a GIF", b"%PDF": "a PDF", b"RIFF": "a WebP or RIFF file", b"PK": "a ZIP archive"}
_JPEG_SIDE = 65500
_SPARE = 1.5  # how much finer than asked for a picture is decoded at least


class Source(Protocol):
    """A picture of any size that is read by box; a context manager.

    Attributes
    ----------
    path : Path
    size_wh : (int, int)
        In pixels, orientation applied.
    mpp : (float, float) or None
        Micrometres per pixel, only where the file states them credibly.
    notes : tuple of str
        What a user should know about how the file is read, such as "3 pages found, only the first is read".
    """

    path: Path
    size_wh: WidthHeight
    mpp: Scale | None
    notes: tuple[str, ...]

    def read(self, box_xyxy: Box | None = None, scale_xy: tuple[float, float] = (1.0, 1.0)) -> RGB:
        """Pixels of a box (default: the whole picture) at a scale; see `open_smear`."""
        ...

    def close(self) -> None:
        """Let go of file and pixels."""
        ...

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Pixels(Protocol):
    size_wh: WidthHeight
    mpp: Scale | None
    notes: tuple[str, ...]

    def window(self, x0: int, y0: int, x1: int, y1: int) -> RGB: ...

    def reduced(self, most: float) -> tuple[int, Window]: ...

    def close(self) -> None: ...


class _Picture:
    """A `Source` on top of anything that hands out windows of whole pixels."""

    def __init__(self, path: Path, pixels: _Pixels) -> None:
        self.path, self._pixels = path, pixels
        self.size_wh, self.mpp, self.notes = pixels.size_wh, pixels.mpp, pixels.notes

    def read(self, box_xyxy: Box | None = None, scale_xy: tuple[float, float] = (1.0, 1.0)) -> RGB:
        x1, y1, x2, y2 = (float(v) for v in box_xyxy or (0, 0, *self.size_wh))
        sx, sy = (float(v) for v in scale_xy)
        if not all(map(math.isfinite, (x1, y1, x2, y2, sx, sy))) or x2 <= x1 or y2 <= y1 or min(sx, sy) < 0.001:
            raise ValueError(f"box {box_xyxy} at scale {scale_xy} found, expected x1 < x2, y1 < y2 and scale >= 0.001")
        size_wh = round((x2 - x1) * sx), round((y2 - y1) * sy)
        if size_wh[0] * size_wh[1] > MAX_PIXELS:
            raise ImageError(
                f"{self.path}: {size_wh[0]} x {size_wh[1]} pixels asked for at once, "
                f"expected at most {MAX_PIXELS // 10**6} megapixels: read it in boxes or at a smaller scale"
            )
        factor, window = self._pixels.reduced(min(1 / sx, 1 / sy) / _SPARE)
        limit_wh = -(-self.size_wh[0] // factor), -(-self.size_wh[1] // factor)
        pitch_xy = (1 / sx / factor, 1 / sy / factor)
        return resample(window, limit_wh, (x1 / factor, y1 / factor), pitch_xy, size_wh)

    def close(self) -> None:
        self._pixels.close()

    def __enter__(self) -> _Picture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_smear(path: str | Path) -> Source:
    """Open a picture: the header is checked now, the pixels are decoded when read.

    ``read(box_xyxy, scale_xy)`` answers with (round((y2 - y1) * sy), round((x2 - x1) * sx), 3) pixels; pixel i
    covers the source from x1 + i / sx to x1 + (i + 1) / sx. A box may be fractional, and may leave the picture:
    there the nearest pixel inside is repeated. Reading is safe from several threads.

    Parameters
    ----------
    path : str or Path
        JPEG, PNG, BMP or TIFF, told by content and not by name.

    Returns
    -------
    Source

    Raises
    ------
    ImageError
        If there is no such picture, or it is damaged, of another kind, or over 400 megapixels in one piece.
    """
    path = Path(path)
    head = _head(path)
    if head.startswith(_TIFF_HEADS):
        return _Picture(path, TiffPixels(path))
    for magic, plugin in PILLOW_HEADS.items():
        if head.startswith(magic):
            return _Picture(path, PillowPixels(path, plugin))
    raise ImageError(f"{path}: {_describe(head)} found, expected JPEG, PNG, TIFF or BMP")


class _ArrayPixels:
    """An array in memory, as windows of whole pixels."""

    mpp: Scale | None = None
    notes: tuple[str, ...] = ()

    def __init__(self, rgb: RGB) -> None:
        self._rgb, self.size_wh = rgb, (rgb.shape[1], rgb.shape[0])

    def window(self, x0: int, y0: int, x1: int, y1: int) -> RGB:
        return self._rgb[y0:y1, x0:x1]

    def reduced(self, most: float) -> tuple[int, Window]:
        return 1, self.window

    def close(self) -> None:
        pass


def open_image(rgb: RGB, name: str = "image") -> Source:
    """An image that is in memory already, read as `open_smear` reads a file.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    name : str
        For messages and output files.

    Raises
    ------
    ImageError
        If the array is not RGB.
    """
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        got = f"{rgb.dtype} of shape {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise ImageError(f"{name}: expected a uint8 array of shape (height, width, 3), got {got}")
    return _Picture(Path(name), _ArrayPixels(rgb))


def image_size(path: str | Path) -> WidthHeight:
    """Width and height in pixels, orientation applied, from the header alone; errors as `open_smear`."""
    with open_smear(path) as source:
        return source.size_wh


def read_image(path: str | Path) -> RGB:
    """The whole picture at its own size, (h, w, 3); errors as `open_smear`, and over 400 megapixels."""
    with open_smear(path) as source:
        return source.read()


def write_image(path: str | Path, rgb: RGB, quality: int = 90) -> None:
    """Write a picture in the format of its suffix; an interrupted write leaves the old file as it was.

    Parameters
    ----------
    path : str or Path
        Suffix one of `IMAGE_SUFFIXES`; the folder exists.
    rgb : uint8 (h, w, 3)
    quality : int, default 90
        Of JPEG, 1 to 100; colour is kept at full resolution (4:4:4).

    Raises
    ------
    ImageError
        If the suffix is unknown or the file cannot be written.
    """
    path = Path(path)
    _check_rgb(rgb)
    if path.suffix.lower() not in _WRITERS:
        raise ImageError(f"{path}: suffix '{path.suffix}' found, expected one of {', '.join(sorted(_WRITERS))}")
    kind, options = _WRITERS[path.suffix.lower()]
    if kind == "JPEG":
        if max(rgb.shape) > _JPEG_SIDE:  # else libjpeg prints to stderr
            raise ImageError(
                f"{path}: {rgb.shape[1]} x {rgb.shape[0]} pixels found, expected at most {_JPEG_SIDE} a side"
            )
        options = {**options, "quality": quality}
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            Image.fromarray(rgb).save(file, kind, **options)
        partial.replace(path)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        partial.unlink(missing_ok=True)


def resize(rgb: RGB, size_wh: WidthHeight) -> RGB:
    """A picture (h, w, 3) resampled to `size_wh` as `Source.read` does it: anti-aliased; always a new array."""
    _check_rgb(rgb)
    h, w = rgb.shape[:2]
    if min(size_wh) < 1:
        raise ValueError(f"{w} x {h} to {size_wh} found, expected at least one pixel a side")
    pitch = w / size_wh[0], h / size_wh[1]
    return resample(lambda x0, y0, x1, y1: rgb[y0:y1, x0:x1], (w, h), (0.0, 0.0), pitch, size_wh)


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Pictures that files, patterns (``slides/*.png``, ``**`` too) and folders (with all below) stand for.

    A file that is named is taken whatever its suffix; hidden files and folders below a folder are not.

    Returns
    -------
    list of Path
        Sorted, each file once.

    Raises
    ------
    ImageError
        If one of `paths` stands for nothing.
    """
    found: dict[str, Path] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        try:
            matches = _matches(Path(path))
        except (OSError, ValueError) as error:
            raise ImageError(f"{path}: cannot be searched ({one_line(error)})") from error
        if not matches:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ImageError(f"{path}: no picture found, expected a file, a pattern or a folder with {suffixes}")
        for match in matches:
            found.setdefault(os.path.abspath(match), match)  # noqa: PTH100 - resolve() would merge linked data
    return sorted(found.values())


def _matches(path: Path) -> list[Path]:
    if path.is_dir():
        return _below(path)
    if os.path.lexists(path):
        return [path]
    magic = [glob.has_magic(part) for part in path.parts]
    if True not in magic:
        return []
    root, pattern = path.parts[: magic.index(True)], path.parts[magic.index(True) :]
    hits = [hit for hit in Path(*root).glob("/".join(pattern)) if not _hidden(hit.parts[len(root) :], pattern)]
    files = [hit for hit in hits if hit.suffix.lower() in IMAGE_SUFFIXES and hit.is_file()]
    return files + [file for hit in hits if hit.is_dir() for file in _below(hit)]


def _hidden(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a pattern hit something hidden without asking for it by a dot of its own."""
    return any(part.startswith(".") for part in parts) and not any(part.startswith(".") for part in pattern)


def _below(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = (Path(parent, name) for name in names if not name.startswith("."))
        found += [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    return found


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ImageError(f"{path}: a folder found, expected a picture")
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise ImageError(f"{path}: no regular file found, expected a picture")
        with path.open("rb") as file:
            return file.read(64)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file found, expected a picture") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be opened ({one_line(error)})") from error


def _describe(head: bytes) -> str:
    if not head:
        return "an empty file"
    for magic, name in _OTHER_HEADS.items():
        if head.startswith(magic):
            return name
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "XML, SVG or HTML text"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return "text"
    return f"content of unknown kind (first bytes {head[:4].hex(' ')})"


def _check_rgb(rgb: RGB) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise ValueError(f"{rgb.dtype} {rgb.shape} found, expected uint8 (h, w, 3)")
