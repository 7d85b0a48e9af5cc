"""Starting weights from a safetensors, ONNX or torch file. No code in the file is executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from blastdet.core.atomic_io import write_bytes
from blastdet.core.errors import WeightsError, one_line
from blastdet.core.model_card import CARD, find_weights, read_card, sha256_of, write_card
from blastdet.training.config_file import expand
from blastdet.training.loop.ultralytics_checkpoint import read_checkpoint

TENSORS = "model.safetensors"

# Where checkpoints keep their tensors; the moving average is preferred. A teacher is one, in self-supervised training.
_INSIDE = ("ema", "teacher", "model", "state_dict")
_PREFIXES = ("", "backbone.", "module.", "model.", "encoder.", "teacher.backbone.")
_POSITIONS = "pos_embed"  # one row for each patch of a transformer's input


def starting_file(init: str, base: Path) -> Path:
    """The file of starting weights that a configuration names.

    Parameters
    ----------
    init : str
        A file; or a weights folder or the name of a shipped model, for its tensors, else its ONNX file. The checksum is
        verified.
    base : Path
        Folder that paths are relative to.

    Raises `WeightsError` if there is neither, or the folder has no such file.

    Examples
    --------
    >>> starting_file("default", Path()).name
    'model.safetensors'
    """
    folder = starting_folder(init, base)
    if folder is None:
        return expand(init, base)
    files = read_card(folder).files
    names = [name for name in files if name == TENSORS] or [name for name in files if name.endswith(".onnx")]
    if not names:
        raise WeightsError(f"{folder}: expected an ONNX model to start from, got {list(files)}")
    return folder / names[0]


def write_tensors(folder: Path) -> Path:
    """Write the tensors of a weights folder's ONNX model beside it, for other programs and to start trainings from.

    Batch norms are merged into their convolutions, as in the ONNX file. The card lists the new file.

    Parameters
    ----------
    folder : Path
        Weights folder.

    Returns
    -------
    Path
        ``model.safetensors``.

    Raises
    ------
    WeightsError
        If the card cannot be read, or its model is not an ONNX file with tensors.
    """
    card = read_card(folder)
    names = [name for name in card.files if name.endswith(".onnx")]
    if not names:
        raise WeightsError(f"{folder}: expected an ONNX model, got {list(card.files)}")
    tensors = {name: value.contiguous() for name, value in read_tensors(folder / names[0]).items() if _of_layer(name)}
    path = write_bytes(folder / TENSORS, save(tensors))
    write_card(card.model_copy(update={"files": {**card.files, TENSORS: sha256_of(path)}}), folder)
    return path


def _of_layer(name: str) -> bool:
    """Whether a tensor belongs to a layer; the others are constants of the graph, which the exporter numbers."""
    return name.endswith((".weight", ".bias", ".running_mean", ".running_var"))


def has_merged_norms(path: Path) -> bool:
    """Whether a file of starting weights has no statistics of batch norms: see `spread_batch_norms`."""
    return not any(name.endswith("running_var") for name in read_tensors(path))


def starting_folder(init: str, base: Path) -> Path | None:
    """The weights folder that ``init`` names; ``None`` if it names a file.

    Raises `WeightsError` if there is neither.
    """
    path = expand(init, base)
    if (path / CARD).is_file():
        return path
    return None if path.is_file() or path.suffix else find_weights(init)


def take_weights(module: nn.Module, path: Path) -> str:
    """Copy the tensors of a file that match `module` by name and shape; returns a line with their number.

    The file may be of a backbone only (torchvision's ``resnet50``, ``mobilenet_v3_large``) for Faster R-CNN, or of
    another library that gives the same layers other names, in the same order. Raises
    `WeightsError` if the file cannot be read, has anything but tensors, or none that matches.

    Parameters
    ----------
    module : Module
        Changed in place.
    path : Path
        ``.safetensors``, ``.onnx`` of a detector that was exported by `blastdet train`, a file of `torch.save` with
        nothing but tensors, or a checkpoint of ultralytics. An ONNX file has batch norms merged into convolutions: see
        `spread_batch_norms`.
    """
    own = module.state_dict()
    given = _renamed(own, read_tensors(path))
    fitting = {}
    for name, value in given.items():
        for place in (name, "backbone.body." + name.removeprefix("features.")):
            if place in own and own[place].shape == value.shape:
                fitting[place] = value
                break
    fitting |= _merged_norms(module, given)
    if not fitting:
        fitting = _in_order(own, given)
    if not fitting:
        raise WeightsError(f"{path}: none of its {len(given)} tensors matches the model by name and shape")
    module.load_state_dict(fitting, strict=False)
    return f"{path.name}: {len(fitting)} of the model's {len(own)} tensors initialised, from {len(given)} in the file"


def _renamed(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without the prefix of a checkpoint, if that makes more of their names known; positions resampled."""
    versions = [
        {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
        for prefix in _PREFIXES
    ]
    found = max(versions, key=lambda version: len(version.keys() & own.keys()))
    if _POSITIONS in own and _POSITIONS in found:
        found[_POSITIONS] = _resampled(found[_POSITIONS], own[_POSITIONS].shape)
    return found


def _resampled(positions: Tensor, shape: torch.Size) -> Tensor:
    """Embeddings of the positions of patches, for another number of them; unchanged where no square grid fits.

    Both have shape (1, tokens + patches, width). Those of tokens, such as the class token, come first and are kept.
    """
    if positions.ndim != 3 or len(shape) != 3 or positions.shape == shape or positions.shape[2] != shape[2]:
        return positions
    for tokens in range(6):
        before, after = (round(max(n - tokens, 0) ** 0.5) for n in (positions.shape[1], shape[1]))
        if before and after and (before**2 + tokens, after**2 + tokens) == (positions.shape[1], shape[1]):
            grid = positions[:, tokens:].reshape(1, before, before, -1).permute(0, 3, 1, 2).float()
            grid = nn.functional.interpolate(grid, (after, after), mode="bicubic", antialias=True, align_corners=False)
            patches = grid.permute(0, 2, 3, 1).reshape(1, after**2, -1).to(positions.dtype)
            return torch.cat([positions[:, :tokens], patches], dim=1)
    return positions


def _in_order(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same layers under other names, as another library writes them: equal shapes in the same order.

    The last layer may differ, since it has one row for each class. Otherwise nothing matches.
    """
    mine, theirs = list(own), list(given)
    shapes = [own[name].shape == given[other].shape for name, other in zip(mine, theirs, strict=False)]
    if len(mine) != len(theirs) or not all(shapes[:-2]):
        return {}
    return {name: given[other] for name, other, same in zip(mine, theirs, shapes, strict=True) if same}


def _merged_norms(module: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Batch norms, named ``bn`` beside ``conv``, that only add the bias of a convolution they were merged into."""
    found = {}
    for name, norm in module.named_modules():
        bias = given.get(name.removesuffix("bn") + "conv.bias")
        if not isinstance(norm, nn.BatchNorm2d) or not name.endswith("bn") or f"{name}.bias" in given:
            continue
        if bias is not None and bias.shape == norm.bias.shape:
            found[f"{name}.bias"] = bias
            found[f"{name}.weight"] = torch.full_like(bias, (1 + norm.eps) ** 0.5)
            found[f"{name}.running_mean"], found[f"{name}.running_var"] = torch.zeros_like(bias), torch.ones_like(bias)
    return found


@torch.no_grad()
def spread_batch_norms(module: nn.Module, images: Tensor) -> None:
    """Give every batch norm the statistics that its input has on some images; outputs in evaluation stay the same.

    In training, a batch norm divides by the statistics of the batch. One that was merged into a convolution has lost
    those it was trained with, and without them the first step of training would destroy the model.

    Parameters
    ----------
    module : Module
        Changed in place.
    images : float32 (n, 3, h, w)
        Images as the module is trained on.
    """
    inputs: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}

    def note(norm: nn.BatchNorm2d, args: tuple[Tensor, ...]) -> None:
        inputs[norm] = args[0].mean((0, 2, 3)), args[0].var((0, 2, 3))

    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    training = module.training
    module.eval()(images)
    module.train(training)
    for hook in hooks:
        hook.remove()
    for norm, (mean, var) in inputs.items():
        if norm.running_mean is None or norm.running_var is None:
            continue
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias.copy_(norm.bias + scale * (mean - norm.running_mean))
        norm.weight.copy_(scale * (var + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a file by name; see `take_weights`."""
    try:
        read = {".safetensors": _safetensors, ".onnx": _onnx}.get(path.suffix, _torch)
        content = read(path)
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
        if (tensors := read_checkpoint(path)) is not None:
            return tensors
        raise WeightsError(f"{path}: has more than tensors and is not loaded. Convert it to safetensors") from error
    except Exception as error:  # torch raises errors of any kind for such an archive
        raise WeightsError(f"{path}: expected a safetensors or torch file ({type(error).__name__})") from error


def _onnx(path: Path) -> Any:
    import onnx
    from onnx.numpy_helper import to_array

    content = path.read_bytes()
    try:
        constants = onnx.load_model_from_string(content).graph.initializer
        # Data in another file is not followed: its path comes from the file.
        return {one.name: torch.from_numpy(to_array(one).copy()) for one in constants if not one.external_data}
    except Exception as error:  # protobuf and onnx raise errors of many kinds for a damaged file
        raise WeightsError(f"{path}: not an ONNX file, or damaged ({type(error).__name__})") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        # From bytes: a memory-mapped file that changes ends the process.
        return load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{path}: not a safetensors file, or damaged ({one_line(error)})") from error
