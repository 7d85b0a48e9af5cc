"""The card beside a model: what it is, how to feed it, how good it is, where it comes from.

A weights folder is ``card.json`` and the files it names, each with its sha256. The card is written by the tool at
export; a file that does not match its sha256 is refused, never replaced by another model.
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
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import WeightsError
from blastdet.core.mpp import MPP_RANGE
from blastdet.core.types import CELL_CLASSES

CARD = "card.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_Finite = Annotated[float, Field(allow_inf_nan=False)]
_STEEP = 700.0  # exp of more is no float


class InputSpec(_Frozen):
    """How pixels go into the model: ``(pixel / 255 - mean) / std``."""

    wh: tuple[int, int] = Field(description="largest tile, in pixels at the card's µm/px")
    stride: int = Field(default=32, gt=0, description="width and height are padded to a multiple of this")
    pad_value: int = Field(default=114, ge=0, le=255)
    mean: tuple[_Finite, _Finite, _Finite] = (0.0, 0.0, 0.0)
    std: tuple[_Finite, _Finite, _Finite] = (1.0, 1.0, 1.0)
    colour: Literal["as it is", "canonical"] = Field(
        default="as it is", description="canonical: film and red cells brought to fixed colours first"
    )
    low_pass: float = Field(
        default=0,
        ge=0,
        le=10,
        allow_inf_nan=False,
        description="sigma in pixels of the Gaussian that evens sharpness out",
    )
    layout: Literal["NCHW"] = "NCHW"
    dtype: Literal["float32"] = "float32"


class Threshold(_Frozen):
    """An operating point and how it was chosen."""

    value: float = Field(ge=0, le=1)
    chosen_on: str
    criterion: str


class RejectionRule(_Frozen):
    """Where a classifier's answer is not to be relied on."""

    low: float = Field(ge=0, le=1, description="blast probabilities from here on, and below `high`, are unsure")
    high: float = Field(ge=0, le=1)
    distance: float = Field(
        gt=0, allow_inf_nan=False, description="cells farther than this from all that was learnt are unsure"
    )
    chosen_on: str
    criterion: str

    @model_validator(mode="after")
    def _a_band(self) -> RejectionRule:
        if self.low > self.high:
            raise ValueError(f"unsure from {self.low} to {self.high}: no band")
        return self

    def covers(self, blast: ArrayLike, distance: ArrayLike) -> NDArray[np.bool_]:
        """Which cells, by their blast probability and distance (n,), are unsure; bool (n,)."""
        given = np.asarray(blast)
        return ((given >= self.low) & (given < self.high)) | (np.asarray(distance) > self.distance)


class Calibration(_Frozen):
    """What turns a model's blast probability into that of stains it never saw: on the logit, slope and offset.

    Source: J. Platt, "Probabilistic outputs for support vector machines", 1999; fitted to out-of-fold answers.
    """

    slope: float = Field(gt=0, le=1e6, allow_inf_nan=False)
    offset: float = Field(allow_inf_nan=False)
    chosen_on: str

    def apply(self, probability: ArrayLike) -> NDArray[np.float64]:
        """Blast probabilities as the model gives them, to blast probabilities."""
        given = np.clip(np.asarray(probability, np.float64), 1e-6, 1 - 1e-6)
        logit = np.clip(self.slope * np.log(given / (1 - given)) + self.offset, -_STEEP, _STEEP)
        return np.asarray(1 / (1 + np.exp(-logit)))


class ValidationCounts(_Frozen):
    """How the cells of one cluster fared with a model whose training never saw it."""

    blasts: int = Field(ge=0, le=10**12)
    blasts_called: int = Field(ge=0, description="blasts at or above the operating threshold")
    others: int = Field(ge=0, le=10**12)
    others_called: int = Field(ge=0, description="other white cells at or above the operating threshold")

    @model_validator(mode="after")
    def _parts_of_a_whole(self) -> ValidationCounts:
        if self.blasts_called > self.blasts or self.others_called > self.others:
            raise ValueError("more cells called blasts than there are")
        return self


class DataSource(_Frozen):
    """A dataset a model was trained on."""

    name: str
    split: str
    fingerprint: str = Field(description="sha256 over image hashes and boxes of the smears used")
    licence: str
    n_images: int = 0
    notes: tuple[str, ...] = Field(default=(), description="what a review changed")


class Training(_Frozen):
    """How to train the same model again."""

    config: dict[str, Any]
    seed: int
    commit: str
    data: tuple[DataSource, ...]
    epochs: int
    device: str
    duration_s: float


class Metric(_Frozen):
    """One measured figure with its interval."""

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
        "probabilities: (n, classes), calibrated, of n crops of input wh; and distance (n,) from what was learnt",
    )
    sees: Literal["pixels", "hand-made features"] = "pixels"
    files: dict[str, str] = Field(description="file name: sha256")
    mpp: float = Field(  # images are resampled to it: a finer scale than 0.01 would only exhaust memory
        ge=0.01, lt=MPP_RANGE[1], allow_inf_nan=False, description="µm/px the model was trained at"
    )
    input: InputSpec
    thresholds: dict[str, Threshold]
    suppression_iou: float = Field(default=0.5, gt=0, le=1)
    second_stage: str | None = Field(
        default=None, description="weights folder beside this one, or shipped model, that tells blasts from others"
    )
    calibration: Calibration | None = Field(
        default=None, description="of the blast probability once more, on clusters left out of training"
    )
    unsure: RejectionRule | None = None
    trials: tuple[ValidationCounts, ...] = Field(
        default=(), description="out-of-fold counts by cluster: sensitivity, specificity and how sure they are"
    )
    probe: str = Field(default="", description="the shortcut probe that its crops were cut for; empty: none")
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
            raise ValueError(f"classes {unknown} found, some of {list(CELL_CLASSES)} expected")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes {list(self.classes)} found, one or more, each once, expected")
        missing = [name for name in self.classes if name not in self.thresholds]
        if missing and self.task == "detect":
            raise ValueError(f"no threshold for {missing}")
        if idle := [name for name in self.thresholds if name not in self.classes]:
            raise ValueError(f"thresholds for {idle}, which the model does not know")
        if (self.output == "probabilities") != (self.task == "classify"):
            raise ValueError(f"output {self.output} found in a card to {self.task}")
        if self.calibration is not None and "blast" not in self.classes:
            raise ValueError("calibration: of a blast probability, which the model does not give")
        if self.second_stage is not None and (self.task != "detect" or "blast" in self.classes):
            raise ValueError("second_stage: only a detector that does not know blasts has one")
        if min(map(abs, self.input.std)) < 1e-6 or min(self.input.wh) < self.input.stride:
            raise ValueError("input: std other than 0, and wh of a stride or more, expected")
        return self

    @property
    def labels(self) -> tuple[int, ...]:
        """Index into `CELL_CLASSES` of each of the model's outputs."""
        return tuple(CELL_CLASSES.index(name) for name in self.classes)


def shipped(folder: str) -> Path:
    """A folder that comes with the product (``weights``, ``datasets``, ``configs``).

    In a wheel it lies inside the package, in a checkout beside it.
    """
    inside = Path(__file__).parents[1] / "_shipped" / folder
    return inside if inside.is_dir() else Path(__file__).parents[2] / folder


def find_weights(name_or_dir: str | os.PathLike[str]) -> Path:
    """Folder of a shipped model's name, or of a path to a weights folder.

    Raises
    ------
    WeightsError
        If there is no ``card.json`` there; the names that exist are listed.
    """
    given = Path(name_or_dir)
    for folder in (given, shipped("weights") / given):
        if (folder / CARD).is_file():
            return folder
    names = sorted(path.parent.name for path in shipped("weights").glob(f"*/{CARD}"))
    raise WeightsError(f"{name_or_dir}: no {CARD} found, a weights folder or one of {names} expected")


def read_card(folder: Path) -> Card:
    """The card of a weights folder, its files checked against their sha256.

    Raises
    ------
    WeightsError
        If the card cannot be read, or a file is missing or is not the one the card names.
    """
    try:
        card = Card.model_validate_json((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{folder / CARD}: cannot be read ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "card"
        raise WeightsError(f"{folder / CARD}: {where}: {first['msg']}") from error
    for name, expected in card.files.items():
        path = folder / name
        if path.name != name or not path.is_file():
            raise WeightsError(f"{path}: missing, although {CARD} names it")
        found = sha256_of(path)
        if found != expected:
            raise WeightsError(f"{path}: sha256 {found[:12]}… found, {expected[:12]}… expected by its card")
    return card


def write_card(card: Card, folder: Path) -> Path:
    """Write ``card.json`` (whole or not at all) and return its path."""
    text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return write_text(folder / CARD, text + "\n")


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
