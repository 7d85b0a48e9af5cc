"""How the blast probability of a card's model is calibrated, and to which cells it was adapted."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

Floats = NDArray[np.float64]

_STEEP = 700.0  # exp of a larger number overflows
_CLOSEST = 1e-6  # to 0 or 1; what a float32 probability says beyond is noise

_Fraction = Annotated[float, Field(allow_inf_nan=False)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def logit(probability: ArrayLike) -> Floats:
    """Logarithm of the odds, float64; probabilities are clipped to 1e-6 from 0 and 1.

    Examples
    --------
    >>> logit([0.5, 0.9]).round(2).tolist()
    [0.0, 2.2]
    """
    given = np.clip(np.asarray(probability, np.float64), _CLOSEST, 1 - _CLOSEST)
    return np.asarray(np.log(given / (1 - given)))


def sigmoid(log_odds: ArrayLike) -> Floats:
    """The probability of logarithmic odds, float64; the inverse of `logit`.

    Examples
    --------
    >>> sigmoid([0.0, 2.2]).round(2).tolist()
    [0.5, 0.9]
    """
    return np.asarray(1 / (1 + np.exp(-np.clip(np.asarray(log_odds, np.float64), -_STEEP, _STEEP))))


class Calibration(BaseModel):
    """Platt scaling of the blast probability for unseen stains: a slope and an offset on the logit.

    Fitted to out-of-fold predictions. Source: J. Platt, "Probabilistic outputs for support vector machines", 1999.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slope: float = Field(gt=0, le=1e6, allow_inf_nan=False)
    offset: float = Field(allow_inf_nan=False)
    chosen_on: str

    def logit(self, probability: ArrayLike) -> Floats:
        """Calibrated logarithm of the odds, float64, of blast probabilities as the model outputs them.

        Examples
        --------
        >>> Calibration(slope=2.0, offset=1.0, chosen_on="val").logit([0.5]).tolist()
        [1.0]
        """
        return self.slope * logit(probability) + self.offset

    def apply(self, probability: ArrayLike) -> Floats:
        """Calibrate blast probabilities.

        Parameters
        ----------
        probability : array of float
            Blast probabilities as the model outputs them.

        Returns
        -------
        float64, same shape

        Examples
        --------
        >>> Calibration(slope=1.0, offset=0.0, chosen_on="val").apply([0.25]).round(3).tolist()
        [0.25]
        """
        return sigmoid(self.logit(probability))


class AdaptationMetric(BaseModel):
    """One figure of the reviewed cells, cross-validated, before and after an adaptation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    before: _Fraction
    after: _Fraction
    ci95_before: tuple[_Fraction, _Fraction] | None = None
    ci95_after: tuple[_Fraction, _Fraction] | None = None


class Adaptation(BaseModel):
    """What `blastdet adapt` fitted to the reviewed cells of one laboratory, and to which."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parent: str = Field(description="name of the model that was adapted")
    parent_sha256: _Sha256 = Field(description="SHA-256 of its card")
    method: Literal["offset", "slope and offset", "last layer"] = Field(description="what was fitted")
    reason: str = Field(description="why this method was chosen")
    uses_features: bool = Field(description="whether `head.npz` is applied to the features of the network")
    penalty: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="L2 penalty of the last layer; null for other methods"
    )
    n_cells: int = Field(ge=1, le=10**9, description="reviewed white cells")
    n_blasts: int = Field(ge=1, le=10**9, description="blasts among them")
    smears: dict[str, int] = Field(description="smear, or patient: number of its cells")
    fingerprint: _Sha256 = Field(description="SHA-256 over images, boxes and labels of the cells")
    corrections_sha256: str = Field(default="", description="SHA-256 of the file of corrections; empty without one")
    validation: str = Field(description="how the figures were cross-validated")
    metrics: tuple[AdaptationMetric, ...] = Field(default=(), description="figures before and after")
