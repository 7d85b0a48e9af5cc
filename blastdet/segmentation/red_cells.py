"""Detection and measurement of red cells by fitting ellipses.

The image is converted to one plane of optical density, 0 in the empty background and 1 in a red cell, which removes the
influence of the stain. A ring filter (mean just inside a circle minus mean just outside) finds candidates at all
scales, also where cells touch or overlap. The edge is searched for along rays from each centre. An ellipse fitted to
the edge gives width and height.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.types import RGB
from blastdet.imaging.optical_density import absorbance
from blastdet.segmentation.nuclei import nucleus_mask

Floats = NDArray[np.float64]
Image32 = NDArray[np.float32]

RADIUS = 8.0
"""Radius of the ring filter in pixels. The image is scaled instead of the filter."""

_WINDOW = (
    640  # pixels: size of the central part that is searched at each scale; it holds hundreds of the smallest cells
)
_CANDIDATES = 500  # per scale
_LEVELS_PER_OCTAVE = 4
_SMALLEST = 9.0  # smallest diameter in pixels: smaller cells have no measurable edge
_RAYS = 32
_STEPS = np.linspace(0.5, 1.55, 36, dtype=np.float32)  # sampling positions along a ray, in radii
_BEYOND = 4  # pixels beyond the border, at the scale of the filter, in which centres of cut cells are searched for

# Tuned on BCCD train and on central parts of PBC images. Densities are relative to a typical red cell.
_LEVEL = 35  # percentile of the stained pixels taken as a red cell: overlaps and cytoplasm are darker
_BIMODAL = 0.655  # least fraction of variance between background and cells; noise has less
_RESPONSE = 0.15  # least response of the ring filter
_FAINTEST = 0.15  # least decrease of density at an edge
_FILL = 0.25  # least density just inside an edge
_AROUND = 0.6  # least fraction of the visible rim with an edge on one ellipse
_LEAST_SEEN = 0.35  # least fraction of the rim inside the image
_RIDGE = 0.1  # regularization of the ellipse towards the circle of the filter


@dataclass(frozen=True, eq=False)
class EllipseFits:
    """Ellipses fitted to n cells.

    Parameters
    ----------
    centre : float64 (n, 2)
        In pixels, x and y.
    half : float64 (n, 2)
        Half width and half height in pixels.
    quality : float64 (n,)
        From 0 to 1.
    visible : float64 (n,)
        Fraction of the rim inside the image.
    """

    centre: Floats
    half: Floats
    quality: Floats
    visible: Floats

    def __getitem__(self, index: NDArray[np.generic]) -> EllipseFits:
        return EllipseFits(self.centre[index], self.half[index], self.quality[index], self.visible[index])

    def __len__(self) -> int:
        return len(self.quality)

    @property
    def diameter(self) -> Floats:
        """Geometric mean of width and height in pixels, (n,)."""
        return np.asarray(2 * np.sqrt(self.half.prod(axis=1)))


def no_ellipses() -> EllipseFits:
    """`EllipseFits` of zero cells."""
    return EllipseFits(np.empty((0, 2)), np.empty((0, 2)), np.empty(0), np.empty(0))


def density_plane(rgb: RGB) -> tuple[Image32 | None, NDArray[np.bool_]]:
    """Convert an image to relative optical density.

    Returns
    -------
    plane : float32 (h, w) or None
        From 0 in the background to 1 in a red cell, clipped to -0.2 ... 1.1; ``None`` if nothing is stained.
    nuclei : bool (h, w)
        Pixels of nuclei.
    """
    density = absorbance(cv2.GaussianBlur(rgb, (0, 0), 0.7)).mean(axis=2)
    nuclei = nucleus_mask(rgb)
    excluded = cv2.dilate(nuclei.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    rest = density[~excluded]
    if rest.size < 100:  # too small for a red cell
        return None, nuclei
    cut, explained = _two_classes(rest)
    dense = rest[rest > cut]
    if not dense.size or explained < _BIMODAL:
        return None, nuclei
    level = float(np.percentile(dense, _LEVEL))
    background = float(np.median(rest[rest <= cut]))
    if level - background < 0.04:
        return None, nuclei
    return np.asarray(np.clip((density - background) / (level - background), -0.2, 1.1), np.float32), nuclei


def _two_classes(values: NDArray[np.float32]) -> tuple[float, float]:
    """Otsu's threshold, and the fraction of variance it explains: 0.64 for one normal distribution, more for two."""
    low, high = np.percentile(values, [1, 99])
    scaled = np.clip((values - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    cut, _ = cv2.threshold(scaled.reshape(1, -1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    above = scaled > cut
    fraction = float(above.mean())
    if not 0 < fraction < 1:
        return float(low), 0.0
    between = fraction * (1 - fraction) * float(scaled[above].mean() - scaled[~above].mean()) ** 2
    return float(low + cut / 255 * (high - low)), between / max(float(scaled.var()), 1e-9)


def find_ellipses(plane: Image32, nuclei: NDArray[np.bool_]) -> EllipseFits:
    """Find round, dense objects of all sizes that have no nucleus, and measure them.

    Parameters
    ----------
    plane : float32 (h, w)
    nuclei : bool (h, w)
        See `density_plane`.

    Returns
    -------
    EllipseFits
        One per object, in pixels of `plane`.

    Examples
    --------
    >>> from blastdet.synth.render import SynthConfig, render
    >>> image, _ = render(SynthConfig(size_wh=(640, 480), mpp=0.1), seed=1)
    >>> plane, nuclei = density_plane(image)
    >>> fits = find_ellipses(plane, nuclei)
    >>> bool(60 < np.median(fits.diameter) < 85)
    True
    """
    largest = 0.9 * min(plane.shape)
    n_levels = int(np.ceil(_LEVELS_PER_OCTAVE * np.log2(max(largest / _SMALLEST, 1)))) + 1
    diameters = _SMALLEST * 2 ** (np.arange(n_levels) / _LEVELS_PER_OCTAVE)
    parts = [_window(plane, nuclei, 2 * RADIUS / diameter) for diameter in diameters]
    every = EllipseFits(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("centre", "half", "quality", "visible"))
    )
    return _distinct(every)


def _window(plane: Image32, nuclei: NDArray[np.bool_], factor: float) -> EllipseFits:
    """Fits at one scale, in the central part of the plane."""
    side = int(np.ceil(_WINDOW / factor))
    top, left = (max((length - side) // 2, 0) for length in plane.shape)
    view = slice(top, top + side), slice(left, left + side)
    fits = _level(plane[view], nuclei[view], factor)
    return EllipseFits(fits.centre + np.array([left, top]), fits.half, fits.quality, fits.visible)


def _level(plane: Image32, nuclei: NDArray[np.bool_], factor: float) -> EllipseFits:
    size = max(round(plane.shape[1] * factor), 1), max(round(plane.shape[0] * factor), 1)
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(plane, size, interpolation=method)
    response = _response(scaled)
    peak = (response >= cv2.dilate(response, np.ones((7, 7), np.uint8))) & (response > _RESPONSE)
    ys, xs = np.nonzero(peak)
    if len(xs) > _CANDIDATES:
        best = np.argsort(-response[ys, xs], kind="stable")[:_CANDIDATES]
        ys, xs = ys[best], xs[best]
    xs, ys = xs - _BEYOND, ys - _BEYOND
    nuclear = cv2.blur(cv2.resize(nuclei.astype(np.float32), size, interpolation=cv2.INTER_AREA), (11, 11))
    clean = nuclear[np.clip(ys, 0, size[1] - 1), np.clip(xs, 0, size[0] - 1)] < 0.15
    ratio = np.array([plane.shape[1] / size[0], plane.shape[0] / size[1]])
    fits, kept = fit_ellipses(scaled, np.stack([xs[clean], ys[clean]], axis=1).astype(np.float64))
    fits = fits[kept]
    return EllipseFits((fits.centre + 0.5) * ratio, fits.half * ratio, fits.quality, fits.visible)


def _rings() -> tuple[Image32, Image32]:
    """Kernels of the rings just inside (0.72-0.98) and just outside (1.02-1.28) the radius, with soft edges."""
    far = int(np.ceil(1.3 * RADIUS))
    y, x = np.mgrid[-far : far + 1, -far : far + 1].astype(np.float32)
    rho = np.hypot(x, y)
    soft = [
        np.clip(rho - low * RADIUS + 0.5, 0, 1) * np.clip(high * RADIUS - rho + 0.5, 0, 1)
        for low, high in ((0.72, 0.98), (1.02, 1.28))
    ]
    return np.asarray(soft[0] / soft[0].sum(), np.float32), np.asarray(soft[1] / soft[1].sum(), np.float32)


def _response(scaled: Image32) -> Image32:
    """Mean inside minus mean outside a circle around every pixel, up to `_BEYOND` pixels beyond the border.

    Only pixels of the image count, so that a cell cut by the border gives the same response as a complete one.
    """
    padded = cv2.copyMakeBorder(scaled, _BEYOND, _BEYOND, _BEYOND, _BEYOND, cv2.BORDER_CONSTANT, value=0)
    inside = cv2.copyMakeBorder(np.ones_like(scaled), _BEYOND, _BEYOND, _BEYOND, _BEYOND, cv2.BORDER_CONSTANT, value=0)
    means = []
    for ring in _rings():
        total = cv2.filter2D(padded, cv2.CV_32F, ring, borderType=cv2.BORDER_CONSTANT)
        part = cv2.filter2D(inside, cv2.CV_32F, ring, borderType=cv2.BORDER_CONSTANT)
        means.append(np.where(part > _LEAST_SEEN, total / np.maximum(part, 0.05), 0))
    return np.asarray(means[0] - means[1], np.float32)


def fit_ellipses(scaled: Image32, centres: Floats) -> tuple[EllipseFits, NDArray[np.bool_]]:
    """Fit an ellipse to the edge around each centre.

    Parameters
    ----------
    scaled : float32 (h, w)
        Relative density, see `density_plane`, at a scale where red cells have a radius of about `RADIUS`.
    centres : float64 (n, 2)
        Approximate centres in pixels of `scaled`.

    Returns
    -------
    EllipseFits
        One per centre, in the same order.
    bool (n,)
        Whether each fit is a red cell.
    """
    if not len(centres):
        return no_ellipses(), np.zeros(0, bool)
    angle = np.arange(_RAYS) * 2 * np.pi / _RAYS
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    radius, strength, fill = _edges(scaled, centres, unit)
    inside = _inside(scaled, centres[:, None] + RADIUS * unit)
    typical = _typical(strength, inside)
    seen = inside & (strength > np.maximum(_FAINTEST, 0.5 * typical)) & (fill > _FILL)
    centre, half, inlier = _ellipses(radius[..., None] * unit, seen)
    visible = inside.sum(axis=1)
    agreeing = inlier.sum(axis=1) / np.maximum(visible, 1)
    kept = (agreeing >= _AROUND + 0.15 * (1 - visible / _RAYS)) & (visible >= _LEAST_SEEN * _RAYS)
    kept &= (half > 0.55 * RADIUS).all(axis=1) & (half < 1.5 * RADIUS).all(axis=1)
    kept &= _solid(scaled, centres + centre, half, unit) > 0.85
    contrast = np.clip((strength * inlier).sum(axis=1) / np.maximum(inlier.sum(axis=1), 1), 0, 1)
    quality = agreeing * contrast * np.sqrt(visible / _RAYS)
    return EllipseFits(centres + centre, half, quality, visible / _RAYS), kept


def _typical(strength: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Median strength (n, 1) of the edges inside the image; 0 if no ray is inside."""
    some = inside.any(axis=1, keepdims=True)
    values = np.where(inside | ~some, np.where(some, strength, 0), np.nan)
    return np.asarray(np.nanmedian(values, axis=1, keepdims=True))


def _inside(scaled: Image32, points: Floats) -> NDArray[np.bool_]:
    limit = np.array([scaled.shape[1] - 1, scaled.shape[0] - 1])
    return np.asarray(((points >= 0) & (points <= limit)).all(axis=-1))


def _edges(scaled: Image32, centres: Floats, unit: Floats) -> tuple[Floats, Floats, Floats]:
    """Radius (n, rays) of the strongest decrease of density along each ray, its strength, and the density before it."""
    along = RADIUS * _STEPS
    x = (centres[:, 0, None, None] + unit[:, 0, None] * along).astype(np.float32)
    y = (centres[:, 1, None, None] + unit[:, 1, None] * along).astype(np.float32)
    n = len(centres)
    flat = x.reshape(n * _RAYS, -1), y.reshape(n * _RAYS, -1)
    values = np.concatenate(
        [
            cv2.remap(
                scaled,
                flat[0][i : i + 30000],
                flat[1][i : i + 30000],
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for i in range(0, n * _RAYS, 30000)
        ]
    ).reshape(n, _RAYS, -1)
    wide = 6  # samples on each side, about 0.18 radii
    total = np.cumsum(np.pad(values, ((0, 0), (0, 0), (1, 0))), axis=2)
    mean = (total[..., wide:] - total[..., :-wide]) / wide
    fall = mean[..., :-wide] - mean[..., wide:]
    outside = (x < 0) | (x > scaled.shape[1] - 1) | (y < 0) | (y > scaled.shape[0] - 1)
    middle = _STEPS[wide : wide + fall.shape[2]] * RADIUS
    fall = np.where(outside[..., wide : wide + fall.shape[2]], -1, fall)
    # prefer edges near the ring of the filter
    best = (fall - 0.3 * np.abs(middle / RADIUS - 1)).argmax(axis=2)
    strength = np.take_along_axis(fall, best[..., None], 2)[..., 0]
    fill = np.take_along_axis(mean, best[..., None], 2)[..., 0]
    return middle[best].astype(np.float64), strength.astype(np.float64), fill.astype(np.float64)


def _solid(scaled: Image32, centres: Floats, half: Floats, unit: Floats) -> Floats:
    """Stained fraction (n,) of the outer zone of each disc; the central pallor does not count."""
    zone = np.array([0.65, 0.78, 0.9])[:, None, None] * unit
    points = centres[:, None, None] + np.nan_to_num(half)[:, None, None] * zone
    inside = _inside(scaled, points)
    columns = np.clip(np.rint(points[..., 0]), 0, scaled.shape[1] - 1).astype(np.intp)
    rows = np.clip(np.rint(points[..., 1]), 0, scaled.shape[0] - 1).astype(np.intp)
    stained = inside & (scaled[rows, columns] > 0.3)
    return np.asarray(stained.sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1))


def _ellipses(points: Floats, seen: NDArray[np.bool_]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Least-squares ellipses: centre (n, 2), half width and height (n, 2), and the rays (n, rays) that agree."""
    inlier = seen.copy()
    x, y = points[..., 0] / RADIUS, points[..., 1] / RADIUS
    # a x² + b xy + c y² + d x + e y = 1
    design = np.stack([x * x, x * y, y * y, x, y], axis=2)
    solution = np.zeros((len(points), 5))
    for _ in range(3):
        weighted = design * inlier[..., None]
        normal = weighted.transpose(0, 2, 1) @ design + _RIDGE * np.eye(5)
        wanted = weighted.sum(axis=1) + _RIDGE * np.array([1.0, 0, 1, 0, 0])
        solution = np.linalg.solve(normal, wanted[..., None])[..., 0]
        value = (design * solution[:, None]).sum(axis=2)
        inlier = seen & (np.abs(value - 1) < 0.25)
    a, b, c, d, e = solution.T
    with np.errstate(invalid="ignore", divide="ignore"):
        determinant = 4 * a * c - b * b
        cx, cy = (b * e - 2 * c * d) / determinant, (b * d - 2 * a * e) / determinant
        level = 1 + a * cx * cx + b * cx * cy + c * cy * cy
        half_x, half_y = np.sqrt(4 * c * level / determinant), np.sqrt(4 * a * level / determinant)
    half = np.stack([half_x, half_y], axis=1) * RADIUS
    centre = np.stack([cx, cy], axis=1) * RADIUS
    bad = (determinant <= 0) | ~np.isfinite(half).all(axis=1)
    half[bad] = np.nan
    return np.nan_to_num(centre), half, inlier


def _distinct(fits: EllipseFits) -> EllipseFits:
    """Remove duplicates: of fits with close centres, the best is kept."""
    order = np.argsort(-fits.quality, kind="stable")[:3000]
    fits = fits[order]
    radius = fits.diameter / 2
    alive = np.ones(len(fits), bool)
    for i in range(len(fits)):
        if alive[i]:
            gap = np.hypot(*(fits.centre[i + 1 :] - fits.centre[i]).T)
            alive[i + 1 :] &= gap > 0.6 * np.maximum(radius[i], radius[i + 1 :])
            alive[i + 1 :] &= (gap > 0.9 * radius[i]) | (
                radius[i + 1 :] > 0.7 * radius[i]
            )  # small fits on the rim of this one
    return fits[alive]
