"""The samples of one epoch of a detector's training: composed, with pasted cells and photometric augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from blastdet.training.config import TrainConfig
from blastdet.training.detection.copy_paste import Donors, copy_paste, rbc_overlap
from blastdet.training.detection.samples import TrainingImage, TrainingSample, compose
from blastdet.training.photometric import photometric


class Epoch:
    """The samples of one epoch; sample i is always the same."""

    def __init__(self, images: Sequence[TrainingImage], config: TrainConfig, epoch: int) -> None:
        self.images, self.config, self.epoch = images, config, epoch
        weight = np.array([image.weight for image in images])
        self.probability = weight / weight.sum()
        self.mosaic = epoch < config.epochs - config.plain_epochs
        self.white = [i for i, name in enumerate(config.classes) if name in ("blast", "wbc")]
        self.donors = Donors(images, self.probability, self.white)
        self.red = Donors(images, self.probability, [i for i, name in enumerate(config.classes) if name == "rbc"])

    def __len__(self) -> int:
        return self.config.epoch_samples or len(self.images)

    def __getitem__(self, index: int) -> TrainingSample:
        rng = np.random.default_rng((self.config.seed, self.epoch, index))
        augment = self.config.augment
        sample = compose(self.images, self.probability, self.config, rng, self.mosaic)
        if rng.random() < augment.rbc_overlap:
            sample = rbc_overlap(sample, self.red, self.white, augment.scale, rng)
        if rng.random() < augment.copy_paste:
            sample = copy_paste(sample, self.donors, augment.scale, rng)
        return replace(sample, rgb=photometric(sample.rgb, augment.photometric, rng))

    def names(self, indices: range) -> list[str]:
        """Names of the images that samples are made from; makes the samples again."""
        recording = _Recording(self.images)
        again = Epoch(recording, self.config, self.epoch)
        recording.used.clear()
        for index in indices:
            again[index]
        return sorted(set(recording.used))


class _Recording(Sequence[Any]):
    """Images that record which of them are used."""

    def __init__(self, images: Sequence[TrainingImage]) -> None:
        self.images = images
        self.used: list[str] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        image = self.images[index]
        self.used.append(image.name)
        return image
