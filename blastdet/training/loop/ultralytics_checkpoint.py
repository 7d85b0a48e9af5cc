"""Tensors of a checkpoint of ultralytics, read without executing anything in it.

Such a file is a pickled network: objects of ultralytics' classes that contain the tensors. Here, every class that is
not needed to make a tensor is replaced by an empty one, which keeps the state that the file gives it and runs no code.
Functions that make tensors are wrapped anew for each file, so that a file cannot change those of torch.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_MAKERS = {("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")}
_STORAGES = ("Float", "Half", "Double", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_MOST_MODULES = 100_000


class _Stub:
    """Stands for an object of any class: keeps its state."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update({str(name): value for name, value in state.items()})

    def __call__(self, *args: Any, **kwargs: Any) -> _Stub:
        return _Stub()

    # A stub may also stand for a list or a dict that the file fills.
    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What makes a tensor, or the stub."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) in _MAKERS:
            made = getattr(torch._utils, name)
            return lambda *args: made(*args)
        if module == "torch" and name.removesuffix("Storage") in _STORAGES:
            return getattr(torch, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return (lambda *args: args) if (module, name) == ("torch", "Size") else _Stub


class _Pickle(ModuleType):
    """What `torch.load` needs of a pickle module."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: io.BufferedIOBase, **kwargs: Any) -> Any:
        """Load with the stubs above."""
        return _Unpickler(file, **kwargs).load()


def read_checkpoint(path: Path) -> dict[str, Tensor] | None:
    """Tensors by name of the network in a checkpoint of ultralytics; ``None`` if there is none.

    The moving average is preferred, as ultralytics itself does. Half precision becomes single precision.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_Pickle("stubs"))
    except Exception:  # noqa: BLE001  # a hostile file fails in any way; nothing of it has run
        return None
    if not isinstance(content, Mapping):
        return None
    for name in ("ema", "model"):
        network = content.get(name)
        if isinstance(network, _Stub) and (tensors := _tensors(network)):
            return tensors
    return None


def _tensors(network: Any) -> dict[str, Tensor]:
    """Parameters and buffers of a stub of a module and of the modules in it; a module in several places counts once."""
    found: dict[str, Tensor] = {}
    waiting, seen = [(network, "")], {id(network)}
    while waiting and len(seen) <= _MOST_MODULES:
        module, prefix = waiting.pop()
        for kind in ("_parameters", "_buffers"):
            for name, value in _entries(module, kind):
                if isinstance(value, Tensor | nn.Parameter):
                    tensor = value.detach()
                    found[f"{prefix}{name}"] = tensor.float() if tensor.is_floating_point() else tensor
        for name, part in _entries(module, "_modules"):
            if id(part) not in seen:
                seen.add(id(part))
                waiting.append((part, f"{prefix}{name}."))
    return found


def _entries(module: Any, kind: str) -> list[tuple[str, Any]]:
    entries = getattr(module, kind, None)
    return [(str(name), value) for name, value in entries.items()] if isinstance(entries, Mapping) else []
