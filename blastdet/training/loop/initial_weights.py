"""Starting weights from a file at hand: safetensors, or what torch saved. Nothing in such a file is executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from blastdet.core.errors import WeightsError, one_line

_INSIDE = ("ema", "model", "state_dict")  # where checkpoints keep their tensors; the moving average before the rest


def take_weights(module: nn.Module, path: Path) -> str:
    """Copy every tensor of a file that has its place in `module`, by name and shape; one line says how many.

    A file of a backbone alone (torchvision's ``resnet50``, ``mobilenet_v3_large``) fills that of Faster R-CNN.

    Parameters
    ----------
    module : Module
        Changed in place.
    path : Path
        ``.safetensors``, or a file of `torch.save` that holds tensors only.

    Raises
    ------
    WeightsError
        If the file cannot be read, holds something else than tensors, or none that fits.
    """
    given = read_tensors(path)
    own = module.state_dict()
    fitting = {}
    for name, value in given.items():
        for place in (name, "backbone.body." + name.removeprefix("features.")):
            if place in own and own[place].shape == value.shape:
                fitting[place] = value
                break
    if not fitting:
        raise WeightsError(f"{path}: none of its {len(given)} tensors has name and shape of one of the model's")
    module.load_state_dict(fitting, strict=False)
    return f"{path.name}: {len(fitting)} of the model's {len(own)} tensors taken, of {len(given)} in the file"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a file by name; see `take_weights`."""
    try:
        content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    for key in _INSIDE:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise WeightsError(f"{path}: no tensors found, a state dict expected")
    return tensors


def _torch(path: Path) -> Any:
    with path.open("rb"):
        pass  # a missing file is an OSError here, whatever torch makes of it
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: holds more than tensors, which is not loaded; export it as safetensors") from error
    except Exception as error:  # torch raises whatever a broken archive leads to
        raise WeightsError(f"{path}: neither safetensors nor a file of torch ({type(error).__name__})") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        # From bytes, not mapped: a file that changes under a mapping ends the process.
        return load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{path}: no safetensors, or damaged ({one_line(error)})") from error
