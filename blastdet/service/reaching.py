"""How a service is reached, and why it is not: names, TLS, the wrong scheme. Needs the standard library only."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


class Attempt:
    """One request, which is tried until a service answers, or it is clear that none will.

    Parameters
    ----------
    parts : SplitResult
        URL of the service.
    say : callable, optional
        Called once, perhaps from another thread, if there is no answer for two seconds.
    """

    def __init__(self, parts: SplitResult, say: Callable[[], None] | None = None) -> None:
        self._parts, self._say, self._began = parts, say, time.monotonic()
        self._timer: threading.Timer | None = None
        self._has_probed = self._has_missed = False
        self.watch()

    def watch(self) -> None:
        """From now on, silence is worth a word."""
        if self._say is not None and self._timer is None:
            self._timer = threading.Timer(_SAY_AFTER_S, self._say)
            self._timer.daemon = True
            self._timer.start()

    def missed(self) -> None:
        """There was no answer, or one that says to try again."""
        self._has_missed = True
        self.watch()

    def pause(self) -> None:
        """Somebody is there: what takes time now is an upload, or work."""
        if not self._has_missed:
            self.close()

    def close(self) -> None:
        """It is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def is_over(self) -> bool:
        """Whether to wait no longer for a service that is busy or starts again."""
        return time.monotonic() - self._began > PATIENCE_S

    def why_not(self, error: Exception, is_known: bool) -> str:
        """Why there is no answer; empty if it is right to try again.

        Parameters
        ----------
        error : Exception
            Of the network, of TLS or of HTTP.
        is_known : bool
            Whether this service has answered before: then it speaks what its URL says.
        """
        host = in_a_line(self._parts.hostname or "")
        if isinstance(error, ssl.SSLCertVerificationError):
            return _UNTRUSTED.format(error.verify_message)
        if isinstance(error, socket.gaierror):
            is_away = error.errno == socket.EAI_AGAIN
            if is_away and time.monotonic() - self._began < _NAME_PATIENCE_S:
                return ""
            if is_away:
                return f"expected the address of {host}, got no answer from the name service. Check the network"
            return f"expected the name of a machine, got {host}, which is that of none. Check the address"
        if not is_known and not self._has_probed and not isinstance(error, ConnectionRefusedError):
            self._has_probed = True
            if other := _other_scheme(self._parts):
                right = f"{other}://{self._parts.netloc.rpartition('@')[2]}"
                return f"expected {self._parts.scheme}, got a server that speaks {other}. Use {in_a_line(right, 200)}"
        if isinstance(error, _FINAL) or self.is_over():
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

    def end() -> None:
        with suppress(OSError):
            late.set()
            if connection.sock is not None:
                connection.sock.shutdown(socket.SHUT_RDWR)

    late, timer = threading.Event(), threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if not late.is_set():
            raise
    finally:
        timer.cancel()
    if late.is_set():  # also where the end of the connection looks like the end of the answer
        raise TimeoutError("timed out")
