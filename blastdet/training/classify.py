"""One training of a classifier from configuration to weights folder: networks, loop, calibration, export."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from blastdet.cards import Card, InputSpec, Metric, Training, sha256_of, write_card
from blastdet.classifiers import framed, load_classifier, prepare
from blastdet.configs import ClassifyConfig
from blastdet.detectors.onnx import to_blob
from blastdet.errors import BlastdetError, ConfigError
from blastdet.images import write_image
from blastdet.training import checkpoints, engine
from blastdet.training.crops import PAD, Crop, CropEpoch, CropSample, load_crops
from blastdet.training.export import WEIGHTS, training_record, versions
from blastdet.training.run import Progress, begin, loop, pick_device, prepare_folder
from blastdet.training.tracing import write_onnx

SMALL = "small"
_LIGHT = InputSpec(wh=(64, 64), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
_BATCH = 128
_PARITY = 1e-4
_LIMITS = (
    "Research use only; no diagnosis.",
    "Trained on the crops listed under training; other stains, microscopes and focus lower its figures.",
)


class CropClassifier:
    """A network that looks at one crop.

    Parameters
    ----------
    model : str
        ``small``, or a builder of torchvision: ``mobilenet_v2``, ``resnet18``, ``shufflenet_v2_x1_0``, …
    n_classes : int
    side : int
        Side of the input in pixels.
    """

    def __init__(self, model: str, n_classes: int, side: int) -> None:
        self.module: Any = _network(model, n_classes)
        self.side, self.temperature = side, 1.0

    def to(self, device: torch.device) -> CropClassifier:
        """Move to a device, in the memory layout that convolutions are fastest in."""
        self.module.to(device, memory_format=torch.channels_last)
        return self

    @staticmethod
    def collate(samples: Sequence[CropSample]) -> dict[str, Tensor]:
        """A batch: normalised pixels and labels."""
        blobs = np.stack([to_blob(sample.rgb, sample.rgb.shape[:2], _LIGHT) for sample in samples])
        return {"img": torch.from_numpy(blobs), "label": torch.tensor([sample.label for sample in samples])}

    def loss(self, batch: dict[str, Tensor], autocast: torch.autocast) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of one batch."""
        with autocast:
            logits = self.module(batch["img"].contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits.float(), batch["label"], label_smoothing=0.05)
        return loss, {"cls_loss": float(loss.detach())}

    @torch.no_grad()
    def logits(self, crops: Sequence[Crop], config: ClassifyConfig) -> NDArray[np.float32]:
        """Raw outputs (n, classes) on crops as they are, by the module in evaluation mode."""
        device = next(self.module.parameters()).device
        rows = []
        for start in range(0, len(crops), _BATCH):
            ready = [
                CropSample(framed(prepare(c.rgb, c.mpp, config.mpp, config.low_pass), config.side, PAD), c.label)
                for c in crops[start : start + _BATCH]
            ]
            rows.append(self.module(self.collate(ready)["img"].to(device)).float().cpu().numpy())
        return np.concatenate(rows)

    def export(self, path: Path) -> None:
        """Write ONNX of free batch size; its output is calibrated probabilities."""
        whole = nn.Sequential(self.module.float().eval().cpu(), _Calibrated(self.temperature)).eval()
        axes = {"images": {0: "batch"}, "probabilities": {0: "batch"}}
        write_onnx(whole, (2, 3, self.side, self.side), axes, path, "probabilities")


class _Calibrated(nn.Module):
    """Softmax at a temperature: Guo et al. 2017, arXiv:1706.04599."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor) -> Tensor:
        """Probabilities of logits."""
        return functional.softmax(logits / self.temperature, dim=1)


def _network(model: str, n_classes: int) -> nn.Module:
    if model == SMALL:
        return _small(n_classes)
    if model not in models.list_models(module=models):  # not those of its submodules: detectors, videos
        raise ConfigError(f"model: {model} found, {SMALL} or a classifier of torchvision expected")
    extra = {"aux_logits": False, "init_weights": True} if model in ("googlenet", "inception_v3") else {}
    network: nn.Module = models.get_model(model, weights=None, num_classes=n_classes, **extra)
    return network


def _small(n_classes: int) -> nn.Module:
    """Five stages of convolution, 0.4 M parameters: crops of 64 pixels hold no more."""
    layers: list[nn.Module] = []
    before = 3
    for width, stride in ((24, 1), (48, 2), (96, 2), (160, 2), (160, 1)):
        layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(before, n_classes))


def run_classifier(
    config: ClassifyConfig,
    base: Path,
    run: Path,
    device: str = "auto",
    resume: bool = False,
    progress: Progress = Progress(),  # noqa: B008  # frozen
) -> Path:
    """Train, calibrate, export and describe a classifier of crops; parameters and errors as `run.run_training`."""
    prepare_folder(config, run, resume)
    place = pick_device(device)
    data = load_crops(config, base)
    for line in data.notes:
        progress.say(line)
    draw_crops(CropEpoch(data.train, config, 0), run / "samples.png")
    torch.manual_seed(config.seed)
    model = CropClassifier(config.model, len(config.classes), config.side)
    state = begin(model, config, (base, run), place, resume, progress)
    truth = np.array([crop.label for crop in data.val])

    def validate(current: engine.State[Any]) -> dict[str, float]:
        with engine.averaged(current) as averaged_model:
            return figures(averaged_model.logits(data.val, config), truth)

    loop(state, partial(CropEpoch, data.train, config), config, run, (validate, progress))
    checkpoints.load_best(state, run)
    state.model.module.eval()
    logits = state.model.logits(data.val, config)
    state.model.temperature = temperature(logits, truth)
    draft = _card(config, state, training_record(config, data.sources, place), _metrics(logits, truth, state.model))
    return _finish(draft, state, (config, data.val), run, progress.say)


def figures(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, balanced accuracy and cross-entropy; ``fitness`` is the balanced accuracy less a tenth of the last."""
    right = logits.argmax(axis=1) == truth
    balanced = float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))
    loss = _cross_entropy(logits, truth, 1.0)
    return {
        "accuracy": float(right.mean()),
        "balanced accuracy": balanced,
        "val_loss": loss,
        "fitness": balanced - loss / 10,
    }


def temperature(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """The temperature of the lowest cross-entropy, classes counted alike, between 0.05 and 20."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda t: _cross_entropy(logits, truth, float(np.exp(t))), bounds=(-3, 3), method="bounded")
    return float(np.exp(found.x))


def _cross_entropy(logits: NDArray[np.float32], truth: NDArray[np.int64], at: float) -> float:
    scaled = logits.astype(np.float64) / at
    scaled -= scaled.max(axis=1, keepdims=True)
    likelihood = scaled[np.arange(len(truth)), truth] - np.log(np.exp(scaled).sum(axis=1))
    return float(-np.mean([likelihood[truth == label].mean() for label in np.unique(truth)]))


def _metrics(logits: NDArray[np.float32], truth: NDArray[np.int64], model: CropClassifier) -> tuple[Metric, ...]:
    found = figures(logits / model.temperature, truth)
    n = len(truth)
    return tuple(
        Metric(data="crops", split="val", n_images=n, n_cells=n, metric=name, value=round(found[name], 4))
        for name in ("accuracy", "balanced accuracy", "val_loss")
    )


def _card(config: ClassifyConfig, state: engine.State[Any], training: Training, metrics: tuple[Metric, ...]) -> Card:
    training = training.model_copy(update={"epochs": state.best_epoch, "duration_s": round(state.seconds, 1)})
    spec = _LIGHT.model_copy(
        update={"wh": (config.side, config.side), "pad_value": PAD, "low_pass": config.low_pass, "stride": 1}
    )
    return Card(
        name=config.name,
        task="classify",
        classes=config.classes,
        output="probabilities",
        files={},
        mpp=config.mpp,
        input=spec,
        thresholds={},
        training=training,
        metrics=metrics,
        versions=versions(),
        limits=_LIMITS,
    )


def _finish(
    card: Card,
    state: engine.State[CropClassifier],
    seen: tuple[ClassifyConfig, Sequence[Crop]],
    run: Path,
    say: Callable[[str], None],
) -> Path:
    """Export, compare with torch on validation crops, and give the weights folder its name."""
    config, val = seen
    folder = run / (WEIGHTS + ".tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    some = list(val[:: max(len(val) // 64, 1)])
    by_torch = torch.softmax(torch.from_numpy(state.model.logits(some, config) / state.model.temperature), 1).numpy()
    state.model.export(folder / "model.onnx")
    write_card(card.model_copy(update={"files": {"model.onnx": sha256_of(folder / "model.onnx")}}), folder)
    exported = load_classifier(folder, "cpu")([crop.rgb for crop in some], [crop.mpp for crop in some])
    apart = float(np.abs(exported - by_torch).max())
    if apart > _PARITY:
        raise BlastdetError(f"{folder}: export and torch differ by {apart:.5f} in probability; {_PARITY} is allowed")
    say(f"export equals torch within {apart:.6f} in probability on {len(some)} crops")
    final = run / WEIGHTS
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)
    return final


def draw_crops(samples: CropEpoch, path: Path, rows: int = 6, columns: int = 12) -> None:
    """A contact sheet of what the model is shown, one row or more a class, in the order of the classes."""
    classes = len(samples.config.classes)
    shown: dict[int, list[Any]] = {label: [] for label in range(classes)}
    wanted = max(rows * columns // classes // columns, 1) * columns
    for i in range(min(len(samples), 40 * rows * columns)):
        sample = samples[i]
        if len(shown[sample.label]) < wanted:
            shown[sample.label].append(sample.rgb)
    blank = np.full((samples.config.side, samples.config.side, 3), 255, np.uint8)
    sheet = []
    for label in range(classes):
        crops = shown[label] + [blank] * (wanted - len(shown[label]))
        sheet += [np.concatenate(crops[i : i + columns], axis=1) for i in range(0, wanted, columns)]
    write_image(path, np.concatenate(sheet))
