"""Starting weights from a file at hand: safetensors, or what torch saved. Nothing in such a file is executed."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blastdet.errors import WeightsError

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
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
    """The format in full: length of the header (8 bytes), header (JSON), data. https://huggingface.co/docs/safetensors"""
    data = bytearray(path.read_bytes())  # torch wants memory it may write to
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, _LARGEST_HEADER):
        raise WeightsError(f"{path}: cut short, or no safetensors")
    try:
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        return {name: _tensor(entry, data, 8 + length) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: damaged header ({' '.join(str(error).split())[:80]})") from error


def _tensor(entry: dict[str, Any], data: bytearray, start: int) -> Tensor:
    dtype, shape, (first, last) = _TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    count = math.prod(shape)
    if (
        not 0 <= first <= last <= len(data) - start
        or last - first != count * dtype.itemsize
        or min(shape, default=0) < 0
    ):
        raise ValueError(f"{shape} at {first}..{last} does not fit")
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=start + first).reshape(shape)
