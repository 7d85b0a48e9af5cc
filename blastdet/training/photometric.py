"""Photometric augmentation: light, focus, sharpening, noise and compression of other cameras, by albumentations."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np

from blastdet.core.types import RGB
from blastdet.training.quiet_imports import albumentations


def photometric(rgb: RGB, chance: float, rng: np.random.Generator) -> RGB:
    """An image as another camera might have taken it; all random numbers come from `rng`.

    In the order in which a camera adds them, with their probability as a multiple of `chance`:

    - 0.6: uneven light, a linear gradient of up to 20 % (`Illumination`)
    - 1: blur, sigma 0.3 to 1.4 px (`GaussianBlur`)
    - 0.3: sharpening, 0.3 to 1 times the difference from a blur of sigma 1 px (`UnsharpMask`)
    - 0.5: Gaussian noise, standard deviation 1 to 7 grey levels (`GaussNoise`)
    - 1: JPEG of quality 35 to 95 (`ImageCompression`)

    Parameters
    ----------
    chance : float
        From 0 (the image is returned as it is) to 1.
    rng : numpy Generator
        The result depends on nothing else, so that a resumed training sees the same samples.

    Examples
    --------
    >>> rgb = np.full((8, 8, 3), 128, np.uint8)
    >>> photometric(rgb, 0.5, np.random.default_rng(0)).shape
    (8, 8, 3)
    """
    if chance == 0:
        return rgb
    pipeline = _pipeline(chance)
    pipeline.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    return np.asarray(pipeline(image=np.ascontiguousarray(rgb))["image"], np.uint8)


@cache
def _pipeline(chance: float) -> Any:
    """Made once, since it takes longer than its use. Samples are made one at a time in each process."""
    a = albumentations()
    return a.Compose(
        [
            # Samples are turned before: a quarter of the angles is enough, and the gradient is even at those alone.
            a.Illumination("linear", intensity_range=(0.01, 0.2), angle_range=(0, 90), p=0.6 * chance),
            a.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 1.4), p=chance),
            a.UnsharpMask(blur_limit=(7, 7), sigma_limit=(1.0, 1.0), alpha=(0.3, 1.0), threshold=0, p=0.3 * chance),
            a.GaussNoise(std_range=(1 / 255, 7 / 255), p=0.5 * chance),
            a.ImageCompression(quality_range=(35, 95), p=chance),
        ]
    )
