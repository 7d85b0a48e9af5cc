"""YOLO detectors: architecture, label assignment and loss from ultralytics; the training loop is our own.

ultralytics' trainer is not used: the loop in `engine` resumes exactly, allows datasets that leave classes unknown, and
neither downloads nor installs anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from blastdet.core.model_card import Card, shipped
from blastdet.core.types import RGB
from blastdet.models.decoding import Raw
from blastdet.training.detection.samples import TrainingSample
from blastdet.training.loop.onnx_export import as_batch, write_onnx
from blastdet.training.quiet_imports import ultralytics

_GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5}


class Yolo:
    """A YOLO network from a YAML file, with ultralytics' anchor-free head: ``yolov5n``, ``yolov4s``, ``yolo26n``, …

    Parameters
    ----------
    model : str
        Name of a file of ultralytics, or of one in ``configs/models`` followed by its scale.
    n_classes : int
    mpp : float
        Not used: the head has no anchors.
    """

    output: Literal["yolo"] = "yolo"

    def __init__(self, model: str, n_classes: int, mpp: float = 1.0) -> None:
        detection_model = ultralytics("nn.tasks").DetectionModel
        self.module: Any = detection_model(_architecture(model), nc=n_classes, verbose=False)
        self.module.args = ultralytics("cfg").get_cfg(overrides=_GAINS)  # read by the loss
        self._criterion: Any = None
        # YOLO26 has a second, one-to-one head that needs no suppression. Tiles need suppression anyway, and no gradient
        # of that head reaches the layers below. Without it YOLO26 has the outputs of the others; ultralytics, too,
        # uses the first head by default.
        head = self.module.model[-1]
        head.one2one_cv2 = head.one2one_cv3 = None

    def to(self, device: torch.device) -> Yolo:
        """Move to a device, in the memory layout that convolutions are fastest in."""
        self.module.to(device, memory_format=torch.channels_last)
        self._criterion = _masked_loss(self.module)
        return self

    @staticmethod
    def collate(samples: Sequence[TrainingSample]) -> dict[str, Tensor]:
        """A batch in the format of ultralytics' loss, and the map of known classes."""
        side = samples[0].rgb.shape[0]
        boxes = np.concatenate([sample.boxes_xyxy for sample in samples]) / side
        xywh = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        index = np.repeat(np.arange(len(samples)), [len(sample.label) for sample in samples])
        return {
            "img": torch.from_numpy(np.stack([sample.rgb for sample in samples]).transpose(0, 3, 1, 2)),
            "batch_idx": torch.from_numpy(index.astype(np.float32)),
            "cls": torch.from_numpy(np.concatenate([sample.label for sample in samples]).astype(np.float32))[:, None],
            "bboxes": torch.from_numpy(xywh.astype(np.float32)),
            "known": torch.from_numpy(np.stack([sample.known for sample in samples])),
        }

    def loss(self, batch: dict[str, Tensor], autocast: torch.autocast) -> tuple[Tensor, dict[str, float]]:
        """Loss of one batch, and its parts."""
        images = batch["img"].contiguous(memory_format=torch.channels_last).float() / 255
        with autocast:
            raw = self.module(images)
        predictions = {"boxes": raw["boxes"].float(), "scores": raw["scores"].float()}
        predictions["feats"] = [level.float() for level in raw["feats"]]
        total, parts = self._criterion(predictions, batch)
        return total.sum() / len(images), {name: float(value) for name, value in parts.items()}

    @torch.no_grad()
    def raw(self, image: RGB, card: Card, device: torch.device) -> Raw:
        """Raw output for one image, as the exported model gives it."""
        found: Raw = self.module(as_batch(image, card, device))[0][0].float().cpu().numpy()
        return found

    def export(self, path: Path) -> None:
        """Write ONNX with dynamic batch, height and width; fuses the layers of the module, which cannot be undone."""
        self.module.float().eval().cpu()
        self.module.fuse(verbose=False)
        head = self.module.model[-1]
        head.export, head.dynamic, head.format = True, True, "onnx"
        axes = {"images": {0: "batch", 2: "height", 3: "width"}, "cells": {0: "batch", 2: "anchors"}}
        write_onnx(self.module, (2, 3, 96, 128), axes, path)


def _architecture(model: str) -> str | dict[str, Any]:
    """Input of ultralytics' model builder: the name of one of its files, or the content of one in ``configs``."""
    own = shipped("configs") / "models" / f"{model[:-1]}.yaml"
    if not own.is_file():
        return f"{model}.yaml"
    content: dict[str, Any] = yaml.safe_load(own.read_text(encoding="utf-8"))
    return {**content, "scale": model[-1]}


def _masked_loss(module: nn.Module) -> Any:
    """ultralytics' loss, without class scores where the class is unknown."""

    class MaskedLoss(ultralytics("utils.loss").v8DetectionLoss):  # type: ignore[misc]
        def loss(self, preds: dict[str, Any], batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            known = _known_anchors(batch["known"], preds["feats"])
            bce = nn.functional.binary_cross_entropy_with_logits
            self.bce = lambda scores, target: bce(scores, target, reduction="none") * known
            result: tuple[Tensor, dict[str, Tensor]] = super().loss(preds, batch)
            return result

    return MaskedLoss(module)


def _known_anchors(known: Tensor, levels: Sequence[Tensor]) -> Tensor:
    """The map of known classes at every anchor, (batch, anchors, classes): known if all pixels below it are."""
    rows = []
    for level in levels:
        kernel = known.shape[2] // level.shape[2]
        rows.append((-nn.functional.max_pool2d(-known.float(), kernel)).flatten(2))
    return torch.cat(rows, dim=2).permute(0, 2, 1)
