"""Reading and writing of images, RGB uint8 (h, w, 3), with the EXIF orientation applied.

An image is opened as a `Source`: the header is checked at once, pixels are decoded on the first read. TIFF is read
strip by strip or tile by tile (`blastdet.imaging.tiff_reader`), other formats as a whole.

Resampling uses Pillow's triangle filter (anti-aliased when shrinking, bilinear when enlarging) on the grid of the whole
image. A tile of a scaled image therefore equals the scaled tile bit by bit, whatever its position.
"""

from __future__ import annotations

import glob
import io
import math
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from PIL import Image

from blastdet.core.atomic_io import files_under
from blastdet.core.errors import ImageError, name_key, one_line
from blastdet.core.types import RGB, Scale, WidthHeight
from blastdet.imaging.pillow_reader import MAX_PIXELS, PillowPixels, Window, plugin_of
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
WRITTEN_SUFFIXES: frozenset[str] = frozenset(_WRITERS)
"""Lower-case suffixes that `write_image` supports."""

IMAGE_SUFFIXES: frozenset[str] = WRITTEN_SUFFIXES | {".jfif", ".jpe", ".webp", ".heic", ".heif"}
"""Lower-case suffixes that `find_images` looks for in folders."""

_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHER_HEADS = {b"GIF8": "a GIF", b"%PDF": "a PDF", b"RIFF": "a RIFF file", b"PK": "a ZIP archive"}
_JPEG_SIDE = 65500
_SPARE = 1.5  # an image is decoded at least this much finer than requested


class Source(Protocol):
    """An image of any size that is read box by box; a context manager.

    Attributes
    ----------
    path : Path
    size_wh : (int, int)
        In pixels, with the orientation applied.
    mpp : (float, float) or None
        Micrometres per pixel, if the file states a plausible scale.
    notes : tuple of str
        Remarks for the user on how the file is read, such as "3 pages found, only the first is read".
    """

    path: Path
    size_wh: WidthHeight
    mpp: Scale | None
    notes: tuple[str, ...]

    def read(self, box_xyxy: Box | None = None, scale_xy: tuple[float, float] = (1.0, 1.0)) -> RGB:
        """Pixels of a box (default: the whole image) at a scale; see `open_smear`."""
        ...

    def close(self) -> None:
        """Close the file and free the pixels."""
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


class _ImageSource:
    """A `Source` on top of a reader that returns windows of whole pixels."""

    def __init__(self, path: Path, pixels: _Pixels) -> None:
        self.path, self._pixels = path, pixels
        self.size_wh, self.mpp, self.notes = pixels.size_wh, pixels.mpp, pixels.notes

    def read(self, box_xyxy: Box | None = None, scale_xy: tuple[float, float] = (1.0, 1.0)) -> RGB:
        x1, y1, x2, y2 = (float(v) for v in box_xyxy or (0, 0, *self.size_wh))
        sx, sy = (float(v) for v in scale_xy)
        if not all(map(math.isfinite, (x1, y1, x2, y2, sx, sy))) or x2 <= x1 or y2 <= y1 or min(sx, sy) < 0.001:
            raise ValueError(
                f"expected a box with x1 < x2, y1 < y2 and a scale of 0.001 or more, got {box_xyxy} at {scale_xy}"
            )
        size_wh = round((x2 - x1) * sx), round((y2 - y1) * sy)
        if size_wh[0] * size_wh[1] > MAX_PIXELS:
            raise ImageError(
                f"{self.path}: expected at most {MAX_PIXELS // 10**6} megapixels at once, "
                f"got {size_wh[0]} x {size_wh[1]} pixels. Read it in boxes or at a smaller scale."
            )
        factor, window = self._pixels.reduced(min(1 / sx, 1 / sy) / _SPARE)
        limit_wh = -(-self.size_wh[0] // factor), -(-self.size_wh[1] // factor)
        pitch_xy = (1 / sx / factor, 1 / sy / factor)
        return resample(window, limit_wh, (x1 / factor, y1 / factor), pitch_xy, size_wh)

    def close(self) -> None:
        self._pixels.close()

    def __enter__(self) -> _ImageSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DerivedSource:
    """What every `Source` made of another one shares: it states what that one states, and closes it.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.path, self.size_wh, self.mpp, self.notes = source.path, source.size_wh, source.mpp, source.notes

    def close(self) -> None:
        """See `Source.close`."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_smear(path: str | Path) -> Source:
    """Open an image. The header is checked now; pixels are decoded when they are read.

    ``read(box_xyxy, scale_xy)`` returns (round((y2 - y1) * sy), round((x2 - x1) * sx), 3) pixels; pixel i covers the
    source from x1 + i / sx to x1 + (i + 1) / sx. A box may be fractional and may extend beyond the image: there the
    nearest pixel inside is repeated. Reading is safe from several threads.

    Parameters
    ----------
    path : str or Path
        JPEG, PNG, BMP, TIFF, WebP or (with the package pillow-heif) HEIC, recognized by content, not by name.

    Returns
    -------
    Source

    Raises
    ------
    ImageError
        If the file does not exist, is damaged, has another format, or has over 400 megapixels in one piece.
    """
    path = Path(path)
    head = _head(path)
    if head.startswith(_TIFF_HEADS):
        return _ImageSource(path, TiffPixels(path))
    plugin = plugin_of(head, path)
    if plugin is not None:
        return _ImageSource(path, PillowPixels(path, plugin))
    raise ImageError(f"{path}: expected JPEG, PNG, TIFF, BMP, WebP or HEIC, got {_describe(head)}")


def is_tiff(path: str | Path) -> bool:
    """Whether a file is a TIFF by its first bytes, which is read in pieces, at full size only."""
    return _head(Path(path)).startswith(_TIFF_HEADS)


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
    return _ImageSource(Path(name), _ArrayPixels(rgb))


def image_size(path: str | Path) -> WidthHeight:
    """Width and height in pixels with the orientation applied, from the header alone; errors as for `open_smear`."""
    with open_smear(path) as source:
        return source.size_wh


def read_image(path: str | Path) -> RGB:
    """The whole image at full size, uint8 (h, w, 3); errors as for `open_smear`, and above 400 megapixels."""
    with open_smear(path) as source:
        return source.read()


def write_image(path: str | Path, rgb: RGB, quality: int = 90) -> None:
    """Write an image in the format of its suffix. An interrupted write leaves the old file unchanged.

    Parameters
    ----------
    path : str or Path
        With a suffix of `WRITTEN_SUFFIXES`, in an existing folder.
    rgb : uint8 (h, w, 3)
    quality : int, default 90
        JPEG quality, 1 to 100; colour keeps its full resolution (4:4:4).

    Raises
    ------
    ImageError
        If the suffix is unknown or the file cannot be written.
    """
    path = Path(path)
    _check_rgb(rgb)
    if path.suffix.lower() not in _WRITERS:
        raise ImageError(f"{path}: expected one of {', '.join(sorted(_WRITERS))}, got suffix '{path.suffix}'")
    content = encode_image(rgb, path.suffix, quality, path)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        # Through memory: on a full disk, Pillow takes a JPEG that was written in part for a whole one.
        with partial.open("xb") as file:
            file.write(content)
        partial.replace(path)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        partial.unlink(missing_ok=True)


def encode_image(rgb: RGB, suffix: str = ".jpg", quality: int = 90, path: str | Path = "image") -> bytes:
    """The bytes of an image file in the format of a suffix; parameters and errors as for `write_image`."""
    kind, options = _WRITERS[suffix.lower()]
    if kind == "JPEG":
        if max(rgb.shape) > _JPEG_SIDE:  # else libjpeg prints to stderr
            raise ImageError(
                f"{path}: expected at most {_JPEG_SIDE} pixels a side for JPEG, got {rgb.shape[1]} x {rgb.shape[0]}"
            )
        options = {**options, "quality": quality}
    content = io.BytesIO()
    try:
        Image.fromarray(rgb).save(content, kind, **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be written ({one_line(error)})") from error
    return content.getvalue()


def resize(rgb: RGB, size_wh: WidthHeight) -> RGB:
    """An image (h, w, 3) resampled to `size_wh` with the filter of `Source.read`; always a new array."""
    _check_rgb(rgb)
    h, w = rgb.shape[:2]
    if min(size_wh) < 1:
        raise ValueError(f"expected a size of at least one pixel a side, got {size_wh} for an image of {w} x {h}")
    pitch = w / size_wh[0], h / size_wh[1]
    return resample(lambda x0, y0, x1, y1: rgb[y0:y1, x0:x1], (w, h), (0.0, 0.0), pitch, size_wh)


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Images given by files, patterns (``slides/*.png``, also ``**``) and folders (recursively, linked folders too).

    A file given by name is accepted with any suffix. Hidden files and folders below a folder are skipped.

    Returns
    -------
    list of Path
        Sorted, each file once.

    Raises
    ------
    ImageError
        If there is no image for one of `paths`.
    """
    found: dict[str, Path] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        try:
            matches = _matches(Path(path))
        except (OSError, ValueError) as error:
            raise ImageError(f"{path}: cannot be searched ({one_line(error)})") from error
        if not matches:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ImageError(f"{path}: no image found. Expected a file, a pattern or a folder with {suffixes}.")
        for match in matches:
            found.setdefault(os.path.abspath(match), match)  # noqa: PTH100 - resolve() would merge linked data
    return sorted(found.values(), key=lambda path: [name_key(part) for part in path.parts])


def is_image_name(path: Path) -> bool:
    """Whether a file is an image by its suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES


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
    """Whether a match is hidden although the pattern has no part that starts with a dot."""
    return any(part.startswith(".") for part in parts) and not any(part.startswith(".") for part in pattern)


def _below(folder: Path) -> list[Path]:
    return [file for file in files_under(folder, hidden=False) if file.suffix.lower() in IMAGE_SUFFIXES]


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ImageError(f"{path}: expected an image, got a folder")
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise ImageError(f"{path}: expected an image, got something that is not a regular file")
        with path.open("rb") as file:
            return file.read(64)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
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
        raise ValueError(f"expected uint8 (h, w, 3), got {rgb.dtype} {rgb.shape}")
