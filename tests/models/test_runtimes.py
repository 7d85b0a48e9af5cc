"""The shipped detector gives the same results with every runtime, and for single images and batches."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet.core.boxes import iou_matrix
from blastdet.core.errors import DependencyError, WeightsError
from blastdet.core.model_card import find_weights
from blastdet.imaging.io import read_image, resize
from blastdet.inference.writers import software
from blastdet.models import onnx_detector
from blastdet.models.detector import load_detector
from blastdet.models.onnx_detector import OnnxRuntimeModel, padded_size, to_blob
from blastdet.models.openvino_runtime import OpenVinoModel

DEMO = Path(__file__).parents[2] / "datasets/demo/smear.jpg"
needs_openvino = pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="openvino is not installed")


@pytest.fixture(scope="module")
def smear():
    """The demo smear at the model's µm/px."""
    rgb = read_image(DEMO)
    return resize(rgb, (rgb.shape[1] // 3, rgb.shape[0] // 3))


@pytest.fixture(scope="module")
def runtimes():
    detector, path = load_detector("default", "cpu"), find_weights("default") / "model.onnx"
    models = {"onnxruntime": OnnxRuntimeModel(path, "cpu", batched=True)}
    if importlib.util.find_spec("openvino"):
        assert isinstance(detector._compute, OpenVinoModel) and "openvino" in software()
        models["openvino"] = detector._compute
    return detector, models


@pytest.mark.slow
@needs_openvino
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_scores_agree_within_a_thousandth_and_boxes_within_a_tenth_of_a_pixel(smear, runtimes, data):
    """For regions of several sizes in one call."""
    detector, models = runtimes
    h, w = smear.shape[:2]
    blobs, pieces = [], []
    for _ in range(data.draw(st.integers(1, 5))):
        x, y = data.draw(st.integers(0, w - 40)), data.draw(st.integers(0, h - 40))
        piece = smear[y : y + data.draw(st.integers(33, 160)), x : x + data.draw(st.integers(33, 160))]
        pieces.append(piece)
        blobs.append(to_blob(piece, padded_size(piece.shape[:2], 32), detector.card.input))
    for one, other in zip(models["openvino"](blobs), models["onnxruntime"](blobs), strict=True):
        np.testing.assert_allclose(one[4:], other[4:], atol=1e-3)
        high = other[4:].max(axis=0) > 0.01
        np.testing.assert_allclose(one[:4, high], other[:4, high], atol=0.1)


@needs_openvino
def test_runtimes_find_the_same_cells(smear, runtimes, monkeypatch):
    detector, models = runtimes
    limits = np.array([detector.card.thresholds[name].value for name in detector.card.classes])
    found = {}
    for name, model in models.items():
        monkeypatch.setattr(detector, "_compute", model)
        (cells,) = detector([smear])
        found[name] = cells[cells.score >= limits[cells.label - 1] + 0.01]
    a, b = found.values()
    assert len(a) == len(b) > 50
    assert (iou_matrix(a.boxes_xyxy, b.boxes_xyxy).max(axis=1) > 0.99).all()


def test_single_images_and_batches_agree(smear, runtimes):
    """The result of a tile does not depend on other tiles."""
    detector, models = runtimes
    pieces = [smear[:96, :96], smear[40:136, 64:160], smear[:64, :128], smear[:96, 100:196]]
    blobs = [to_blob(piece, padded_size(piece.shape[:2], 32), detector.card.input) for piece in pieces]
    for model in models.values():
        for together, blob in zip(model(blobs), blobs, strict=True):
            np.testing.assert_allclose(together, model([blob])[0], rtol=1e-4, atol=1e-4)


@needs_openvino
@pytest.mark.parametrize("content", [b"", b"not a model", b"<net/>"])
@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_a_file_that_is_not_a_model_gives_a_one_line_error_and_prints_nothing(tmp_path, capfd, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="OpenVINO cannot load it") as caught:
        OpenVinoModel(tmp_path / name, "f32")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


class _WithoutGpu:
    """ONNX Runtime for CUDA on a machine without a GPU, as it was seen: it falls back to the CPU by itself. A fake: no
    machine of the tests has its CUDA build."""

    SessionOptions = onnxruntime.SessionOptions

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, path: Path, options: Any, providers: list[Any]) -> Any:  # noqa: N802
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def test_a_device_that_was_asked_for_is_used_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_detector, "_onnxruntime", _WithoutGpu)
    monkeypatch.setattr(onnx_detector, "has_nvidia_gpu", lambda: False)
    model = find_weights("default") / "model.onnx"
    with pytest.raises(DependencyError, match="expected an NVIDIA GPU that can be used, but this machine shows none"):
        onnx_detector.onnx_session(model, "cuda")
    assert not onnx_detector.wants_cuda("auto")
    onnx_detector.onnx_session(model, "auto")
    monkeypatch.setattr(onnx_detector, "has_nvidia_gpu", lambda: True)
    assert onnx_detector.wants_cuda("auto")
    with pytest.raises(DependencyError, match="its driver or libraries do not fit ONNX Runtime"):
        onnx_detector.onnx_session(model, "cuda:1")
