"""Images that show the same part of the same blood film: shifted (registration), mirrored or copied (hash).

Perceptual hashes miss two photographs that share a third of their field; registration finds them. Every pair is
compared once at low resolution, by cross-correlation through the FFT. The best partners of each image are then
registered at twice that resolution. All images of a dataset are assumed to have the same magnification.

The registration is our own: libraries register one pair at a time, while this compares all pairs of thousands of images
from spectra that are computed once, and scores each pair in tiles so that burnt-in marks do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from blastdet.core.parallel import cpu_count
from blastdet.imaging.io import image_size, read_image
from blastdet.imaging.optical_density import to_density

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, the number of items done, and the number of all items."""

Grey = NDArray[np.uint8]
Floats = NDArray[np.float32]

_COARSE_SIDE = 160  # px of the longer side at which all pairs are compared; cell outlines are still visible
_COARSE_BAND = (0.8, 3.0)  # Gaussian sigmas of the band-pass, px: passes outlines, not nuclei
_FINE_BAND = (1.0, 8.0)
_CLIP = 2.5
_REFINE = 4  # px at the fine scale by which the coarse shift may be wrong
_PARTNERS = 8  # best partners of each image that are registered; groups are transitive
_BLOCK = 96  # images whose spectra are in memory at once (times two)
_TILES = 4  # the shared part is scored in 4 x 4 tiles, so that a burnt-in mark or one cell cannot decide
_SHOWING = 0.7  # part of the smallest shared fraction that must show something: blank background matches anything
_BLANK = 0.05  # a tile is blank if the product of the two standard deviations (1 on average) is lower
_HASH_BITS = 10  # of 64 that may differ between candidates for near-duplicates
_HASHED_SIDE = 192
_MIN_NCC = 0.77  # in BCCD, true pairs reach at least 0.79, the best false pair 0.60
_TURNS = ("unchanged", "turned 90°", "turned 180°", "turned 270°")
_MIRRORED = ("mirrored", "mirrored, turned 90°", "mirrored, turned 180°", "mirrored, turned 270°")


@dataclass(frozen=True)
class Overlap:
    """Two images that share a part of their field.

    Parameters
    ----------
    a, b : Path
    dx, dy : float
        The point ``(x, y)`` of `a` is at ``(x - dx, y - dy)`` in `b`, in px of the full images.
    ncc : float
        Normalised cross-correlation that most of the 4 x 4 tiles of the shared part reach.
    overlap_fraction : float
        Shared part of the smaller image.
    """

    a: Path
    b: Path
    dx: float
    dy: float
    ncc: float
    overlap_fraction: float


@dataclass(frozen=True)
class NearDuplicate:
    """Two images with the same content, up to mirroring, quarter turns, brightness, size and compression."""

    a: Path
    b: Path
    change: str
    ncc: float


def find_overlaps(
    paths: Sequence[Path],
    *,
    min_fraction: float = 0.1,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[Overlap]:
    """Every two images that share at least `min_fraction` of their field, up to a shift.

    Raises `ImageError` if an image cannot be read.

    Parameters
    ----------
    min_fraction : float
        Shared part of the smaller image. Below 0.1, a real overlap cannot be distinguished from chance agreement of a
        few cells.
    workers : int, optional
        Threads; all processors by default. The result does not depend on them.

    Returns
    -------
    list of Overlap
        Best correlation first; `a` comes before `b` in `paths`.

    Notes
    -----
    Time is proportional to the square of the number of images: about 0.3 ms of one core for each pair (measured 0.2 to
    0.35). Memory: a grey image of 320 px for each image, 192 spectra, and 8 bytes for each pair (3,000 images: 0.3 GB).
    """
    if len(paths) < 2:
        return []
    factor = _coarse_factor(paths)
    with ThreadPoolExecutor(workers or cpu_count()) as pool:
        images = list(
            _with_progress(progress, "reading", pool.map(lambda p: _reduced(p, 2 * factor), paths), len(paths))
        )
        candidates = _candidates(images, min_fraction, pool, progress)
        registered = pool.map(lambda c: _register(images[c[0]], images[c[1]], c[2:]), candidates)
        results = list(_with_progress(progress, "registering", registered, len(candidates)))
    found = []
    for (i, j, _, _), pair in zip(candidates, results, strict=True):
        if pair.ncc >= _MIN_NCC and pair.fraction >= min_fraction and pair.showing >= _SHOWING * min_fraction:
            dx, dy = (step / (2 * factor) for step in pair.shift)
            found.append(Overlap(paths[i], paths[j], dx, dy, pair.ncc, pair.fraction))
    return sorted(found, key=lambda o: (-o.ncc, str(o.a), str(o.b)))


def find_near_duplicates(paths: Sequence[Path], *, progress: Progress | None = None) -> list[NearDuplicate]:
    """Images with the same content, also if mirrored, turned, brightened, resized or recompressed.

    A 64-bit difference hash (64 brightness comparisons) of each image is compared with those of the eight mirrored and
    turned forms of every other image. Similar images are then compared pixel by pixel. Exact copies are included.

    Returns
    -------
    list of NearDuplicate
        In the order of `paths`; `change` turns `a` into `b`.
    """
    read = (_square(path) for path in paths)
    images = list(_with_progress(progress, "hashing", read, len(paths)))
    forms = np.array([[_dhash(form) for form in _eight_forms(p)] for p in images], np.uint64).reshape(-1, 8)
    found = []
    for j in range(1, len(paths)):
        distance = np.bitwise_count(forms[:j] ^ forms[j, 0])  # (j, 8)
        for i in np.flatnonzero(distance.min(axis=1) <= _HASH_BITS).tolist():
            near = np.flatnonzero(distance[i] <= _HASH_BITS)
            scores = [_ncc_here(_eight_forms(images[i])[k], images[j]) for k in near]
            best = int(np.argmax(scores))
            if scores[best] >= _MIN_NCC:
                change = (*_TURNS, *_MIRRORED)[near[best]]
                found.append(NearDuplicate(paths[i], paths[j], change, scores[best]))
    return found


def _with_progress(progress: Progress | None, what: str, items: Iterable[Any], total: int) -> Iterator[Any]:
    for done, item in enumerate(items, 1):
        if progress is not None:
            progress(what, done, total)
        yield item


def _coarse_factor(paths: Sequence[Path]) -> float:
    """One factor for all images: at one magnification, images of different sizes show areas of different sizes."""
    longest = [max(image_size(path)) for path in paths]
    return min(_COARSE_SIDE / float(np.median(longest)), 0.5)


def _green(path: Path) -> Grey:
    """The channel in which red cells, nuclei and platelets are all dark."""
    return np.ascontiguousarray(read_image(path)[:, :, 1])


def _reduced(path: Path, factor: float) -> Grey:
    green = _green(path)
    size = tuple(max(16, round(side * factor)) for side in green.shape[::-1])
    return np.asarray(cv2.resize(green, size, interpolation=cv2.INTER_AREA), np.uint8)


def _band(grey: Grey, sigmas: tuple[float, float]) -> Floats:
    """Band-passed optical density with standard deviation 1: removes brightness, stain strength and shading.

    It is clipped, because one dark nucleus would otherwise outweigh a hundred red cells.
    """
    density = to_density(grey.astype(np.float32), 255.0, offset=1)
    band = cv2.GaussianBlur(density, (0, 0), sigmas[0]) - cv2.GaussianBlur(density, (0, 0), sigmas[1])
    band -= band.mean()
    return np.asarray(np.clip(band / max(float(band.std()), 1e-6), -_CLIP, _CLIP), np.float32)


# --- all pairs, at low resolution ------------------------------------------------------------------------------------


def _candidates(
    images: Sequence[Grey], min_fraction: float, pool: ThreadPoolExecutor, progress: Progress | None
) -> list[tuple[int, int, int, int]]:
    """The best partners of each image as (i, j, dx, dy), with shifts in px of `images`."""
    n = len(images)
    halves = [_half(image) for image in images]
    shape = tuple(cv2.getOptimalDFTSize(2 * max(side)) for side in zip(*(h.shape for h in halves), strict=True))
    score = np.zeros((n, n), np.float32)
    shift = np.zeros((n, n, 2), np.int16)
    blocks = [range(k, min(k + _BLOCK, n)) for k in range(0, n, _BLOCK)]
    pairs = [(a, b) for k, a in enumerate(blocks) for b in blocks[k:]]

    def spectra(block: range) -> dict[int, Floats]:
        return dict(zip(block, pool.map(lambda i: _spectrum(halves[i], shape), block), strict=True))

    held: tuple[range, dict[int, Floats]] = (range(0), {})
    for a, b in _with_progress(progress, "comparing", pairs, len(pairs)):
        if held[0] != a:
            held = (a, spectra(a))
        first, second = held[1], held[1] if a == b else spectra(b)

        def row(i: int, first: dict[int, Floats] = first, second: dict[int, Floats] = second) -> None:
            for j in second:
                if j > i:
                    weight = _weight(halves[i].shape, halves[j].shape, shape, min_fraction)
                    score[i, j], shift[i, j] = _peak(first[i], second[j], weight)

        list(pool.map(row, a))
    score += score.T
    best = np.argsort(-score, axis=1, kind="stable")[:, :_PARTNERS]
    chosen = sorted({(min(i, j), max(i, j)) for i in range(n) for j in best[i].tolist() if i != j})
    return [(i, j, 2 * int(shift[i, j, 0]), 2 * int(shift[i, j, 1])) for i, j in chosen]


def _half(image: Grey) -> Grey:
    size = ((image.shape[1] + 1) // 2, (image.shape[0] + 1) // 2)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _spectrum(image: Grey, shape: tuple[int, ...]) -> Floats:
    padded = np.zeros(shape, np.float32)  # padding for every shift, so that nothing wraps around
    padded[: image.shape[0], : image.shape[1]] = _band(image, _COARSE_BAND)
    return np.asarray(cv2.dft(padded), np.float32)


def _peak(a: Floats, b: Floats, weight: Floats) -> tuple[float, tuple[int, int]]:
    """Highest weighted correlation of two spectra, and its shift (dx, dy)."""
    surface = cv2.idft(cv2.mulSpectrums(a, b, 0, conjB=True), flags=cv2.DFT_SCALE)
    _, top, _, (x, y) = cv2.minMaxLoc(cv2.multiply(surface, weight))
    height, width = weight.shape
    return top, (x if x <= width // 2 else x - width, y if y <= height // 2 else y - height)


@lru_cache(maxsize=64)
def _weight(a_hw: tuple[int, int], b_hw: tuple[int, int], shape: tuple[int, int], min_fraction: float) -> Floats:
    """One over the root of the shared area, which makes chance peaks equal for all shifts; 0 if it is too small."""
    shared = np.ones((1, 1))
    for axis in (0, 1):
        d = (np.fft.fftfreq(shape[axis]) * shape[axis]).round()
        length = np.clip(np.minimum(a_hw[axis] - d, b_hw[axis]) - np.maximum(-d, 0), 0, None)
        shared = shared * (length[:, None] if axis == 0 else length[None, :])
    enough = shared >= min_fraction * min(a_hw[0] * a_hw[1], b_hw[0] * b_hw[1])
    return np.where(enough, 1 / np.sqrt(np.maximum(shared, 1)), 0).astype(np.float32)


# --- one pair, at higher resolution -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Registered:
    """Refined shift of two images, and their agreement on the shared part."""

    shift: tuple[int, int]
    ncc: float = 0.0
    fraction: float = 0.0  # shared part of the smaller image
    showing: float = 0.0  # part of the smaller image that is shared and not blank


def _register(a: Grey, b: Grey, shift: Sequence[int]) -> _Registered:
    dx, dy = shift
    x1, x2 = max(0, dx), min(a.shape[1], b.shape[1] + dx)
    y1, y2 = max(0, dy), min(a.shape[0], b.shape[0] + dy)
    if min(x2 - x1, y2 - y1) < 4 * _REFINE:
        return _Registered((dx, dy))
    window = _band(a, _FINE_BAND)[y1:y2, x1:x2]
    inner = _band(b, _FINE_BAND)[y1 - dy : y2 - dy, x1 - dx : x2 - dx][_REFINE:-_REFINE, _REFINE:-_REFINE]
    _, _, _, (ex, ey) = cv2.minMaxLoc(cv2.matchTemplate(window, inner, cv2.TM_CCOEFF_NORMED))
    ncc, counting = _tiled_ncc(window[ey : ey + inner.shape[0], ex : ex + inner.shape[1]], inner)
    fraction = (x2 - x1) * (y2 - y1) / min(a.size, b.size)
    return _Registered((dx + ex - _REFINE, dy + ey - _REFINE), ncc, fraction, fraction * counting)


def _tiled_ncc(a: Floats, b: Floats) -> tuple[float, float]:
    """Correlation that most tiles reach (mean of median and lower quartile), and the fraction of tiles that count.

    Blank tiles do not count.
    """
    scores, spreads = [], []
    for rows in np.array_split(np.arange(a.shape[0]), _TILES):
        for columns in np.array_split(np.arange(a.shape[1]), _TILES):
            tile = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            spread = float(a[tile].std() * b[tile].std())
            scores.append(float(((a[tile] - a[tile].mean()) * (b[tile] - b[tile].mean())).mean()) / max(spread, 1e-9))
            spreads.append(spread)
    counts = np.array(spreads) > _BLANK
    if not counts.any():
        return 0.0, 0.0
    return float(np.percentile(np.array(scores)[counts], (25, 50)).mean()), float(counts.mean())


# --- the same content ------------------------------------------------------------------------------------------------


def _square(path: Path) -> Grey:
    return np.asarray(cv2.resize(_green(path), (_HASHED_SIDE, _HASHED_SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def _eight_forms(image: NDArray[Any]) -> list[NDArray[Any]]:
    mirrored = image[:, ::-1]
    return [np.ascontiguousarray(np.rot90(base, -k)) for base in (image, mirrored) for k in range(4)]


def _dhash(image: NDArray[Any]) -> int:
    small = cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = np.packbits(small[:, 1:] > small[:, :-1])
    return int(bits.view(np.uint64)[0])


def _ncc_here(a: Grey, b: Grey) -> float:
    """Correlation of two images of equal size, up to a shift of a few pixels."""
    found = _register(a, b, (0, 0))
    return found.ncc if found.showing >= 0.25 else 0.0


def connected(pairs: Iterable[tuple[Path, Path]]) -> dict[Path, str]:
    """Groups of images that are linked by pairs, directly or through other images.

    Returns
    -------
    dict
        Each image in a pair -> the name of its group, which is the path of its first image in alphabetical order.
    """
    listed = list(pairs)
    images = sorted({image for pair in listed for image in pair})
    number = {image: i for i, image in enumerate(images)}
    rows, columns = ([number[pair[side]] for pair in listed] for side in (0, 1))
    links = coo_array((np.ones(len(listed)), (rows, columns)), shape=(len(images), len(images)))
    _, group = connected_components(links, directed=False)
    first: dict[int, Path] = {}
    return {image: str(first.setdefault(int(k), image)) for image, k in zip(images, group, strict=True)}
