"""Optional packages: asked for by the command that needs them, in one clear line."""

from __future__ import annotations

from importlib.util import find_spec

from blastdet.core.errors import DependencyError


def require(extra: str, *modules: str) -> None:
    """Check that what an extra installs is there.

    Raises
    ------
    DependencyError
        Naming what is missing and how to install it.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise DependencyError(f"{', '.join(missing)}: not installed; in the checkout, pip install -e '.[{extra}]'")
