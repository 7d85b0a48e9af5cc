"""Networks for crops of cells: our own small ones, and those of torchvision with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from blastdet.core.errors import ConfigError

_GROUPS = 8


def check_network(model: str) -> None:
    """Refuse an unknown network.

    Raises
    ------
    ConfigError
    """
    # Without those of torchvision's submodules: detectors, video.
    if model not in _OWN and model not in models.list_models(module=models):
        raise ConfigError(f"model: expected {', '.join(_OWN)} or a classifier of torchvision, got {model}")


def network(model: str, n_classes: int) -> nn.Module:
    """A network with random weights and a linear layer at its end.

    Parameters
    ----------
    model : str
        ``small``, ``residual``, or a network of torchvision: ``mobilenet_v2``, ``resnet18``, ``shufflenet_v2_x1_0``, …
    n_classes : int

    Raises
    ------
    ConfigError
        If it is unknown, or has no linear layer.
    """
    check_network(model)
    if model in _OWN:
        return _OWN[model](n_classes)
    extra = {"aux_logits": False, "init_weights": True} if model in ("googlenet", "inception_v3") else {}
    made: nn.Module = models.get_model(model, weights=None, num_classes=n_classes, **extra)
    if not any(isinstance(part, nn.Linear) for part in made.modules()):
        raise ConfigError(f"model: expected a network with a linear layer at its end, got {model}")
    return made


def _small(n_classes: int) -> nn.Module:
    """Five convolutions, 0.4 M parameters: enough for crops of 64 pixels."""
    layers: list[nn.Module] = []
    before = 3
    for width, stride in ((24, 1), (48, 2), (96, 2), (160, 2), (160, 1)):
        layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(before, n_classes))


def _residual(n_classes: int) -> nn.Module:
    """Nine convolutions with group normalisation, 0.6 M parameters, for crops of about 96 pixels.

    Batch normalisation remembers the mean and spread of the stains that it was trained on, and fails on others.
    Source: S. Tsutsui et al., "Benchmarking white blood cell classification under domain shift", ICASSP 2023.
    """
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, 2, 2, bias=False),
        nn.GroupNorm(_GROUPS, 32),
        nn.SiLU(),
        _Block(32, 32, 1),
        _Block(32, 64, 2),
        _Block(64, 128, 2),
        _Block(128, 128, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(128, n_classes),
    )


class _Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.first_norm = nn.GroupNorm(_GROUPS, width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.second_norm = nn.GroupNorm(_GROUPS, width)
        same = before == width and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), nn.Conv2d(before, width, 1, bias=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, width, h / stride, w / stride)."""
        y = functional.silu(self.first_norm(self.first(x)))
        return functional.silu(self.second_norm(self.second(y)) + self.shortcut(x))


def last_linear(made: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the last layer."""
    linear = [(name, part) for name, part in made.named_modules() if isinstance(part, nn.Linear)]
    return linear[-1]


def masked_cross_entropy(logits: Tensor, possible: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy where a crop may have one of several classes: their probabilities are added.

    Parameters
    ----------
    logits : float (n, classes)
    possible : bool (n, classes)
        At least one of each row.
    smoothing : float
        Weight of the mean over all classes, as label smoothing.
    """
    log_probability = functional.log_softmax(logits, dim=1)
    inside = torch.logsumexp(log_probability.masked_fill(~possible, -torch.inf), dim=1)
    return -((1 - smoothing) * inside + smoothing * log_probability.mean(dim=1)).mean()


_OWN = {"small": _small, "residual": _residual}
