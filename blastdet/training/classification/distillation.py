"""Knowledge distillation: a network learns the outputs of one that was trained before, besides the labels.

Source: G. Hinton, O. Vinyals and J. Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531, 2015.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from blastdet.core.errors import ConfigError, last_line
from blastdet.training.classification.networks import network
from blastdet.training.config import ClassifyConfig
from blastdet.training.config_file import expand, read_any
from blastdet.training.loop.checkpoints import BEST
from blastdet.training.loop.run_folder import CONFIG

WEIGHT = 0.5
"""Of the teacher's outputs in the loss; the labels have the rest."""

_TEMPERATURE = 2.0
_SAME = ("classes", "mpp", "side", "low_pass", "fold", "seed", "val_fraction")


def load_teacher(config: ClassifyConfig, base: Path) -> Any:
    """The network of the run folder that ``teacher`` names, at its best epoch; ``None`` without one.

    Parameters
    ----------
    config : ClassifyConfig
    base : Path
        Folder that paths are relative to.

    Raises
    ------
    ConfigError
        If it is no run of a network, expects other crops, or was trained on data that `config` does not use or
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
    used = {name for _, name in config.laboratories}
    if more := [name for _, name in theirs.laboratories if name not in used]:
        raise ConfigError(f"teacher: {run} was trained on {more}, which this configuration does not use")
    module: Any = network(theirs.model, len(theirs.classes), theirs.side)
    try:
        module.load_state_dict(torch.load(run / BEST, map_location="cpu", weights_only=True)["ema"])
    except Exception as error:  # torch raises errors of any kind for such an archive
        raise ConfigError(f"{run / BEST}: missing or damaged ({last_line(error)})") from error
    return module.eval().requires_grad_(False)


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
