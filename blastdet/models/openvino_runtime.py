"""OpenVINO on the CPU: several tiles at once, a core or more for each."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from blastdet.core.errors import DependencyError, WeightsError, last_line
from blastdet.core.parallel import cpu_count
from blastdet.models.decoding import Raw

_STREAMS = 4  # tiles at once at most; cores beyond that share them


class OpenVinoModel:
    """A model in ONNX or OpenVINO's own format; see `blastdet.models.onnx_detector.Compute`.

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
            compiled = openvino.Core().compile_model(model, "CPU", settings)
            self._free: SimpleQueue[Any] = SimpleQueue()  # requests, each with memory of its own
            for _ in range(min(cores, _STREAMS)):
                self._free.put(compiled.create_infer_request())
        except Exception as error:  # it raises bare RuntimeErrors of its own C++ types
            raise WeightsError(f"{path}: OpenVINO cannot load it ({last_line(error)})") from error

    def __call__(self, blobs: Sequence[Any]) -> list[Raw]:
        """The first output of each image (3, height, width); may be called from several threads."""
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
        """A free request. A thread that holds some waits for none of others', or two would wait for each other."""
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
        found[index] = (output[0] if output.ndim == 3 else output).copy()  # boxes of one image come without a batch
        under_way.popleft()
        self._free.put(request)


def _read(path: Path) -> Any:
    from openvino.frontend import FrontEndManager  # left to itself, OpenVINO tries one format after the other, aloud

    reader = FrontEndManager().load_by_framework("onnx" if path.suffix == ".onnx" else "ir")
    return reader.convert(reader.load(str(path)))
