"""Features of cells from the second stage, their distance from its training data, and a 2D projection of them."""

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
from blastdet.review.cells import Cell, rows_by_sample

TSNE_LIMIT = 4000
"""Project at most this many cells with t-SNE (about 20 s on two cores), more with principal components."""

_BATCH = 256


@dataclass(frozen=True, eq=False)
class Embedding:
    """Features of some cells.

    Parameters
    ----------
    rows : int64 (n,)
        Indices of the cells.
    features : float32 (n, f)
        Output of the network's last hidden layer; (n, 0) for a classifier without one.
    """

    rows: NDArray[np.int64]
    features: NDArray[np.float32]


def embed_cells(
    dataset: Dataset, cells: Sequence[Cell], classifier: Classifier, progress: Callable[[], None] = lambda: None
) -> tuple[list[Cell], Embedding]:
    """Run the second stage on every nucleated cell, annotated or detected.

    Parameters
    ----------
    dataset : Dataset
        Samples without µm/px are skipped.

    Returns
    -------
    cells : list of Cell
        With `Cell.novelty`.
    embedding : Embedding
    """
    scored, rows, features = list(cells), [], []
    limit = classifier.card.unsure.distance if classifier.card.unsure is not None else float("inf")
    for sample, here in zip(dataset, rows_by_sample(dataset, cells), strict=True):
        progress()
        nucleated = [row for row in here if cells[row].name in NUCLEATED]
        if not nucleated or sample.mpp is None:
            continue
        pitch = max(min(sample.mpp), classifier.card.mpp / 2)
        with normalize_stain(open_smear(sample.path), classifier.card.input.colour) as source:
            for start in range(0, len(nucleated), _BATCH):
                batch = nucleated[start : start + _BATCH]
                crops = [crop(source, cells[row].box, sample.mpp, pitch) for row in batch]
                distance = classifier(crops, [pitch] * len(crops)).distance
                features.append(_features(crops, pitch, classifier))
                rows += batch
                for row, value in zip(batch, distance.tolist(), strict=True):
                    scored[row] = replace(scored[row], novelty=value / limit)
    stacked = np.concatenate(features) if features else np.empty((0, 0), np.float32)
    return scored, Embedding(np.array(rows, np.int64), stacked)


def _features(crops: Sequence[RGB], mpp: float, classifier: Classifier) -> NDArray[np.float32]:
    card = classifier.card
    if not isinstance(classifier, OnnxClassifier) or not classifier.has_features:
        return np.empty((len(crops), 0), np.float32)
    ready = (prepare(rgb, mpp, card.mpp, card.input.low_pass) for rgb in crops)
    return classifier.features([framed(rgb, card.input.wh[0], card.input.pad_value) for rgb in ready])


def project(features: NDArray[np.float32]) -> tuple[NDArray[np.float64], str]:
    """Project features to 2D, so that similar cells are close together.

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
    if not 50 <= n <= TSNE_LIMIT:
        return np.asarray(PCA(2, random_state=0).fit_transform(features), np.float64), "principal components"
    return np.asarray(TSNE(2, init="pca", random_state=0).fit_transform(features), np.float64), "t-SNE"
