"""Model cards: input, thresholds, training data and metrics of a model, stored as ``card.json`` in its weights folder.

A weights folder holds ``card.json`` and the files that it lists, each with its SHA-256. The card is written when the
model is exported. A file that does not match its SHA-256 raises an error; no other model is loaded instead.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from blastdet.core.atomic_io import write_text
from blastdet.core.card_fields.blast_probability import Adaptation as Adaptation
from blastdet.core.card_fields.blast_probability import Calibration as Calibration
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import WeightsError
from blastdet.core.mpp import MPP_RANGE
from blastdet.core.types import BETWEEN_CLASSES, CELL_CLASSES, UNLIKE_TRAINING

CARD = "card.json"
HEAD = "head.npz"
"""Name of the file of an adapted last layer, see `blastdet.models.linear_head`."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_Finite = Annotated[float, Field(allow_inf_nan=False)]
_TileSide = Annotated[int, Field(gt=0, le=2**16)]


class InputSpec(_Frozen):
    """Preprocessing: pixels are normalized as ``(pixel / 255 - mean) / std``."""

    wh: tuple[_TileSide, _TileSide] = Field(description="largest tile, in pixels at the card's µm/px")
    stride: int = Field(default=32, gt=0, le=1024, description="width and height are padded to a multiple of this")
    pad_value: int = Field(default=114, ge=0, le=255)
    mean: tuple[_Finite, _Finite, _Finite] = (0.0, 0.0, 0.0)
    std: tuple[_Finite, _Finite, _Finite] = (1.0, 1.0, 1.0)
    colour: Literal["as it is", "canonical"] = Field(
        default="as it is",
        description="canonical: the stain is normalized to fixed colours first",
    )
    low_pass: float = Field(
        default=0,
        ge=0,
        le=10,
        allow_inf_nan=False,
        description="sigma in pixels of the Gaussian blur that equalizes sharpness; 0: none",
    )
    layout: Literal["NCHW"] = "NCHW"
    dtype: Literal["float32"] = "float32"


class Threshold(_Frozen):
    """An operating point and how it was chosen."""

    value: float = Field(ge=0, le=1)
    chosen_on: str
    criterion: str


class RejectionRule(_Frozen):
    """Which predictions of a classifier are reported as uncertain."""

    low: float = Field(ge=0, le=1, description="cells with a blast probability from here to below `high` are uncertain")
    high: float = Field(ge=0, le=1)
    distance: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="cells farther than this from the training data are uncertain",
    )
    chosen_on: str
    criterion: str

    @model_validator(mode="after")
    def _a_band(self) -> RejectionRule:
        if self.low > self.high:
            raise ValueError(f"expected low <= high, got {self.low} and {self.high}")
        return self

    def covers(self, blast: ArrayLike, distance: ArrayLike) -> NDArray[np.bool_]:
        """Mark the uncertain cells.

        Parameters
        ----------
        blast : (n,)
            Blast probability of each cell.
        distance : (n,)
            Distance of each cell from the training data.

        Returns
        -------
        bool (n,)

        Examples
        --------
        >>> rule = RejectionRule(low=0.4, high=0.6, distance=2.0, chosen_on="val", criterion="fixed")
        >>> rule.covers([0.1, 0.5, 0.9], [1.0, 1.0, 3.0]).tolist()
        [False, True, True]
        """
        return np.asarray(self.reasons(blast, distance) != "", bool)

    def reasons(self, blast: ArrayLike, distance: ArrayLike) -> NDArray[np.str_]:
        """Why each cell is uncertain.

        Parameters
        ----------
        blast, distance : (n,)
            As for `covers`.

        Returns
        -------
        str (n,)
            ``"unlike training"`` beyond the distance, where the probability means little; else ``"between classes"``
            within the band; else ``""``.

        Examples
        --------
        >>> rule = RejectionRule(low=0.4, high=0.6, distance=2.0, chosen_on="val", criterion="fixed")
        >>> rule.reasons([0.1, 0.5, 0.5], [1.0, 1.0, 3.0]).tolist()
        ['', 'between classes', 'unlike training']
        """
        given = np.asarray(blast)
        between = np.where((given >= self.low) & (given < self.high), BETWEEN_CLASSES, "")
        return np.where(np.asarray(distance) > self.distance, UNLIKE_TRAINING, between)


class ValidationCounts(_Frozen):
    """Out-of-fold counts of one cluster or patient: results of a model that was trained without it."""

    laboratory: str = Field(default="", description="that the model was trained without; empty: only the cluster was")
    blasts: int = Field(ge=0, le=10**12)
    blasts_called: int = Field(ge=0, description="blasts at or above the operating threshold")
    others: int = Field(ge=0, le=10**12)
    others_called: int = Field(ge=0, description="other white cells at or above the operating threshold")

    @model_validator(mode="after")
    def _parts_of_a_whole(self) -> ValidationCounts:
        if self.blasts_called > self.blasts or self.others_called > self.others:
            raise ValueError(
                "expected blasts_called <= blasts and others_called <= others, got "
                f"{self.blasts_called} of {self.blasts} and {self.others_called} of {self.others}"
            )
        return self


class DataSource(_Frozen):
    """A dataset that a model was trained on."""

    name: str
    split: str
    fingerprint: str = Field(description="SHA-256 over the image hashes and the boxes of the samples used")
    licence: str
    n_images: int = 0
    notes: tuple[str, ...] = Field(default=(), description="what was changed in a review")


class Training(_Frozen):
    """Everything needed to repeat the training."""

    config: dict[str, Any]
    seed: int
    commit: str
    data: tuple[DataSource, ...]
    epochs: int
    device: str
    duration_s: float


class Metric(_Frozen):
    """One metric with its confidence interval."""

    data: str
    split: str
    n_images: int
    n_cells: int
    metric: str
    value: float
    ci95: tuple[float, float] | None = None


class Card(_Frozen):
    """Contents of ``card.json``."""

    name: str
    task: Literal["detect", "classify"]
    classes: tuple[str, ...]
    format: Literal["onnx", "openvino"] = "onnx"
    precision: Literal["f32", "bf16", "int8"] = "f32"
    output: Literal["yolo", "boxes", "probabilities"] = Field(
        default="yolo",
        description="yolo: (n, 4 + classes, anchors), cx cy w h in input px; "
        "boxes: (cells, 4 + classes) of one image, x1 y1 x2 y2 in input px; "
        "probabilities: (n, classes), calibrated, of n crops of input wh, and distance (n,) from the training data",
    )
    sees: Literal["pixels", "hand-made features"] = "pixels"
    files: dict[str, str] = Field(description="file name: SHA-256")
    mpp: float = Field(  # images are resampled to it: below 0.01 they would exhaust memory
        ge=0.01, lt=MPP_RANGE[1], allow_inf_nan=False, description="µm/px that the model was trained at"
    )
    input: InputSpec
    thresholds: dict[str, Threshold]
    suppression_iou: float = Field(default=0.5, gt=0, le=1)
    second_stage: str | None = Field(
        default=None,
        description="classifier of white cells: a weights folder beside this one, or a shipped model",
    )
    calibration: Calibration | None = Field(
        default=None, description="calibration of the blast probability on clusters left out of training"
    )
    adaptation: Adaptation | None = Field(
        default=None, description="what `blastdet adapt` fitted to a laboratory's own cells"
    )
    unsure: RejectionRule | None = None
    trials: tuple[ValidationCounts, ...] = Field(
        default=(),
        description="out-of-fold counts of each cluster, for sensitivity, specificity and their intervals",
    )
    probe: str = Field(default="", description="negative control that the crops were cut for; empty: none")
    training: Training
    metrics: tuple[Metric, ...] = ()
    versions: dict[str, str] = {}
    licence: str = "AGPL-3.0-or-later"
    intended_use: str = RESEARCH_USE
    limits: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _classes_are_known(self) -> Card:
        unknown = [name for name in self.classes if name not in CELL_CLASSES]
        if unknown and self.task == "detect":
            raise ValueError(f"expected classes among {', '.join(CELL_CLASSES)}, got {', '.join(map(repr, unknown))}")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"expected one or more different classes, got {list(self.classes)}")
        missing = [name for name in self.classes if name not in self.thresholds]
        if missing and self.task == "detect":
            raise ValueError(f"expected a threshold for every class, got none for {', '.join(missing)}")
        if idle := [name for name in self.thresholds if name not in self.classes]:
            raise ValueError(f"expected thresholds for the model's classes only, got {', '.join(idle)}")
        if (self.output == "probabilities") != (self.task == "classify"):
            expected = "probabilities" if self.task == "classify" else "yolo or boxes"
            raise ValueError(f"output: expected {expected} for task {self.task}, got {self.output}")
        if self.calibration is not None and "blast" not in self.classes:
            raise ValueError(
                f"calibration: expected a model with the class blast, got classes {', '.join(self.classes)}"
            )
        if (HEAD in self.files) != (self.adaptation is not None and self.adaptation.uses_features):
            raise ValueError(f"files: expected {HEAD} if and only if adaptation.uses_features is true")
        if self.second_stage is not None and (self.task != "detect" or "blast" in self.classes):
            got = f"task {self.task} with classes {', '.join(self.classes)}"
            raise ValueError(f"second_stage: expected a detector without the class blast, got {got}")
        if min(map(abs, self.input.std)) < 1e-6:
            raise ValueError(f"input.std: expected values other than 0, got {self.input.std}")
        if min(self.input.wh) < self.input.stride:
            raise ValueError(f"input.wh: expected at least the stride, {self.input.stride}, got {self.input.wh}")
        return self

    @property
    def labels(self) -> tuple[int, ...]:
        """Index into `CELL_CLASSES` of each output of the model."""
        return tuple(CELL_CLASSES.index(name) for name in self.classes)


def shipped(folder: str) -> Path:
    """Path of a folder that is shipped with blastdet.

    In a wheel it is inside the package, in a checkout beside it.

    Parameters
    ----------
    folder : {"weights", "datasets", "configs"}

    Returns
    -------
    Path
    """
    inside = Path(__file__).parents[1] / "_shipped" / folder
    return inside if inside.is_dir() else Path(__file__).parents[2] / folder


def find_weights(name_or_dir: str | os.PathLike[str]) -> Path:
    """Find a weights folder.

    Parameters
    ----------
    name_or_dir : str or path
        Path of a weights folder, or name of a shipped model, such as ``"default"``.

    Returns
    -------
    Path

    Raises
    ------
    WeightsError
        If there is no ``card.json``; the message lists the shipped models.

    Examples
    --------
    >>> find_weights("default").name
    'default'
    """
    try:
        given = Path(name_or_dir)
    except TypeError:
        raise WeightsError(f"weights: expected a name or a folder, got {type(name_or_dir).__name__}") from None
    for folder in (given, shipped("weights") / given):
        if os.path.isfile(folder / CARD):  # noqa: PTH113  # Path.is_file() fails on a name that is too long
            return folder
    names = sorted(path.parent.name for path in shipped("weights").glob(f"*/{CARD}"))
    raise WeightsError(
        f"{name_or_dir!s:.200}: expected a folder with {CARD} or a shipped model ({', '.join(names)}), got neither"
    )


def read_card(folder: Path) -> Card:
    """Read the card of a weights folder, and check the SHA-256 of every file it lists.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Card

    Raises
    ------
    WeightsError
        If the card cannot be read, or a file is missing or differs from the one the card lists.

    Examples
    --------
    >>> card = read_card(find_weights("default"))
    >>> card.task, card.classes
    ('detect', ('wbc', 'rbc', 'platelet'))
    """
    try:
        card = Card.model_validate_json((folder / CARD).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{folder / CARD}: cannot be read ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "card"
        raise WeightsError(f"{folder / CARD}: {where}: {first['msg'].removeprefix('Value error, ')}") from error
    for name, expected in card.files.items():
        path = folder / name
        if path.name != name or not path.is_file():
            raise WeightsError(f"{path}: listed in {CARD}, but missing. Copy the weights folder again.")
        found = sha256_of(path)
        if found != expected:
            raise WeightsError(
                f"{path}: expected sha256 {expected[:12]}… as in {CARD}, got {found[:12]}…. "
                "Copy the weights folder again."
            )
    return card


def write_card(card: Card, folder: Path) -> Path:
    """Write ``card.json`` atomically, and return its path."""
    text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return write_text(folder / CARD, text + "\n")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, which is read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
