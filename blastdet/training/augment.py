"""What other laboratories do to a picture: stain, light, focus, compression. All seeded by one generator."""

from __future__ import annotations

import cv2
import numpy as np

from blastdet.types import RGB

_LARGEST_OD = 2.5


def stain_jitter(rgb: RGB, strength: float, rng: np.random.Generator) -> RGB:
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


def photometric(rgb: RGB, chance: float, rng: np.random.Generator) -> RGB:
    """Uneven light, blur, noise, JPEG: each with a chance, in the order in which a camera adds them."""
    if rng.random() < chance * 0.6:
        rgb = _uneven_light(rgb, rng)
    if rng.random() < chance:
        rgb = cv2.GaussianBlur(rgb, (0, 0), float(rng.uniform(0.3, 1.4)))
    if rng.random() < chance * 0.3:
        rgb = _sharpen(rgb, float(rng.uniform(0.3, 1.2)))
    if rng.random() < chance * 0.5:
        noise = rng.normal(0, rng.uniform(1, 7), rgb.shape).astype(np.float32)
        rgb = np.asarray(np.clip(rgb + noise, 0, 255), np.uint8)
    if rng.random() < chance:
        _, data = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])
        rgb = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), np.uint8)
    return rgb


def _uneven_light(rgb: RGB, rng: np.random.Generator) -> RGB:
    height, width = rgb.shape[:2]
    direction, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.25)
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = 1 + strength * (np.cos(direction) * x + np.sin(direction) * y)
    return np.asarray(np.clip(rgb * light[:, :, None], 0, 255), np.uint8)


def _sharpen(rgb: RGB, amount: float) -> RGB:
    """Cameras and scanners sharpen; halos around cells are part of what a detector must bear."""
    soft = cv2.GaussianBlur(rgb, (0, 0), 1.0)
    return np.asarray(cv2.addWeighted(rgb, 1 + amount, soft, -amount, 0), np.uint8)
