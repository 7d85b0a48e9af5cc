"""Models run by OpenVINO on the CPU, several tiles in parallel."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from blastdet.core.errors import DependencyError, WeightsError, last_line
from blastdet.core.parallel import cpu_count
from blastdet.models.decoding import Raw

_STREAMS = 4  # most tiles in parallel; more cores are shared among them


class OpenVinoModel:
    """A model in ONNX or OpenVINO format; see `blastdet.models.onnx_detector.Compute`.

    Parameters
    ----------
    path : Path
    precision : str
        ``"bf16"`` is used if the processor supports it; otherwise f32.

    Raises
    ------
    DependencyError
        If OpenVINO is not installed.
    WeightsError
        If OpenVINO cannot load the model.
    """

    def __init__(self, path: Path, precision: str) -> None:
        try:
            compiled = compiled_model(path, precision)
            self._free: SimpleQueue[Any] = SimpleQueue()  # requests, each with its own memory
            for _ in range(n_streams()):
                self._free.put(compiled.create_infer_request())
        except ImportError as error:
            raise DependencyError(f"{path}: openvino is not installed. Run: pip install openvino") from error
        except Exception as error:  # OpenVINO raises plain RuntimeErrors from C++
            raise WeightsError(f"{path}: OpenVINO cannot load it ({last_line(error)})") from error

    def __call__(self, blobs: Sequence[Any]) -> list[Raw]:
        """First output of each image (3, height, width). Safe to call from several threads."""
        found: list[Raw | None] = [None] * len(blobs)
        under_way: deque[tuple[int, Any]] = deque()
        try:
            for index, blob in enumerate(blobs):
                request = self._borrow(under_way, found)
                under_way.append((index, request))
                request.start_async({0: blob[None]})
            while under_way:
                self._finish(under_way, found)
        finally:
            for _, request in under_way:  # after an error
                self._free.put(request)
        return [raw for raw in found if raw is not None]

    def _borrow(self, under_way: deque[tuple[int, Any]], found: list[Raw | None]) -> Any:
        """A free request. A thread that holds requests finishes its own instead of waiting for others: no deadlock."""
        while under_way:
            try:
                return self._free.get_nowait()
            except Empty:
                self._finish(under_way, found)
        return self._free.get()

    def _finish(self, under_way: deque[tuple[int, Any]], found: list[Raw | None]) -> None:
        index, request = under_way[0]
        request.wait()
        output = request.get_output_tensor(0).data
        found[index] = (output[0] if output.ndim == 3 else output).copy()  # boxes of one image have no batch dimension
        under_way.popleft()
        self._free.put(request)


def n_streams() -> int:
    """Images that run in parallel."""
    return min(cpu_count(), _STREAMS)


def compiled_model(path: Path, precision: str) -> Any:
    """The model as OpenVINO runs it; raises whatever OpenVINO does."""
    import openvino

    settings = {
        # Without the hint, bf16 is used if the processor supports it, and scores differ between machines.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "NUM_STREAMS": str(n_streams()),
        "INFERENCE_NUM_THREADS": str(cpu_count()),
    }
    model = _read(path)
    if len(model.inputs) != 1 or model.input(0).partial_shape.rank.get_length() != 4:
        raise ValueError(f"expected one float input (n, 3, height, width), got {len(model.inputs)} inputs")
    return openvino.Core().compile_model(model, "CPU", settings)


def _read(path: Path) -> Any:
    from openvino.frontend import FrontEndManager  # OpenVINO itself tries every format and prints errors

    reader = FrontEndManager().load_by_framework("onnx" if path.suffix == ".onnx" else "ir")
    return reader.convert(reader.load(str(path)))
