"""Which program wrote a JSON file, from its content: many of them use the suffix ``.json`` and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from blastdet.core.errors import FormatError
from blastdet.datasets.annotations.files import read_json
from blastdet.datasets.annotations.records import files_below


def files_of(kind: str, folder: Path) -> list[Path]:
    """JSON files of one kind in a folder and its folders, sorted."""
    return [file for file in files_below(folder, "*.json") if kind_of(file) == kind]


def kind_of(file: Path) -> str | None:
    """``"coco"``, ``"labelstudio"``, ``"via"``, ``"labelme"``, ``"supervisely"``, or ``None`` for any other file."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return _kind(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _kind(file: Path, size: int, modified_ns: int) -> str | None:
    try:
        document = read_json(file)
    except FormatError:
        return None
    return next((kind for kind, matches in _KINDS.items() if matches(document)), None)


def _has(document: Any, **kinds: type) -> bool:
    return isinstance(document, dict) and all(isinstance(document.get(key), kind) for key, kind in kinds.items())


def _is_label_studio(document: Any) -> bool:
    if not isinstance(document, list) or not document or not isinstance(document[0], dict):
        return False
    first = document[0]
    tasks = _has(first, data=dict) and ("annotations" in first or "predictions" in first or "completions" in first)
    return tasks or ({"annotator", "annotation_id", "lead_time"} <= first.keys())


def _is_via(document: Any) -> bool:
    if _has(document, _via_img_metadata=dict):
        return True
    entries = list(document.values())[:1] if isinstance(document, dict) else []
    return bool(entries) and _has(entries[0], filename=str) and "regions" in entries[0]


_KINDS: dict[str, Callable[[Any], bool]] = {
    "coco": lambda document: _has(document, images=list, annotations=list, categories=list),
    "labelstudio": _is_label_studio,
    "via": _is_via,
    "labelme": lambda document: _has(document, shapes=list, imagePath=str),
    "supervisely": lambda document: _has(document, objects=list, size=dict),
}
