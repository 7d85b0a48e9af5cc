"""One training of a network for crops, from configuration to weights folder: loop, calibration, export."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from blastdet.core.errors import ConfigError, last_line
from blastdet.imaging.io import write_image
from blastdet.models.classifier import FEATURES, OUTPUTS, framed, prepare
from blastdet.models.onnx_detector import to_blob
from blastdet.training.classification import calibration
from blastdet.training.classification.crop_samples import PAD, Crop, CropEpoch, CropSample, load_crops
from blastdet.training.classification.publish import LIGHT, Tail, publish
from blastdet.training.config import ClassifyConfig
from blastdet.training.loop import checkpoints, engine
from blastdet.training.loop.onnx_export import write_onnx
from blastdet.training.loop.run_folder import WEIGHTS, check_run, started
from blastdet.training.loop.run_record import training_record
from blastdet.training.loop.session import Progress, begin, loop, pick_device

SMALL = "small"
_BATCH = 128


class CropClassifier:
    """A network that classifies one crop.

    Parameters
    ----------
    model : str
        ``small``, or a network of torchvision: ``mobilenet_v2``, ``resnet18``, ``shufflenet_v2_x1_0``, …
    n_classes : int
    side : int
        Side of the input in pixels.
    """

    def __init__(self, model: str, n_classes: int, side: int) -> None:
        self.module: Any = _network(model, n_classes)
        try:
            with torch.no_grad():
                self.module.eval()(torch.zeros(1, 3, side, side))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(f"side: {model} does not accept {side} pixels ({last_line(error)})") from None
        self.side = side
        self.calibrated: calibration.CalibrationResult | None = None

    def to(self, device: torch.device) -> CropClassifier:
        """Move to a device, in the memory layout that convolutions are fastest in."""
        self.module.to(device, memory_format=torch.channels_last)
        return self

    @staticmethod
    def collate(samples: Sequence[CropSample]) -> dict[str, Tensor]:
        """A batch: normalised pixels and labels."""
        blobs = np.stack([to_blob(sample.rgb, sample.rgb.shape[:2], LIGHT) for sample in samples])
        return {"img": torch.from_numpy(blobs), "label": torch.tensor([sample.label for sample in samples])}

    def loss(self, batch: dict[str, Tensor], autocast: torch.autocast) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of one batch."""
        with autocast:
            logits = self.module(batch["img"].contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits.float(), batch["label"], label_smoothing=0.05)
        return loss, {"cls_loss": float(loss.detach())}

    @torch.no_grad()
    def predict(self, crops: Sequence[Crop], config: ClassifyConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """For crops without augmentation: logits (n, classes) and the input of the last layer (n, features)."""
        device = next(self.module.parameters()).device
        rows: list[NDArray[np.float32]] = []
        features: list[NDArray[np.float32]] = []
        head = _head(self.module)[1]
        hook = head.register_forward_pre_hook(lambda _, given: features.append(given[0].float().cpu().numpy()))
        for start in range(0, len(crops), _BATCH):
            ready = [
                CropSample(framed(prepare(c.rgb, c.mpp, config.mpp, config.low_pass), config.side, PAD), c.label)
                for c in crops[start : start + _BATCH]
            ]
            rows.append(self.module(self.collate(ready)["img"].to(device)).float().cpu().numpy())
        hook.remove()
        return np.concatenate(rows), np.concatenate(features)

    def export(self, path: Path) -> None:
        """Write ONNX of dynamic batch size: calibrated probabilities, distance from the training data, and features."""
        assert self.calibrated is not None
        exported = _ExportedNetwork(self.module.float().eval().cpu(), self.calibrated).eval()
        names = (*OUTPUTS, FEATURES)
        axes = {name: {0: "batch"} for name in ("images", *names)}
        write_onnx(exported, (2, 3, self.side, self.side), axes, path, names)


class _ExportedNetwork(nn.Module):
    """A network split before its last layer, whose input is an output of its own."""

    def __init__(self, network: nn.Module, calibrated: calibration.CalibrationResult) -> None:
        super().__init__()
        self.body = copy.deepcopy(network)
        name, self.head = _head(self.body)
        self.body.set_submodule(name, nn.Identity())
        self.tail = Tail(calibrated)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities (n, classes), distance (n,), features (n, f)."""
        features = self.body(images)
        return (*self.tail(self.head(features), features), features)


def _head(network: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the last layer."""
    linear = [(name, part) for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    return linear[-1]


def check_network(model: str) -> None:
    """Refuse an unknown network.

    Raises `ConfigError`.
    """
    if model != SMALL and model not in models.list_models(
        module=models
    ):  # without those of its submodules: detectors, video
        raise ConfigError(f"model: expected {SMALL} or a classifier of torchvision, got {model}")


def _network(model: str, n_classes: int) -> nn.Module:
    check_network(model)
    if model == SMALL:
        return _small(n_classes)
    extra = {"aux_logits": False, "init_weights": True} if model in ("googlenet", "inception_v3") else {}
    network: nn.Module = models.get_model(model, weights=None, num_classes=n_classes, **extra)
    if not any(isinstance(part, nn.Linear) for part in network.modules()):
        raise ConfigError(f"model: expected a network with a linear layer at its end, got {model}")
    return network


def _small(n_classes: int) -> nn.Module:
    """Five convolutions, 0.4 M parameters: enough for crops of 64 pixels."""
    layers: list[nn.Module] = []
    before = 3
    for width, stride in ((24, 1), (48, 2), (96, 2), (160, 2), (160, 1)):
        layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(before, n_classes))


def train_network(
    config: ClassifyConfig,
    base: Path,
    run: Path,
    device: str = "auto",
    resume: bool = False,
    progress: Progress = Progress(),  # noqa: B008  # frozen
) -> Path:
    """Train a network on crops, calibrate and export it; parameters and errors as `detection.train.train_detector`."""
    check_run(config, run, resume)
    check_network(config.model)
    place = pick_device(device)
    data = load_crops(config, base)
    for line in data.notes:
        progress.say(line)
    with started(config, run, data.fingerprints, place, resume):
        draw_crops(CropEpoch(data.train, config, 0), run / "samples.png")
        torch.manual_seed(config.seed)
        model = CropClassifier(config.model, len(config.classes), config.side)
        state = begin(model, config, (base, run), place, resume, progress)
        truth = np.array([crop.label for crop in data.val])

        def validate(current: engine.State[Any]) -> dict[str, float]:
            with engine.ema_weights(current) as averaged_model:
                return calibration.figures(averaged_model.predict(data.val, config)[0], truth)

        loop(state, partial(CropEpoch, data.train, config), config, run, (validate, progress))
        checkpoints.load_best(state, run)
        state.model.module.eval()
        some = _balanced(data.train)
        labels = np.array([crop.label for crop in some])
        trained_on = state.model.predict(some, config)[1], labels
        calibrated = state.model.calibrated = calibration.calibrate(
            state.model.predict(data.val, config), truth, trained_on
        )
        record = training_record(config, data.sources, run)
        record = record.model_copy(update={"epochs": state.best_epoch, "duration_s": round(state.seconds, 1)})
        progress.say(publish(config, data, record, calibrated, state.model.export, run))
    return run / WEIGHTS


def _balanced(crops: Sequence[Crop], most: int = 1500) -> list[Crop]:
    """Up to `most` crops of each class, evenly spaced."""
    of = {label: [crop for crop in crops if crop.label == label] for label in {crop.label for crop in crops}}
    return [crop for mine in of.values() for crop in mine[:: -(-len(mine) // most)]]


def draw_crops(samples: CropEpoch, path: Path) -> None:
    """A contact sheet of training samples, one or more rows per class, in the order of the classes."""
    rows, columns, classes = 6, 12, len(samples.config.classes)
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
