"""Candidates for an adaptation, from least to most change, each fitted to labelled cells as a `LinearHead`.

Blasts and other cells have the same weight, whatever their numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastdet.core.card_fields.blast_probability import sigmoid
from blastdet.models.linear_head import LinearHead

UNCHANGED, OFFSET, SCALING, LAST_LAYER = "unchanged", "offset", "slope and offset", "last layer"

SHRINKAGE = 0.75
"""Weight of the identity in the covariance of features: tens of cells do not determine that of a hundred features."""

_SLOPE_PRIOR = 5.0  # of the logarithm of the slope: as strong as a few dozen cells
_LOGIT_PRIOR = 1.0  # of the logit's weight beside features, around 1
_OFFSET_PRIOR = 1e-3  # only keeps separable cells from an infinite offset

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LabelledCells:
    """White cells with what the model says of them and what a person says.

    Parameters
    ----------
    logit : float64 (n,)
        Of the model's blast probability.
    features : float32 (n, f)
        (n, 0) of a model without features.
    distance : float32 (n,)
        From the model's training data.
    is_blast : bool (n,)
    smear : str (n,)
        Smear or patient of each cell.
    """

    logit: Floats
    features: NDArray[np.float32]
    distance: NDArray[np.float32]
    is_blast: Flags
    smear: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.is_blast)

    def __getitem__(self, rows: NDArray[np.int64] | Flags) -> LabelledCells:
        return LabelledCells(
            self.logit[rows], self.features[rows], self.distance[rows], self.is_blast[rows], self.smear[rows]
        )

    @property
    def weight(self) -> Floats:
        """Weight of each cell (n,): those of blasts, and those of others, sum to 1/2."""
        n_blasts = max(int(self.is_blast.sum()), 1)
        return np.where(self.is_blast, 0.5 / n_blasts, 0.5 / max(len(self) - n_blasts, 1))


@dataclass(frozen=True)
class Candidate:
    """A way to adapt.

    Parameters
    ----------
    method : str
        `UNCHANGED`, `OFFSET`, `SCALING` or `LAST_LAYER`.
    penalty : float, optional
        L2 penalty of the weights of standardised features.
    """

    method: str
    penalty: float | None = None

    @property
    def name(self) -> str:
        """The method, with its penalty."""
        return self.method if self.penalty is None else f"{self.method} (penalty {self.penalty:g})"

    def fit(self, cells: LabelledCells) -> LinearHead:
        """The head with the lowest penalised cross-entropy on `cells`, which have both classes."""
        if self.method == OFFSET:
            return LinearHead.scaling(1.0, _minimum(cells, np.array([0.0]), self._offset)[0])
        if self.method == SCALING:
            log_slope, offset = _minimum(cells, np.zeros(2), self._scaling)
            return LinearHead.scaling(float(np.exp(log_slope)), float(offset))
        if self.method == LAST_LAYER:
            return self._last_layer(cells)
        return LinearHead.scaling(1.0, 0.0)

    def _offset(self, x: Floats, cells: LabelledCells) -> tuple[float, Floats]:
        loss, slope = _cross_entropy(cells.logit + x[0], cells)
        return loss + _OFFSET_PRIOR / 2 * x[0] ** 2, np.array([slope.sum() + _OFFSET_PRIOR * x[0]])

    def _scaling(self, x: Floats, cells: LabelledCells) -> tuple[float, Floats]:
        scaled = np.exp(x[0]) * cells.logit
        loss, slope = _cross_entropy(scaled + x[1], cells)
        prior = np.array([_SLOPE_PRIOR, _OFFSET_PRIOR])
        return loss + float(prior @ x**2) / 2, np.array([slope @ scaled, slope.sum()]) + prior * x

    def _last_layer(self, cells: LabelledCells) -> LinearHead:
        centre, axes = standardisation(cells)
        columns = np.column_stack([cells.logit, np.ones(len(cells)), (cells.features - centre) @ axes])
        prior = np.full(columns.shape[1], self.penalty or 1.0)
        prior[:2] = _LOGIT_PRIOR, _OFFSET_PRIOR
        start = np.zeros(columns.shape[1])
        start[0] = 1.0

        def loss_of(x: Floats, cells: LabelledCells) -> tuple[float, Floats]:
            loss, slope = _cross_entropy(columns @ x, cells)
            moved = x - start
            return loss + float(prior @ moved**2) / 2, slope @ columns + prior * moved

        found = _minimum(cells, start, loss_of)
        return LinearHead(float(found[0]), float(found[1]), centre, axes @ found[2:])


CANDIDATES = (
    Candidate(UNCHANGED),
    Candidate(OFFSET),
    Candidate(SCALING),
    Candidate(LAST_LAYER, 100.0),
    Candidate(LAST_LAYER, 30.0),
    Candidate(LAST_LAYER, 10.0),
)
"""From least to most change."""


def standardisation(cells: LabelledCells) -> tuple[Floats, Floats]:
    """Centre (f,) of the features, halfway between the classes, and a matrix (f, f) that evens their spread.

    The spread is that within the classes. It is shrunk towards the same spread in all directions, see `SHRINKAGE`.
    """
    features = cells.features.astype(np.float64)
    means = np.stack([features[cells.is_blast == blast].mean(axis=0) for blast in (False, True)])
    apart = features - means[cells.is_blast.astype(np.int64)]
    _, spread, axes = np.linalg.svd(apart / np.sqrt(max(len(cells) - 2, 1)), full_matrices=False)
    usual = max(float((spread**2).sum()) / features.shape[1], 1e-12)
    elsewhere = 1 / np.sqrt(SHRINKAGE * usual)  # along directions in which the cells do not differ
    along = 1 / np.sqrt((1 - SHRINKAGE) * spread**2 + SHRINKAGE * usual)
    return means.mean(axis=0), elsewhere * np.eye(features.shape[1]) + (axes.T * (along - elsewhere)) @ axes


def log_losses(logit: Floats, is_blast: Flags) -> Floats:
    """Cross-entropy of each cell (n,), from the logits of their blast probabilities."""
    return np.asarray(np.logaddexp(0, np.where(is_blast, -logit, logit)))


def _cross_entropy(logit: Floats, cells: LabelledCells) -> tuple[float, Floats]:
    """Sum over the cells, at equal weight of the classes, and its derivative by each logit (n,)."""
    weight = cells.weight * len(cells)
    return float(weight @ log_losses(logit, cells.is_blast)), weight * (sigmoid(logit) - cells.is_blast)


def _minimum(cells: LabelledCells, start: Floats, loss_of: object) -> Floats:
    from scipy.optimize import minimize

    return np.asarray(minimize(loss_of, start, args=(cells,), jac=True, method="L-BFGS-B").x)
