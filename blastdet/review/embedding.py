"""Cells as the second stage sees them: their features, how unlike what was learnt they are, and a map of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from blastdet.core.types import NUCLEATED, RGB, Dataset
from blastdet.imaging.cell_crops import crop
from blastdet.imaging.io import open_smear
from blastdet.imaging.stain_normalization import normalize_stain
from blastdet.models.classifier import Classifier, framed, prepare
from blastdet.models.onnx_classifier import OnnxClassifier
from blastdet.review.cells import Cell, by_smear

MOST = 4000
"""Up to so many cells t-SNE draws the map (about 20 s on two cores); beyond, principal components do."""

_BATCH = 256


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the second stage sees of some cells.

    Parameters
    ----------
    rows : int64 (n,)
        Which of the cells.
    features : float32 (n, f)
        Of the network's last layer; (n, 0) for a classifier without one.
    """

    rows: NDArray[np.int64]
    features: NDArray[np.float32]


def look(
    dataset: Dataset, cells: Sequence[Cell], classifier: Classifier, progress: Callable[[], None] = lambda: None
) -> tuple[list[Cell], Embedding]:
    """Show every nucleated cell to the second stage, annotated or found.

    Parameters
    ----------
    dataset : Dataset
        µm/px known.
    cells : sequence of Cell
    classifier : Classifier
    progress : callable
        Called once for each smear.

    Returns
    -------
    cells : list of Cell
        With `Cell.novelty`.
    embedding : Embedding
    """
    made, rows, features = list(cells), [], []
    limit = classifier.card.unsure.distance if classifier.card.unsure is not None else float("inf")
    for sample, here in zip(dataset, by_smear(dataset, cells), strict=True):
        progress()
        mine = [row for row in here if cells[row].name in NUCLEATED]
        if not mine or sample.mpp is None:
            continue
        pitch = max(min(sample.mpp), classifier.card.mpp / 2)
        with normalize_stain(open_smear(sample.path), classifier.card.input.colour) as source:
            for start in range(0, len(mine), _BATCH):
                some = mine[start : start + _BATCH]
                crops = [crop(source, cells[row].box, sample.mpp, pitch) for row in some]
                distance = classifier(crops, [pitch] * len(crops)).distance
                features.append(_features(crops, pitch, classifier))
                rows += some
                for row, far in zip(some, distance.tolist(), strict=True):
                    made[row] = replace(made[row], novelty=far / limit)
    seen = np.concatenate(features) if features else np.empty((0, 0), np.float32)
    return made, Embedding(np.array(rows, np.int64), seen)


def _features(crops: Sequence[RGB], mpp: float, classifier: Classifier) -> NDArray[np.float32]:
    card = classifier.card
    if not isinstance(classifier, OnnxClassifier) or not classifier.has_features:
        return np.empty((len(crops), 0), np.float32)
    ready = (prepare(rgb, mpp, card.mpp, card.input.low_pass) for rgb in crops)
    return classifier.features([framed(rgb, card.input.wh[0], card.input.pad_value) for rgb in ready])


def as_map(features: NDArray[np.float32], seed: int = 0) -> tuple[NDArray[np.float64], str]:
    """A plane in which cells lie together that the second stage sees alike.

    Parameters
    ----------
    features : float32 (n, f)
    seed : int

    Returns
    -------
    points : float64 (n, 2)
    method : str
        "t-SNE" or "principal components".
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n, width = features.shape
    if min(n, width) < 2:
        return np.zeros((n, 2)), "principal components"
    if not 50 <= n <= MOST:
        return np.asarray(PCA(2, random_state=seed).fit_transform(features), np.float64), "principal components"
    return np.asarray(TSNE(2, init="pca", random_state=seed).fit_transform(features), np.float64), "t-SNE"
