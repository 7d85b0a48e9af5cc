"""Stain and light: optical density, white point, stain normalisation and jitter. Pure functions on RGB.

Light that passes a stained cell is absorbed in proportion to the amount of stain (Lambert-Beer), so stains add up in
optical density, not in RGB. The methods here were published for haematoxylin and eosin; Romanowsky stains (azure and
eosin) are two-stain mixtures just as well, but cells are few and far between, so that what counts as stained is
decided by the most absorbed channel: a red cell hardly absorbs red.

Nothing here fails for want of stain: a picture that is blank, black or of one colour comes back as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from blastdet.types import RGB

Floats = NDArray[np.float64]

WHITE = (255.0, 255.0, 255.0)
"""White point of a picture whose background is pure white."""

_STAINED = 0.15  # optical density; Macenko's beta
_TAIL = 1.0  # per cent; Macenko's alpha
_MIN_PIXELS = 64
_MIN_ANGLE = np.deg2rad(3)  # two stains closer than this are one
_DARKEST_WHITE = 32
_SAMPLE = 200_000


def to_optical_density(rgb: RGB, white: ArrayLike = WHITE) -> NDArray[np.float32]:
    """Optical density, -log10((I + 1) / (I0 + 1)); the 1 keeps black finite.

    Parameters
    ----------
    rgb : uint8 (..., 3)
    white : (3,), default `WHITE`
        I0, the light that passes where there is no cell; brighter pixels get a negative density.

    Returns
    -------
    float32 (..., 3)
        0 for `white`, up to 2.41 for black.
    """
    level = np.log10(np.arange(256) + 1.0)
    table = (np.log10(np.asarray(white, np.float64) + 1)[:, None] - level).astype(np.float32)
    return np.stack([table[i][rgb[..., i]] for i in range(3)], axis=-1)


def from_optical_density(density: ArrayLike, white: ArrayLike = WHITE) -> RGB:
    """RGB, uint8 (..., 3), of optical density (..., 3): the inverse of `to_optical_density`, clipped to 0..255."""
    light = (np.asarray(white, np.float32) + 1) * np.exp(np.asarray(density, np.float32) * np.float32(-np.log(10))) - 1
    return np.asarray(np.clip(np.rint(light), 0, 255), np.uint8)


def estimate_white(rgb: RGB) -> Floats:
    """Colour of the background: the median of the pixels about as bright as the brightest 5 per cent.

    Brightness is that of the darkest channel, in which even pale red cells are darker than the glass. A picture without
    any background (a crop inside a cell) yields the colour of its palest part.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)

    Returns
    -------
    float64 (3,)
    """
    pixels = _sample(rgb)
    if not len(pixels):
        return np.array(WHITE)
    brightness = pixels.min(axis=1).astype(np.int64)
    level = np.percentile(brightness, 95, method="lower")
    return np.asarray(np.median(pixels[np.abs(brightness - level) <= 8], axis=0), np.float64)


def correct_white(rgb: RGB, white: ArrayLike | None = None) -> RGB:
    """The picture with its background made white: each channel multiplied, like von Kries' adaptation.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    white : (3,), optional
        Colour of the background; `estimate_white` if not given. Below 32 in any channel there is no background
        to speak of, and a copy of the picture is returned.
    """
    point = estimate_white(rgb) if white is None else np.asarray(white, np.float64)
    if point.min() < _DARKEST_WHITE:
        return rgb.copy()
    return from_optical_density(to_optical_density(rgb, point))


def stain_axes(rgb: RGB, white: ArrayLike | None = None) -> Floats | None:
    """The two stains of a picture as directions in optical density.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    white : (3,), optional
        Colour of the background; `estimate_white` if not given.

    Returns
    -------
    float64 (2, 3) or None
        Unit vectors, that of the darkest pixels (nuclei: azure, haematoxylin) first; ``None`` if the picture does not
        show two stains. A picture without nuclei shows two all the same, but what they are is chance.

    References
    ----------
    M. Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009, 1107-1110.
    """
    density = _stained(rgb, estimate_white(rgb) if white is None else white)
    if len(density) < _MIN_PIXELS:
        return None
    plane = np.linalg.eigh(np.cov(density.T))[1][:, [2, 1]]
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
    along = density @ plane
    angle = np.arctan2(along[:, 1], along[:, 0])
    low, high = np.percentile(angle, [_TAIL, 100 - _TAIL])
    if not _MIN_ANGLE < high - low < np.pi / 2:
        return None
    total = density.sum(axis=1)
    dark = np.median(angle[total >= np.percentile(total, 95)])
    # Not by colour: with some stains red cells are as blue as nuclei, but nuclei are always the darkest.
    nuclei, rest = (low, high) if dark - low < high - dark else (high, low)
    return np.array([[np.cos(a), np.sin(a)] for a in (nuclei, rest)]) @ np.asarray(plane.T, np.float64)


def jitter_stain(
    rgb: RGB, rng: np.random.Generator, scale: float = 0.2, shift: float = 0.03, axes: ArrayLike | None = None
) -> RGB:
    """The picture as if stained a little differently: each axis of optical density scaled and shifted at random.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    rng : numpy.random.Generator
        Six numbers are drawn from it, whatever the strength.
    scale, shift : float
        Largest relative and largest absolute change of an axis; the changes are uniform. A shift tints the background,
        as lamps and white balance do. With both 0 the picture comes back unchanged.
    axes : (2, 3), optional
        Stains as from `stain_axes`, with what is left over as a third axis; default: the red, green and blue
        channels of optical density.

    References
    ----------
    D. Tellez et al., "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference to train
    distilled stain-invariant convolutional networks", IEEE Trans. Med. Imaging 37 (2018), 2126-2136.
    """
    factor = 1 + scale * rng.uniform(-1, 1, 3)
    offset = shift * rng.uniform(-1, 1, 3)
    basis = np.eye(3) if axes is None else _completed(axes)
    change = np.linalg.inv(basis) @ np.diag(factor) @ basis
    return from_optical_density(to_optical_density(rgb) @ change.astype(np.float32) + (offset @ basis))


@dataclass(frozen=True, eq=False)
class ReinhardTarget:
    """Mean and standard deviation (3,) of a reference picture in CIELAB."""

    mean: Floats
    std: Floats


def fit_reinhard(rgb: RGB) -> ReinhardTarget:
    """What `normalise_reinhard` needs to know of a reference picture, uint8 (h, w, 3)."""
    lab = _to_lab(rgb).reshape(-1, 3).astype(np.float64)
    return ReinhardTarget(lab.mean(axis=0), lab.std(axis=0))


def normalise_reinhard(rgb: RGB, target: ReinhardTarget) -> RGB:
    """Give a picture the mean and spread of a reference's colours, in CIELAB instead of the paper's lαβ.

    All pixels count, so the share of background should be alike. A picture (or a reference) whose lightness hardly
    varies has nothing to match, and a copy of the picture is returned.

    References
    ----------
    E. Reinhard et al., "Color transfer between images", IEEE Comput. Graph. Appl. 21 (2001), 34-41.
    """
    own = fit_reinhard(rgb)
    if own.std[0] < 0.5 or target.std[0] < 0.5:
        return rgb.copy()
    # A colour axis that is flat here (a grey picture) is moved but not stretched: its noise is no colour.
    ratio = np.where(own.std < 0.5, 1.0, target.std / np.maximum(own.std, 0.5))
    lab = (_to_lab(rgb) - own.mean) * ratio + target.mean
    lab[..., 0] = np.clip(lab[..., 0], 0, 100)
    light = cv2.cvtColor(np.clip(lab, -127, 127).astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.asarray(np.clip(np.rint(np.asarray(light) * 255), 0, 255), np.uint8)


@dataclass(frozen=True, eq=False)
class MacenkoTarget:
    """Stains (2, 3) of a reference picture, the strength (2,) of each (99th percentile), and its white point (3,)."""

    axes: Floats
    strength: Floats
    white: Floats


def fit_macenko(rgb: RGB) -> MacenkoTarget | None:
    """What `normalise_macenko` needs to know of a reference picture; ``None`` if that does not show two stains."""
    white = estimate_white(rgb)
    axes = stain_axes(rgb, white)
    if axes is None:
        return None
    amount = _stained(rgb, white) @ np.linalg.inv(_completed(axes))
    strength = np.asarray(np.percentile(amount[:, :2], 99, axis=0), np.float64)
    return MacenkoTarget(axes, strength, white) if strength.min() > 0.05 else None


def normalise_macenko(rgb: RGB, target: MacenkoTarget) -> RGB:
    """Give a picture the background and the two stains of a reference, each stain at the reference's strength.

    What the two stains do not explain is kept, so that normalising a picture to itself changes nothing. A picture
    that does not show two stains comes back as a copy. On smears this is a trial for training data and robustness
    checks, no cure: where red cells are grey in one laboratory and pink in the other, colours come out odd; so look at
    the result. `correct_white` is the safe part of it. References: see `stain_axes`.
    """
    own = fit_macenko(rgb)
    if own is None:
        return rgb.copy()
    factor = np.append(target.strength / own.strength, 1.0)
    change = np.linalg.inv(_completed(own.axes)) @ np.diag(factor) @ _completed(target.axes)
    return from_optical_density(to_optical_density(rgb, own.white) @ change.astype(np.float32), target.white)


def _stained(rgb: RGB, white: ArrayLike) -> Floats:
    """Optical density (n, 3) of the pixels with stain in them; none where there is no background to compare with."""
    if np.min(white) < _DARKEST_WHITE:
        return np.empty((0, 3))
    density: Floats = to_optical_density(_sample(rgb), white).astype(np.float64)
    return np.asarray(density[density.max(axis=1, initial=0) > _STAINED])


def _completed(axes: ArrayLike) -> Floats:
    """Two stains and the direction across both, as rows (3, 3)."""
    two = np.asarray(axes, np.float64)
    across = np.cross(two[0], two[1])
    return np.vstack([two, across / np.linalg.norm(across)])


def _sample(rgb: RGB) -> RGB:
    """Pixels (n, 3) of a picture, every k-th where there are very many."""
    pixels = rgb.reshape(-1, 3)
    return pixels[:: max(1, len(pixels) // _SAMPLE)]


def _to_lab(rgb: RGB) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)
