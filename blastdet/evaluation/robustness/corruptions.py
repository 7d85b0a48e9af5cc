"""Image corruptions: blur, JPEG, stain, hue, brightness, and a wrong scale.

Each is applied to the whole image before anything else reads it. Levels are in units that a microscopist knows. Nothing
is random, so that two models are measured on the same images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from blastdet.core.types import RGB, Scale

Apply = Callable[[RGB, float, Scale], RGB]


@dataclass(frozen=True)
class Corruption:
    """One way in which images can differ from those of the training set.

    Parameters
    ----------
    what : str
        Axis label of plots, with the unit.
    none : float
        The level that changes nothing.
    levels : tuple of float
    apply : callable, optional
        From image, level and µm/px to the corrupted image. ``None``: the image stays, and its µm/px is multiplied by
        the level.
    """

    what: str
    none: float
    levels: tuple[float, ...]
    apply: Apply | None


def blur(rgb: RGB, level: float, mpp: Scale) -> RGB:
    """Gaussian blur with a standard deviation of `level` µm."""
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), level / mpp[0], sigmaY=level / mpp[1]), np.uint8)


def jpeg(rgb: RGB, level: float, mpp: Scale) -> RGB:
    """JPEG compression with a quality between 1 and 100."""
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(level)])[1]
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])


def stain(rgb: RGB, level: float, mpp: Scale) -> RGB:
    """Stronger or weaker stain: optical density times `level`."""
    light = (np.arange(256) + 1.0) / 256
    return np.asarray(np.clip(256 * light**level - 1, 0, 255).astype(np.uint8)[rgb], np.uint8)


def hue(rgb: RGB, level: float, mpp: Scale) -> RGB:
    """Redder (above 0) or bluer: optical density of green and blue times 1 + level, of red times 1 - level."""
    out = [stain(rgb[..., channel], 1 - level if channel == 0 else 1 + level, mpp) for channel in range(3)]
    return np.stack(out, axis=-1)


def brightness(rgb: RGB, level: float, mpp: Scale) -> RGB:
    """Brighter or darker: all channels times `level`, clipped as a camera does."""
    table = np.clip(np.arange(256) * level + 0.5, 0, 255).astype(np.uint8)
    return np.asarray(table[rgb], np.uint8)


CORRUPTIONS: dict[str, Corruption] = {
    "blur": Corruption("blur, µm", 0.0, (0.1, 0.2, 0.4, 0.8), blur),
    "jpeg": Corruption("JPEG quality", 100.0, (80.0, 50.0, 25.0, 10.0), jpeg),
    "stain": Corruption("stain, factor", 1.0, (0.5, 0.75, 1.33, 2.0), stain),
    "hue": Corruption("hue, towards red", 0.0, (-0.3, -0.15, 0.15, 0.3), hue),
    "brightness": Corruption("brightness, factor", 1.0, (0.6, 0.8, 1.15, 1.3), brightness),
    "mpp": Corruption("given µm/px, factor", 1.0, (0.75, 0.9, 1.1, 1.25), None),
}
"""Name of each corruption -> what it is."""

RENAMED = {"light": "brightness"}
"""Names that earlier versions used."""
