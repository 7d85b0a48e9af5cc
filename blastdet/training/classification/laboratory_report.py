"""How well a classifier does in each laboratory that its training left out, and whether the printed interval holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blastdet.core.model_card import Card, ValidationCounts
from blastdet.inference.blast_fraction import fraction_of
from blastdet.inference.differential import WhiteCells
from blastdet.training.classification import calibration
from blastdet.training.classification.calibration import Floats
from blastdet.training.classification.cross_fitting import counts_by_cluster, cross_fit, figures_with_intervals
from blastdet.training.classification.out_of_fold import TRAINED_ON, Flags, OutOfFold

_FEWEST = 10  # cells of a patient or cluster, for its blast fraction to mean something

Verdicts = tuple[Floats, Flags, Flags]
"""Blast probability, whether called a blast, and whether unsure; each (n,)."""

Figure = tuple[float, float, float]
"""A value with its 95 % interval."""


@dataclass(frozen=True)
class ErrorCell:
    """A wrong call: path of the crop, its type by label, the type it was called, and its blast probability."""

    crop: Path
    label: str
    answer: str
    probability: float


@dataclass(frozen=True)
class LaboratoryFigures:
    """One laboratory, classified and calibrated without it.

    Parameters
    ----------
    laboratory : str
    cells, blasts, clusters : int
        Clusters are patients where the dataset names them.
    auroc, sensitivity, specificity : (float, float, float) or None
        With a 95 % interval over clusters; ``None`` where the laboratory has no blasts or no other cells.
    balanced_accuracy : float
        Mean of sensitivity and specificity; NaN where one is missing.
    false_blasts : float
        Fraction of other cells called blasts; NaN without other cells.
    unsure : float
        Fraction of cells in the unsure band, or unlike the training data.
    far : float
        Fraction of cells unlike the training data.
    calibration_error : float
        Expected calibration error of the blast probability.
    macro_f1 : float
        Mean F1 score over the types of white cells that the laboratory labels; NaN where it labels none.
    false_blasts_of : dict of str to (int, int)
        For each type but blast that it labels: cells called blasts, and all.
    coverage : (int, int, int)
        Clusters of at least ten cells: those whose true blast fraction is in the printed 95 % interval, all that have
        one, and those for which none is printed because most cells are unlike the training data.
    """

    laboratory: str
    cells: int
    blasts: int
    clusters: int
    auroc: Figure | None
    sensitivity: Figure | None
    specificity: Figure | None
    balanced_accuracy: float
    false_blasts: float
    unsure: float
    far: float
    calibration_error: float
    macro_f1: float
    false_blasts_of: dict[str, tuple[int, int]]
    coverage: tuple[int, int, int]


def by_laboratory(predicted: OutOfFold) -> list[LaboratoryFigures]:
    """Figures of each laboratory; threshold, calibration and error rates come from the other laboratories only.

    Groups held out of laboratories that were trained on have rows of their own, see `predict_to_calibrate`.
    """
    outcome = cross_fit(predicted)
    return _rows(predicted, outcome, counts_by_cluster(predicted, outcome[1]))


def on_validation(predicted: OutOfFold, card: Card) -> list[LaboratoryFigures]:
    """Figures of each laboratory that took part in a training, on its groups held out for validation.

    Parameters
    ----------
    predicted : OutOfFold
        From `predict_validation`.
    card : Card
        Of the same weights, for threshold and rejection rule.
    """
    return _rows(predicted, verdicts_of(predicted, card), card.trials)


def verdicts_of(predicted: OutOfFold, card: Card) -> Verdicts:
    """Blast probability, whether called a blast, whether unsure (n,), as the card of calibrated weights says."""
    assert card.unsure is not None  # checked by predict_validation
    score = predicted.probability
    unsure = card.unsure.covers(score, np.zeros(len(score))) | predicted.is_far
    return score, score >= card.thresholds["blast"].value, unsure


def _rows(predicted: OutOfFold, outcome: Verdicts, trials: Sequence[ValidationCounts]) -> list[LaboratoryFigures]:
    (score, called, unsure), rows = outcome, []
    for name in np.unique(predicted.laboratory):
        mine = predicted.laboratory == name
        truth, part = predicted.is_blast[mine], predicted.only(mine)
        both = 0 < truth.sum() < len(truth)
        found = figures_with_intervals(score[mine], called[mine], truth, part.cluster) if both else {}
        one = {key: (value[0], value[1], value[2]) for key, value in found.items()}
        sensitivity, specificity = one.get("sensitivity"), one.get("specificity")
        rows.append(
            LaboratoryFigures(
                laboratory=str(name),
                cells=len(truth),
                blasts=int(truth.sum()),
                clusters=len(np.unique(part.cluster)),
                auroc=one.get("AUROC"),
                sensitivity=sensitivity,
                specificity=specificity,
                balanced_accuracy=(sensitivity[0] + specificity[0]) / 2 if sensitivity and specificity else np.nan,
                false_blasts=float(called[mine][~truth].mean()) if (~truth).any() else np.nan,
                unsure=float(unsure[mine].mean()),
                far=float(part.is_far.mean()),
                calibration_error=calibration.blast_reliability(score[mine], truth).error if both else np.nan,
                macro_f1=_macro_f1(part, called[mine]),
                false_blasts_of=_false_blasts(part, called[mine]),
                coverage=coverage(part, called[mine], unsure[mine], _without(trials, str(name))),
            )
        )
    return rows


def _macro_f1(part: OutOfFold, called: Flags) -> float:
    """See `LaboratoryFigures`; cells whose type is not labelled do not count."""
    known = part.cell_type != ""
    truth, answer = part.cell_type[known], np.where(called, "blast", part.other_type)[known]
    scores = []
    for name in np.unique(truth):
        mine, given = truth == name, answer == name
        scores.append(2 * (mine & given).sum() / (mine.sum() + given.sum()))
    return float(np.mean(scores)) if scores else np.nan


def _false_blasts(part: OutOfFold, called: Flags) -> dict[str, tuple[int, int]]:
    names = np.unique(part.cell_type[~part.is_blast & (part.cell_type != "")])
    return {
        str(name): (int(called[part.cell_type == name].sum()), int((part.cell_type == name).sum())) for name in names
    }


def surest_errors(predicted: OutOfFold, verdicts: Verdicts, most: int = 30) -> dict[str, list[ErrorCell]]:
    """Of each laboratory, the wrong calls that are farthest from the threshold.

    As many of them as possible are half missed blasts and half false ones, so that one kind does not hide the other.
    """
    score, called, _ = verdicts
    found: dict[str, list[ErrorCell]] = {}
    for name in np.unique(predicted.laboratory):
        mine = predicted.laboratory == name
        wrong = mine & (called != predicted.is_blast)
        missed = np.flatnonzero(wrong & predicted.is_blast)
        false = np.flatnonzero(wrong & ~predicted.is_blast)
        missed, false = missed[np.argsort(score[missed])], false[np.argsort(-score[false])]
        n = min(len(missed), max(most // 2, most - len(false)))
        picked = [*missed[:n], *false[: most - n]]
        found[str(name)] = [
            ErrorCell(
                Path(predicted.crop[i]),
                str(predicted.cell_type[i]) or ("blast" if predicted.is_blast[i] else "no blast"),
                "blast" if called[i] else str(predicted.other_type[i]),
                float(score[i]),
            )
            for i in picked
        ]
    return found


def draw_errors(errors: Sequence[ErrorCell], path: Path, columns: int = 6) -> None:
    """A sheet of the crops of some errors: the type by label, the type it was called, its blast probability."""
    from PIL import Image, ImageDraw, ImageFont

    side, text = 150, 34
    rows = -(-len(errors) // columns)
    sheet = Image.new("RGB", (columns * side, rows * (side + text)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, error in enumerate(errors):
        x, y = number % columns * side, number // columns * (side + text)
        with Image.open(error.crop) as crop:
            sheet.paste(crop.convert("RGB").resize((side - 4, side - 4), Image.Resampling.BICUBIC), (x + 2, y + 2))
        label, answer = (name.replace("immature_granulocyte", "immature gran.") for name in (error.label, error.answer))
        pen.text((x + 4, y + side), f"label: {label}", "black", font)
        pen.text((x + 4, y + side + 14), f"called {answer}, {error.probability:.2f}", "black", font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _without(trials: Sequence[ValidationCounts], laboratory: str) -> list[ValidationCounts]:
    """Those of other laboratories."""
    same = laboratory.removesuffix(TRAINED_ON)
    return [trial for trial in trials if trial.laboratory.removesuffix(TRAINED_ON) != same]


def coverage(part: OutOfFold, called: Flags, unsure: Flags, trials: Sequence[ValidationCounts]) -> tuple[int, int, int]:
    """See `LaboratoryFigures`.

    Parameters
    ----------
    part : OutOfFold
        Cells of one laboratory.
    called, unsure : bool (n,)
        Which of them are called blasts, and which count as uncertain.
    trials : sequence of ValidationCounts
        Of other laboratories.
    """
    held = counted = withheld = 0
    for one in np.unique(part.cluster):
        mine = part.cluster == one
        n, sure = int(mine.sum()), int((mine & called & ~unsure).sum())
        if n < _FEWEST:
            continue
        others = int((mine & ~called & ~unsure).sum())
        cells = WhiteCells(
            sure, others, n - sure - others, int((mine & called).sum()), unlike=int(part.is_far[mine].sum())
        )
        if not cells.is_known_stain:
            withheld += 1
            continue
        low, high = fraction_of(cells, trials).printed_interval
        counted += 1
        held += bool(low <= part.is_blast[mine].mean() <= high)
    return held, counted, withheld
