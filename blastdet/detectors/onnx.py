"""Detectors exported to ONNX, run by ONNX Runtime on the CPU or through CUDA."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastdet.cards import Card, InputSpec
from blastdet.detectors.decode import Raw, decode
from blastdet.errors import ConfigError, DependencyError, WeightsError
from blastdet.types import RGB, Detections

Blob = NDArray[np.float32]
"""Pixels as a model takes them, float32 (n, 3, height, width) or one image of it."""


class OnnxDetector:
    """A detector that ONNX Runtime runs.

    Parameters
    ----------
    card : Card
    folder : Path
        Where the card's ``.onnx`` file lies.
    device : {"auto", "cpu", "cuda", "cuda:N"}
        ``auto`` takes CUDA where ONNX Runtime was built with it, else the CPU.
    """

    suffix = ".onnx"

    def __init__(self, card: Card, folder: Path, device: str = "auto") -> None:
        self.card = card
        models = [name for name in card.files if name.endswith(self.suffix)]
        if len(models) != 1:
            raise WeightsError(f"{folder}: {len(models)} {self.suffix} files named by the card, 1 expected")
        self._path = folder / models[0]
        self._compute = self._load(self._path, device)
        side = card.input.stride * 2
        self._run(np.zeros((1, 3, side, side), np.float32))

    def _load(self, path: Path, device: str) -> Callable[[Blob], Raw]:
        """A function from a batch to the model's first output."""
        session = onnx_session(path, device)
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            raise WeightsError(f"{path}: one float input (n, 3, height, width) expected")
        return lambda batch: session.run(None, {inputs[0].name: batch})[0]

    def __call__(self, images: Sequence[RGB]) -> list[Detections]:
        """Cells of each image; see `Detector`. Images that share a padded size run as one batch."""
        found: list[Detections] = [Detections.empty()] * len(images)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(padded_size(image.shape[:2], self.card.input.stride), []).append(index)
        for size, indices in by_size.items():
            batch = np.stack([to_blob(images[i], size, self.card.input) for i in indices])
            for i, prediction in zip(indices, self._run(batch), strict=True):
                found[i] = decode(prediction, images[i].shape[:2], self.card)
        return found

    def _run(self, batch: Blob) -> Sequence[Raw]:
        """The raw output of each image of a batch (n, 3, height, width); see `Card.output`."""
        if self.card.output == "yolo":
            return list(self._run_once(batch, len(batch)))
        return [self._run_once(batch[i : i + 1], 1) for i in range(len(batch))]  # as many cells as it finds

    def _run_once(self, batch: Blob, n: int) -> Raw:
        try:
            raw = self._compute(batch)
        except Exception as error:  # runtimes raise bare Exceptions of their own C++ types
            raise WeightsError(f"{self._path}: cannot be run ({str(error).splitlines()[0]})") from error
        k = 4 + len(self.card.classes)
        found, expected = (raw.shape[:2], (n, k)) if self.card.output == "yolo" else (raw.shape[1:], (k,))
        if raw.ndim != (3 if self.card.output == "yolo" else 2) or found != expected:
            raise WeightsError(f"{self._path}: output {raw.shape} found, {self.card.output} of {k} values expected")
        return raw


def padded_size(hw: tuple[int, ...], stride: int) -> tuple[int, int]:
    """Height and width rounded up to a multiple of the stride."""
    return -(-hw[0] // stride) * stride, -(-hw[1] // stride) * stride


def to_blob(image: RGB, padded_hw: tuple[int, ...], spec: InputSpec) -> Blob:
    """Image as float32 (3, height, width), padded right and below, normalised as the card says."""
    canvas = np.full((*padded_hw, 3), spec.pad_value, np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    # One look-up a channel instead of three passes of float arithmetic over every pixel.
    table = ((np.arange(256)[:, None] / 255 - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)
    return np.stack([table[:, c][canvas[:, :, c]] for c in range(3)])


def onnx_session(path: Path, device: str) -> Any:
    """ONNX Runtime's session of a model; ``auto`` takes CUDA where ONNX Runtime was built with it, else the CPU."""
    # Before the import: since 1.32 that alone writes an id of the machine to disk, and events to be sent.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(3)
    available = onnxruntime.get_available_providers()
    if device not in ("auto", "cpu") and device.partition(":")[0] != "cuda":
        raise ConfigError(f"device: {device} found, auto, cpu, cuda or cuda:N expected")
    wants_cuda = device.startswith("cuda") or (device == "auto" and "CUDAExecutionProvider" in available)
    if wants_cuda and "CUDAExecutionProvider" not in available:
        raise DependencyError(f"device {device}: onnxruntime-gpu expected, only {available} found")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    cuda = ("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)})
    providers = [cuda, "CPUExecutionProvider"] if wants_cuda else ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime raises bare Exceptions of its own C++ types
        raise WeightsError(f"{path}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})") from error
