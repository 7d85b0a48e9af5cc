"""Second stage: which of the detected white cells are blasts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blastdet.core.parallel import map_ordered, workers
from blastdet.core.types import BLAST, ERYTHROBLAST, UNSURE_REASONS, WBC, Detections, Scale
from blastdet.imaging.cell_crops import crop
from blastdet.imaging.io import Source
from blastdet.models.classifier import Classifier, ClassifierOutput, erythroblast_given_not_blast

_BATCH = 32  # crops held at once by each thread


def classify_cells(source: Source, cells: Detections, mpp: Scale, classifier: Classifier) -> Detections:
    """Classify nucleated cells as blasts and others.

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
        The same cells in the same order, with ``label`` (blast from the operating threshold on, else wbc),
        ``blast_probability``, ``unsure``, ``unsure_reason`` and ``cell_type``: "erythroblast" where a cell that is not
        a blast reaches the card's threshold for it. Erythroblasts are not counted as white cells.
    """
    card = classifier.card
    probability = np.full(len(cells), np.nan, np.float32)
    reason = np.full(len(cells), "", dtype=f"<U{max(map(len, UNSURE_REASONS))}")
    label, cell_type = cells.label.copy(), np.full(len(cells), "", dtype=f"<U{len(ERYTHROBLAST)}")
    nucleated = np.flatnonzero(np.isin(cells.label, (BLAST, WBC)))
    pitch = max(min(mpp), card.mpp / 2)  # as in training, where finer pixels are not used

    def look(some: NDArray[np.int64]) -> ClassifierOutput:
        crops = [crop(source, tuple(box), mpp, pitch) for box in cells.boxes_xyxy[some].tolist()]
        return classifier(crops, [pitch] * len(crops))

    batches = [nucleated[start : start + _BATCH] for start in range(0, len(nucleated), _BATCH)]
    for some, found in map_ordered(look, batches, workers()):
        probability[some] = blast = found.probability[:, card.classes.index("blast")]
        label[some] = np.where(blast >= card.thresholds["blast"].value, BLAST, WBC)
        if card.unsure is not None:
            reason[some] = card.unsure.reasons(blast, found.distance)
        if ERYTHROBLAST in card.classes:
            point = card.thresholds.get(ERYTHROBLAST)
            sure = erythroblast_given_not_blast(found.probability, card.classes) >= (
                0.5 if point is None else point.value
            )
            cell_type[some[sure & (label[some] == WBC) & (reason[some] == "")]] = ERYTHROBLAST
    return cells.with_columns(
        label=label,
        blast_probability=probability,
        unsure=reason != "",
        unsure_reason=reason,
        cell_type=cell_type,
    )
