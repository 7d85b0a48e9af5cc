"""Second stage: which of the white cells that were found are blasts, and what their share is worth."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from blastdet.core.model_card import Card, ValidationCounts
from blastdet.core.parallel import map_ordered, workers
from blastdet.core.results import BlastCount
from blastdet.core.statistics import clopper_pearson, percentile_interval
from blastdet.core.types import BLAST, ERYTHROBLAST, WBC, Detections, Scale
from blastdet.imaging.cell_crops import crop
from blastdet.imaging.io import Source
from blastdet.models.classifier import Classifier, ClassifierOutput, red_among_others

ENOUGH = 200
"""White cells that a differential count by eye takes (ICSH 2015: blasts are counted on 200 cells)."""

_BATCH = 32  # crops held at once by each thread
_RESAMPLES = 2000
_FEW = 10  # white cells; of fewer, most may be unsure by chance


def classify_cells(source: Source, cells: Detections, mpp: Scale, classifier: Classifier) -> Detections:
    """Sort nucleated cells into blasts and others.

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
        ``blast_probability``, ``unsure`` and ``cell_type``: "erythroblast" for no blast that reaches the card's
        threshold for it, for such a cell leaves the white cells.
    """
    card = classifier.card
    probability = np.full(len(cells), np.nan, np.float32)
    unsure = np.zeros(len(cells), bool)
    label, cell_type = cells.label.copy(), np.full(len(cells), "", dtype=f"<U{len(ERYTHROBLAST)}")
    nucleated = np.flatnonzero(np.isin(cells.label, (BLAST, WBC)))
    pitch = max(min(mpp), card.mpp / 2)  # as in training: finer pixels than these are not looked at

    def look(some: NDArray[np.int64]) -> ClassifierOutput:
        crops = [crop(source, tuple(box), mpp, pitch) for box in cells.boxes_xyxy[some].tolist()]
        return classifier(crops, [pitch] * len(crops))

    batches = [nucleated[start : start + _BATCH] for start in range(0, len(nucleated), _BATCH)]
    for some, found in map_ordered(look, batches, workers()):
        probability[some] = blast = found.probability[:, card.classes.index("blast")]
        label[some] = np.where(blast >= card.thresholds["blast"].value, BLAST, WBC)
        if card.unsure is not None:
            unsure[some] = card.unsure.covers(blast, found.distance)
        if ERYTHROBLAST in card.classes:
            point = card.thresholds.get(ERYTHROBLAST)
            sure = red_among_others(found.probability, card.classes) >= (0.5 if point is None else point.value)
            cell_type[some[sure & (label[some] == WBC) & ~unsure[some]]] = ERYTHROBLAST
    return cells.with_columns(label=label, blast_probability=probability, unsure=unsure, cell_type=cell_type)


def count(cells: Detections, card: Card) -> BlastCount:
    """What the second stage found on one smear; see `BlastCount`.

    Parameters
    ----------
    cells : Detections
        From `classify_cells`, at or above the detector's operating threshold.
    card : Card
        Of the classifier.
    """
    cells = cells.with_classes("blast", "wbc")
    assert cells.unsure is not None
    white, called = cells.is_white, cells.label == BLAST
    blasts, unsure = int((called & ~cells.unsure).sum()), int((cells.unsure & white).sum())
    n = int(white.sum())
    return total([(blasts, n - blasts - unsure, unsure, int(called.sum()), len(cells) - n)], card)


def total(fields: Sequence[tuple[int, int, int, int, int]], card: Card) -> BlastCount:
    """What fields of one smear tell together, by `BlastCount.parts` of each."""
    blasts, others, unsure, called, erythroblasts = (sum(column) for column in zip(*fields, strict=True))
    n = blasts + others + unsure
    exact = clopper_pearson(blasts, n)
    corrected, interval = corrected_share(called, n, card.trials)
    return BlastCount(
        blasts=blasts,
        others=others,
        unsure=unsure,
        called=called,
        erythroblasts=erythroblasts,
        interval=(exact.low, exact.high),
        corrected=corrected,
        corrected_interval=interval,
    )


def warning(found: BlastCount) -> str | None:
    """What to say of a smear whose cells the second stage does not know."""
    if found.n < _FEW or 2 * found.unsure <= found.n:
        return None
    return (
        f"{found.unsure} of {found.n} white cells are unsure, as on a stain never seen before: use no share of blasts"
    )


def corrected_share(
    called: int, n: int, trials: Sequence[ValidationCounts], seed: int = 0
) -> tuple[float | None, tuple[float, float] | None]:
    """Share of blasts corrected for what the classifier misses and makes up, clipped to [0, 1], with its 95 % interval.

    Source: W. J. Rogan and B. Gladen, Am. J. Epidemiol. 107 (1978) 71-76. The interval is a bootstrap over both the
    cells of the smear (drawn from Jeffreys' posterior) and the clusters on which sensitivity and specificity were
    measured.

    Parameters
    ----------
    called : int
        Cells at or above the operating threshold.
    n : int
        White cells.
    trials : sequence of Trial
        Of the card; without them, or without cells, there is no correction.
    """
    rows = [[t.blasts_called, t.blasts, t.others_called, t.others] for t in trials]
    table = np.array(rows, np.float64).reshape(-1, 4)
    if not n or not (table[:, [1, 3]].sum(axis=0) > 0).all():
        return None, None
    point = _rogan_gladen(np.array([called / n]), table.sum(axis=0)[None])[0]
    drawn, rng = _resamples(tuple(map(tuple, rows)), seed)
    # Jeffreys: 0 of n is no certainty of none.
    apparent = copy.deepcopy(rng).beta(called + 0.5, n - called + 0.5, size=_RESAMPLES)
    spread = percentile_interval(_rogan_gladen(apparent, drawn), "bootstrap over cells and clusters")
    if np.isnan([point, spread.low]).any():
        return None, None
    if spread.high == 0:  # clipped throughout: a width of zero would pass for certainty
        return float(point), None
    return float(point), (spread.low, spread.high)


@cache
def _resamples(rows: tuple[tuple[int, ...], ...], seed: int) -> tuple[np.ndarray, np.random.Generator]:
    """Sums over clusters drawn again and again, the same for each smear; and the random numbers that go on there."""
    rng, n = np.random.default_rng(seed), len(rows)
    return rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES) @ np.array(rows, np.float64), rng


def _rogan_gladen(share: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Corrected shares (b,) of apparent ones (b,), by sums (b, 4); NaN where the test tells nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, false = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
        corrected = (share - false) / (sensitivity - false)
    return np.where(sensitivity > false, np.clip(corrected, 0, 1), np.nan)


def _many(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def in_words(found: BlastCount) -> list[str]:
    """What is said of a smear's white cells, a line each; never a diagnosis."""
    n = found.n
    lines = [
        f"{_many(n, 'white cell')} = {_many(found.blasts, 'blast')} + {_many(found.others, 'other')}"
        + f" + {found.unsure} unsure"
        + (f"; erythroblasts {found.erythroblasts}" if found.erythroblasts else "")
        + (f" ({100 * found.erythroblasts / n:.1f} per 100 white cells)" if found.erythroblasts and n else "")
    ]
    if not n:
        return lines
    low, high = found.interval
    lines.append(
        f"blasts {found.blasts / n:.1%} of white cells, 95 % interval {low:.1%} to {high:.1%} (sampling error only)"
    )
    if found.unsure:
        lines.append(
            f"between {found.blasts / n:.1%} and {(found.blasts + found.unsure) / n:.1%} as the unsure turn out"
        )
    if found.corrected is not None and found.corrected_interval is None:
        lines.append(
            "corrected: fewer cells are called blasts than this model makes up on average, so no share is given"
        )
        lines.append("not distinguishable from no blasts with this model")
    elif found.corrected is not None and found.corrected_interval is not None:
        low, high = found.corrected_interval
        lines.append(
            f"corrected for the model's sensitivity and specificity, from {found.called} at or above its threshold: "
            f"{found.corrected:.1%}, {low:.1%} to {high:.1%}"
            + (" (more are called blasts than it finds of blasts on average)" if found.corrected == 1 else "")
        )
        if low == 0:
            lines.append("not distinguishable from no blasts with this model")
    if n < ENOUGH:
        lines.append(f"fewer than {ENOUGH} white cells counted")
    return lines
