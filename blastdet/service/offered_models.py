"""The models that a service offers: names, cards, and one hash for both stages. A client gives a name, never a path."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blastdet.core.errors import WeightsError
from blastdet.core.model_card import CARD, Card, find_weights, read_card, shipped
from blastdet.service.settings import ServiceSettings


@dataclass(frozen=True)
class OfferedModel:
    """A detector with its second stage.

    Parameters
    ----------
    name : str
    folder : Path
        Absolute.
    detector : Card
    classifier : Card or None
    """

    name: str
    folder: Path
    detector: Card
    classifier: Card | None

    @property
    def sha256(self) -> str:
        """Over the hashes of all files, as `blastdet.review` makes it."""
        files = dict(self.detector.files) | (dict(self.classifier.files) if self.classifier is not None else {})
        return hashlib.sha256("".join(sorted(files.values())).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """For clients."""
        cards = [self.detector] if self.classifier is None else [self.detector, self.classifier]
        return {
            "name": self.name,
            "sha256": self.sha256,
            "mpp": self.detector.mpp,
            "stages": [{"name": card.name, "classes": list(card.classes)} for card in cards],
            "intended_use": self.detector.intended_use,
        }


def offered_models(settings: ServiceSettings) -> dict[str, OfferedModel]:
    """Shipped detectors and those of the operator, by name; ``default`` comes first.

    Raises
    ------
    WeightsError
        If a model of the operator cannot be used.
    """
    folders = {path.parent.name: path.parent for path in sorted(shipped("weights").glob(f"*/{CARD}"))}
    folders |= {name: find_weights(folder) for name, folder in settings.weights.items()}
    found = {}
    for name in sorted(folders, key=lambda one: (one != "default", one)):
        card = read_card(folders[name])
        if card.task == "detect":
            found[name] = _with_second_stage(name, folders[name].resolve(), card)
        elif name in settings.weights:
            raise WeightsError(f"{folders[name]}: expected a detector, got a model with task {card.task}")
    return found


def _with_second_stage(name: str, folder: Path, card: Card) -> OfferedModel:
    second = card.second_stage
    if second is None:
        return OfferedModel(name, folder, card, None)
    beside = folder.parent / second
    return OfferedModel(name, folder, card, read_card(beside if beside.is_dir() else find_weights(second)))
