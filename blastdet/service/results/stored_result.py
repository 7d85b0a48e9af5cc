"""A result that is read back from its file, with its corrections."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blastdet.core.model_card import ValidationCounts
from blastdet.datasets.corrections import Correction
from blastdet.inference.outputs.corrected_result import corrected_result
from blastdet.inference.outputs.result_record import from_record
from blastdet.inference.result import Result

_MOST_CELLS = 60_000
_READ: OrderedDict[Path, dict[str, Any]] = OrderedDict()
_LOCK = threading.Lock()


@dataclass(frozen=True)
class StoredResult:
    """A result as the model left it, and as its reviewers did.

    Parameters
    ----------
    original : Result
    corrections : sequence of Correction
    classifier_classes : sequence of str
        Of the second stage.
    trials : sequence of ValidationCounts
        Its error rates.
    """

    original: Result
    corrections: Sequence[Correction]
    classifier_classes: Sequence[str] = field(default=())
    trials: Sequence[ValidationCounts] = field(default=())

    @property
    def corrected(self) -> Result:
        """With all corrections."""
        return corrected_result(self.original, self.corrections, self.classifier_classes, self.trials)


def read_result(
    record: Path, name: str, corrections: Sequence[Correction] = (), trials: Sequence[ValidationCounts] = ()
) -> StoredResult:
    """Read a result.

    Parameters
    ----------
    record : Path
        As a worker wrote it.
    name : str
        Of the smear, as it is called now.
    corrections : sequence of Correction
    trials : sequence of ValidationCounts
        Error rates of the classifier that found it.

    Raises
    ------
    FileNotFoundError
        If it was deleted.
    """
    document = _document(record)
    result = replace(from_record(document), name=name)
    return StoredResult(result, corrections, document["classifier_classes"], trials)


def _document(path: Path) -> dict[str, Any]:
    """The document, from memory if it was read lately: a page asks for several parts of one result."""
    stat = path.stat()
    with _LOCK:
        found = _READ.get(path)
        if found is not None and found["_stamp"] == stat.st_mtime_ns:
            _READ.move_to_end(path)
            return found
    document: dict[str, Any] = json.loads(path.read_bytes())
    document["_stamp"] = stat.st_mtime_ns
    with _LOCK:
        _READ[path] = document
        while len(_READ) > 1 and sum(len(one["candidates"]["label"]) for one in _READ.values()) > _MOST_CELLS:
            _READ.popitem(last=False)
    return document


def forget_results() -> None:
    """Drop everything that is in memory, after a smear was deleted."""
    with _LOCK:
        _READ.clear()
