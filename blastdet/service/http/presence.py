"""Clients that go away: what they asked for is not worked on any more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from blastdet.service.security.callers import RefusedError

T = TypeVar("T")

_GONE = 499  # for the log only, as in other servers: the client is gone


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; it is cancelled if the client goes away. The body of the request has been read.

    Raises
    ------
    RefusedError
        If the client went away.
    """
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            leaving.result()
            raise RefusedError(_GONE, "the client went away")
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    """Return when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
