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

from blastdet.core.errors import ConfigError, last_line
from blastdet.imaging.io import write_image
from blastdet.models.classifier import FEATURES, OUTPUTS, framed, prepare
from blastdet.models.onnx_detector import to_blob
from blastdet.training.classification import calibration
from blastdet.training.classification.crop_samples import PAD, Crop, CropEpoch, CropSample, load_crops
from blastdet.training.classification.distillation import WEIGHT, distillation_loss, load_teacher
from blastdet.training.classification.networks import check_network, last_linear, masked_cross_entropy, network
from blastdet.training.classification.publish import LIGHT, Tail, publish
from blastdet.training.config import ClassifyConfig
from blastdet.training.loop import checkpoints, engine
from blastdet.training.loop.onnx_export import write_onnx
from blastdet.training.loop.run_folder import WEIGHTS, check_run, started
from blastdet.training.loop.run_record import training_record
from blastdet.training.loop.session import Progress, begin, loop, pick_device

_BATCH = 128
_SMOOTHING = 0.05


class CropClassifier:
    """A network that classifies one crop.

    Parameters
    ----------
    model : str
        See `network`.
    n_classes : int
    side : int
        Side of the input in pixels.
    teacher : Module, optional
        A network whose outputs are learned besides the labels; see `load_teacher`.
    """

    def __init__(self, model: str, n_classes: int, side: int, teacher: Any = None) -> None:
        self.module: Any = network(model, n_classes, side)
        try:
            with torch.no_grad():
                self.module.eval()(torch.zeros(1, 3, side, side))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(f"side: {model} does not accept {side} pixels ({last_line(error)})") from None
        self.side, self.teacher = side, teacher
        self.calibrated: calibration.CalibrationResult | None = None

    def to(self, device: torch.device) -> CropClassifier:
        """Move to a device, in the memory layout that convolutions are fastest in."""
        for module in (self.module, self.teacher):
            if module is not None:
                module.to(device, memory_format=torch.channels_last)
        return self

    @staticmethod
    def collate(samples: Sequence[CropSample]) -> dict[str, Tensor]:
        """A batch: normalised pixels and labels."""
        blobs = np.stack([to_blob(sample.rgb, sample.rgb.shape[:2], LIGHT) for sample in samples])
        most = max(len(sample.possible) for sample in samples)
        # Rows of equal length: the first class once more does not change which ones are possible.
        rows = [(*sample.possible, *sample.possible[:1] * (most - len(sample.possible))) for sample in samples]
        return {"img": torch.from_numpy(blobs), "possible": torch.tensor(rows)}

    def loss(self, batch: dict[str, Tensor], autocast: torch.autocast) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of one batch, see `masked_cross_entropy`, and the `distillation_loss` if there is a teacher."""
        images = batch["img"].contiguous(memory_format=torch.channels_last)
        with autocast:
            logits = self.module(images)
        possible = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device).scatter_(
            1, batch["possible"], True
        )
        loss = masked_cross_entropy(logits.float(), possible, _SMOOTHING)
        parts = {"cls_loss": float(loss.detach())}
        if self.teacher is not None:
            with torch.no_grad(), autocast:
                theirs = self.teacher(images)
            distilled = distillation_loss(logits.float(), theirs.float())
            parts["distillation_loss"] = float(distilled.detach())
            loss = (1 - WEIGHT) * loss + WEIGHT * distilled
        return loss, parts

    @torch.no_grad()
    def predict(self, crops: Sequence[Crop], config: ClassifyConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """For crops without augmentation: logits (n, classes) and the input of the last layer (n, features)."""
        device = next(self.module.parameters()).device
        rows: list[NDArray[np.float32]] = []
        features: list[NDArray[np.float32]] = []
        head = last_linear(self.module)[1]
        hook = head.register_forward_pre_hook(lambda _, given: features.append(given[0].float().cpu().numpy()))
        for start in range(0, len(crops), _BATCH):
            ready = [
                CropSample(framed(prepare(c.rgb, c.mpp, config.mpp, config.low_pass), config.side, PAD), c.possible)
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
        name, self.head = last_linear(self.body)
        self.body.set_submodule(name, nn.Identity())
        self.tail = Tail(calibrated)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities (n, classes), distance (n,), features (n, f)."""
        features = self.body(images)
        return (*self.tail(self.head(features), features), features)


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
    teacher = load_teacher(config, base, data)
    for line in data.notes:
        progress.say(line)
    with started(config, run, data.fingerprints, place, resume):
        draw_crops(CropEpoch(data.train, config, 0), run / "samples.png")
        torch.manual_seed(config.seed)
        model = CropClassifier(config.model, len(config.classes), config.side, teacher)
        state = begin(model, config, (base, run), place, resume, progress)
        truth = np.array([crop.label for crop in data.val])

        def validate(current: engine.State[Any]) -> dict[str, float]:
            with engine.ema_weights(current) as averaged_model:
                return calibration.figures(averaged_model.predict(data.val, config)[0], truth)

        loop(state, partial(CropEpoch, data.train, config), config, run, (validate, progress))
        checkpoints.load_best(state, run)
        state.model.module.eval()
        some = _balanced([crop for crop in data.train if crop.label >= 0])
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
        if sample.label >= 0 and len(shown[sample.label]) < wanted:
            shown[sample.label].append(sample.rgb)
    blank = np.full((samples.config.side, samples.config.side, 3), 255, np.uint8)
    sheet = []
    for label in range(classes):
        crops = shown[label] + [blank] * (wanted - len(shown[label]))
        sheet += [np.concatenate(crops[i : i + columns], axis=1) for i in range(0, wanted, columns)]
    write_image(path, np.concatenate(sheet))
