"""Training: the only rooms that import torch. What leaves them is an exported model with its card."""

from __future__ import annotations

MODELS: dict[str, str] = {
    "yolov5n": "blastdet.training.yolo:Yolo",
    "yolov5s": "blastdet.training.yolo:Yolo",
    "yolov5m": "blastdet.training.yolo:Yolo",
    "yolov5p2n": "blastdet.training.yolo:Yolo",
    "yolov5p2s": "blastdet.training.yolo:Yolo",
}
"""Detector name -> ``module:class``, resolved on use; a class follows `blastdet.training.engine.Trainable`."""
