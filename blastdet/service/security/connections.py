"""Connections of clients: whoever sends no request, or half of one, is cut off."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LEAST_BYTES = 1024
"""Of a body, that must come in each limit of silence."""


def protocol_with(head_seconds: float) -> type[H11Protocol]:
    """The HTTP of uvicorn, which waits for the head of a request without end, with a limit of time for it.

    Parameters
    ----------
    head_seconds : float
        From the opening of the connection, or the first byte after an answer, to the last line of the head. A body that
        was refused before it came is read on for as long as it goes on: many clients read no answer before its end.
    """

    class Impatient(H11Protocol):  # uvicorn takes a class
        _cut: asyncio.TimerHandle | None = None
        _unread = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._go_on()
                return
            if self.conn.their_state is h11.SEND_BODY:
                self._unread += len(data)
                if self._unread >= LEAST_BYTES:
                    self._go_on()
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._go_on()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._cut is None:
                self._cut = self.loop.call_later(head_seconds, self.transport.close)

        def _go_on(self) -> None:
            self._unread = 0
            if self._cut is not None:
                self._cut.cancel()
                self._cut = None

    return Impatient
