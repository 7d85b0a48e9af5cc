"""The checksums of a card cover all that runs, and a detector whose numbers are none is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from blastdet.core.errors import WeightsError
from blastdet.core.model_card import find_weights, read_card, sha256_of, write_card
from blastdet.models.detector import load_detector
from blastdet.models.external_data import external_files

RIGHT = np.array([[32, 32, 20, 20, 0.9, 0.1, 0.0]], np.float32).T[None]  # one cell, in the raw output of a YOLO head


def weights(folder: Path, output: np.ndarray, external: bool = False, listed: bool = False) -> Path:
    """A detector that answers `output` for every image."""
    folder.mkdir(exist_ok=True)
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, "h", "w"])
    answer = helper.make_tensor_value_info("out", TensorProto.FLOAT, list(output.shape))
    nodes = [
        helper.make_node("ReduceMin", ["images"], ["low"], keepdims=0),
        helper.make_node("Mul", ["low", "zero"], ["nothing"]),
        helper.make_node("Add", ["cells", "nothing"], ["out"]),
    ]
    tensors = [numpy_helper.from_array(output, "cells"), numpy_helper.from_array(np.float32(0), "zero")]
    graph = helper.make_graph(nodes, "g", [image], [answer], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = folder / "model.onnx"
    if external:
        onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    else:
        onnx.save(model, str(path))
    files = ["model.onnx", *(["weights.bin"] if listed else [])]
    card = read_card(find_weights("default")).model_copy(
        update={"files": {name: sha256_of(folder / name) for name in files}, "second_stage": None, "precision": "f32"}
    )
    write_card(card, folder)
    return folder


def found(folder: Path) -> int:
    (cells,) = load_detector(folder, "cpu")([np.zeros((64, 64, 3), np.uint8)])
    return len(cells)


def test_a_model_in_one_file_runs(tmp_path: Path) -> None:
    assert external_files(weights(tmp_path, RIGHT) / "model.onnx") == set()
    assert found(tmp_path) == 1


def test_data_that_the_card_does_not_list_are_refused(tmp_path: Path) -> None:
    folder = weights(tmp_path, RIGHT, external=True)
    assert external_files(folder / "model.onnx") == {"weights.bin"}
    with pytest.raises(WeightsError, match=r"its weights are in 'weights\.bin', which card\.json does not list"):
        load_detector(folder, "cpu")


def test_data_that_the_card_lists_are_checked(tmp_path: Path) -> None:
    folder = weights(tmp_path, RIGHT, external=True, listed=True)
    assert found(folder) == 1
    (folder / "weights.bin").write_bytes(bytes((folder / "weights.bin").stat().st_size))
    with pytest.raises(WeightsError, match=r"weights\.bin: expected sha256"):
        load_detector(folder, "cpu")


def test_tensors_inside_nodes_and_subgraphs_are_seen(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "t")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../x.bin")
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])
    outer = helper.make_graph([helper.make_node("If", ["b"], ["o"], then_branch=inner, else_branch=inner)], "o", [], [])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(outer).SerializeToString())
    assert external_files(tmp_path / "m.onnx") == {"../x.bin"}


@pytest.mark.parametrize("content", [b"\x3a\xff\xff\xff\x7f", b"\xff" * 20, b"not a model", b"\x3a"])
def test_other_bytes_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(WeightsError, match="expected an ONNX model, got other bytes") as caught:
        external_files(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "value", "words"),
    [
        (4, np.nan, "expected finite numbers, got NaN or infinity"),
        (0, np.inf, "expected finite numbers"),
        (5, 7.0, "expected scores from 0 to 1, got 0 to 7"),
    ],
)
def test_numbers_that_are_no_detections_are_refused(tmp_path: Path, row: int, value: float, words: str) -> None:
    output = RIGHT.copy()
    output[0, row] = value
    with pytest.raises(WeightsError, match=words):
        load_detector(weights(tmp_path, output), "cpu")
