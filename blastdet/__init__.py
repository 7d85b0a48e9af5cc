"""blastdet detects, classifies and counts nucleated cells on stained blood smears. Research use only.

>>> import blastdet
>>> model = blastdet.load("default", device="cpu")
>>> result = model("datasets/demo/smear.jpg", mpp=0.1)
>>> result.detections.label.dtype
dtype('int64')
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blastdet.core.errors import BlastdetError
    from blastdet.core.types import Dataset, Detections, Sample
    from blastdet.evaluation.comparison import compare
    from blastdet.evaluation.evaluate import evaluate
    from blastdet.imaging.io import open_smear
    from blastdet.inference.model import Model, detect, load
    from blastdet.inference.result import Result

__version__ = "0.2.0"

# Resolved on first use (PEP 562): `import blastdet` itself imports nothing heavy.
_PUBLIC = {
    "BlastdetError": "blastdet.core.errors",
    "Dataset": "blastdet.core.types",
    "Detections": "blastdet.core.types",
    "Model": "blastdet.inference.model",
    "Result": "blastdet.inference.result",
    "Sample": "blastdet.core.types",
    "compare": "blastdet.evaluation.comparison",
    "detect": "blastdet.inference.model",
    "evaluate": "blastdet.evaluation.evaluate",
    "load": "blastdet.inference.model",
    "open_smear": "blastdet.imaging.io",
}

__all__ = [
    "BlastdetError",
    "Dataset",
    "Detections",
    "Model",
    "Result",
    "Sample",
    "__version__",
    "compare",
    "detect",
    "evaluate",
    "load",
    "open_smear",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'blastdet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
