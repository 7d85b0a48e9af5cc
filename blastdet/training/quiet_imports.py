"""Imports of libraries that change the process or use the network while they are imported.

Each is imported on first use, in a block that sets its variables and afterwards restores the environment, the warning
filters and NumPy's print options: importing or using blastdet leaves them alone. A variable set by the user applies.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

_ULTRALYTICS = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}
_ALBUMENTATIONS = {"NO_ALBUMENTATIONS_UPDATE": "1"}


def ultralytics(module: str) -> Any:
    """A module of ultralytics, such as ``utils.loss``; it installs no packages and does not use the network."""
    with _restored(_ULTRALYTICS):
        return import_module(f"ultralytics.{module}")


def albumentations() -> Any:
    """The module albumentations, without its search for a newer version on the network."""
    with _restored(_ALBUMENTATIONS):
        return import_module("albumentations")


@contextmanager
def _restored(defaults: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update({name: value for name, value in defaults.items() if name not in before})
    try:
        with warnings.catch_warnings(), np.printoptions():
            yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})
