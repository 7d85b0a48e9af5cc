"""A review: what a model got right and wrong on a dataset, ready for the page or for FiftyOne."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blastdet.core.types import Dataset, Scale
from blastdet.evaluation.predict import Predictions
from blastdet.models.classifier import Classifier
from blastdet.review.cells import VIEWS, Cell, compare_cells, in_view
from blastdet.review.embedding import Embedding, embed_cells


@dataclass(frozen=True)
class Review:
    """What the page and FiftyOne show.

    Parameters
    ----------
    dataset : Dataset
        With the classes of the model; see `cells.compare_cells`.
    cells : sequence of Cell
        Annotated and detected cells, matched.
    predictions : Predictions
    embedding : Embedding, optional
        Features of the nucleated cells, from the second stage.
    mpp : (float, float), optional
        µm per pixel that a person gave for all images; corrections keep it.
    """

    dataset: Dataset
    cells: Sequence[Cell]
    predictions: Predictions
    embedding: Embedding | None = None
    mpp: Scale | None = None

    def counts(self) -> dict[str, int]:
        """Number of cells of each view, by its title."""
        return {view.title: len(in_view(self.cells, name)) for name, view in VIEWS.items()}


def make_review(
    dataset: Dataset,
    predictions: Predictions,
    classifier: Classifier | None = None,
    progress: Callable[[], None] = lambda: None,
    mpp: Scale | None = None,
) -> Review:
    """Match predictions with the annotations of a dataset.

    Raises `BlastdetError` if the predictions belong to another dataset, or have no class in common with it.

    Parameters
    ----------
    predictions : Predictions
        From `evaluation`, of the same dataset.
    classifier : Classifier, optional
        Second stage of the model: adds `Cell.novelty` and the embedding.
    progress : callable
        Called once per sample that the classifier has seen.
    mpp : (float, float), optional
        µm per pixel that a person gave for all images; corrections keep it.
    """
    dataset, cells = compare_cells(dataset, predictions)
    if classifier is None:
        return Review(dataset, cells, predictions, mpp=mpp)
    cells, embedding = embed_cells(dataset, cells, classifier, progress)
    return Review(dataset, cells, predictions, embedding, mpp)
