"""blastdet finds, classifies and counts nucleated cells on stained blood smears. Research use only."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# Resolved on first use (PEP 562): `import blastdet` itself imports nothing heavy.
_PUBLIC = {
    "BlastdetError": "blastdet.core.errors",
    "Dataset": "blastdet.core.types",
    "Detections": "blastdet.core.types",
    "Smear": "blastdet.core.types",
    "SmearReport": "blastdet.core.results",
    "detect": "blastdet.inference.pipeline",
    "load_detector": "blastdet.models.detector",
    "open_smear": "blastdet.imaging.io",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'blastdet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
