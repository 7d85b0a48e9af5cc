"""What other cameras do to a picture: light, focus, noise, compression. All seeded by one generator."""

from __future__ import annotations

import cv2
import numpy as np

from blastdet.core.types import RGB


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
