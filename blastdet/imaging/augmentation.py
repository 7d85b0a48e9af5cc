"""Colour augmentation in optical density: other stains, other light, other cameras."""

from __future__ import annotations

import numpy as np

from blastdet.core.types import RGB
from blastdet.imaging.optical_density import to_density, to_levels

__all__ = ["drain_colour", "jitter_stain"]

_LARGEST_DENSITY = 2.5
_WHITE, _OFFSET = 255.0, 1.0  # density 0 is pure white here; the background is not measured


def jitter_stain(rgb: RGB, strength: float, rng: np.random.Generator) -> RGB:
    """A random stain and white balance. Returns uint8 (h, w, 3).

    Scaling and mixing the channels of the optical density imitates another batch of stain; a factor on the light
    imitates another brightness or white balance.

    Parameters
    ----------
    strength : float
        0 returns the image unchanged; 1 covers the differences between laboratories.

    Examples
    --------
    >>> image = np.full((2, 2, 3), (200, 150, 180), np.uint8)
    >>> jitter_stain(image, 1.0, np.random.default_rng(0)).shape
    (2, 2, 3)
    """
    if strength <= 0:
        return rgb
    level = strength * rng.random()  # most images change little, some a lot
    mixing = np.eye(3) * np.exp(rng.normal(0, 0.35 * level, 3)) + rng.normal(0, 0.12 * level, (3, 3))
    gamma = np.exp(rng.normal(0, 0.2 * level))
    # Darker more often than brighter: an overexposed image contains little to learn from.
    light = np.exp(rng.normal(-0.05 * level, 0.13 * level, 3) - abs(rng.normal(0, 0.15 * level)))
    density = to_density(np.arange(256.0), _WHITE, _OFFSET)
    table = (density**gamma).astype(np.float32)
    mixed = table[rgb] @ mixing.T.astype(np.float32)
    white = (_WHITE + _OFFSET) * light.astype(np.float32) - _OFFSET
    out = to_levels(np.clip(mixed, 0, _LARGEST_DENSITY), white, _OFFSET)
    return np.asarray(np.clip(out, 0, 255), np.uint8)


def drain_colour(rgb: RGB, amount: float) -> RGB:
    """An image with less colour, of the same density. Returns uint8 (h, w, 3).

    Parameters
    ----------
    amount : float
        0 leaves the image as it is; 1 makes it grey.

    Examples
    --------
    >>> drain_colour(np.full((1, 1, 3), (90, 120, 200), np.uint8), 1.0)[0, 0].tolist()
    [129, 129, 129]
    """
    density = to_density(np.arange(256.0), _WHITE, _OFFSET)[rgb]
    grey = density.mean(axis=2, keepdims=True)
    out = to_levels(density + amount * (grey - density), _WHITE, _OFFSET)
    return np.asarray(np.clip(np.rint(out), 0, 255), np.uint8)
