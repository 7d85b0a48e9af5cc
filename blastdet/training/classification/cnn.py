"""One training of a classifier from configuration to weights folder: networks, loop, calibration, export."""

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
from blastdet.training.detection.train import Progress, begin, loop, pick_device
from blastdet.training.loop import checkpoints, engine
from blastdet.training.loop.onnx_export import write_onnx
from blastdet.training.loop.run_folder import WEIGHTS, check_run, started
from blastdet.training.loop.run_record import training_record

SMALL = "small"
_BATCH = 128


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
        try:
            with torch.no_grad():
                self.module.eval()(torch.zeros(1, 3, side, side))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(f"side: {side} found, another expected by {model} ({last_line(error)})") from None
        self.side = side
        self.settled: calibration.CalibrationResult | None = None

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
    def answers(self, crops: Sequence[Crop], config: ClassifyConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """On crops as they are, in evaluation mode: logits (n, classes), and what the last layer sees (n, features)."""
        device = next(self.module.parameters()).device
        rows: list[NDArray[np.float32]] = []
        seen: list[NDArray[np.float32]] = []
        head = _head(self.module)[1]
        hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].float().cpu().numpy()))
        for start in range(0, len(crops), _BATCH):
            ready = [
                CropSample(framed(prepare(c.rgb, c.mpp, config.mpp, config.low_pass), config.side, PAD), c.label)
                for c in crops[start : start + _BATCH]
            ]
            rows.append(self.module(self.collate(ready)["img"].to(device)).float().cpu().numpy())
        hook.remove()
        return np.concatenate(rows), np.concatenate(seen)

    def export(self, path: Path) -> None:
        """Write ONNX of free batch size: calibrated probabilities, distance from what was learnt, and features."""
        assert self.settled is not None
        whole = _Answering(self.module.float().eval().cpu(), self.settled).eval()
        names = (*OUTPUTS, FEATURES)
        axes = {name: {0: "batch"} for name in ("images", *names)}
        write_onnx(whole, (2, 3, self.side, self.side), axes, path, names)


class _Answering(nn.Module):
    """A network cut before its last layer, so that features are there for all answers."""

    def __init__(self, network: nn.Module, settled: calibration.CalibrationResult) -> None:
        super().__init__()
        self.body = copy.deepcopy(network)
        name, self.head = _head(self.body)
        self.body.set_submodule(name, nn.Identity())
        self.tail = Tail(settled)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities (n, classes), distance (n,), features (n, f)."""
        features = self.body(images)
        return (*self.tail(self.head(features), features), features)


def _head(network: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the last layer."""
    linear = [(name, part) for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    return linear[-1]


def check_network(model: str) -> None:
    """Refuse a network that there is not.

    Raises
    ------
    ConfigError
    """
    if model != SMALL and model not in models.list_models(module=models):  # not its submodules': detectors, videos
        raise ConfigError(f"model: {model} found, {SMALL} or a classifier of torchvision expected")


def _network(model: str, n_classes: int) -> nn.Module:
    check_network(model)
    if model == SMALL:
        return _small(n_classes)
    extra = {"aux_logits": False, "init_weights": True} if model in ("googlenet", "inception_v3") else {}
    network: nn.Module = models.get_model(model, weights=None, num_classes=n_classes, **extra)
    if not any(isinstance(part, nn.Linear) for part in network.modules()):
        raise ConfigError(f"model: {model} found, a network that ends in a linear layer expected")
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
    check_run(config, run, resume)
    check_network(config.model)
    place = pick_device(device)
    data = load_crops(config, base)
    for line in data.notes:
        progress.say(line)
    with started(config, run, data.seen, place, resume):
        draw_crops(CropEpoch(data.train, config, 0), run / "samples.png")
        torch.manual_seed(config.seed)
        model = CropClassifier(config.model, len(config.classes), config.side)
        state = begin(model, config, (base, run), place, resume, progress)
        truth = np.array([crop.label for crop in data.val])

        def validate(current: engine.State[Any]) -> dict[str, float]:
            with engine.ema_weights(current) as averaged_model:
                return calibration.figures(averaged_model.answers(data.val, config)[0], truth)

        loop(state, partial(CropEpoch, data.train, config), config, run, (validate, progress))
        checkpoints.load_best(state, run)
        state.model.module.eval()
        known = _as_many_of_each(data.train)
        labels = np.array([crop.label for crop in known])
        seen = state.model.answers(known, config)[1], labels
        settled = state.model.settled = calibration.calibrate(state.model.answers(data.val, config), truth, seen)
        record = training_record(config, data.sources, run)
        record = record.model_copy(update={"epochs": state.best_epoch, "duration_s": round(state.seconds, 1)})
        progress.say(publish(config, data, record, settled, state.model.export, run))
    return run / WEIGHTS


def _as_many_of_each(crops: Sequence[Crop], most: int = 1500) -> list[Crop]:
    """Up to so many crops of each class, evenly taken."""
    of = {label: [crop for crop in crops if crop.label == label] for label in {crop.label for crop in crops}}
    return [crop for mine in of.values() for crop in mine[:: -(-len(mine) // most)]]


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
