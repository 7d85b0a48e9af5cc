"""Sessions and tokens of the one who asks."""

from __future__ import annotations

import asyncio
from functools import partial

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from blastdet import __version__
from blastdet.core.errors import ConfigError
from blastdet.service.http.context import AnyCaller, Id, Reader, Service, Services, Writer, limited_caller, service_of
from blastdet.service.http.fair_route import FairRoute
from blastdet.service.http.schemas import Credentials, PasswordChange, SessionOut, TokenIn, TokenOut
from blastdet.service.security.addresses import counted_as
from blastdet.service.security.callers import COOKIE, Caller, RefusedError, slow_down
from blastdet.service.store import accounts, audit_log
from blastdet.service.store.schema import Token, User

router = APIRouter(tags=["accounts"], route_class=FairRoute)

_NAMES = 10  # an address may try so many times as often as for one name
_ADDRESSES = 30  # and a name from all addresses, before each try takes longer
_SLOW_S = 2.0


@router.get("/session")
def session(request: Request, service: Services) -> SessionOut:
    """Who you are, how this service knows users, and the token that changes need in a browser."""
    caller = limited_caller(request)
    return SessionOut(
        auth=service.gate.mode,
        user=None if caller is None else caller.name,
        is_admin=caller is not None and caller.is_admin,
        csrf="" if caller is None else caller.csrf,
        version=__version__,
    )


@router.post("/session")
async def log_in(credentials: Credentials, request: Request, response: Response) -> SessionOut:
    """Log in; sets the cookie of the session."""
    service = service_of(request)
    if (mode := await run_in_threadpool(lambda: service.gate.mode)) != "users":
        raise RefusedError(404, f"session: this service does not ask for passwords (auth {mode})")
    address = service.gate.address_of(request)
    _check_tries(service, address, credentials.name)
    if service.logins.wait(f" {credentials.name}", 1 / _ADDRESSES):  # refusing it would lock its user out
        await asyncio.sleep(_SLOW_S)
    check = partial(_logged_in, service, credentials, address)
    user, secret, csrf = await to_thread.run_sync(check, limiter=service.checking)
    service.gate.remember(secret)
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(service.settings.session_hours * 3600),
        httponly=True,
        samesite="strict",
        secure=service.gate.is_secure(request),
        path="/",
    )
    return SessionOut(auth="users", user=user.name, is_admin=user.is_admin, csrf=csrf, version=__version__)


def _logged_in(service: Service, credentials: Credentials, address: str) -> tuple[User, str, str]:
    """The user, and secret and token of a new session; `RefusedError` if the password is wrong."""
    with service.database.read() as database:
        known = accounts.find_user(database, credentials.name)
        user = accounts.checked_password(database, credentials.name, credentials.password)
    with service.database.begin() as database:
        begun = None if user is None else accounts.begin_session(database, user, service.settings.session_hours)
        if user is not None and begun is not None:
            audit_log.record(database, "login", user.id, "", address)
            return user, begun[0], begun[1].csrf
        # an unknown name is not kept: it may be a password in the wrong field
        audit_log.record(database, "login.refused", None, "" if known is None else known.id, address)
    raise RefusedError(401, "name or password is wrong")


def _check_tries(service: Service, address: str, name: str) -> None:
    """Refuse to compare more passwords than somebody types, for one name or, more of them, for all."""
    client = counted_as(address)
    slow_down(service.logins.wait(f"{client} {name}") or service.logins.wait(client, 1 / _NAMES), "log-ins")


@router.put("/session/password", status_code=204)
async def change_password(change: PasswordChange, request: Request, service: Services, caller: AnyCaller) -> Response:
    """Give yourself another password; your other sessions end. In a session only, not with a token."""
    do = partial(_change_password, service, caller, change, request.cookies.get(COOKIE, ""))
    await to_thread.run_sync(do, limiter=service.checking)
    return Response(status_code=204)


def _change_password(service: Service, caller: Caller, change: PasswordChange, secret: str) -> None:
    if service.gate.mode != "users":
        raise RefusedError(404, f"password: this service does not ask for passwords (auth {service.gate.mode})")
    if not caller.csrf:  # who finds a token must not lock out its owner
        raise RefusedError(403, "password: expected a session, got a token")
    _check_tries(service, caller.address, caller.name)
    with service.database.read() as database:
        user = accounts.checked_password(database, caller.name, change.old)
    if user is None:
        with service.database.begin() as database:
            audit_log.record(database, "login.refused", caller.user_id, caller.user_id, caller.address)
        raise RefusedError(403, "password: expected the one that you have now, got another")
    new_hash = accounts.hash_password(change.new)
    with service.database.begin() as database:
        if not accounts.replace_password(database, user, new_hash, secret):
            raise RefusedError(409, "password: changed by another request at the same time")
        audit_log.record(database, "user.password", user.id, user.id, caller.address)


@router.delete("/session", status_code=204)
def log_out(request: Request, service: Services, caller: AnyCaller) -> Response:
    """Log out."""
    secret = request.cookies.get(COOKIE)
    if secret:
        with service.database.begin() as database:
            accounts.end_session(database, secret)
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


@router.get("/tokens")
def tokens(service: Services, caller: Reader) -> list[TokenOut]:
    """Your API tokens, without their text."""
    with service.database.read() as database:
        user = database.get(User, caller.user_id)
        return [] if user is None else [_shown(one) for one in accounts.tokens(database, user)]


@router.post("/tokens", status_code=201)
def add_token(wanted: TokenIn, service: Services, caller: Writer) -> TokenOut:
    """A new API token, whose text is in this answer and nowhere else. Made with a token, it ends with that."""
    with service.database.begin() as database:
        user = database.get(User, caller.user_id)
        if user is None:
            raise RefusedError(401, "user: gone")
        about = (wanted.name, wanted.scope, wanted.days)
        secret, token = accounts.add_token(database, user, *about, made_with=caller.token_id)
        audit_log.record(database, "token.add", user.id, token.id, caller.address, scope=token.scope)
        return _shown(token).model_copy(update={"token": secret})


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(token_id: Id, service: Services, caller: Writer) -> Response:
    """Revoke a token, at once, and those that were made with it."""
    with service.database.begin() as database:
        user = database.get(User, caller.user_id)
        try:
            revoked = [] if user is None else accounts.revoke_token(database, user, token_id)
        except ConfigError:
            raise RefusedError(404, "token: not found") from None
        for one in revoked:
            audit_log.record(database, "token.revoke", caller.user_id, one, caller.address)
    return Response(status_code=204)


def _shown(token: Token) -> TokenOut:
    same = ("id", "name", "scope", "made_with", "created", "expires")
    return TokenOut(**{name: getattr(token, name) for name in same})
