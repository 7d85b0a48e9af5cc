"""Stain and light: what another batch of dye, another lamp or another camera does to a picture.

Light that passes a stained cell is absorbed in proportion to the amount of stain (Lambert-Beer), so stains add up in
optical density, not in RGB.
"""

from __future__ import annotations

import numpy as np

from blastdet.core.types import RGB

_LARGEST_OD = 2.5


def jitter_stain(rgb: RGB, strength: float, rng: np.random.Generator) -> RGB:
    """Another stain, another white balance: colours moved in optical density.

    Optical density is additive in the amount of dye (Beer-Lambert), so that scaling and mixing its channels is what
    another batch of stain does, while a factor on the light is another lamp or white balance.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    strength : float
        0 changes nothing; 1 reaches the differences seen between laboratories.
    rng : numpy Generator
    """
    if strength <= 0:
        return rgb
    level = strength * rng.random()  # most pictures change little, some a lot
    mixing = np.eye(3) * np.exp(rng.normal(0, 0.35 * level, 3)) + rng.normal(0, 0.12 * level, (3, 3))
    gamma = np.exp(rng.normal(0, 0.2 * level))
    # Rather darker than brighter: an over-exposed film has nothing left to learn from.
    light = np.exp(rng.normal(-0.05 * level, 0.13 * level, 3) - abs(rng.normal(0, 0.15 * level)))
    density = -np.log((np.arange(256) + 1.0) / 256)
    table = (density**gamma).astype(np.float32)
    mixed = table[rgb] @ mixing.T.astype(np.float32)
    out = 256 * light.astype(np.float32) * np.exp(-np.clip(mixed, 0, _LARGEST_OD)) - 1
    return np.asarray(np.clip(out, 0, 255), np.uint8)
