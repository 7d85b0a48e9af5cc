"""Second stage: which of the detected white cells are blasts, and of which type the others are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastdet.core.constants import CELL_TYPES
from blastdet.core.model_card import Card
from blastdet.core.parallel import map_ordered, workers
from blastdet.core.types import BLAST, UNSURE_REASONS, WBC, Detections, Scale
from blastdet.imaging.cell_crops import crop
from blastdet.imaging.io import Source
from blastdet.models.classifier import Classifier, ClassifierOutput, given_not_blast

_BATCH = 32  # crops held at once by each thread
_LIKELY = 0.5  # of what the blast probability leaves: the type of a cell, for types without a threshold in the card


class Verdicts(NamedTuple):
    """What a card makes of a classifier's output for n cells.

    Parameters
    ----------
    label : int64 (n,)
        Blast from the operating threshold on, else wbc.
    blast_probability : float32 (n,)
    unsure_reason : str (n,)
        ``""`` for a certain cell.
    cell_type : str (n,)
        The most probable type, for a certain cell that is not called a blast, if it is not blast and reaches the
        threshold of the type; else ``""``.
    type_probability : float32 (n, 9) or None
        Columns of `CELL_TYPES`, NaN for types that the classifier does not know. ``None`` for a classifier that lumps
        white cells together as ``wbc``.
    """

    label: NDArray[np.int64]
    blast_probability: NDArray[np.float32]
    unsure_reason: NDArray[np.str_]
    cell_type: NDArray[np.str_]
    type_probability: NDArray[np.float32] | None


def known_types(card: Card) -> tuple[str, ...]:
    """Those of `CELL_TYPES` that are classes of a classifier."""
    return tuple(name for name in CELL_TYPES if name in card.classes)


def tells_types(card: Card) -> bool:
    """Whether all classes of a classifier are cell types."""
    return set(card.classes) <= set(CELL_TYPES)


def verdicts(found: ClassifierOutput, card: Card) -> Verdicts:
    """Labels, types and reasons of uncertainty by the thresholds of a card."""
    n = len(found.probability)
    blast = found.probability[:, card.classes.index("blast")]
    label = np.where(blast >= card.thresholds["blast"].value, BLAST, WBC)
    reason = np.full(n, "", dtype=f"<U{max(map(len, UNSURE_REASONS))}")
    if card.unsure is not None:
        reason[:] = card.unsure.reasons(blast, found.distance)
    cell_type = np.where((label == WBC) & (reason == ""), _likely_type(found, card), "")
    types = None
    if tells_types(card):
        types = np.full((n, len(CELL_TYPES)), np.nan, np.float32)
        types[:, [CELL_TYPES.index(name) for name in card.classes]] = found.probability
    return Verdicts(label, blast, reason, cell_type, types)


def _likely_type(found: ClassifierOutput, card: Card) -> NDArray[np.str_]:
    """The most probable type other than blast where it reaches its threshold, else an empty text; (n,)."""
    names = [name for name in known_types(card) if name != "blast"]
    if not names:
        return np.full(len(found.probability), "")
    columns = [card.classes.index(name) for name in names]
    given = given_not_blast(found.probability, card.classes)[:, columns]
    limits = np.array([card.thresholds[name].value if name in card.thresholds else _LIKELY for name in names])
    best = given.argmax(axis=1)
    reached = given[np.arange(len(given)), best] >= limits[best]
    if tells_types(card):  # a cell just below a high threshold for blasts is most likely none of the others
        rows = np.arange(len(best))
        reached &= found.probability[rows, np.array(columns)[best]] >= found.probability[:, card.classes.index("blast")]
    return np.where(reached, np.array(names)[best], "")


def classify_cells(source: Source, cells: Detections, mpp: Scale, classifier: Classifier) -> Detections:
    """Classify nucleated cells as blasts and other types.

    Parameters
    ----------
    source : Source
        The smear, in the colours that the classifier was trained on.
    cells : Detections
        In pixels of the smear. Red cells and platelets stay as they are.
    mpp : (float, float)
        µm per pixel of the smear along x and y.
    classifier : Classifier

    Returns
    -------
    Detections
        The same cells in the same order, with ``label``, ``blast_probability``, ``unsure``, ``unsure_reason``,
        ``cell_type`` and ``type_probability``; see `Verdicts`. Erythroblasts and smudges are not counted as white
        cells.
    """
    card = classifier.card
    n = len(cells)
    label, probability = cells.label.copy(), np.full(n, np.nan, np.float32)
    reason = np.full(n, "", dtype=f"<U{max(map(len, UNSURE_REASONS))}")
    cell_type = np.full(n, "", dtype=f"<U{max(map(len, CELL_TYPES))}")
    types = np.full((n, len(CELL_TYPES)), np.nan, np.float32) if tells_types(card) else None
    nucleated = np.flatnonzero(np.isin(cells.label, (BLAST, WBC)))
    pitch = max(min(mpp), card.mpp / 2)  # as in training, where finer pixels are not used

    def look(some: NDArray[np.int64]) -> Verdicts:
        crops = [crop(source, tuple(box), mpp, pitch) for box in cells.boxes_xyxy[some].tolist()]
        return verdicts(classifier(crops, [pitch] * len(crops)), card)

    batches = [nucleated[start : start + _BATCH] for start in range(0, len(nucleated), _BATCH)]
    for some, found in map_ordered(look, batches, workers()):
        label[some], probability[some] = found.label, found.blast_probability
        reason[some], cell_type[some] = found.unsure_reason, found.cell_type
        if types is not None:
            types[some] = found.type_probability
    return cells.with_columns(
        label=label,
        blast_probability=probability,
        unsure=reason != "",
        unsure_reason=reason,
        cell_type=cell_type,
        type_probability=types,
    )
