"""Detectors exported for OpenVINO, run on the CPU in the precision that their card names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from blastdet.detectors.decode import Raw
from blastdet.detectors.onnx import Blob, OnnxDetector
from blastdet.errors import ConfigError, DependencyError, WeightsError


class OpenVinoDetector(OnnxDetector):
    """A detector that OpenVINO runs; see `OnnxDetector`."""

    suffix = ".xml"

    def _load(self, path: Path, device: str) -> Callable[[Blob], Raw]:
        if device not in ("auto", "cpu"):
            raise ConfigError(f"device: {device} found, auto or cpu expected of a model in OpenVINO's format")
        try:
            import openvino
        except ImportError as error:
            raise DependencyError(f"{path}: openvino is not installed; pip install openvino") from error
        # Without the hint it takes bf16 wherever the processor can, and scores differ between machines.
        hint = {"INFERENCE_PRECISION_HINT": "bf16" if self.card.precision == "bf16" else "f32"}
        try:
            compiled = openvino.Core().compile_model(path, "CPU", hint)
        except Exception as error:  # it raises bare RuntimeErrors of its own C++ types
            raise WeightsError(f"{path}: OpenVINO cannot load it ({str(error).splitlines()[0]})") from error
        return lambda batch: compiled(batch)[0]
