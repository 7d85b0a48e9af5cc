"""Detectors in ONNX or OpenVINO format, run by OpenVINO or ONNX Runtime."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.errors import ConfigError, DependencyError, WeightsError, last_line
from blastdet.core.model_card import Card, InputSpec
from blastdet.core.parallel import check_device, cpu_count
from blastdet.core.types import RGB, Detections
from blastdet.models.decoding import Raw, decode
from blastdet.models.external_data import check_external_data
from blastdet.models.openvino_runtime import OpenVinoModel

Blob = NDArray[np.float32]
"""Input of a model for one image, float32 (3, height, width)."""


Compute = Callable[[Sequence[Blob]], list[Raw]]
"""Runs a model: from images (3, height, width), of different sizes, to the first output of each."""

_CUDA = "CUDAExecutionProvider"
_SCORE_SLACK = 1e-3  # by which rounding, also of int8 and bf16, may leave 0 to 1
_SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}


def model_file(card: Card, folder: Path, suffix: str) -> Path:
    """The file of that suffix among those of a card, which must list exactly one, and all files with its weights."""
    models = [name for name in card.files if name.endswith(suffix)]
    if len(models) != 1:
        raise WeightsError(f"{folder}: expected one {suffix} file in card.json, got {len(models)}")
    check_external_data(folder / models[0], card)
    return folder / models[0]


class OnnxDetector:
    """A detector in ONNX or OpenVINO format; see `blastdet.models.detector.Detector`.

    On a CPU, OpenVINO runs the model if it is installed, because it is faster (docs/decisions/0016-speed.md). ONNX
    Runtime runs it otherwise, on CUDA, and for int8 models and models with boxes as output.

    Parameters
    ----------
    card : Card
    folder : Path
        Weights folder.
    device : {"auto", "cpu", "cuda", "cuda:N"}
        ``"auto"``: CUDA if ONNX Runtime supports it, otherwise the CPU.
    openvino : bool
        Whether OpenVINO may run a model in ONNX format.

    Raises
    ------
    WeightsError
        If the model cannot be loaded or run.
    ConfigError
        If the device is unknown, or is CUDA for a model in OpenVINO format.
    DependencyError
        If the runtime is not installed.
    """

    def __init__(self, card: Card, folder: Path, device: str = "auto", openvino: bool = True) -> None:
        self.card, self._may_openvino = card, openvino
        self._path = model_file(card, folder, _SUFFIX[card.format])
        self._compute = self._load(self._path, device)
        side = card.input.stride * 2
        self._run([np.zeros((3, side, side), np.float32)])

    def _load(self, path: Path, device: str) -> Compute:
        if self.card.format == "openvino" and device not in ("auto", "cpu"):
            raise ConfigError(f"device: expected auto or cpu for a model in OpenVINO format, got {device}")
        if self.card.format == "openvino" or self._openvino_is_faster(device):
            return OpenVinoModel(path, self.card.precision)
        return OnnxRuntimeModel(path, device, batched=self.card.output == "yolo")

    def _openvino_is_faster(self, device: str) -> bool:
        plain = self._may_openvino and self.card.output == "yolo" and self.card.precision != "int8"
        return plain and not wants_cuda(device) and find_spec("openvino") is not None

    def __call__(self, images: Sequence[RGB]) -> list[Detections]:
        """Detect cells; see `blastdet.models.detector.Detector`."""
        raws = self.raw(images)
        return [decode(raw, image.shape[:2], self.card) for raw, image in zip(raws, images, strict=True)]

    def raw(self, images: Sequence[RGB]) -> list[Raw]:
        """Raw output of each image, before decoding; see `Card.output`."""
        spec = self.card.input
        return self._run([to_blob(image, padded_size(image.shape[:2], spec.stride), spec) for image in images])

    def _run(self, blobs: Sequence[Blob]) -> list[Raw]:
        try:
            raws = self._compute(blobs)
        except Exception as error:  # runtimes raise bare Exceptions of their own C++ types
            raise WeightsError(f"{self._path}: cannot be run ({last_line(error)})") from error
        k = 4 + len(self.card.classes)
        for raw in raws:
            if raw.ndim != 2 or raw.shape[0 if self.card.output == "yolo" else 1] != k:
                raise WeightsError(
                    f"{self._path}: expected {self.card.output} output with {k} values, got shape {raw.shape}"
                )
            _check_numbers(raw, raw[4:] if self.card.output == "yolo" else raw[:, 4:], self._path)
        return raws


def _check_numbers(raw: Raw, scores: Raw, path: Path) -> None:
    """Refuse what is no detection: it would pass for an image without cells."""
    if not np.isfinite(raw).all():
        raise WeightsError(f"{path}: expected finite numbers, got NaN or infinity. The weights are damaged.")
    if scores.size and not (scores.min() >= -_SCORE_SLACK and scores.max() <= 1 + _SCORE_SLACK):
        got = f"{scores.min():.3g} to {scores.max():.3g}"
        raise WeightsError(f"{path}: expected scores from 0 to 1, got {got}. Check output in card.json.")


class OnnxRuntimeModel:
    """A model that ONNX Runtime runs; see `Compute`.

    Parameters
    ----------
    path : Path
    device : str
    batched : bool
        Whether images of one size may run as a batch. Models that output one row per cell cannot.
    """

    def __init__(self, path: Path, device: str, batched: bool) -> None:
        self._session, self._batched = onnx_session(path, device), batched
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            got = ", ".join(f"{entry.type} {entry.shape}" for entry in inputs)
            raise WeightsError(f"{path}: expected one float input (n, 3, height, width), got {got}")
        self._name = inputs[0].name

    def __call__(self, blobs: Sequence[Blob]) -> list[Raw]:
        """First output of each image (3, height, width)."""
        if not self._batched:
            return [self._run(blob[None]) for blob in blobs]
        found: dict[int, Raw] = {}
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, blob in enumerate(blobs):
            by_size.setdefault(blob.shape, []).append(index)
        for indices in by_size.values():
            found |= zip(indices, self._run(np.stack([blobs[i] for i in indices])), strict=True)
        return [found[i] for i in range(len(blobs))]

    def _run(self, batch: NDArray[np.float32]) -> Raw:
        raw: Raw = self._session.run(None, {self._name: batch})[0]
        return raw


def padded_size(hw: tuple[int, ...], stride: int) -> tuple[int, int]:
    """Round height and width up to multiples of the stride.

    Examples
    --------
    >>> padded_size((33, 64), 32)
    (64, 64)
    """
    return -(-hw[0] // stride) * stride, -(-hw[1] // stride) * stride


def to_blob(image: RGB, padded_hw: tuple[int, ...], spec: InputSpec) -> Blob:
    """Pad an image on the right and at the bottom, and normalize it. Returns float32 (3, height, width).

    Examples
    --------
    >>> to_blob(np.zeros((30, 50, 3), np.uint8), (32, 64), InputSpec(wh=(64, 64))).shape
    (3, 32, 64)
    """
    canvas = np.full((*padded_hw, 3), spec.pad_value, np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    # One table per channel is faster than float arithmetic on every pixel.
    table = ((np.arange(256)[:, None] / 255 - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)
    blob = np.empty((3, *padded_hw), np.float32)
    for channel in range(3):
        cv2.LUT(np.ascontiguousarray(canvas[:, :, channel]), table[:, channel], blob[channel])
    return blob


def onnx_session(path: Path, device: str) -> Any:
    """Create an ONNX Runtime session.

    Device ``"auto"`` is CUDA where `wants_cuda` says so, otherwise the CPU. Raises `DependencyError` if the device is
    CUDA, and ONNX Runtime or the machine does not support it. Raises `WeightsError` if the model cannot be loaded.
    """
    onnxruntime, cuda = _onnxruntime(), wants_cuda(device)
    if cuda and _CUDA not in (available := onnxruntime.get_available_providers()):
        raise DependencyError(f"device {device}: expected onnxruntime-gpu, got one with {', '.join(available)} only")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_count()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads do not occupy cores
    on_cuda = (_CUDA, {"device_id": int(device.partition(":")[2] or 0)})
    providers = [on_cuda, "CPUExecutionProvider"] if cuda else ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime raises bare Exceptions of its own C++ types
        raise WeightsError(f"{path}: ONNX Runtime cannot load it ({last_line(error)})") from error

    if device.startswith("cuda") and _CUDA not in session.get_providers():  # it falls back to the CPU by itself
        why = "its driver or libraries do not fit ONNX Runtime" if has_nvidia_gpu() else "this machine shows none"
        raise DependencyError(f"device {device}: expected an NVIDIA GPU that can be used, but {why}. Use cpu or auto")
    return session


def wants_cuda(device: str) -> bool:
    """Whether to use CUDA: if requested, or for ``"auto"`` if ONNX Runtime supports it and the machine has a GPU.

    Raises `ConfigError` if the device is unknown.
    """
    check_device(device)
    if device == "auto":
        return _CUDA in _onnxruntime().get_available_providers() and has_nvidia_gpu()
    return device.startswith("cuda")


@cache
def has_nvidia_gpu() -> bool:
    """Whether the driver of NVIDIA is there and finds a GPU."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    found = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(found)) == 0 and found.value > 0


def _onnxruntime() -> Any:
    # Set before the import: since version 1.32, importing writes a machine id and pending events to disk.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime
