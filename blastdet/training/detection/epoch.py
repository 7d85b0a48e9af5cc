"""The samples of one epoch of a detector's training: composed, pasted on, and seen through another camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from blastdet.training.config import TrainConfig
from blastdet.training.detection.copy_paste import Donors, paste, pile
from blastdet.training.detection.samples import Picture, TrainingSample, compose
from blastdet.training.photometric import photometric


class Epoch:
    """The samples of one epoch; sample i is the same whoever asks and whenever."""

    def __init__(self, pictures: Sequence[Picture], config: TrainConfig, epoch: int) -> None:
        self.pictures, self.config, self.epoch = pictures, config, epoch
        weight = np.array([picture.weight for picture in pictures])
        self.share = weight / weight.sum()
        self.mosaic = epoch < config.epochs - config.plain_epochs
        self.white = [i for i, name in enumerate(config.classes) if name in ("blast", "wbc")]
        self.donors = Donors(pictures, self.share, self.white)
        self.red = Donors(pictures, self.share, [i for i, name in enumerate(config.classes) if name == "rbc"])

    def __len__(self) -> int:
        return self.config.epoch_samples or len(self.pictures)

    def __getitem__(self, index: int) -> TrainingSample:
        rng = np.random.default_rng((self.config.seed, self.epoch, index))
        augment = self.config.augment
        sample = compose(self.pictures, self.share, self.config, rng, self.mosaic)
        if rng.random() < augment.pile:
            sample = pile(sample, self.red, self.white, augment.scale, rng)
        if rng.random() < augment.paste:
            sample = paste(sample, self.donors, augment.scale, rng)
        return replace(sample, rgb=photometric(sample.rgb, augment.photometric, rng))

    def names(self, indices: range) -> list[str]:
        """Names of the pictures that samples are made of, found by making them again."""
        noting = _Noting(self.pictures)
        again = Epoch(noting, self.config, self.epoch)
        noting.seen.clear()
        for index in indices:
            again[index]
        return sorted(set(noting.seen))


class _Noting(Sequence[Any]):
    """Pictures that note which of them are looked at."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self.pictures = pictures
        self.seen: list[str] = []

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: Any) -> Any:
        picture = self.pictures[index]
        self.seen.append(picture.name)
        return picture
