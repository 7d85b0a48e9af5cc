"""A result that is read back from its file, with its corrections."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from blastdet.core.model_card import ValidationCounts
from blastdet.datasets.corrections import Correction
from blastdet.inference.outputs.corrected_result import corrected_result
from blastdet.inference.outputs.result_record import from_record
from blastdet.inference.result import Result

_MOST_CELLS = 60_000
_READ: OrderedDict[Path, dict[str, Any]] = OrderedDict()
_LOCK = threading.Lock()

Key = tuple[Path, int, str, int]

_MOST_BYTES = 2**26
_BYTES_OF_CORRECTION = 1000
_SHOWN: OrderedDict[Key, StoredResult] = OrderedDict()
_AT_WORK: WeakValueDictionary[Path, threading.Lock] = WeakValueDictionary()


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

    @cached_property
    def corrected(self) -> Result:
        """With all corrections."""
        return corrected_result(self.original, self.corrections, self.classifier_classes, self.trials)


def _read_result(
    record: Path, name: str, corrections: Sequence[Correction], trials: Sequence[ValidationCounts]
) -> StoredResult:
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


def shown_result(
    which: tuple[Path, str, int], corrections: Callable[[], Sequence[Correction]], trials: Sequence[ValidationCounts]
) -> StoredResult:
    """A result with its corrections applied, from memory if it was shown lately: a page asks for several parts of it.

    Of one analysis it is put together once, while others that ask for it wait.

    Parameters
    ----------
    which : (Path, str, int)
        Its file, the name of the smear, and the version of the corrections.
    corrections : callable
        Reads them.
    trials : sequence of ValidationCounts
        Error rates of the classifier that found it.

    Raises
    ------
    FileNotFoundError
        If it was deleted.
    """
    record, name, version = which
    key = (record, record.stat().st_mtime_ns, name, version)
    with _LOCK:
        at_work = _AT_WORK.setdefault(record, threading.Lock())
    with at_work:
        with _LOCK:
            if key in _SHOWN:
                _SHOWN.move_to_end(key)
                return _SHOWN[key]
        found = _read_result(record, name, corrections(), trials)
        _ = found.corrected  # which is kept with it
        with _LOCK:
            _keep(key, found)
        return found


def _keep(key: Key, result: StoredResult) -> None:
    """Keep a result in memory instead of earlier versions of it and, if there is no room, of others."""
    for other in [one for one in _SHOWN if one[0] == key[0]]:
        del _SHOWN[other]
    _SHOWN[key] = result
    while len(_SHOWN) > 1 and sum(map(_bytes_of, _SHOWN.values())) > _MOST_BYTES:
        _SHOWN.popitem(last=False)


def _bytes_of(stored: StoredResult) -> int:
    cells = [each for one in (stored.original, stored.corrected) for each in (one.detections, one.candidates)]
    columns = (getattr(each, name) for each in cells for name in each.columns())
    n_bytes = sum(int(column.nbytes) for column in columns if column is not None)
    return n_bytes + _BYTES_OF_CORRECTION * len(stored.corrections)
