"""Routes that work in the threads which all share: a user has some of them at once, and the rest of a burst waits."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from inspect import iscoroutinefunction
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from blastdet.service.http.context import service_of
from blastdet.service.security.addresses import counted_as
from blastdet.service.security.callers import COOKIE


class FairRoute(APIRoute):
    """A route for whose threads people take turns.

    One that is a coroutine takes no part: it may wait for a long time, and has a queue of its own.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, in its turn."""
        handle = super().get_route_handler()
        if iscoroutinefunction(self.endpoint):
            return handle

        async def in_turn(request: Request) -> Response:
            async with service_of(request).asking.place(_credentials(request)):
                return await handle(request)

        return in_turn


def _credentials(request: Request) -> str:
    """What tells users apart before they are known: to look them up takes a thread."""
    service = service_of(request)
    header = service.settings.auth_header
    given = request.headers.get("authorization") or (request.headers.get(header) if header else None)
    return given or request.cookies.get(COOKIE) or counted_as(service.gate.address_of(request))
