"""OpenVINO on the CPU: several tiles at once, a core or more for each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blastdet.detectors.decode import Raw
from blastdet.errors import DependencyError, WeightsError

_STREAMS = 4  # tiles at once at most; cores beyond that share them


class OpenVinoModel:
    """A model in ONNX or OpenVINO's own format; see `blastdet.detectors.onnx.Compute`.

    Parameters
    ----------
    path : Path
    precision : str
        ``"bf16"``: computed so where the processor can; else f32.

    Raises
    ------
    DependencyError
        If OpenVINO is not installed.
    WeightsError
        If it cannot load the model.
    """

    def __init__(self, path: Path, precision: str) -> None:
        try:
            import openvino
        except ImportError as error:
            raise DependencyError(f"{path}: openvino is not installed; pip install openvino") from error
        cores = cpu_count()
        settings = {
            # Without the hint it takes bf16 wherever the processor can, and scores differ between machines.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "NUM_STREAMS": str(min(cores, _STREAMS)),
            "INFERENCE_NUM_THREADS": str(cores),
        }
        try:
            model = _read(path)
            if len(model.inputs) != 1 or model.input(0).partial_shape.rank.get_length() != 4:
                raise ValueError("one float input (n, 3, height, width) expected")
            self._queue: Any = openvino.AsyncInferQueue(openvino.Core().compile_model(model, "CPU", settings))
        except Exception as error:  # it raises bare RuntimeErrors of its own C++ types
            raise WeightsError(f"{path}: OpenVINO cannot load it ({str(error).splitlines()[-1]})") from error
        self._queue.set_callback(_keep)

    def __call__(self, blobs: Sequence[Any]) -> list[Raw]:
        """The first output of each image (3, height, width)."""
        found: list[Raw | None] = [None] * len(blobs)
        for index, blob in enumerate(blobs):
            self._queue.start_async({0: blob[None]}, (found, index))
        self._queue.wait_all()
        return [raw for raw in found if raw is not None]


def _read(path: Path) -> Any:
    from openvino.frontend import FrontEndManager  # left to itself, OpenVINO tries one format after the other, aloud

    reader = FrontEndManager().load_by_framework("onnx" if path.suffix == ".onnx" else "ir")
    return reader.convert(reader.load(str(path)))


def _keep(request: Any, place: tuple[list[Raw | None], int]) -> None:
    found, index = place
    found[index] = request.get_output_tensor(0).data[0].copy()


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
