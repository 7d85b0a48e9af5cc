"""Files as answers: a large one is read as the client takes it, so that slow clients hold little memory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

_PIECE = 2**18


async def kept_file(path: Path, media_type: str) -> Response | None:
    """The answer with a file; ``None`` if it does not exist. It may be deleted meanwhile."""
    found = await run_in_threadpool(_begin, path)
    if found is None:
        return None
    first, rest, size = found
    if rest is None:
        return Response(first, media_type=media_type)
    return _InPieces(first, rest, size, media_type)


def is_large(content: bytes) -> bool:
    """Whether something that is in memory should rather be read from its file."""
    return len(content) > _PIECE


def _begin(path: Path) -> tuple[bytes, BinaryIO | None, int] | None:
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return None
    size = os.fstat(stream.fileno()).st_size
    first = stream.read(_PIECE)
    if len(first) < size:
        return first, stream, size
    stream.close()
    return first, None, size


class _InPieces(StreamingResponse):
    def __init__(self, first: bytes, rest: BinaryIO, size: int, media_type: str) -> None:
        super().__init__(_pieces(first, rest), media_type=media_type, headers={"Content-Length": str(size)})
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._rest.close()


async def _pieces(piece: bytes, rest: BinaryIO) -> AsyncIterator[bytes]:
    while piece:
        yield piece
        piece = await run_in_threadpool(rest.read, _PIECE)
