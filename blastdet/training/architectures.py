"""Names of the detectors that can be trained. Imports no torch."""

from __future__ import annotations

_YOLOV4 = ("yolov4n", "yolov4s", "yolov4m", "yolov4l")
_YOLOV5 = ("yolov5n", "yolov5s", "yolov5m", "yolov5p2n", "yolov5p2s")

MODELS: dict[str, str] = {
    **dict.fromkeys((*_YOLOV4, *_YOLOV5, "yolo26n"), "blastdet.training.detection.yolo_network:Yolo"),
    "fasterrcnn_mobilenet": "blastdet.training.detection.faster_rcnn:FasterRcnn",
    "fasterrcnn_resnet50": "blastdet.training.detection.faster_rcnn:FasterRcnn",
}
"""Name of a detector -> ``module:class``, imported on use; the class follows `training.loop.engine.Trainable`."""
