"""Faster R-CNN from the networks, anchors and sampling of torchvision, with unknown regions and any image size.

No weights are downloaded. Layers have the names of torchvision, so that ``--init`` can read its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import mobilenet_v3_large, resnet50
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from blastdet.core.model_card import Card
from blastdet.core.types import RGB
from blastdet.models.decoding import Raw
from blastdet.training.detection.samples import KNOWN_STRIDE, TrainingSample
from blastdet.training.loop.onnx_export import as_batch, write_onnx

ANCHORS_UM = ((2.2, 3.5), (5.5, 8.0), (11.0, 16.0))
"""Sides of the anchors at strides 8, 16 and 32: platelets (2-4 µm), red cells (6-8), white cells (8-20)."""

_RATIOS = (0.7, 1.0, 1.4)  # a cell at the edge of an image is cut
_PROPOSALS = {"training": 500, "testing": 500}  # a crowded tile holds 200 cells
_SAMPLED = 128  # proposals per image that the second stage is trained on
_WIDTH = 256  # channels of the feature pyramid
_REGRESSION = (10.0, 10.0, 5.0, 5.0)  # scaling of box offsets, as in torchvision
_LIGHT = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # as weights from ImageNet expect, for --init


class FasterRcnn:
    """``fasterrcnn_mobilenet`` (MobileNetV3-Large) or ``fasterrcnn_resnet50``, with a feature pyramid.

    Parameters
    ----------
    model : str
    n_classes : int
    mpp : float
        µm/px, from which the sizes of the anchors follow.
    """

    output: Literal["boxes"] = "boxes"

    def __init__(self, model: str, n_classes: int, mpp: float) -> None:
        self.module: Any = TwoStage(_backbone(model), n_classes, mpp)

    def to(self, device: torch.device) -> FasterRcnn:
        """Move to a device, in the memory layout that convolutions are fastest in."""
        self.module.to(device, memory_format=torch.channels_last)
        return self

    @staticmethod
    def collate(samples: Sequence[TrainingSample]) -> dict[str, Tensor]:
        """A batch: pixels, boxes in pixels, labels from 1 (0 is background), and the map of known classes."""
        index = np.repeat(np.arange(len(samples)), [len(sample.label) for sample in samples])
        return {
            "img": torch.from_numpy(np.stack([sample.rgb for sample in samples]).transpose(0, 3, 1, 2)),
            "batch_idx": torch.from_numpy(index),
            "labels": torch.from_numpy(np.concatenate([sample.label for sample in samples]) + 1),
            "boxes": torch.from_numpy(np.concatenate([sample.boxes_xyxy for sample in samples]).astype(np.float32)),
            "known": torch.from_numpy(np.stack([sample.known for sample in samples])),
        }

    def loss(self, batch: dict[str, Tensor], autocast: torch.autocast) -> tuple[Tensor, dict[str, float]]:
        """Loss of one batch, and its parts."""
        images = batch["img"].contiguous(memory_format=torch.channels_last).float() / 255
        targets = []
        for i, known in enumerate(batch["known"]):
            mine = batch["batch_idx"] == i
            targets.append({"boxes": batch["boxes"][mine], "labels": batch["labels"][mine], "known": known})
        with autocast:
            parts = self.module.losses(images, targets)
        return torch.stack(list(parts.values())).sum(), {name: float(value.detach()) for name, value in parts.items()}

    @torch.no_grad()
    def raw(self, image: RGB, card: Card, device: torch.device) -> Raw:
        """Raw output for one image, as the exported model gives it."""
        found: Raw = self.module(as_batch(image, card, device)).float().cpu().numpy()
        return found

    def export(self, path: Path) -> None:
        """Write ONNX for one image of dynamic height and width."""
        self.module.float().eval().cpu()
        axes = {"images": {2: "height", 3: "width"}, "cells": {0: "cells"}}
        write_onnx(self.module, (1, 3, 96, 128), axes, path)


class TwoStage(nn.Module):
    """Backbone, proposals, heads: Faster R-CNN without torchvision's resizing of images."""

    def __init__(self, backbone: BackboneWithFPN, n_classes: int, mpp: float) -> None:
        super().__init__()
        self.backbone = backbone
        sizes = tuple(tuple(um / mpp for um in level) for level in ANCHORS_UM)
        anchors = AnchorGenerator(sizes, (_RATIOS,) * len(sizes))
        head = _RpnHead(_WIDTH, anchors.num_anchors_per_location()[0])
        before = {"training": 2 * _PROPOSALS["training"], "testing": 2 * _PROPOSALS["testing"]}
        self.rpn = _Rpn(anchors, head, 0.7, 0.3, 256, 0.5, before, _PROPOSALS, 0.7)
        levels = [str(i) for i in range(len(sizes))]
        pool = MultiScaleRoIAlign(levels, 7, 2, canonical_scale=64)  # below 64 px from stride 8, below 128 from 16
        heads = (TwoMLPHead(_WIDTH * 49, 1024), FastRCNNPredictor(1024, n_classes + 1))
        self.roi_heads = RoIHeads(pool, *heads, 0.5, 0.5, _SAMPLED, 0.25, _REGRESSION, 0.0, 1.0, _PROPOSALS["testing"])
        self.light: Tensor
        self.register_buffer("light", torch.tensor(_LIGHT)[:, :, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Boxes and probabilities (n, 4 + k) for one image (1, 3, h, w); boxes are those of the most likely class."""
        features, shapes = self._features(images)
        proposals, _ = self.rpn(ImageList(images, shapes), features)
        logits, offsets = self._heads(features, proposals, shapes)
        probability = functional.softmax(logits, dim=1)[:, 1:]
        boxes = self.roi_heads.box_coder.decode(offsets, proposals)[:, 1:]
        best = probability.argmax(dim=1)[:, None, None].expand(-1, 1, 4)
        return torch.cat([boxes.gather(1, best)[:, 0], probability], dim=1)

    def losses(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The four losses of Faster R-CNN, in known regions.

        Parameters
        ----------
        images : float (n, 3, h, w)
            In [0, 1].
        targets : list of dict
            ``boxes`` in pixels, ``labels`` from 1, and the map ``known``.
        """
        features, shapes = self._features(images)
        proposals, first = self.rpn(ImageList(images, shapes), features, targets)
        proposals, _, labels, wanted = self.roi_heads.select_training_samples(proposals, targets)
        logits, offsets = self._heads(features, proposals, shapes)
        unknown = torch.cat([_unknown(b, t["known"]) for b, t in zip(proposals, targets, strict=True)])
        second = _head_losses(logits, offsets, torch.cat(labels), torch.cat(wanted), unknown)
        return {"objectness_loss": first["loss_objectness"], "proposal_loss": first["loss_rpn_box_reg"], **second}

    def _features(self, images: Tensor) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
        maps = self.backbone((images - self.light[0]) / self.light[1])
        # Anchors have the type of the maps, and in bf16 would be off by pixels.
        return {name: level.float() for name, level in maps.items()}, [(images.shape[-2], images.shape[-1])] * len(
            images
        )

    def _heads(self, features: Any, proposals: list[Tensor], shapes: Any) -> tuple[Tensor, Tensor]:
        pooled = self.roi_heads.box_roi_pool(features, proposals, shapes)
        logits, offsets = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        return logits.float(), offsets.float()


class _RpnHead(RPNHead):
    """Returns float32, since boxes are computed from its output."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, offsets = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in offsets]


class _Rpn(RegionProposalNetwork):
    """Proposals, without unknown regions as background."""

    def assign_targets_to_anchors(self, anchors: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, box, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & _unknown(box, target["known"]).any(dim=1)] = -1  # -1 is never sampled
        return labels, boxes

    def compute_loss(self, objectness: Tensor, offsets: Tensor, labels: Any, wanted: Any) -> tuple[Tensor, Tensor]:
        if all(bool((label < 0).all()) for label in labels):  # nothing is labelled: the mean would be NaN
            return objectness.sum() * 0, offsets.sum() * 0
        losses: tuple[Tensor, Tensor] = super().compute_loss(objectness, offsets, labels, wanted)
        return losses


def _unknown(boxes: Tensor, known: Tensor) -> Tensor:
    """Which classes are unknown anywhere in each box: bool (n, k) from a map (k, rows, columns)."""
    sums = functional.pad((~known).to(torch.int32).cumsum(1).cumsum(2), (1, 0, 1, 0))  # integral image
    height, width = known.shape[1:]
    cells = boxes.detach() / KNOWN_STRIDE
    x1, y1 = cells[:, 0].floor().long().clamp(0, width - 1), cells[:, 1].floor().long().clamp(0, height - 1)
    x2, y2 = cells[:, 2].ceil().long().clamp(1, width), cells[:, 3].ceil().long().clamp(1, height)
    x2, y2 = torch.maximum(x2, x1 + 1), torch.maximum(y2, y1 + 1)
    inside = sums[:, y2, x2] - sums[:, y1, x2] - sums[:, y2, x1] + sums[:, y1, x1]
    return (inside > 0).T


def _head_losses(logits: Tensor, offsets: Tensor, label: Tensor, wanted: Tensor, unknown: Tensor) -> dict[str, Tensor]:
    """Losses of the second stage. A proposal without a cell is background, or any class that is unknown there.

    Its loss is that of the sum of their probabilities: an image without labelled red cells still provides negative
    examples of white cells. Where no class is known the sum is 1, and the proposal has no effect.
    """
    possible = functional.one_hot(label, logits.shape[1]).bool()
    possible[:, 1:] |= unknown & (label == 0)[:, None]
    likelihood = functional.log_softmax(logits, dim=1).masked_fill(~possible, -torch.inf).logsumexp(dim=1)
    counted = ((label > 0) | ~unknown.all(dim=1)).sum().clamp(min=1)
    cells = (label > 0).nonzero()[:, 0]
    mine = offsets.reshape(len(offsets), -1, 4)[cells, label[cells]]
    shift = functional.smooth_l1_loss(mine, wanted[cells], beta=1 / 9, reduction="sum")
    return {"cls_loss": -likelihood.sum() / counted, "box_loss": shift / counted}


def _backbone(model: str) -> BackboneWithFPN:
    """Untrained network with feature maps at strides 8, 16 and 32, the last ones before each reduction."""
    if model == "fasterrcnn_mobilenet":
        body, layers, channels = mobilenet_v3_large(weights=None).features, ["6", "12", "16"], [40, 112, 960]
    else:
        body, layers, channels = resnet50(weights=None), ["layer2", "layer3", "layer4"], [512, 1024, 2048]
    names = {layer: str(i) for i, layer in enumerate(layers)}
    backbone = BackboneWithFPN(body, names, channels, _WIDTH)
    backbone.fpn.extra_blocks = None  # a map at stride 64 is for objects larger than cells
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # MobileNetV3's 0.01 is for a million steps, here there are thousands; the moving average smooths as well.
            layer.momentum = 0.1
    return backbone
