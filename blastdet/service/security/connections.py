"""Connections of clients: who sends half a request, or takes no answer, is cut off; an address has so many at once."""

from __future__ import annotations

import asyncio
import json
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from blastdet.service.security.addresses import counted_as, plain
from blastdet.service.security.allowances import Allowance
from blastdet.service.security.callers import RefusedError

LEAST_BYTES = 1024
"""Of a body, that must come in each limit of silence."""


_REFUSED = (
    "HTTP/1.1 {status} Busy\r\ncontent-type: application/json\r\nretry-after: 5\r\nconnection: close\r\n"
    "content-length: {length}\r\n\r\n"
)


def _turn_away(transport: Any, error: RefusedError) -> None:
    body = json.dumps({"error": str(error)})
    transport.write((_REFUSED.format(status=error.status, length=len(body)) + body).encode())
    transport.close()


class Impatient(H11Protocol):
    """The HTTP of uvicorn, which waits for the head of a request without end, with limits; see `protocol_with`."""

    head_seconds: float
    allowance: Allowance
    is_trusted: Callable[[str], bool]
    handshake: Handshake | None = None
    _cut: asyncio.TimerHandle | None = None
    _deaf: asyncio.TimerHandle | None = None
    _unread = 0
    _counted: str | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.handshake is not None:
            self.handshake.end()
        address = plain(self.client[0]) if self.client else ""
        if not self.is_trusted(address):
            try:
                self.allowance.take(counted_as(address))
                self._counted = counted_as(address)
            except RefusedError as error:
                _turn_away(transport, error)
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
        self.resume_writing()
        if self._counted is not None:
            self.allowance.give_back(self._counted)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """A client takes its answer more slowly than it is written; one that takes nothing is cut off."""
        super().pause_writing()
        self._listen(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._deaf is not None:
            self._deaf.cancel()
            self._deaf = None

    def _listen(self, left: int) -> None:
        self._deaf = self.loop.call_later(self.head_seconds, self._is_deaf, left)

    def _is_deaf(self, left: int) -> None:
        now = self.transport.get_write_buffer_size()
        if left - now < LEAST_BYTES:
            self.transport.abort()
        else:
            self._listen(now)

    def _wait(self) -> None:
        if self._cut is None:
            self._cut = self.loop.call_later(self.head_seconds, self.transport.close)

    def _go_on(self) -> None:
        self._unread = 0
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None


def protocol_with(head_seconds: float, connections: Allowance, is_trusted: Callable[[str], bool]) -> type[Impatient]:
    """The class that uvicorn takes.

    Parameters
    ----------
    head_seconds : float
        From the opening of the connection, or the first byte after an answer, to the last line of the head. A body that
        was refused before it came is read on for as long as it goes on: many clients read no answer before its end.
    connections : Allowance
        Of an address.
    is_trusted : callable
        Whether an address is that of a proxy, which has as many as it wants.
    """
    limits = {"head_seconds": head_seconds, "allowance": connections, "is_trusted": staticmethod(is_trusted)}
    return type("Limited", (Impatient,), limits)


class Handshake(SSLProtocol):
    """The TLS of asyncio with a limit for handshakes, which asyncio does not count; see `over_tls`.

    A client may leave one half done, which takes 0.1 MB. Only here does asyncio show a connection before its handshake
    is over.
    """

    max_size = 2**16  # bytes that are read at once, for which each connection has room
    allowance: Allowance
    is_trusted: Callable[[str], bool]
    _counted: str | None = None

    def connection_made(self, transport: Any) -> None:
        address = plain((transport.get_extra_info("peername") or ("",))[0])
        if not self.is_trusted(address):
            try:
                self.allowance.take(counted_as(address))
                self._counted = counted_as(address)
            except RefusedError:
                transport.abort()  # no line can be said before the handshake
                return
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.end()
        super().connection_lost(exc)

    def end(self) -> None:
        """It is over, done or not: from now on the connection counts."""
        if self._counted is not None:
            self.allowance.give_back(self._counted)
            self._counted = None


def over_tls(http: type[Impatient], context: ssl.SSLContext, handshakes: Allowance) -> Callable[..., Handshake]:
    """What uvicorn takes in place of a class of `protocol_with`, which speaks HTTP over TLS.

    Parameters
    ----------
    http : type
        By `protocol_with`.
    context : ssl.SSLContext
    handshakes : Allowance
        Of an address; each has as long as the head of a request.
    """
    kind = type("Limited", (Handshake,), {"allowance": handshakes, "is_trusted": staticmethod(http.is_trusted)})

    def make(**options: Any) -> Handshake:
        inner = http(**options)
        seconds, loop = inner.head_seconds, asyncio.get_running_loop()
        inner.handshake = kind(loop, inner, context, None, server_side=True, ssl_handshake_timeout=seconds)
        return inner.handshake

    return make
