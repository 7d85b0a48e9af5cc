"""How a service is reached, and why it is not: names, TLS, the wrong scheme. Needs the standard library only."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from urllib.parse import SplitResult

from blastdet.core.errors import ConfigError, in_a_line, one_line

PATIENCE_S = 60.0
"""How long a service may be away: it starts again after a fault, or its machine does."""

CONNECT_S = 10.0
"""How long one attempt to connect may take, with its TLS."""

_NAME_PATIENCE_S = 4.0  # how long a name service may be away
_SAY_AFTER_S = 2.0
_PROBE_S = 3.0
_MOST_BEFORE = 5  # "100 Continue" before an answer; a server needs to say it once at most
_FINAL = (ConnectionRefusedError, ssl.SSLError, http.client.InvalidURL, http.client.LineTooLong)
_UNTRUSTED = (
    "its certificate is not trusted ({}). If it is of an authority of your own, name the PEM file of the authority: "
    "Client(certificate=...), or the variable SSL_CERT_FILE"
)


def tls_context(certificate: str | Path | None) -> ssl.SSLContext:
    """What a client trusts: the machine's authorities, or those of a PEM file; `ConfigError` if it cannot be read."""
    try:
        return ssl.create_default_context(cafile=certificate)
    except OSError as error:  # as `ssl.SSLError` is
        raise ConfigError(
            f"certificate: expected a PEM file of an authority, got {str(certificate)!r:.200} ({one_line(error)})"
        ) from None


class EndlessError(http.client.HTTPException):
    """A server that says again and again that the answer is still to come."""


class Answer(http.client.HTTPResponse):
    """An answer, before which a server says "100 Continue" a few times at most: the base class reads them for ever."""

    _n_before = 0

    def _read_status(self) -> tuple[str, int, str]:
        found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
        self._n_before += found[1] == http.client.CONTINUE
        if self._n_before > _MOST_BEFORE:
            raise EndlessError
        return found


def is_over(began: float) -> bool:
    """Whether to wait no longer for a service that is busy or starts again, since this time of `time.monotonic`."""
    return time.monotonic() - began > PATIENCE_S


def is_late(began: float) -> bool:
    """Whether the time without an answer is worth a word."""
    return time.monotonic() - began > _SAY_AFTER_S


def said_if_late(say: Callable[[], None]) -> AbstractContextManager[None]:
    """Say, from another thread, that a block takes so long that it is worth a word."""
    return _after(_SAY_AFTER_S, say)


def why_not(error: Exception, parts: SplitResult, began: float, *, is_known: bool) -> str:
    """Why a service gives no answer; empty if it is right to try again.

    Parameters
    ----------
    error : Exception
        Of the network, of TLS or of HTTP.
    parts : SplitResult
        URL of the service.
    began : float
        When it was asked for the first time, as `time.monotonic` says.
    is_known : bool
        Whether this service has answered before: then it speaks what its URL says.
    """
    host = in_a_line(parts.hostname or "")
    if isinstance(error, EndlessError):
        return f"expected an answer, got 100 Continue more than {_MOST_BEFORE} times. Is it a blastdet service?"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _UNTRUSTED.format(error.verify_message)
    if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
        return f"expected the name of a machine, got {host}, which is that of none. Check the address"
    if isinstance(error, socket.gaierror):
        is_away = time.monotonic() - began >= _NAME_PATIENCE_S
        line = f"expected the address of {host}, got no answer from the name service. Check the network"
        return line if is_away else ""
    if not is_known and not isinstance(error, ConnectionRefusedError) and (other := _other_scheme(parts)):
        right = f"{other}://{parts.netloc.rpartition('@')[2]}"
        return f"expected {parts.scheme}, got a server that speaks {other}. Use {in_a_line(right, 200)}"
    if isinstance(error, _FINAL) or is_over(began):
        return f"does not answer ({one_line(error)}). Is it running?"
    return ""


def _other_scheme(parts: SplitResult) -> str:
    """The scheme that a server speaks, if it is not that of the URL; empty if that cannot be told."""
    secure = parts.scheme == "https"
    address = (parts.hostname or "", parts.port or (443 if secure else 80))
    with suppress(OSError), socket.create_connection(address, timeout=_PROBE_S) as plain:
        if secure:
            plain.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            return "http" if plain.recv(5) == b"HTTP/" else ""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # whose certificate it is does not matter here
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(plain, server_hostname=parts.hostname):
            return "https"
    return ""


def connect(connection: http.client.HTTPConnection, seconds: float) -> None:
    """Connect within the time that `connection` has; from then on, it may be silent for so many seconds."""
    connection.connect()
    if connection.sock is not None:
        connection.sock.settimeout(seconds)


@contextmanager
def ended_after(connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
    """End a connection on which something takes too long; its own timeout begins again with each byte."""
    late = threading.Event()

    def end() -> None:
        with suppress(OSError):
            late.set()
            if connection.sock is not None:
                connection.sock.shutdown(socket.SHUT_RDWR)

    try:
        with _after(seconds, end):
            yield
    except (OSError, http.client.HTTPException):
        if not late.is_set():
            raise
    if late.is_set():  # also where the end of the connection looks like the end of the answer
        raise TimeoutError("timed out")


@contextmanager
def _after(seconds: float, do: Callable[[], None]) -> Iterator[None]:
    """Call `do`, in another thread, if a block takes longer than so many seconds."""
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
