"""blastdet finds, classifies and counts nucleated cells on stained blood smears. Research use only."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Resolved on first use (PEP 562): `import blastdet` itself imports nothing heavy.
_PUBLIC = {
    "BlastdetError": "blastdet.errors",
    "Dataset": "blastdet.types",
    "Detections": "blastdet.types",
    "Smear": "blastdet.types",
    "SmearReport": "blastdet.reports",
    "detect": "blastdet.pipeline",
    "load_detector": "blastdet.detectors",
    "open_smear": "blastdet.images",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'blastdet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
