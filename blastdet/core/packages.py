"""Installed packages: their versions, and an error that says how to install an optional one that is missing."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from blastdet import __version__
from blastdet.core.errors import DependencyError

_USUAL: dict[str, str] = {"cv2": "opencv-python-headless", "PIL": "pillow", "skimage": "scikit-image", "yaml": "pyyaml"}
"""Module -> distribution that usually provides it, where the names differ; asking for all of them takes a second."""


def versions(modules: Iterable[str]) -> dict[str, str]:
    """blastdet's version, and that of each distribution that provides one of `modules`.

    A module may come from several distributions: ``onnxruntime`` from onnxruntime or onnxruntime-gpu, ``cv2`` from
    opencv-python or opencv-python-headless. The one that is installed is named. A module that is not installed is left
    out.

    Parameters
    ----------
    modules : iterable of str
        Import names, such as ``"cv2"``.

    Examples
    --------
    >>> sorted(versions(["numpy", "no_such_module"]))
    ['blastdet', 'numpy']
    """
    found = {"blastdet": __version__}
    for module in modules:
        if find_spec(module) is not None:
            found |= _provider(module)
    return found


def _provider(module: str) -> dict[str, str]:
    usual = _USUAL.get(module, module)
    try:
        return {usual: metadata.version(usual)}
    except metadata.PackageNotFoundError:
        names = sorted(set(metadata.packages_distributions().get(module, ())))
        return {name: metadata.version(name) for name in names}


def require(extra: str, *modules: str) -> None:
    """Check that the modules of an extra are installed.

    Raises
    ------
    DependencyError
        Naming what is missing and how to install it.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise DependencyError(f"{', '.join(missing)}: not installed. Run: pip install 'blastdet[{extra}]'")


def needed(module: str, extra: str) -> Any:
    """Import an optional module, or say how to install it; errors as `require`."""
    require(extra, module.partition(".")[0])
    return import_module(module)
