"""Messages between a process and its child: a JSON header and bytes, each after its length. Nothing is unpickled."""

from __future__ import annotations

import json
import os
import struct
from typing import Any

from blastdet.core.errors import BlastdetError

_LENGTHS = struct.Struct("!II")
_MOST = 2**31

Header = dict[str, Any]


class PipeClosedError(Exception):
    """The other end is gone."""


class DamagedOverviewError(BlastdetError):
    """The overview of an image cannot be read; it can be made again."""


def send(handle: int, header: Header, payload: bytes = b"") -> None:
    """Write one message; returns when all of it is in the pipe."""
    head = json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
    view = memoryview(_LENGTHS.pack(len(head), len(payload)) + head + payload)
    try:
        while view:
            view = view[os.write(handle, view) :]
    except OSError as error:
        raise PipeClosedError from error


def receive(handle: int) -> tuple[Header, bytes]:
    """Read one message; waits for it.

    Raises
    ------
    PipeClosedError
        If the other end is gone, or what it sends is no message.
    """
    n_head, n_payload = _LENGTHS.unpack(_exactly(handle, _LENGTHS.size))
    if n_head > _MOST or n_payload > _MOST:
        raise PipeClosedError
    try:
        header = json.loads(_exactly(handle, n_head))
    except ValueError as error:
        raise PipeClosedError from error
    if not isinstance(header, dict):
        raise PipeClosedError
    return header, _exactly(handle, n_payload)


def _exactly(handle: int, n: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < n:
        try:
            piece = os.read(handle, min(n - len(pieces), 2**20))
        except OSError as error:
            raise PipeClosedError from error
        if not piece:
            raise PipeClosedError
        pieces += piece
    return bytes(pieces)
