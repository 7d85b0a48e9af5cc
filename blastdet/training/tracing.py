"""Between torch and ONNX, alike for every detector: what goes into a module, and how it is written to a file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from blastdet.cards import Card
from blastdet.detectors.onnx import padded_size, to_blob
from blastdet.types import RGB


def as_batch(image: RGB, card: Card, device: torch.device) -> Tensor:
    """One image as a batch (1, 3, height, width), padded and normalised as for the exported model."""
    blob = to_blob(image, padded_size(image.shape[:2], card.input.stride), card.input)
    return torch.from_numpy(blob[None]).to(device).contiguous(memory_format=torch.channels_last)


def write_onnx(
    module: nn.Module,
    shape: tuple[int, int, int, int],
    axes: Mapping[str, Mapping[int, str]],
    path: Path,
    output: str = "cells",
) -> None:
    """Trace a module on blank images of a shape; `axes` names the free axes of ``images`` and of the output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about Python values that are constants indeed
        torch.onnx.export(
            module,
            (torch.zeros(shape),),
            path,
            input_names=["images"],
            output_names=[output],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
