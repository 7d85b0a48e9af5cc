"""Fit the shipped second stage to the reviewed cells of one's own laboratory: ``blastdet.adapt``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blastdet.core.card_fields.blast_probability import Adaptation, AdaptationMetric
from blastdet.core.errors import ConfigError, WeightsError, counted, in_a_line
from blastdet.core.model_card import Card
from blastdet.core.mpp import check_mpp
from blastdet.inference.adaptation.adapted_weights import check_replaced, describe, write_adapted
from blastdet.inference.adaptation.choosing import LEAST_OF_A_CLASS, Choice, choose, figures, refusal
from blastdet.inference.adaptation.fitting import LabelledCells
from blastdet.inference.adaptation.reviewed_cells import Progress, Reading, ReviewedCells, read_reviewed
from blastdet.inference.model import Model, load
from blastdet.models.onnx_classifier import OnnxClassifier

LEAST = 10
"""Reviewed white cells that an adaptation needs at least."""

_SMEARS_SHOWN = 20
_NARROW = 0.05  # of probabilities

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class AdaptOptions:
    """How reviewed cells are read, and where models run.

    Parameters
    ----------
    format : str
        Format of the dataset, as for `blastdet.read_dataset`.
    images : path, optional
        Folder of the images, if they are not next to the annotation files.
    mpp : float, (float, float), "data" or "auto"
        µm/px of every image; ``"data"``: as the dataset or the file states it, else measured; ``"auto"``: measured.
        Images of one cell each need a number.
    device : {"auto", "cpu", "cuda", "cuda:N"}
    overwrite : bool
        Replace weights that are in `out` already.
    progress : callable, optional
        Called with what is done, and how many of how many are.
    reading_options : mapping
        Further options of `blastdet.read_dataset`: ``class_map`` and ``annotated``.
    """

    format: str = "auto"
    images: PathLike | None = None
    mpp: Any = "data"
    device: str = "auto"
    overwrite: bool = False
    progress: Progress | None = None
    reading_options: Mapping[str, Any] = field(default_factory=dict)

    def reading(self, corrections: PathLike | None) -> Reading:
        """The options of reading, checked."""
        mpp = self.mpp if isinstance(self.mpp, str) and self.mpp in ("data", "auto") else check_mpp(self.mpp)
        images = None if self.images is None else Path(self.images)
        where = None if corrections is None else Path(corrections)
        progress = self.progress or (lambda what, done, total: None)
        return Reading(self.format, images, mpp, where, progress, self.reading_options)


def adapt(
    data: PathLike,
    *,
    out: PathLike,
    corrections: PathLike | None = None,
    weights: PathLike = "default",
    options: AdaptOptions = AdaptOptions(),  # frozen
    say: Callable[[str], None] = print,
) -> Path:
    """Fit the second stage to 20 to 100 reviewed white cells of one's own laboratory.

    The threshold, the calibration or the last layer is fitted, whichever helps on smears left out. It takes seconds,
    and no torch.

    Parameters
    ----------
    data : path
        An annotated dataset with blasts and other white cells (a path, or the name of an installed dataset); a folder
        of ``blastdet crops``; or a folder of images of one cell each, in folders named after cell types:
        ``blast/SMEAR/1.png``, ``lymphocyte/SMEAR/1.png``.
    out : path
        Weights folder to write, for ``--weights``. The second stage is written beside it, as ``OUT-second-stage``.
    corrections : path, optional
        Corrections of the dataset, as a review exports them. Only cells that a person corrected or confirmed are used.
    weights : path or str
        A detector with a second stage: a weights folder, or the name of a shipped model.
    options : AdaptOptions
    say : callable
        Receives lines of text: the cells, the figures before and after, what was fitted and why.

    Returns
    -------
    Path
        `out`. The card of the second stage says what was fitted, to which cells, and how good it is.

    Raises
    ------
    BlastdetError
        If there are fewer than ten cells, or five blasts, or five others; if adapting does not help; if data or
        weights cannot be read. Nothing is written then.

    Examples
    --------
    >>> blastdet.adapt("reviewed/truth.json", out="weights/mine")  # doctest: +SKIP
    >>> blastdet.load("weights/mine")("smear.jpg").counts  # doctest: +SKIP
    """
    target = Path(out)
    reading = options.reading(corrections)
    for folder in (target, second_stage_of(target)):
        check_replaced(folder, options.overwrite)
    model, classifier = _both_stages(weights, options.device)
    reviewed = read_reviewed(os.fspath(data), classifier, model.detector, reading)
    _say_each(_about(reviewed), say)
    _check_enough(data, reviewed.cells)
    _check_new(weights, classifier.card.adaptation, reviewed)
    choice, metrics = _chosen(reviewed.cells, classifier, say)
    about = describe(reviewed, choice, classifier, metrics, reading.corrections)
    card = write_adapted(model, classifier, (reviewed.cells, choice, about), target, second_stage_of(target))
    _say_each(_done_in_words(choice, card, target), say)
    return target


def _say_each(lines: Iterable[str], say: Callable[[str], None]) -> None:
    for line in lines:
        say(line)


def _chosen(
    cells: LabelledCells, classifier: OnnxClassifier, say: Callable[[str], None]
) -> tuple[Choice, tuple[AdaptationMetric, ...]]:
    """What is fitted, and its figures; `ConfigError` if adapting does not help."""
    choice = choose(cells)
    metrics = figures(cells, choice, classifier.card.thresholds["blast"].value)
    _say_each(_figures_in_words(choice, metrics), say)
    if why := refusal(choice, metrics):
        raise ConfigError(f"adapting does not help: on cells left out, {why}")
    return choice, metrics


def _done_in_words(choice: Choice, card: Card, target: Path) -> Iterator[str]:
    yield f"fitted    {choice.candidate.name}: the least change that is about as good as the best"
    yield f"          {choice.reason}"
    if card.unsure is not None:
        yield f"uncertain blast probabilities from {card.unsure.low:.2f} to {card.unsure.high:.2f}"
        if card.unsure.high - card.unsure.low < _NARROW:
            yield "note      hardly a cell will be marked unsure, because few of these were judged wrongly: too few to"
            yield "          trust that. Review every cell of the next smears, and adapt again with more"
    if not card.trials:
        yield "note      how often the model errs is not known from so few smears: intervals of the blast fraction are"
        yield "          of counting alone then, and say so"
    yield f"wrote     {target} and {second_stage_of(target)}: keep them side by side"
    yield f"next      blastdet detect IMAGES --weights {target}"


def second_stage_of(out: Path) -> Path:
    """Weights folder of the second stage that belongs to the detector in `out`."""
    out = out if out.name not in ("", "..") else out.resolve()
    return out.with_name(f"{out.name}-second-stage")


def _both_stages(weights: PathLike, device: str) -> tuple[Model, OnnxClassifier]:
    model = load(weights, device)
    if not isinstance(model.classifier, OnnxClassifier):
        raise WeightsError(f"{weights}: expected a detector with a second stage, got one without")
    return model, model.classifier


def _about(reviewed: ReviewedCells) -> list[str]:
    cells = reviewed.cells
    smears, blasts = Counter(cells.smear.tolist()), Counter(cells.smear[cells.is_blast].tolist())
    n_blasts, n = int(cells.is_blast.sum()), len(cells)
    kinds = f"{counted(n_blasts, 'blast')}, {counted(n - n_blasts, 'other white cell')}"
    lines = [f"cells     {n}: {kinds}; {counted(len(smears), 'smear')}"]
    named = [name for name in sorted(smears) if name]
    lines += [
        f"          {in_a_line(name)}: {counted(blasts[name], 'blast')}, "
        f"{counted(smears[name] - blasts[name], 'other')}"
        for name in named[:_SMEARS_SHOWN]
    ]
    if len(named) > _SMEARS_SHOWN:
        lines.append(f"          and {len(named) - _SMEARS_SHOWN} more")
    if reviewed.left_out:
        lines.append("left out  " + ", ".join(f"{k} {why}" for why, k in reviewed.left_out.items()))
    return lines + [f"note      {in_a_line(note, 500)}" for note in reviewed.notes]


def _check_enough(data: PathLike, cells: LabelledCells) -> None:
    n, n_blasts = len(cells), int(cells.is_blast.sum())
    if n < LEAST or min(n_blasts, n - n_blasts) < LEAST_OF_A_CLASS:
        raise ConfigError(
            f"{data}: expected at least {LEAST} white cells, {LEAST_OF_A_CLASS} blasts and {LEAST_OF_A_CLASS} others "
            f"among them, got {counted(n_blasts, 'blast')} and {counted(n - n_blasts, 'other')}. "
            "Review more cells, of both kinds"
        )


def _check_new(weights: PathLike, before: Adaptation | None, reviewed: ReviewedCells) -> None:
    if before is not None and before.fingerprint == reviewed.fingerprint:
        raise ConfigError(f"{weights}: adapted to these cells already. Pass the weights of {before.parent}")


def _figures_in_words(choice: Choice, metrics: tuple[AdaptationMetric, ...]) -> list[str]:
    lines = [f"note      {note}" for note in choice.folds.notes]
    lines.append(f"checked   {choice.folds.description}, n = {len(choice.logit)}")
    for one in metrics:
        before, after = (
            f"{value:.2f}" + (f" (95 % CI {ci95[0]:.2f}–{ci95[1]:.2f})" if ci95 else "")
            for value, ci95 in ((one.before, one.ci95_before), (one.after, one.ci95_after))
        )
        lines.append(f"          {one.metric + ':':19}{before} before, {after} after")
    return lines
