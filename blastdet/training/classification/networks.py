"""Networks for crops of cells: our own small ones, and those of torchvision and timm with random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from blastdet.core.errors import ConfigError, last_line

_GROUPS = 8
_TIMM = "timm/"


def check_network(model: str) -> None:
    """Refuse an unknown network.

    Raises
    ------
    ConfigError
    """
    # Without those of torchvision's submodules: detectors, video.
    known = model in _OWN or model in models.list_models(module=models)
    if model.startswith(_TIMM):
        known = bool(_timm().is_model(model.removeprefix(_TIMM)))
    if not known:
        expected = f"{', '.join(_OWN)}, a classifier of torchvision, or {_TIMM}NAME"
        raise ConfigError(f"model: expected {expected}, got {model}")


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise ConfigError("model: networks of timm need it installed: pip install 'blastdet[timm]'") from None
    return timm


def network(model: str, n_classes: int, side: int = 96) -> nn.Module:
    """A network with random weights and a linear layer at its end.

    Parameters
    ----------
    model : str
        ``small``, ``residual``, a network of torchvision (``mobilenet_v2``, ``resnet18``, ``shufflenet_v2_x1_0``, …) or
        of timm (``timm/tf_efficientnet_lite0``, ``timm/vit_small_patch14_dinov2``, …). Nothing is downloaded.
    n_classes : int
    side : int
        Side of the input in pixels, which transformers are built for.

    Raises
    ------
    ConfigError
        If it is unknown, or has no linear layer.
    """
    check_network(model)
    if model in _OWN:
        return _OWN[model](n_classes)
    if model.startswith(_TIMM):
        return _of_timm(model.removeprefix(_TIMM), n_classes, side)
    extra = {"aux_logits": False, "init_weights": True} if model in ("googlenet", "inception_v3") else {}
    made: nn.Module = models.get_model(model, weights=None, num_classes=n_classes, **extra)
    if not any(isinstance(part, nn.Linear) for part in made.modules()):
        raise ConfigError(f"model: expected a network with a linear layer at its end, got {model}")
    return made


def _of_timm(name: str, n_classes: int, side: int) -> nn.Module:
    create = partial(_timm().create_model, name, pretrained=False, num_classes=n_classes)
    try:
        made: nn.Module = create(img_size=side)
    except TypeError:  # convolutional networks accept any side, and no such argument
        made = create()
    except (AssertionError, ValueError) as error:
        raise ConfigError(f"side: {name} does not accept {side} pixels ({last_line(error)})") from None
    if not any(isinstance(part, nn.Linear) for part in made.modules()):
        raise ConfigError(f"model: expected a network with a linear layer at its end, got {_TIMM}{name}")
    return made


def _small(n_classes: int) -> nn.Module:
    """Five convolutions, 0.4 M parameters: enough for crops of 64 pixels."""
    layers: list[nn.Module] = []
    before = 3
    for width, stride in ((24, 1), (48, 2), (96, 2), (160, 2), (160, 1)):
        layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(before, n_classes))


def _residual(n_classes: int, norm: str = "group", fine: bool = True) -> nn.Module:
    """Nine convolutions with group normalisation, 0.6 M parameters, for crops of about 96 pixels.

    Batch normalisation remembers the mean and spread of the stains that it was trained on, and fails on others.
    Source: S. Tsutsui et al., "Benchmarking white blood cell classification under domain shift", ICASSP 2023.

    Parameters
    ----------
    norm : str
        ``group``, ``batch`` or ``instance``: the normalisation, to compare them.
    fine : bool
        Whether two of the convolutions see half the resolution of the crop: a third of the time.
    """
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, 2, 2, bias=False),
        _norm(norm, 32),
        nn.SiLU(),
        *([_Block(32, 32, 1, norm)] if fine else []),
        _Block(32, 64, 2, norm),
        _Block(64, 128, 2, norm),
        _Block(128, 128, 2, norm),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(128, n_classes),
    )


def _norm(kind: str, width: int) -> nn.Module:
    if kind == "group":
        return nn.GroupNorm(_GROUPS, width)
    return nn.BatchNorm2d(width) if kind == "batch" else nn.InstanceNorm2d(width, affine=True)


class _Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, before: int, width: int, stride: int, norm: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.first_norm = _norm(norm, width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.second_norm = _norm(norm, width)
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


_OWN: dict[str, Callable[[int], nn.Module]] = {
    "small": _small,
    "residual": _residual,
    "residual-instance": partial(_residual, norm="instance"),
    "residual-light": partial(_residual, fine=False),
    "residual-light-batch": partial(_residual, fine=False, norm="batch"),
    "residual-light-instance": partial(_residual, fine=False, norm="instance"),
}
