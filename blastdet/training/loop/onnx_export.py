"""From torch to ONNX: input tensors, export, and joined graphs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from blastdet.core.model_card import Card
from blastdet.core.types import RGB
from blastdet.models.onnx_detector import padded_size, to_blob

OPSET = 17


def as_batch(image: RGB, card: Card, device: torch.device) -> Tensor:
    """One image as a batch (1, 3, height, width), padded and normalised as for the exported model."""
    blob = to_blob(image, padded_size(image.shape[:2], card.input.stride), card.input)
    return torch.from_numpy(blob[None]).to(device).contiguous(memory_format=torch.channels_last)


def write_onnx(
    module: nn.Module,
    shape: tuple[int, ...] | Mapping[str, tuple[int, ...]],
    axes: Mapping[str, Mapping[int, str]],
    path: Path,
    outputs: Sequence[str] = ("cells",),
) -> None:
    """Trace a module on zeros of a shape (or one shape per input, by name); `axes` names all dynamic axes."""
    shapes = shape if isinstance(shape, Mapping) else {"images": shape}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about Python values that are meant to be constants
        torch.onnx.export(
            module,
            tuple(torch.zeros(one) for one in shapes.values()),
            path,
            input_names=list(shapes),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def join(
    parts: Sequence[tuple[onnx.ModelProto, Mapping[str, str]]], shared: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Several models as one graph, connected where they share a name.

    Parameters
    ----------
    parts : sequence of (ModelProto, mapping)
        In order, each with new names for some of its values. The inputs of the first are those of the result.
    shared : sequence of str
        Names to keep; all others get a prefix for their part.
    outputs : sequence of str
        Outputs of the last part that the result has.
    """
    nodes, constants = [], []
    for number, (model, renamed) in enumerate(parts):
        names = {"": "", **{name: name for name in shared}, **renamed}
        for node in model.graph.node:
            node.input[:] = [names.get(name, f"part{number}/{name}") for name in node.input]
            node.output[:] = [names.get(name, f"part{number}/{name}") for name in node.output]
            node.name = f"part{number}/{node.name}"
            nodes.append(node)
        for constant in model.graph.initializer:
            constant.name = names.get(constant.name, f"part{number}/{constant.name}")
            constants.append(constant)
    first, last = parts[0], parts[-1][0]
    entry = onnx.ValueInfoProto()
    entry.CopyFrom(first[0].graph.input[0])
    entry.name = first[1].get(entry.name, entry.name)
    answers = [value for name in outputs for value in last.graph.output if value.name == name]
    graph = onnx.helper.make_graph(nodes, "joined", [entry], answers, constants)
    domains = {opset.domain: opset for model, _ in parts for opset in model.opset_import}
    whole = onnx.helper.make_model(graph, opset_imports=list(domains.values()))
    whole.ir_version = max(model.ir_version for model, _ in parts)
    onnx.checker.check_model(whole)
    return whole
