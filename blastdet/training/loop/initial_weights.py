"""Starting weights from a safetensors or torch file. No code in the file is executed."""

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

_INSIDE = ("ema", "model", "state_dict")  # where checkpoints keep their tensors; the moving average is preferred


def take_weights(module: nn.Module, path: Path) -> str:
    """Copy the tensors of a file that match `module` by name and shape; returns a line with their number.

    The file may be of a backbone only (torchvision's ``resnet50``, ``mobilenet_v3_large``) for Faster R-CNN. Raises
    `WeightsError` if the file cannot be read, has anything but tensors, or none that matches.

    Parameters
    ----------
    module : Module
        Changed in place.
    path : Path
        ``.safetensors``, or a file of `torch.save` with nothing but tensors.
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
        raise WeightsError(f"{path}: none of its {len(given)} tensors matches the model by name and shape")
    module.load_state_dict(fitting, strict=False)
    return f"{path.name}: {len(fitting)} of the model's {len(own)} tensors initialised, from {len(given)} in the file"


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
        raise WeightsError(f"{path}: expected a state dict, got no tensors")
    return tensors


def _torch(path: Path) -> Any:
    with path.open("rb"):
        pass  # a missing file is an OSError here, and another error in torch
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: has more than tensors and is not loaded. Convert it to safetensors") from error
    except Exception as error:  # torch raises errors of any kind for such an archive
        raise WeightsError(f"{path}: expected a safetensors or torch file ({type(error).__name__})") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        # From bytes: a memory-mapped file that changes ends the process.
        return load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{path}: not a safetensors file, or damaged ({one_line(error)})") from error
