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
    from blastdet.datasets.convert import ConvertOptions, convert, write_dataset
    from blastdet.datasets.reading import read_dataset
    from blastdet.datasets.splits import split
    from blastdet.evaluation.comparison import compare
    from blastdet.evaluation.evaluate import EvaluateOptions, evaluate
    from blastdet.imaging.io import open_smear
    from blastdet.inference.adaptation.adapt import AdaptOptions, adapt
    from blastdet.inference.model import Model, detect, load
    from blastdet.inference.result import Result
    from blastdet.service.client import Client
    from blastdet.training.entry_points import TrainOptions, calibrate, export, train

__version__ = "0.2.0"

# Resolved on first use (PEP 562): `import blastdet` itself imports nothing heavy.
_PUBLIC = {
    "AdaptOptions": "blastdet.inference.adaptation.adapt",
    "BlastdetError": "blastdet.core.errors",
    "Client": "blastdet.service.client",
    "ConvertOptions": "blastdet.datasets.convert",
    "Dataset": "blastdet.core.types",
    "Detections": "blastdet.core.types",
    "EvaluateOptions": "blastdet.evaluation.evaluate",
    "Model": "blastdet.inference.model",
    "Result": "blastdet.inference.result",
    "Sample": "blastdet.core.types",
    "TrainOptions": "blastdet.training.entry_points",
    "adapt": "blastdet.inference.adaptation.adapt",
    "calibrate": "blastdet.training.entry_points",
    "compare": "blastdet.evaluation.comparison",
    "convert": "blastdet.datasets.convert",
    "detect": "blastdet.inference.model",
    "evaluate": "blastdet.evaluation.evaluate",
    "export": "blastdet.training.entry_points",
    "load": "blastdet.inference.model",
    "open_smear": "blastdet.imaging.io",
    "read_dataset": "blastdet.datasets.reading",
    "split": "blastdet.datasets.splits",
    "train": "blastdet.training.entry_points",
    "write_dataset": "blastdet.datasets.convert",
}

_EXTRAS = {"evaluation": "evaluate", "training": "train"}
"""Package -> extra that installs what it imports."""

__all__ = [
    "AdaptOptions",
    "BlastdetError",
    "Client",
    "ConvertOptions",
    "Dataset",
    "Detections",
    "EvaluateOptions",
    "Model",
    "Result",
    "Sample",
    "TrainOptions",
    "__version__",
    "adapt",
    "calibrate",
    "compare",
    "convert",
    "detect",
    "evaluate",
    "export",
    "load",
    "open_smear",
    "read_dataset",
    "split",
    "train",
    "write_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'blastdet' has no attribute {name!r}")
    try:
        return getattr(import_module(_PUBLIC[name]), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(_PUBLIC[name].split(".")[1])
        if extra is None or error.name is None or error.name.startswith("blastdet"):
            raise
        from blastdet.core.errors import DependencyError

        raise DependencyError(
            f"blastdet.{name}: {error.name} is not installed. Run: pip install 'blastdet[{extra}]'"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
