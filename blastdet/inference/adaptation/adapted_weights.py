"""The weights folders of an adaptation: copies of both stages, with what was fitted in the card of the second."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from blastdet.core.atomic_io import check_names, new_folder, refuse_existing
from blastdet.core.card_fields.blast_probability import Adaptation, AdaptationMetric, logit, sigmoid
from blastdet.core.errors import ConfigError
from blastdet.core.model_card import (
    CARD,
    HEAD,
    Calibration,
    Card,
    RejectionRule,
    Threshold,
    ValidationCounts,
    read_card,
    sha256_of,
    write_card,
)
from blastdet.inference.adaptation.choosing import EVEN, Choice
from blastdet.inference.adaptation.fitting import LAST_LAYER, LabelledCells
from blastdet.inference.adaptation.reviewed_cells import ReviewedCells
from blastdet.inference.model import Model
from blastdet.models.linear_head import LinearHead
from blastdet.models.onnx_classifier import OnnxClassifier

_TAIL = 0.025  # of blasts below the band, and of others above it, among cells left out
_WIDEST = (0.2, 0.8)  # a band that tens of cells may justify: beyond it, four in five are right
_FAR = 0.01  # of the reviewed cells that may lie beyond the distance
_ENOUGH_SMEARS = 5  # for error rates with an interval over smears
_LIMIT = "Adapted to the reviewed cells of one laboratory: the figures are for its stain and camera only."


def check_replaced(folder: Path, overwrite: bool) -> None:
    """Refuse to replace a folder; with `overwrite`, one that holds anything but weights.

    Raises `ConfigError`.
    """
    check_names(folder)
    refuse_existing((folder,), overwrite)
    if not folder.exists():
        return
    if not (folder / CARD).is_file():
        raise ConfigError(f"{folder}: expected weights to replace, got no {CARD}. Choose another --out")
    if others := sorted({entry.name for entry in folder.iterdir()} - {CARD, *read_card(folder).files}):
        raise ConfigError(f"{folder / others[0]}: not part of weights; expected a card and its files. Move it")


def describe(
    reviewed: ReviewedCells,
    choice: Choice,
    parent: OnnxClassifier,
    metrics: tuple[AdaptationMetric, ...],
    corrections: Path | None,
) -> Adaptation:
    """The entry of the card."""
    cells = reviewed.cells
    return Adaptation(
        parent=parent.card.name,
        parent_sha256=sha256_of(parent.folder / CARD),
        method=choice.candidate.method,  # type: ignore[arg-type]  # never unchanged here
        reason=choice.reason,
        uses_features=choice.candidate.method == LAST_LAYER,
        penalty=choice.candidate.penalty,
        n_cells=len(cells),
        n_blasts=int(cells.is_blast.sum()),
        smears=dict(sorted(Counter(cells.smear.tolist()).items())),
        fingerprint=reviewed.fingerprint,
        corrections_sha256="" if corrections is None else sha256_of(corrections),
        validation=choice.folds.description,
        metrics=metrics,
    )


def write_adapted(
    model: Model,
    classifier: OnnxClassifier,
    fitted: tuple[LabelledCells, Choice, Adaptation],
    out: Path,
    second_stage: Path,
) -> Card:
    """Write both stages; returns the card of the second.

    Parameters
    ----------
    model, classifier
        What is adapted.
    fitted : (LabelledCells, Choice, Adaptation)
    out, second_stage : Path
        New, or weights to replace.
    """
    cells, choice, about = fitted
    head = choice.candidate.fit(cells)
    with new_folder(out) as detector_folder, new_folder(second_stage) as folder:
        _copy(model.folder, model.card, detector_folder)
        write_card(model.card.model_copy(update={"second_stage": second_stage.name}), detector_folder)
        _copy(classifier.folder, classifier.card, folder)
        card = _with_head(classifier.card, classifier.head, head, about, folder)
        card = card.model_copy(update=_changes(cells, choice, card))
        write_card(card, folder)
    return card


def _copy(source: Path, card: Card, folder: Path) -> None:
    for name in card.files:
        shutil.copy(source / name, folder / name)


def _with_head(card: Card, before: LinearHead | None, head: LinearHead, about: Adaptation, folder: Path) -> Card:
    """The card with a head in a file; with a calibration instead where slope and offset are all there is."""
    if before is None and not len(head.weights):
        first = card.calibration or Calibration(slope=1.0, offset=0.0, chosen_on="")
        calibration = Calibration(
            slope=head.slope * first.slope,
            offset=head.slope * first.offset + head.offset,
            chosen_on=f"{about.n_cells} reviewed cells of one laboratory",
        )
        return card.model_copy(update={"calibration": calibration, "adaptation": about})
    whole = head if before is None else head.after(before)
    whole.write(folder / HEAD)
    files = {**card.files, HEAD: sha256_of(folder / HEAD)}
    return card.model_copy(update={"files": files, "adaptation": about.model_copy(update={"uses_features": True})})


def _changes(cells: LabelledCells, choice: Choice, card: Card) -> dict[str, object]:
    """Operating point, rejection rule and error rates, from cells left out of the fit."""
    called = choice.logit >= logit(EVEN)
    point = Threshold(
        value=EVEN,
        chosen_on=_where(cells, choice),
        criterion=f"{EVEN}: calibrated at equal weight of blasts and other white cells",
    )
    name = card.name if card.name.endswith("-adapted") else f"{card.name}-adapted"
    return {
        "name": name,
        "thresholds": {**card.thresholds, "blast": point},
        "unsure": None if card.unsure is None else rejection_rule(cells, choice, card.unsure),
        "trials": _trials(cells, called) if choice.folds.by_smear else (),
        "metrics": (),  # those of the parent are not of this model; its own are in the adaptation
        "limits": tuple(dict.fromkeys((*card.limits, _LIMIT))),
    }


def rejection_rule(cells: LabelledCells, choice: Choice, before: RejectionRule) -> RejectionRule:
    """The band of probabilities, and the distance, from the cells left out of the fit."""
    probability = sigmoid(choice.logit)
    low = np.clip(np.quantile(probability[cells.is_blast], _TAIL), _WIDEST[0], EVEN)
    high = np.clip(np.quantile(probability[~cells.is_blast], 1 - _TAIL), EVEN, _WIDEST[1])
    return RejectionRule(
        low=float(low),
        high=float(high),
        distance=max(before.distance, float(np.quantile(cells.distance, 1 - _FAR))),
        chosen_on=_where(cells, choice),
        criterion=f"{_TAIL:.1%} of blasts are below the band, {_TAIL:.1%} of others above, within {_WIDEST[0]} to "
        f"{_WIDEST[1]}; {_FAR:.0%} of the reviewed cells exceed the distance, which is at least the former",
    )


def _where(cells: LabelledCells, choice: Choice) -> str:
    return f"{len(cells)} reviewed cells of one laboratory, {choice.folds.description}"


def _trials(cells: LabelledCells, called: np.ndarray) -> tuple[ValidationCounts, ...]:
    """Counts of each smear; none where so few smears would make the interval look too narrow."""
    smears = np.unique(cells.smear)
    if len(smears) < _ENOUGH_SMEARS:
        return ()
    rows = []
    for name in smears:
        blast, other = (cells.smear == name) & cells.is_blast, (cells.smear == name) & ~cells.is_blast
        rows.append(
            ValidationCounts(
                blasts=int(blast.sum()),
                blasts_called=int((blast & called).sum()),
                others=int(other.sum()),
                others_called=int((other & called).sum()),
            )
        )
    return tuple(rows)
