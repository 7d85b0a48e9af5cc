"""Connections of clients: whoever sends no request, or half of one, is cut off."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def protocol_with(head_seconds: float) -> type[H11Protocol]:
    """The HTTP of uvicorn, which waits for the head of a request without end, with a limit of time for it.

    Parameters
    ----------
    head_seconds : float
        From the opening of the connection, or the first byte after an answer, to the last line of the head.
    """

    class Impatient(H11Protocol):  # type: ignore[misc]  # uvicorn takes a class
        _cut: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._wait()
            else:
                self._go_on()

        def connection_lost(self, exc: Exception | None) -> None:
            self._go_on()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._cut is None:
                self._cut = self.loop.call_later(head_seconds, self.transport.close)

        def _go_on(self) -> None:
            if self._cut is not None:
                self._cut.cancel()
                self._cut = None

    return Impatient
