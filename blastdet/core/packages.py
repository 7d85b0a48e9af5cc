"""Versions of installed packages, and import of optional ones with an error that says how to install them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from blastdet import __version__
from blastdet.core.errors import DependencyError

_USUAL: dict[str, str] = {"cv2": "opencv-python-headless", "PIL": "pillow", "skimage": "scikit-image", "yaml": "pyyaml"}
"""Module -> distribution that usually provides it, if the names differ. Searching all of them takes a second."""


def versions(modules: Iterable[str]) -> dict[str, str]:
    """Versions of blastdet and of the distributions that provide `modules`.

    A module may come from one of several distributions: ``onnxruntime`` from onnxruntime or onnxruntime-gpu, ``cv2``
    from opencv-python or opencv-python-headless. The result names the one that is installed. Modules that are not
    installed are left out.

    Parameters
    ----------
    modules : iterable of str
        Import names, such as ``"cv2"``.

    Returns
    -------
    dict
        Distribution -> version.

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

    Raises `DependencyError` if modules are missing; the message says how to install them.

    Parameters
    ----------
    extra : str
        Extra of blastdet that installs them, such as ``"train"``.
    *modules : str
        Import names.

    Examples
    --------
    >>> require("train", "numpy")
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise DependencyError(f"{', '.join(missing)}: not installed. Run: pip install 'blastdet[{extra}]'")


def needed(module: str, extra: str) -> Any:
    """Import an optional module.

    Raises `DependencyError` if it is not installed; see `require`.

    Parameters
    ----------
    module : str
        Import name, such as ``"sklearn.svm"``.
    extra : str
        Extra of blastdet that installs it.
    """
    require(extra, module.partition(".")[0])
    return import_module(module)
