"""Configurations of trainings: pydantic models <-> YAML. One file describes one run completely."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from blastdet.core.errors import ConfigError
from blastdet.core.types import CELL_CLASSES
from blastdet.datasets.locations import expand_variables


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _range_of_scale(value: tuple[float, float]) -> tuple[float, float]:
    if not 0.1 <= value[0] <= value[1] <= 10:
        raise ValueError(f"{list(value)} found, [smallest, largest] within 0.1 to 10 expected")
    return value


_ScaleRange = Annotated[tuple[float, float], AfterValidator(_range_of_scale)]
_SMALLEST_TILE = 96


class DataConfig(_Strict):
    """One data set of a training."""

    path: str = Field(description="folder or file; ${BLASTDET_DATA} and other variables are expanded")
    format: str = "auto"
    options: dict[str, Any] = Field(default={}, description="passed to the reader of the format")
    split: str = Field(
        default="official-disjoint",
        description="official, official-disjoint, grouped, train or a CSV file; auto: as it is split, else grouped",
    )
    corrections: str | None = Field(default=None, description="JSON Lines file of corrections, applied after reading")
    exclude: str | None = Field(default=None, description="COCO file whose pictures, with their groups, stay out")
    weak: Literal["", "boxes", "background"] = Field(default="", description="truth by segmentation: training.weak")
    unknown: tuple[tuple[float, float, float, float], ...] = Field(default=(), description="burnt-in marks, pixels")
    share: float = Field(default=1.0, gt=0, description="how often it is drawn, relative to the other sets")
    validate_on: bool = Field(default=True, description="whether its val split counts for choosing the best epoch")
    licence: str = ""

    @field_validator("options")
    @classmethod
    def _for_a_reader(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in ("path", "format") if name in value]:
            raise ValueError(f"{taken} found, which are entries of their own")
        if not isinstance(value.get("images", ""), str):
            raise ValueError("images: a path expected")
        return value


class AugmentConfig(_Strict):
    """How pictures are varied in training. Each is a strength or a probability; 0 turns it off."""

    mosaic: float = Field(default=0.8, ge=0, le=1, description="share of samples put together from four pictures")
    scale: _ScaleRange = Field(default=(0.75, 1.33), description="range of enlargement, log-uniform")
    squeeze: float = Field(default=0.1, ge=0, lt=1, description="largest difference of enlargement along x and y")
    stain: float = Field(default=0.5, ge=0, le=5, description="stain jitter in optical density, 1 = other laboratories")
    paste: float = Field(default=0.0, ge=0, le=1, description="share of samples with white cells of others pasted in")
    pile: float = Field(default=0.0, ge=0, le=1, description="share of samples with a pile of red cells pasted in")
    photometric: float = Field(default=0.5, ge=0, le=1, description="chance of blur, JPEG, noise, light, each")


class LoopConfig(_Strict):
    """What the training loop needs to know, whatever it trains."""

    name: str = Field(min_length=1, pattern=r"^[^\x00/]+$")
    init: str | None = Field(
        default=None, description="file of starting weights: safetensors, or a state dict of torch"
    )
    epochs: int = Field(default=100, ge=1)
    epoch_samples: int | None = Field(default=None, ge=1, description="samples an epoch; default: one per picture")
    batch: int = Field(default=16, ge=1)
    lr: float = Field(default=0.001, gt=0)
    weight_decay: float = Field(default=0.0005, ge=0)
    warmup_epochs: float = Field(default=3.0, ge=0)
    ema: float = Field(default=0.998, ge=0, lt=1, description="memory of the moving average; 0.998: 500 steps")
    amp: Literal["auto", "off", "bf16", "fp16"] = Field(
        default="auto", description="mixed precision; auto: bf16 where the processor computes in it, else off"
    )
    patience: int = Field(default=0, ge=0, description="epochs without a better figure before stopping; 0: never")
    val_every: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    workers: int = Field(default=1, ge=0)

    def should_stop_early(self, epoch: int, best_epoch: int) -> bool:
        """Whether so many epochs have brought nothing better that a training stops early."""
        return bool(self.patience) and epoch - best_epoch >= self.patience


class TrainConfig(LoopConfig):
    """Everything needed to train a detector again.

    `read_config` reads it from YAML; ``blastdet train --set key=value`` overrides single entries.
    """

    task: Literal["detect"] = "detect"
    leave_out: tuple[str, ...] = Field(default=(), description="data sets, by the name of their folder, not to use")
    model: str = Field(default="yolov5n", description="key of blastdet.training.MODELS")
    classes: tuple[str, ...] = ("wbc", "rbc", "platelet")
    mpp: float = Field(gt=0.01, le=5, description="µm/px of the model: every picture is resampled to it")
    colour: Literal["as it is", "canonical"] = Field(default="as it is", description="how pixels are shown: see cards")
    crop: int = Field(default=256, ge=64, description="side of a training sample in pixels")
    tile_wh: tuple[int, int] = Field(default=(640, 640), description="largest tile at detection")
    data: tuple[DataConfig, ...] = Field(min_length=1)
    augment: AugmentConfig = AugmentConfig()
    plain_epochs: int = Field(default=10, ge=0, description="last epochs without mosaic")

    @field_validator("classes")
    @classmethod
    def _known_classes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in CELL_CLASSES]
        if unknown or not value:
            raise ValueError(f"{unknown or 'no class'} found, some of {list(CELL_CLASSES)} expected")
        return tuple(name for name in CELL_CLASSES if name in value)

    @field_validator("tile_wh")
    @classmethod
    def _holds_a_cell(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < _SMALLEST_TILE:
            raise ValueError(f"{list(value)} found, at least {_SMALLEST_TILE} each expected")
        return value

    @field_validator("crop")
    @classmethod
    def _multiple_of_stride(cls, value: int) -> int:
        if value % 32:
            raise ValueError(f"{value} found, a multiple of 32 expected")
        return value


class CropsConfig(_Strict):
    """One folder of crops of a classifier's training: see ``blastdet crops``."""

    path: str = Field(description="folder with crops.csv; variables are expanded")
    share: float = Field(default=1.0, ge=1e-6, le=1e6, description="how often it is drawn, relative to the other sets")
    licence: str = ""


class CropAugmentConfig(_Strict):
    """How crops are varied in training. Each is a strength or a probability; 0 turns it off."""

    scale: _ScaleRange = Field(default=(0.85, 1.18), description="range of enlargement, log-uniform")
    shift: float = Field(default=0.06, ge=0, lt=0.5, description="largest shift, as part of the side")
    stain: float = Field(default=0.4, ge=0, le=5, description="stain jitter in optical density, 1 = other laboratories")
    photometric: float = Field(default=0.6, ge=0, le=1, description="chance of blur, JPEG, noise, light, each")


class ClassifyConfig(LoopConfig):
    """Everything needed to train a classifier of crops again."""

    task: Literal["classify"]
    model: str = Field(
        default="small",
        description="small, or a builder of torchvision: mobilenet_v2, resnet18, ...; "
        "with features, a key of blastdet.training.classification.sklearn_models.MODELS: svm, random_forest, ...",
    )
    features: str = Field(
        default="",
        description="what is looked at: pixels (empty), hand-made, or features of a weights folder's network",
    )
    pca: int | None = Field(default=None, ge=1, description="with features: keep so many principal components")
    options: dict[str, Any] = Field(default={}, description="with features: settings of scikit-learn's classifier")
    label: Literal["blast", "cell_type", "smear_label"] = Field(
        description="what is learnt: see blastdet.training.classification.crop_samples"
    )
    classes: tuple[str, ...] = Field(min_length=2, description="outputs; crops of any other class are left out")
    mpp: float = Field(default=0.5, gt=0.01, le=5, description="µm/px that every crop is brought to")
    side: int = Field(default=64, ge=32, multiple_of=32, description="side of the input in pixels")
    low_pass: float = Field(default=0.7, ge=0, le=10, description="sigma in pixels that evens sharpness out")
    data: tuple[CropsConfig, ...] = Field(min_length=1)
    leave_out: tuple[str, ...] = Field(default=(), description="folders of crops, by name, not to use")
    fold: tuple[int, int] | None = Field(default=None, description="[k, n]: clusters of fold k of n are left out")
    val_share: float = Field(default=0.15, gt=0, lt=0.9, description="share of clusters to validate on")
    augment: CropAugmentConfig = CropAugmentConfig()

    @property
    def sees(self) -> Literal["pixels", "hand-made features"]:
        """What an exported model gets to see of a crop."""
        return "hand-made features" if self.features == "hand-made" else "pixels"

    @model_validator(mode="after")
    def _of_features(self) -> ClassifyConfig:
        if not self.features and (self.options or self.pca):
            raise ValueError("options and pca are for classifiers of features: name some, e.g. features: hand-made")
        if self.features and self.init:
            raise ValueError("init: is for networks; a classifier of features has no weights to begin with")
        return self

    @field_validator("fold")
    @classmethod
    def _one_of_them(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 0 <= value[0] < value[1]:
            raise ValueError(f"{list(value)} found, [k, n] with 0 <= k < n expected")
        return value

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a class is named twice")
        return value


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a detector's training from YAML; errors as `read_any`."""
    config = read_any(path, overrides)
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"{path}: task: {config.task} found, detect expected")
    return config


def read_any(path: Path, overrides: Sequence[str] = (), data: Sequence[Path] = ()) -> TrainConfig | ClassifyConfig:
    """A training configuration from YAML; its ``task`` says of what.

    Parameters
    ----------
    path : Path
    overrides : sequence of str
        ``key=value`` with a YAML value; ``augment.mosaic=0`` reaches inside, ``data.0.share=2`` into a list.
    data : sequence of Path
        Data sets, or folders of crops, in the place of those that the file names; the run is named after the first.

    An entry ``extends`` names another file beside this one, whose entries hold where this one has none.

    Raises
    ------
    ConfigError
        One line that names the file, the entry, what was found and what was expected.
    """
    content = _merged(path)
    if data:
        split = {} if content.get("task") == "classify" else {"split": "auto"}
        places = [os.path.abspath(item) for item in data]  # noqa: PTH100 - resolve() stumbles over loops of links
        content["data"] = [{"path": place, **split} for place in places]
        content["name"] = f"{content.get('name', path.stem)}-{Path(places[0]).name}"
    for override in overrides:
        _set(content, override)
    kind = ClassifyConfig if content.get("task") == "classify" else TrainConfig
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = get_close_matches(entry, kind.model_fields, 1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{path}: {entry}: no such entry{hint}") from error
        found = f" ({first['input']!r:.80} found)" if entry else ""
        raise ConfigError(f"{path}: {entry or 'it'}: {first['msg']}{found}") from error


def _content(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    asked = f", which {above[0]} extends" if above else ""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}{asked}: cannot be read ({error})") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {type(content).__name__} found, a mapping of settings expected")
    return content


def _merged(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Entries of a file over those of the file that it extends, if any."""
    content = _content(path, above)
    if "extends" not in content:
        return content
    name = content.pop("extends")
    if not isinstance(name, str) or not name or "\0" in name:
        raise ConfigError(f"{path}: extends: {name!r:.60} found, the name of one file beside it expected")
    base = path.parent / name
    if any(base.resolve() == other.resolve() for other in (path, *above)):
        raise ConfigError(f"{path}: extends: {name} extends this file in turn")
    return {**_merged(base, (path, *above)), **content}


def to_yaml(config: LoopConfig) -> str:
    """The configuration as YAML that `read_any` takes."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def expand(path: str, base: Path) -> Path:
    """A path of a configuration: variables expanded, relative to `base`.

    ``BLASTDET_DATA`` need not be set: see `blastdet.datasets.locations.data_dir`.

    Raises
    ------
    ConfigError
        If a variable is not set.
    """
    if (base / path).exists():  # a name may hold a $
        return base / path
    expanded = expand_variables(path)
    if "$" in expanded:
        raise ConfigError(f"{path}: environment variable not set")
    return base / Path(expanded).expanduser()


def _set(content: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override}: key=value expected")
    *parents, last = key.strip().split(".")
    node: Any = content
    try:
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
        node[int(last) if isinstance(node, list) else last] = yaml.safe_load(value)
    except (IndexError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"--set {override}: no such entry ({error})") from error
