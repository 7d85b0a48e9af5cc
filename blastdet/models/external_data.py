"""Weights that a model file stores in other files, which its card must list: the checksums cover all that runs.

Recent versions of torch export ONNX with the weights in a second file, and OpenVINO always has one. ONNX is read as
protobuf here, because the package onnx is only a dependency of training. Field numbers are those of ``onnx.proto3``.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blastdet.core.errors import WeightsError
from blastdet.core.model_card import Card

# Message -> field number -> message, for all that may contain a tensor.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_external_data(path: Path, card: Card) -> None:
    """Refuse a model whose weights are in a file that the card does not list, or that is not a valid file.

    Raises `WeightsError`.
    """
    if path.suffix == ".onnx":
        needed = external_files(path)
    else:
        beside = path.with_suffix(".bin")
        needed = {beside.name} if beside.is_file() else set()
    for name in sorted(needed):
        if name not in card.files:
            raise WeightsError(
                f"{path}: its weights are in {name!r:.80}, which card.json does not list: no checksum covers them. "
                "Export the model as one file, or add the file and its sha256 to files in card.json."
            )


def external_files(path: Path) -> set[str]:
    """Names of the files in which an ONNX model stores tensors; empty if it is complete.

    Raises `WeightsError` if it is no ONNX model.
    """
    try:
        with path.open("rb") as stream:
            if not path.stat().st_size:
                return set()
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _locations(data)
    except (OSError, ValueError, IndexError) as error:
        raise WeightsError(f"{path}: expected an ONNX model, got other bytes ({error})") from None


def _locations(data: mmap.mmap) -> set[str]:
    found = set()
    waiting = [("model", 0, len(data))]
    while waiting:
        kind, start, end = waiting.pop()
        texts: dict[int, bytes] = {}
        for number, first, last in _parts(data, start, end):
            inner = _FIELDS[kind].get(number)
            if inner is not None:
                waiting.append((inner, first, last))
            elif kind == "entry":
                texts[number] = data[first : min(last, first + 4096)]
        if texts.get(1) == b"location":
            found.add(texts.get(2, b"").decode("utf-8", "replace"))
    return found


def _parts(data: Any, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field with a length in a message."""
    at = start
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _BYTES:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError("a field ends beyond its message")
            yield number, at, at + size
            at += size
        elif wire == _VARINT:
            _, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"a field of the unknown kind {wire}")


def _varint(data: Any, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without end")
