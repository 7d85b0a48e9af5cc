"""Who asks: the user of a session, of a token, of a trusted proxy, or the one user of a service without users."""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sqlalchemy.orm import Session
from starlette.requests import Request

from blastdet.core.errors import BlastdetError
from blastdet.service.security.addresses import counted_as, is_address, plain
from blastdet.service.security.rate_limits import RateLimit
from blastdet.service.settings import ServiceSettings
from blastdet.service.store import accounts
from blastdet.service.store.database import Database
from blastdet.service.store.schema import User

T = TypeVar("T")

COOKIE = "blastdet_session"
CSRF_HEADER = "x-csrf-token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_ASK_S = 1.0
_MOST_GUESSES = 300  # of an address in a minute: tokens and sessions that were not right before
_MOST_KNOWN = 10_000


class RefusedError(BlastdetError):
    """A request that is answered with an error status.

    Parameters
    ----------
    status : int
    line : str
    headers : dict
    """

    def __init__(self, status: int, line: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(line)
        self.status, self.headers = status, headers or {}


def slow_down(wait: float, what: str = "requests") -> None:
    """`RefusedError` (429) for a caller that must wait so many seconds; see `RateLimit.wait`."""
    if wait:
        seconds = str(int(wait) + 1)
        raise RefusedError(429, f"too many {what}; try again in {seconds} s", {"Retry-After": seconds})


@dataclass(frozen=True)
class Caller:
    """Who asks, and what this way of asking allows.

    Parameters
    ----------
    user_id, name : str
    is_admin : bool
    scope : str
        One of `SCOPES`.
    address : str
        Of the client, for the audit log.
    csrf : str
        Token of the session, if there is one.
    token_id : str, optional
        Of the token that the caller showed.
    """

    user_id: str
    name: str
    is_admin: bool
    scope: str
    address: str
    csrf: str = ""
    token_id: str | None = None


@dataclass
class Gate:
    """Finds out who asks.

    Parameters
    ----------
    settings : ServiceSettings
    database : Database
    """

    settings: ServiceSettings
    database: Database
    _local: Caller | None = None
    _guesses: RateLimit = field(default_factory=lambda: RateLimit(_MOST_GUESSES))
    _right: set[str] = field(default_factory=set)
    _mode: str = "none"
    _asked: float | None = None

    @property
    def mode(self) -> str:
        """``none``, ``users`` or ``proxy``.

        A service that runs without users asks for a log-in as soon as the first one is added.
        """
        if self._mode == "none" and (self._asked is None or time.monotonic() - self._asked > _ASK_S):
            self._mode = mode_of(self.settings, self.database)
            self._asked = time.monotonic()
        return self._mode

    def caller(self, request: Request) -> Caller | None:
        """Who asks; ``None`` without credentials.

        Raises
        ------
        RefusedError
            If credentials are wrong, or a session lacks its token on a request that changes something.
        """
        address = self.address_of(request)
        authorization = request.headers.get("authorization", "")
        if authorization:
            return self._of_token(authorization, address)
        if self.mode == "none":  # one user, who cannot change: not looked up for each tile
            if self._local is None:
                self._local = self._known(accounts.LOCAL, address)
            return replace(self._local, address=address)
        if self.mode == "proxy":
            return self._of_proxy(request, address)
        return self._of_session(request, address)

    def address_of(self, request: Request) -> str:
        """Address of the client: of a request by trusted proxies, the last that they name and that is none of them."""
        address = _peer(request)
        hops = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
        while hops and self.is_trusted(address):
            named = hops.pop().strip()
            if not is_address(named):
                break
            address = plain(named)
        return address

    def _found(self, find: Callable[[Session, str], T | None], secret: str, address: str) -> T | None:
        """What the database knows of a secret; it is not asked for a client that tries many which it does not know."""
        key = accounts.hash_of(secret)
        if key not in self._right:  # one that was right once is not held up by others of the same address
            slow_down(self._guesses.wait(counted_as(address)), "wrong tokens or sessions")
        with self.database.read() as session:
            found = find(session, secret)
        if found is None:
            self._right.discard(key)
            return None
        if len(self._right) >= _MOST_KNOWN:
            self._right.clear()
        self._right.add(key)
        return found

    def remember(self, secret: str) -> None:
        """Know a session that was made just now, whatever else its address tries."""
        self._right.add(accounts.hash_of(secret))

    def _of_token(self, authorization: str, address: str) -> Caller:
        kind, _, secret = authorization.partition(" ")
        found = self._found(accounts.find_token, secret.strip(), address) if kind.lower() == "bearer" else None
        if found is None:
            raise RefusedError(401, "token: unknown or expired", {"WWW-Authenticate": "Bearer"})
        user, token = found
        return replace(_caller(user, token.scope, address), token_id=token.id)

    def _of_proxy(self, request: Request, address: str) -> Caller | None:
        names = request.headers.getlist(self.settings.auth_header or "")
        if not names or not names[0].strip() or not self.is_trusted(_peer(request)):
            return None
        if len(names) > 1:  # one may be of the client
            raise RefusedError(400, f"{self.settings.auth_header}: expected one user of the proxy, got {len(names)}")
        return self._known(names[0].strip(), address)

    def _known(self, name: str, address: str) -> Caller:
        """A user that needs no credentials here, made on first sight."""
        with self.database.read() as session:
            user = accounts.find_user(session, name)
        if user is None:
            with self.database.begin() as session:
                user = accounts.ensure_user(session, name)
        return _caller(user, "write", address)

    def _of_session(self, request: Request, address: str) -> Caller | None:
        secret = request.cookies.get(COOKIE)
        if not secret:
            return None
        found = self._found(accounts.find_session, secret, address)
        if found is None:
            return None
        user, login = found
        given = request.headers.get(CSRF_HEADER, "")
        if request.method not in SAFE_METHODS and not secrets.compare_digest(given.encode(), login.csrf.encode()):
            raise RefusedError(403, f"expected the token of the session in the header {CSRF_HEADER}")
        return _caller(user, "write", address, login.csrf)

    def is_trusted(self, address: str) -> bool:
        """Whether an address is of a trusted proxy."""
        if not self.settings.trusted_proxies or not is_address(address):
            return False
        peer = ipaddress.ip_address(address)
        networks = [ipaddress.ip_network(one, strict=False) for one in self.settings.trusted_proxies]
        return any(peer.version == network.version and peer in network for network in networks)

    def is_secure(self, request: Request) -> bool:
        """Whether the browser speaks TLS, with this service or with its proxy."""
        peer = _peer(request)
        forwarded = request.headers.get("x-forwarded-proto", "") if self.is_trusted(peer) else ""
        return request.url.scheme == "https" or forwarded == "https"


def mode_of(settings: ServiceSettings, database: Database) -> str:
    """How callers are known: as set, else by users where there are any, or where others can reach the service."""
    if settings.auth != "auto":
        return settings.auth
    if settings.auth_header:
        return "proxy"
    with database.read() as session:
        has_users = accounts.can_anybody_log_in(session)
    return "users" if has_users or not settings.is_loopback else "none"


def check_reachable(settings: ServiceSettings, database: Database) -> str:
    """The mode of a service that may start.

    Raises
    ------
    BlastdetError
        If others could reach it without authentication, or no user could log in.
    """
    mode = mode_of(settings, database)
    if settings.is_loopback:
        return mode
    where = settings.host if not settings.allowed_hosts else settings.allowed_hosts[0]
    add = "Run: blastdet serve users add NAME"
    if mode == "none":
        raise BlastdetError(f"{where}: expected users where others can reach the service, got --auth none. {add}")
    with database.read() as session:
        if mode == "users" and not accounts.can_anybody_log_in(session):
            raise BlastdetError(f"{where}: expected users where others can reach the service, got none. {add}")
    return mode


def _peer(request: Request) -> str:
    return plain(request.client.host) if request.client is not None else ""


def _caller(user: User, scope: str, address: str, csrf: str = "") -> Caller:
    return Caller(user.id, user.name, user.is_admin, scope, address, csrf)
