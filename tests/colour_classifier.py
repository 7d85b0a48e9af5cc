"""A classifier of crops in ONNX whose features are the mean red, green and blue of a crop: small, and known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blastdet.core.model_card import Card, InputSpec, RejectionRule, Threshold, Training, sha256_of, write_card

CLASSES = ("blast", "lymphocyte", "monocyte")
SIDE = 16


def write_colour_classifier(folder: Path, slope: float = 8.0, colour: str = "as it is") -> Path:
    """A weights folder. The logit of a blast is `slope` times the mean of red, from -1 to 1, less green's."""
    folder.mkdir(parents=True)
    weights = np.zeros((3, len(CLASSES)), np.float32)
    weights[:2, 0] = slope, -slope
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probability"], axis=1),
        helper.make_node("ReduceL2", ["features"], ["distance"], axes=[1], keepdims=0),
    ]
    sizes = {"probability": ["n", len(CLASSES)], "distance": ["n"], "features": ["n", 3]}
    graph = helper.make_graph(
        nodes,
        "colour",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, folder / "model.onnx")
    card = Card(
        name="colour",
        task="classify",
        classes=CLASSES,
        output="probabilities",
        files={"model.onnx": sha256_of(folder / "model.onnx")},
        mpp=0.5,
        input=InputSpec(wh=(SIDE, SIDE), stride=1, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), colour=colour),
        thresholds={"blast": Threshold(value=0.5, chosen_on="nothing", criterion="made up")},
        unsure=RejectionRule(low=0.4, high=0.6, distance=1.5, chosen_on="nothing", criterion="made up"),
        training=Training(config={}, seed=0, commit="", data=(), epochs=0, device="", duration_s=0),
    )
    write_card(card, folder)
    return folder
