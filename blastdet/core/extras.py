"""Optional packages: an error that says how to install what is missing."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from blastdet.core.errors import DependencyError


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
