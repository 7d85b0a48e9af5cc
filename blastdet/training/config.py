"""Training configurations as pydantic models; `training.config_file` reads and writes them as YAML."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from blastdet.core.types import CELL_CLASSES


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _scale_range(value: tuple[float, float]) -> tuple[float, float]:
    if not 0.1 <= value[0] <= value[1] <= 10:
        raise ValueError(f"expected [smallest, largest] between 0.1 and 10, got {list(value)}")
    return value


def _check_pixels(batch: int, name: str, side: int) -> None:
    if batch * side**2 > _MOST_PIXELS:
        most = f"expected batch x {name} x {name} of at most {_MOST_PIXELS:,} pixels"
        raise ValueError(f"{most}, got {batch} x {side} x {side}")


_ScaleRange = Annotated[tuple[float, float], AfterValidator(_scale_range)]
_SMALLEST_TILE, _LARGEST_TILE = 96, 8192
_MOST_EPOCHS = 100_000
_MOST_PIXELS = 2**28  # of a batch: 3 GiB as float32, and the network needs many times that
_WEIGHT = "how often it is drawn, relative to the other datasets"
_SCALE = "range of the zoom factor, log-uniform"
_LONGEST_NAME = 200  # of a run: its folder has it
_STAIN = "stain jitter in optical density; 1 spans the stains of other laboratories"
_INIT = (
    "starting weights: default or another weights folder, a safetensors or ONNX file, a torch state dict, "
    "or a checkpoint of ultralytics"
)
_RESTAIN = "probability of red cells and nuclei of another hue: see imaging.restaining"
_PHOTOMETRIC = "probability of blur and of JPEG; light, sharpening and noise follow: see training.photometric"


class DataConfig(_Strict):
    """One dataset of a training."""

    path: str = Field(description="folder or file; ${BLASTDET_DATA} and other variables are expanded")
    format: str = "auto"
    options: dict[str, Any] = Field(default={}, description="passed to the reader of the format")
    split: str = Field(
        default="official-disjoint",
        description="official, official-disjoint, grouped, train or a CSV file; "
        "auto: the split of the dataset if it has one, else grouped",
    )
    corrections: str | None = Field(default=None, description="JSON Lines file of corrections, applied after reading")
    exclude: str | None = Field(default=None, description="COCO file of images to leave out, with their groups")
    weak: Literal["", "boxes", "background"] = Field(
        default="", description="labels from segmentation: see blastdet.segmentation.weak_labels"
    )
    unknown: tuple[tuple[float, float, float, float], ...] = Field(
        default=(), description="regions to ignore, in pixels: marks burnt into the images"
    )
    sampling_weight: float = Field(default=1.0, gt=0, le=1e6, description=_WEIGHT)
    validate_on: bool = Field(default=True, description="whether its val split counts for choosing the best epoch")
    licence: str = ""

    @field_validator("options")
    @classmethod
    def _for_a_reader(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in ("path", "format") if name in value]:
            raise ValueError(f"{taken}: set these as entries of the dataset, not as options")
        if not isinstance(value.get("images", ""), str):
            raise ValueError("images: expected a path")
        return value


class AugmentConfig(_Strict):
    """Augmentation of a detector's training images. Each is a strength or a probability; 0 turns it off."""

    mosaic: float = Field(default=0.8, ge=0, le=1, description="probability of a mosaic of four images")
    scale: _ScaleRange = Field(default=(0.75, 1.33), description=_SCALE)
    aspect_jitter: float = Field(default=0.1, ge=0, lt=1, description="largest difference of zoom along x and y")
    stain: float = Field(default=0.5, ge=0, le=5, description=_STAIN)
    restain: float = Field(default=0.0, ge=0, le=1, description=_RESTAIN)
    copy_paste: float = Field(default=0.0, ge=0, le=1, description="probability of pasted white cells")
    rbc_overlap: float = Field(default=0.0, ge=0, le=1, description="probability of pasted, overlapping red cells")
    photometric: float = Field(default=0.5, ge=0, le=1, description=_PHOTOMETRIC)


class LoopConfig(_Strict):
    """Settings of the training loop, the same for detectors and classifiers."""

    name: str = Field(min_length=1, pattern=r"^[^\x00/]+$")
    init: str | None = Field(default=None, description=_INIT)
    freeze: tuple[str, ...] = Field(
        default=(), description="with init: layers that keep their weights, by the start of their names: model.0., ..."
    )
    epochs: int = Field(default=100, ge=1, le=_MOST_EPOCHS)
    epoch_samples: int | None = Field(
        default=None, ge=1, le=10**7, description="samples per epoch; default: one per image"
    )
    batch: int = Field(default=16, ge=1, le=4096)
    lr: float = Field(default=0.001, gt=0, le=1e6)
    weight_decay: float = Field(default=0.0005, ge=0, le=10)
    warmup_epochs: float = Field(default=3.0, ge=0, le=_MOST_EPOCHS)
    ema: float = Field(default=0.998, ge=0, lt=1, description="decay of the moving average of the weights")
    amp: Literal["auto", "off", "bf16", "fp16"] = Field(
        default="auto", description="mixed precision; auto: bf16 where the processor supports it, else off"
    )
    patience: int = Field(
        default=0, ge=0, le=_MOST_EPOCHS, description="epochs without improvement before stopping; 0: never stop"
    )
    val_every: int = Field(default=1, ge=1, le=_MOST_EPOCHS)
    seed: int = Field(default=0, ge=0, lt=2**31)
    workers: int = Field(default=1, ge=0, le=256)

    @field_validator("name")
    @classmethod
    def _is_a_folder_of_its_own(cls, value: str) -> str:
        if value.strip() in ("", ".", "..") or "\\" in value or not value.isprintable() or len(value) > _LONGEST_NAME:
            raise ValueError(f"expected the name of a new folder of at most {_LONGEST_NAME} plain characters")
        return value

    def should_stop_early(self, epoch: int, best_epoch: int) -> bool:
        """Whether `patience` epochs have passed without improvement."""
        return bool(self.patience) and epoch - best_epoch >= self.patience


class TrainConfig(LoopConfig):
    """Everything needed to train a detector again.

    `read_config` reads it from YAML; ``blastdet train --set key=value`` overrides single entries.
    """

    task: Literal["detect"] = "detect"
    leave_out: tuple[str, ...] = Field(default=(), description="datasets not to use, by the names of their folders")
    model: str = Field(default="yolov5n", description="key of blastdet.training.architectures.MODELS")
    classes: tuple[str, ...] = ("wbc", "rbc", "platelet")
    mpp: float = Field(gt=0.01, le=5, description="µm/px of the model: every image is resampled to it")
    colour: Literal["as it is", "canonical"] = Field(
        default="as it is", description="canonical: background and red cells are brought to fixed colours first"
    )
    crop: int = Field(default=256, ge=64, le=4096, description="side of a training sample in pixels")
    tile_wh: tuple[int, int] = Field(default=(640, 640), description="largest tile at detection")
    data: tuple[DataConfig, ...] = Field(min_length=1)
    augment: AugmentConfig = AugmentConfig()
    plain_epochs: int = Field(default=10, ge=0, le=_MOST_EPOCHS, description="last epochs without mosaic")

    @field_validator("classes")
    @classmethod
    def _known_classes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in CELL_CLASSES]
        if unknown or not value:
            raise ValueError(f"expected some of {list(CELL_CLASSES)}, got {unknown or 'none'}")
        return tuple(name for name in CELL_CLASSES if name in value)

    @field_validator("tile_wh")
    @classmethod
    def _holds_a_cell(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < _SMALLEST_TILE or max(value) > _LARGEST_TILE:
            raise ValueError(f"expected {_SMALLEST_TILE} to {_LARGEST_TILE} each")
        return value

    @field_validator("crop")
    @classmethod
    def _multiple_of_stride(cls, value: int) -> int:
        if value % 32:
            raise ValueError(f"expected a multiple of 32, got {value}")
        return value

    @model_validator(mode="after")
    def _fits_into_memory(self) -> TrainConfig:
        _check_pixels(self.batch, "crop", self.crop)
        return self


class CropsConfig(_Strict):
    """One folder of crops of a classifier's training: see ``blastdet crops``."""

    path: str = Field(description="folder with crops.csv; variables are expanded")
    laboratory: str = Field(default="", description="where the images were made; default: the name of the folder")
    sampling_weight: float = Field(default=1.0, ge=1e-6, le=1e6, description=_WEIGHT)
    licence: str = ""


class CropAugmentConfig(_Strict):
    """Augmentation of a classifier's training crops. Each is a strength or a probability; 0 turns it off."""

    scale: _ScaleRange = Field(default=(0.85, 1.18), description=_SCALE)
    shift: float = Field(default=0.06, ge=0, lt=0.5, description="largest shift, as a fraction of the side")
    stain: float = Field(default=0.4, ge=0, le=5, description=_STAIN)
    photometric: float = Field(default=0.6, ge=0, le=1, description=_PHOTOMETRIC)
    degrade: float = Field(default=0.0, ge=0, le=1, description="probability of a lower resolution, down to 0.4 times")
    isolate: float = Field(default=0.0, ge=0, le=1, description="probability of a cell cut out of its surroundings")
    grey: float = Field(default=0.0, ge=0, le=1, description="probability of an image with little or no colour")


class ClassifyConfig(LoopConfig):
    """Everything needed to train a classifier of crops again."""

    task: Literal["classify"]
    model: str = Field(
        default="small",
        description="small, residual, a network of torchvision (mobilenet_v2, resnet18, ...) or of timm (timm/NAME); "
        "with features, a key of blastdet.training.classification.sklearn_models.MODELS: svm, random_forest, ...",
    )
    features: str = Field(
        default="",
        description="empty: the model sees pixels; hand-made: hand-made features; "
        "else a weights folder, for the features of its network",
    )
    pca: int | None = Field(
        default=None, ge=1, le=100_000, description="with features: number of principal components to keep"
    )
    options: dict[str, Any] = Field(default={}, description="with features: parameters of scikit-learn's classifier")
    label: Literal["blast", "differential", "cell_type", "smear_label"] = Field(
        description="target: see blastdet.training.classification.crop_samples.targets"
    )
    teacher: str | None = Field(
        default=None,
        description="run folder of a network trained before on the same crops; its outputs are learned besides the "
        "labels: see blastdet.training.classification.distillation",
    )
    classes: tuple[str, ...] = Field(min_length=2, description="outputs; crops of any other class are left out")
    mpp: float = Field(default=0.5, gt=0.01, le=5, description="µm/px that every crop is resampled to")
    side: int = Field(default=64, ge=32, le=2048, multiple_of=32, description="side of the input in pixels")
    low_pass: float = Field(default=0.7, ge=0, le=10, description="sigma in pixels of a blur that evens out sharpness")
    data: tuple[CropsConfig, ...] = Field(min_length=1)
    leave_out: tuple[str, ...] = Field(default=(), description="folders of crops not to use, by name")
    fold: tuple[int, int] | None = Field(default=None, description="[k, n]: leave out the clusters of fold k of n")
    folds: Annotated[int, Field(ge=2, le=100)] | Literal["laboratories"] | None = Field(
        default=None,
        description="also train this many models, each without one fold of clusters, or one without each laboratory, "
        "and calibrate",
    )
    val_fraction: float = Field(default=0.15, gt=0, lt=0.9, description="fraction of clusters to validate on")
    augment: CropAugmentConfig = CropAugmentConfig()
    limits: tuple[str, ...] = Field(default=(), description="known limits of the model, added to those in its card")

    @property
    def laboratories(self) -> tuple[tuple[str, str], ...]:
        """Laboratory and name of each folder that is used."""
        names = [(item.laboratory, PurePath(item.path).name) for item in self.data]
        return tuple((laboratory or name, name) for laboratory, name in names if name not in self.leave_out)

    @property
    def sees(self) -> Literal["pixels", "hand-made features"]:
        """What the exported model takes as input."""
        return "hand-made features" if self.features == "hand-made" else "pixels"

    @model_validator(mode="after")
    def _consistent(self) -> ClassifyConfig:
        _check_pixels(self.batch, "side", self.side)
        if not self.features and (self.options or self.pca):
            raise ValueError("options and pca need features, e.g. features: hand-made")
        if self.features and self.init:
            raise ValueError("init: is for networks; a classifier of features has no starting weights")
        if self.teacher and (self.features or self.folds):
            raise ValueError("teacher: is for networks, and for trainings without folds, whose data it would know")
        if self.folds and self.fold:
            raise ValueError("fold and folds: set one of them; folds trains every fold")
        if self.folds and (self.label not in ("blast", "differential") or "blast" not in self.classes):
            expected = "label: blast or differential, and blast among classes"
            raise ValueError(f"folds: calibrates a blast probability; expected {expected}")
        if self.folds == "laboratories" and len({laboratory for laboratory, _ in self.laboratories}) < 2:
            raise ValueError("folds: laboratories: expected data of two laboratories or more")
        return self

    @field_validator("fold")
    @classmethod
    def _one_of_n(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 0 <= value[0] < value[1]:
            raise ValueError(f"expected [k, n] with 0 <= k < n, got {list(value)}")
        return value

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a class is listed twice")
        return value
