"""What every request passes before its route: host, origin, headers of the answer, and a line in the log."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blastdet.service import service_log
from blastdet.service.metrics import Metrics
from blastdet.service.security.callers import SAFE_METHODS
from blastdet.service.security.connections import LEAST_BYTES

CONTENT_SECURITY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "content-security-policy": CONTENT_SECURITY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_NO_STORE = "no-store"  # results of patients stay out of the caches of shared computers
_LARGEST_BODY = 2**15  # FastAPI reads it before it asks who sends it; two passwords of 1,000 letters have up to 24 kB
_TOO_LARGE = f"body: expected at most {_LARGEST_BODY // 2**10} kB, got more"
_STOPPING = "the service is stopping; try again in a moment"
_SLOW = "body: expected at least {n} bytes within {seconds:g} s, got less"
_STREAMED = re.compile(
    r"POST /api/v1/(smears|(?P<held>detect|analyses/[0-9a-f]{32}/corrections))|PATCH /api/v1/uploads/[0-9a-f]{32}"
)
"""Routes that ask who calls, then read their body piece by piece, with a limit of their own; `held`: in memory."""

_LEAST_HELD = 2**18  # bytes in each limit of silence, of a body that takes memory until it is over

_METHODS = frozenset({*SAFE_METHODS, "POST", "PUT", "PATCH", "DELETE"})  # figures are kept for each: no others

_QUIET = ("/healthz", "/readyz", "/metrics")
_QUIET_IF_WELL = ("/static/{name}",)  # a page brings a dozen, and they say nothing of patients


class Guard:
    """ASGI middleware.

    Parameters
    ----------
    app : ASGIApp
    hosts : iterable of str or None
        Names that a request may ask for; ``None``: any.
    metrics : Metrics
    has_tls : bool
        Whether the service itself speaks TLS.
    body_seconds : float
        In which a body must go on.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Iterable[str] | None,
        metrics: Metrics,
        *,
        has_tls: bool = False,
        body_seconds: float = 30.0,
    ) -> None:
        self.app, self.metrics, self.body_seconds = app, metrics, body_seconds
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self.headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
        if has_tls:
            self.headers.append((b"strict-transport-security", b"max-age=31536000"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, has_begun = time.perf_counter(), 500, False
        scope.setdefault("state", {})["request_id"] = request_id = secrets.token_hex(8)

        async def answer(message: Message) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                message["headers"] = self._with_headers(message.get("headers", []), request_id)
            await send(message)

        try:
            line = self._fault(scope)
            if line is None:
                await self.app(scope, self._watched(scope, receive), answer)
            else:
                await _refuse(answer, *line)
        except asyncio.CancelledError:  # only a server that stops does so
            if not has_begun:
                await _refuse(answer, 503, _STOPPING, [(b"retry-after", b"5"), (b"connection", b"close")])
        finally:
            self._log(scope, status, time.perf_counter() - began, request_id)

    def _watched(self, scope: Scope, receive: Receive) -> Receive:
        streamed = _streamed(scope)
        if streamed is None:
            return _bounded(_going_on(receive, self.body_seconds, LEAST_BYTES))
        return _going_on(receive, self.body_seconds, _LEAST_HELD if streamed["held"] else LEAST_BYTES)

    def _with_headers(self, headers: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
        present = {name.lower() for name, _ in headers}
        added = [pair for pair in self.headers if pair[0] not in present]
        if b"cache-control" not in present:
            added.append((b"cache-control", _NO_STORE.encode()))
        return [*headers, *added, (b"x-request-id", request_id.encode())]

    def _fault(self, scope: Scope) -> tuple[int, str] | None:
        """Status and line for a request that goes no further."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self.hosts is not None and _host_name(host) not in self.hosts:
            return 400, "host: expected a name of this service; see --allowed-host"
        origin = headers.get(b"origin")
        if origin is not None and scope["method"] not in SAFE_METHODS and _authority(origin) != host:
            return 403, "origin: expected a page of this service, got one of another site"
        length = headers.get(b"content-length", "")
        if _streamed(scope) is None and length.isdecimal() and int(length[:20]) > _LARGEST_BODY:
            return 413, _TOO_LARGE
        return None

    def _log(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", None) or "unknown"
        method = scope["method"] if scope["method"] in _METHODS else "?"
        self.metrics.request(method, route, status, seconds)
        if route in _QUIET or (route in _QUIET_IF_WELL and status < 400):
            return
        caller = scope.get("state", {}).get("user_id")
        service_log.say(
            "request",
            method=method,
            route=route,
            status=status,
            ms=round(1000 * seconds, 1),
            user=caller,
            request=request_id,
        )


def _authority(origin: str) -> str:
    """Host and port of an Origin header; empty for what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:  # an opening bracket alone
        return ""


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


def _streamed(scope: Scope) -> re.Match[str] | None:
    return _STREAMED.fullmatch(f"{scope['method']} {scope['path']}")


def _bounded(receive: Receive) -> Receive:
    """The same, for a body without a stated length that is larger than a route without pictures needs."""
    arrived = 0

    async def counted() -> Message:
        nonlocal arrived
        message = await receive()
        arrived += len(message.get("body", b""))
        if arrived > _LARGEST_BODY:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return counted


def _going_on(receive: Receive, seconds: float, least: int) -> Receive:
    """The same, for a body that stops or trickles: 408 where less than `least` bytes come in so much waiting.

    Only waiting counts, not what the service does with a piece. After the body, a client may be silent.
    """
    waited, arrived, is_over = 0.0, 0, False

    async def checked() -> Message:
        nonlocal waited, arrived, is_over
        if is_over:
            return await receive()
        began = time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), max(seconds - waited, 0.001))
        except TimeoutError:
            is_over = True
            line = _SLOW.format(n=least, seconds=seconds)
            raise HTTPException(408, line, {"Connection": "close"}) from None
        waited += time.monotonic() - began
        arrived += len(message.get("body", b""))
        if arrived >= least:
            waited, arrived = 0.0, 0
        is_over = not message.get("more_body", False)
        return message

    return checked


async def _refuse(send: Send, status: int, line: str, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
    body = json.dumps({"error": line}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
