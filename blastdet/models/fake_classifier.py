"""A classifier for tests and examples, whose output depends only on the colour of a cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blastdet.core.constants import CELL_TYPES
from blastdet.core.model_card import Card, InputSpec, RejectionRule, Threshold, Training, ValidationCounts
from blastdet.core.types import RGB
from blastdet.models.classifier import ClassifierOutput

_NO_DATA = "nothing"
_FIRST, _STEP = 159, 12  # blue of the first type, and between two: all are blue enough for `FakeDetector`


def type_blue(cell_type: str) -> int:
    """Blue for which the fake of `fake_types_card` finds a type other than blast.

    Examples
    --------
    >>> type_blue("lymphocyte"), type_blue("monocyte")
    (165, 177)
    """
    return _FIRST + _STEP * (CELL_TYPES.index(cell_type) - 1) + _STEP // 2


def fake_classifier_card() -> Card:
    """Card of `FakeClassifier`: blasts from 0.5; uncertain from 0.4 to 0.6, and beyond a distance of 2."""
    return Card(
        name="fake",
        task="classify",
        classes=("blast", "wbc", "erythroblast"),
        output="probabilities",
        files={},
        mpp=0.5,
        input=InputSpec(wh=(32, 32)),
        thresholds={"blast": Threshold(value=0.5, chosen_on=_NO_DATA, criterion="made up")},
        unsure=RejectionRule(low=0.4, high=0.6, distance=2.0, chosen_on=_NO_DATA, criterion="made up"),
        trials=tuple(ValidationCounts(blasts=50, blasts_called=45, others=50, others_called=10) for _ in range(20)),
        training=Training(config={}, seed=0, commit="", data=(), epochs=0, device="", duration_s=0),
    )


def fake_types_card() -> Card:
    """Card of a `FakeClassifier` that tells cell types apart."""
    return fake_classifier_card().model_copy(update={"name": "fake types", "classes": CELL_TYPES})


class FakeClassifier:
    """Classify a crop by the colour of its central pixel.

    Red is the blast probability, green a tenth of the distance, and blue the probability of an erythroblast among cells
    that are not blasts; each on a scale from 0 to 1. With `fake_types_card`, blue names the type instead: `type_blue`
    gives the value for which a type has nine tenths of what the blast probability leaves.

    Examples
    --------
    >>> crop = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    >>> FakeClassifier()([crop], [0.1]).probability.tolist()
    [[1.0, 0.0, 0.0]]
    """

    def __init__(self, card: Card | None = None) -> None:
        self.card = card or fake_classifier_card()
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, crops: Sequence[RGB], mpp: Sequence[float]) -> ClassifierOutput:
        """See `blastdet.models.classifier.Classifier`. The shapes of all crops are kept in `seen`."""
        self.seen += [rgb.shape for rgb in crops]
        middles = np.array([rgb[len(rgb) // 2, len(rgb) // 2] for rgb in crops], np.float32).reshape(-1, 3) / 255
        blast, rest, red_cell = middles[:, 0], 1 - middles[:, 0], middles[:, 2]
        if self.card.classes == CELL_TYPES:
            n = len(CELL_TYPES) - 1
            chosen = np.clip((middles[:, 2] * 255 - _FIRST) // _STEP, 0, n - 1).astype(int)
            shares = np.full((len(middles), n), 0.1 / (n - 1))
            shares[np.arange(len(middles)), chosen] = 0.9
            probability = np.concatenate([blast[:, None], rest[:, None] * shares], axis=1)
        else:
            probability = np.stack([blast, rest * (1 - red_cell), rest * red_cell], axis=1)
        return ClassifierOutput(probability.astype(np.float32), (middles[:, 1] * 10).astype(np.float32))
