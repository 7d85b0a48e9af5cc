"""Knowledge distillation: a network learns the outputs of one that was trained before, besides the labels.

Source: G. Hinton, O. Vinyals and J. Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531, 2015.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from blastdet.core.errors import ConfigError, last_line, one_line
from blastdet.training.classification.crop_samples import CropData
from blastdet.training.classification.networks import network
from blastdet.training.config import ClassifyConfig
from blastdet.training.config_file import expand, read_any
from blastdet.training.loop.checkpoints import BEST
from blastdet.training.loop.run_folder import CONFIG, SOURCES

WEIGHT = 0.5
"""Of the teacher's outputs in the loss; the labels have the rest."""

_TEMPERATURE = 2.0
_SAME = ("label", "classes", "mpp", "side", "low_pass", "fold", "seed", "val_fraction")


def load_teacher(config: ClassifyConfig, base: Path, data: CropData) -> Any:
    """The network of the run folder that ``teacher`` names, at its best epoch; ``None`` without one.

    Parameters
    ----------
    config : ClassifyConfig
    base : Path
        Folder that paths are relative to.
    data : CropData
        The crops of `config`.

    Raises
    ------
    ConfigError
        If it is no run of a network, expects other crops, or was trained on crops that `data` does not have or
        validates on: the new network would know them.
    """
    if config.teacher is None:
        return None
    run = expand(config.teacher, base)
    theirs = read_any(run / CONFIG)
    if not isinstance(theirs, ClassifyConfig) or theirs.features:
        raise ConfigError(f"teacher: expected a run of a network that classifies crops, got {run}")
    for name in _SAME:
        if (mine := getattr(config, name)) != (other := getattr(theirs, name)):
            raise ConfigError(f"teacher: expected a run with the same {name}, got {_text(other)} and {_text(mine)}")
    known = {row["fingerprint"] for row in data.fingerprints}
    for name, fingerprint in _trained_on(run):
        if fingerprint not in known:
            raise ConfigError(f"teacher: {run} was trained on {name}, which this configuration does not use as it was")
    module: Any = network(theirs.model, len(theirs.classes), theirs.side)
    try:
        module.load_state_dict(torch.load(run / BEST, map_location="cpu", weights_only=True)["ema"])
    except Exception as error:  # torch raises errors of any kind for such an archive
        raise ConfigError(f"{run / BEST}: missing or damaged ({last_line(error)})") from error
    return module.eval().requires_grad_(False)


def _trained_on(run: Path) -> list[tuple[str, str]]:
    """Name and fingerprint of each folder of crops of a run."""
    path = run / SOURCES
    try:
        return [(str(row["name"]), str(row["fingerprint"])) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: cannot be read ({one_line(error)})") from None


def _text(value: object) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


def distillation_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of the teacher's softened probabilities from those of a network.

    Parameters
    ----------
    logits, teacher : float (n, classes)

    Returns
    -------
    Tensor
        Scalar, 0 where both agree. It is multiplied by the temperature squared, so that its gradients are as large as
        those of the labels.
    """
    mine = functional.log_softmax(logits / _TEMPERATURE, dim=1)
    theirs = functional.log_softmax(teacher / _TEMPERATURE, dim=1)
    return functional.kl_div(mine, theirs, reduction="batchmean", log_target=True) * _TEMPERATURE**2
