"""Classification of images that show one cell each, with the second stage that `detect` uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from blastdet.core.errors import BlastdetError, ImageError, ScaleError, WeightsError, one_line
from blastdet.core.model_card import Card, find_weights, read_card
from blastdet.core.parallel import map_ordered, workers
from blastdet.core.types import BLAST, RGB, Scale
from blastdet.imaging.cell_crops import CONTEXT, Box, crop
from blastdet.imaging.io import Source, resize
from blastdet.imaging.stain_normalization import normalize_stain
from blastdet.inference.model import Model, load
from blastdet.inference.scale import ScaleEstimate, estimate_scale
from blastdet.inference.second_stage import verdicts
from blastdet.inference.single_cells.cell_scale import (
    ADVICE,
    CellOptions,
    FirstLook,
    settled,
    stated_scale,
    to_measure,
)
from blastdet.inference.single_cells.central_cell import CentralCell, central_cell, isolated_box
from blastdet.models.classifier import ClassifierOutput, load_classifier

SHOWN_PX = 128
"""Side of `ClassifiedCell.image` in pixels."""

SHOWN_UM = 20.0
"""Its side in µm: one scale for all cells, because size tells them apart. Larger cells are shown whole."""

_BATCH = 32  # images held at once by each thread, and crops that the classifier gets at once

Progress = Callable[[str, int, int], None]
"""Called with what is done, the number of images done, and of all."""


@dataclass(frozen=True)
class CellImage:
    """An image to be classified.

    Parameters
    ----------
    name : str
    open : callable
        Opens it as a `Source`.
    mpp : (float, float), optional
        What its dataset states.
    """

    name: str
    open: Callable[[], Source]
    mpp: Scale | None = None


@dataclass(frozen=True, eq=False)
class ClassifiedCell:
    """The cell of one image.

    Parameters
    ----------
    name : str
        That of the image.
    cell_type : str
        ``"blast"`` from the operating threshold of the model on, else the most probable of its other classes, even
        where that is uncertain.
    blast_probability : float
    reason : str
        Why the type is uncertain: ``"between classes"`` or ``"unlike training"``; empty if it is not.
    probability : dict of str to float
        Of each class of the model.
    box_xyxy : (float, float, float, float)
        In pixels of the image.
    scale : ScaleEstimate
    note : str
        How the cell was found, where that is not plain.
    image : uint8 (128, 128, 3)
        The cell and what is around it, 20 µm wide, in the colours of the image; one on plain ground in normalized
        colours.
    """

    name: str
    cell_type: str
    blast_probability: float
    reason: str
    probability: dict[str, float]
    box_xyxy: Box
    scale: ScaleEstimate
    note: str
    image: RGB

    @property
    def unsure(self) -> bool:
        """Whether the classifier is uncertain of the cell."""
        return self.reason != ""

    @property
    def mpp(self) -> Scale:
        """µm per pixel of the image along x and y."""
        assert self.scale.mpp is not None
        return self.scale.mpp

    def __repr__(self) -> str:
        doubt = f", unsure: {self.reason}" if self.unsure else ""
        return f"<ClassifiedCell {self.name}: {self.cell_type}, blast probability {self.blast_probability:.3f}{doubt}>"


Answer = ClassifiedCell | BlastdetError
"""What becomes of an image: its cell, or why it failed."""

_Task = tuple[CellImage, FirstLook | BlastdetError, ScaleEstimate]
_NO_SCALE = ScaleEstimate(None, "unknown")


def load_cell_model(weights: str | os.PathLike[str] = "default", device: str = "auto") -> Model:
    """The model that classifies single cells.

    Parameters
    ----------
    weights : str or path
        A detector with a second stage, or a classifier; then the shipped detector finds the cells.
    device : str
        See `blastdet.load`.

    Raises
    ------
    WeightsError
        If there is no classifier of blasts.
    """
    folder = find_weights(weights)
    if read_card(folder).task != "classify":
        model = load(weights, device)
        if model.classifier is None:
            raise WeightsError(f"{folder}: expected a classifier, or a detector with a second stage, got neither")
        return model
    classifier = load_classifier(weights, device)
    card = classifier.card
    if "blast" not in card.classes or "blast" not in card.thresholds:
        raise WeightsError(f"{folder}: expected the class blast with a threshold, got {list(card.classes)}")
    if card.probe:
        raise WeightsError(f"{folder}: trained on the negative control {card.probe!r}, which shows no cells")
    finder = load("default", device, second_stage=False)
    return Model(finder.detector, finder.folder, classifier)


def classify_images(
    model: Model, images: Sequence[CellImage], options: CellOptions, progress: Progress = lambda what, done, total: None
) -> Iterator[tuple[CellImage, Answer]]:
    """Classify the cell of each image.

    Parameters
    ----------
    model : Model
        With a second stage.
    progress : callable

    Yields
    ------
    image, answer
        In the order of `images`. An image that fails does not stop the others.
    """
    looks = first_looks(model, images, options, progress)
    yield from classify_looked_at(model, images, looks, options, progress)


def first_looks(
    model: Model, images: Sequence[CellImage], options: CellOptions, progress: Progress
) -> list[FirstLook | BlastdetError]:
    """Size, plain ground and scale of each image, as far as the image itself shows them."""
    looks: list[FirstLook | BlastdetError] = []
    for done, (_, found) in enumerate(
        map_ordered(lambda image: _tried(image, _first_look, image, options), images, workers()), start=1
    ):
        looks.append(found)
        progress("reading", done, len(images))
    for _ in range(2):  # some of each size, then the others of sizes whose measurements do not agree
        known = [None if isinstance(look, BlastdetError) else look for look in looks]
        chosen = [i for some in to_measure(known) for i in some]
        measured = map_ordered(lambda i: _tried(images[i], _with_scale, model, images[i], looks[i]), chosen, workers())
        for done, (i, found) in enumerate(measured, start=1):
            looks[i] = found
            progress("measuring the scale", done, len(chosen))
    return looks


def classify_looked_at(
    model: Model,
    images: Sequence[CellImage],
    looks: Sequence[FirstLook | BlastdetError],
    options: CellOptions,
    progress: Progress,
    is_done: Callable[[str, Scale | None], bool] = lambda name, mpp: False,
) -> Iterator[tuple[CellImage, Answer]]:
    """Second half of `classify_images`: settle the scales, then classify the images that are not done.

    Parameters
    ----------
    is_done : callable
        Called with the name and the settled scale of each image.
    """
    scales = iter(settled([look for look in looks if isinstance(look, FirstLook)], options))
    todo: list[_Task] = []
    for image, look in zip(images, looks, strict=True):
        scale = next(scales) if isinstance(look, FirstLook) else _NO_SCALE
        if not is_done(image.name, scale.mpp):
            todo.append((image, look, scale))
    batches = [todo[start : start + _BATCH] for start in range(0, len(todo), _BATCH)]
    done = 0
    for batch, answers in map_ordered(lambda some: _classify_batch(model, some), batches, workers()):
        done += len(batch)
        progress("classified", done, len(todo))
        yield from zip([entry[0] for entry in batch], answers, strict=True)


def _tried(image: CellImage, do: Callable[..., Any], *arguments: Any) -> Any:
    """What `do` returns, or the error that it raises, with the name of the image in it."""
    try:
        image.name.encode()
        return do(*arguments)
    except UnicodeEncodeError:
        return ImageError(f"{image.name!a}: the file name is not valid UTF-8. Rename the file")
    except BlastdetError as error:
        line = " ".join(str(error).split())
        return error if image.name in line else type(error)(f"{image.name}: {line}")
    except Exception as error:  # noqa: BLE001  # a surprise in one image must not cost the others
        return BlastdetError(f"{image.name}: {type(error).__name__}: {one_line(error)}")


def _first_look(image: CellImage, options: CellOptions) -> FirstLook:
    with image.open() as source:
        isolated = isolated_box(source)
        return FirstLook(source.size_wh, isolated, stated_scale(source, isolated, image.mpp, options))


def _with_scale(model: Model, image: CellImage, look: FirstLook) -> FirstLook:
    with image.open() as source:
        return replace(look, scale=estimate_scale(model.normalize_stain(source), "auto", model.detector))


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A cell ready for the classifier, and what is shown of it."""

    cell: CentralCell
    crop: RGB
    pitch: float
    shown: RGB


def _classify_batch(model: Model, batch: Sequence[_Task]) -> list[Answer]:
    assert model.classifier is not None
    parts: list[_Prepared | BlastdetError] = [
        _tried(image, _prepare, model, image, look, scale) if isinstance(look, FirstLook) else look
        for image, look, scale in batch
    ]
    good = [part for part in parts if isinstance(part, _Prepared)]
    if not good:
        return [part for part in parts if isinstance(part, BlastdetError)]
    card = model.classifier.card
    output = model.classifier([part.crop for part in good], [part.pitch for part in good])
    rows = zip(output.probability.astype(float).tolist(), *decide(output, card), strict=True)
    answers: list[Answer] = []
    for (image, _, scale), part in zip(batch, parts, strict=True):
        if isinstance(part, BlastdetError):
            answers.append(part)
            continue
        probability, cell_type, reason = next(rows)
        answers.append(
            ClassifiedCell(
                name=image.name,
                cell_type=cell_type,
                blast_probability=probability[card.classes.index("blast")],
                reason=reason,
                probability=dict(zip(card.classes, probability, strict=True)),
                box_xyxy=part.cell.box_xyxy,
                scale=scale,
                note="; ".join(note for note in (part.cell.note, *scale.warnings) if note),
                image=part.shown,
            )
        )
    return answers


def _prepare(model: Model, image: CellImage, look: FirstLook, scale: ScaleEstimate) -> _Prepared:
    if scale.mpp is None:
        raise ScaleError(f"{image.name}: could not determine the scale: {scale.reason}. {ADVICE}")
    assert model.classifier is not None
    card = model.classifier.card
    with image.open() as source:
        if look.isolated is None:
            cell = central_cell(model.normalize_stain(source), scale.mpp, model.detector)
        else:
            cell = CentralCell(look.isolated)
        pitch = max(min(scale.mpp), card.mpp / 2)  # as in `classify_cells` and in training
        found = crop(normalize_stain(source, card.input.colour), cell.box_xyxy, scale.mpp, pitch)
        # A dark cell on black shows little.
        visible = source if look.isolated is None else normalize_stain(source, "canonical")
        shown = resize(crop(visible, _around(cell.box_xyxy, scale.mpp), scale.mpp), (SHOWN_PX, SHOWN_PX))
    return _Prepared(cell, found, pitch, shown)


def _around(box: Box, mpp: Scale) -> Box:
    """The box whose crop is `SHOWN_UM` wide, around the same centre; a larger box as it is."""
    x1, y1, x2, y2 = box
    side = SHOWN_UM / CONTEXT
    if max((x2 - x1) * mpp[0], (y2 - y1) * mpp[1]) >= side:
        return box
    x, y, half_x, half_y = (x1 + x2) / 2, (y1 + y2) / 2, side / mpp[0] / 2, side / mpp[1] / 2
    return x - half_x, y - half_y, x + half_x, y + half_y


def decide(output: ClassifierOutput, card: Card) -> tuple[list[str], list[str]]:
    """Type of each cell, and why it is uncertain (else an empty string), by the rules of `detect`.

    Where `detect` leaves the type open, it is the most probable class beside blast that has no threshold to reach.
    """
    found = verdicts(output, card)
    rest = output.probability.copy()
    rest[:, [i for i, name in enumerate(card.classes) if name in card.thresholds]] = -1
    best = [card.classes[i] for i in rest.argmax(axis=1)]
    types = [
        "blast" if label == BLAST else kind or guess
        for label, kind, guess in zip(found.label, found.cell_type.tolist(), best, strict=True)
    ]
    return types, found.unsure_reason.tolist()


def classify_each(model: Model, images: Sequence[CellImage], options: CellOptions) -> list[ClassifiedCell]:
    """The cells of all images; the first failure is raised.

    Raises `WeightsError` if the model has no second stage.
    """
    if model.classifier is None:
        raise WeightsError(f"{model.folder}: expected a model with a second stage, got a detector alone")
    cells = []
    for _, answer in classify_images(model, images, options):
        if isinstance(answer, BlastdetError):
            raise answer
        cells.append(answer)
    return cells
