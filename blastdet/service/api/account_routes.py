"""Sessions and tokens of the one who asks."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from blastdet import __version__
from blastdet.core.errors import ConfigError
from blastdet.service.http.context import AnyCaller, Id, Reader, Service, Services, Writer, service_of
from blastdet.service.http.schemas import Credentials, PasswordChange, SessionOut, TokenIn, TokenOut
from blastdet.service.security.callers import COOKIE, RefusedError
from blastdet.service.store import accounts, audit_log
from blastdet.service.store.schema import Token, User

router = APIRouter(tags=["accounts"])


@router.get("/session")
def session(request: Request, service: Services) -> SessionOut:
    """Who you are, how this service knows users, and the token that changes need in a browser."""
    caller = service.gate.caller(request)
    return SessionOut(
        auth=service.gate.mode,
        user=None if caller is None else caller.name,
        is_admin=caller is not None and caller.is_admin,
        csrf="" if caller is None else caller.csrf,
        version=__version__,
    )


@router.post("/session")
def log_in(credentials: Credentials, request: Request, response: Response) -> SessionOut:
    """Log in; sets the cookie of the session."""
    service = service_of(request)
    if service.gate.mode != "users":
        raise RefusedError(404, f"session: this service does not ask for passwords (auth {service.gate.mode})")
    address = request.client.host if request.client is not None else ""
    _slow_down(service, address, credentials.name)
    with service.database.read() as database:
        known = accounts.find_user(database, credentials.name)
        user = accounts.checked_password(database, credentials.name, credentials.password)
    with service.database.begin() as database:
        if user is None:  # an unknown name is not kept: it may be a password in the wrong field
            audit_log.record(database, "login.refused", None, "" if known is None else known.id, address)
        else:
            secret, login = accounts.begin_session(database, user, service.settings.session_hours)
            audit_log.record(database, "login", user.id, "", address)
    if user is None:
        raise RefusedError(401, "name or password is wrong")
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(service.settings.session_hours * 3600),
        httponly=True,
        samesite="strict",
        secure=service.gate.is_secure(request),
        path="/",
    )
    return SessionOut(auth="users", user=user.name, is_admin=user.is_admin, csrf=login.csrf, version=__version__)


def _slow_down(service: Service, address: str, name: str) -> None:
    """Refuse to compare more passwords than somebody types."""
    if wait := max(service.logins.wait(f"{address}"), service.logins.wait(f"name {name}")):
        seconds = str(int(wait) + 1)
        raise RefusedError(429, f"too many log-ins; try again in {seconds} s", {"Retry-After": seconds})


@router.put("/session/password", status_code=204)
def change_password(change: PasswordChange, request: Request, service: Services, caller: AnyCaller) -> Response:
    """Give yourself another password; your other sessions end. In a session only, not with a token."""
    if service.gate.mode != "users":
        raise RefusedError(404, f"password: this service does not ask for passwords (auth {service.gate.mode})")
    if not caller.csrf:  # who finds a token must not lock out its owner
        raise RefusedError(403, "password: expected a session, got a token")
    _slow_down(service, caller.address, caller.name)
    with service.database.read() as database:
        user = accounts.checked_password(database, caller.name, change.old)
    if user is None:
        with service.database.begin() as database:
            audit_log.record(database, "login.refused", caller.user_id, caller.user_id, caller.address)
        raise RefusedError(403, "password: expected the one that you have now, got another")
    new_hash = accounts.hash_password(change.new)
    with service.database.begin() as database:
        if not accounts.replace_password(database, user, new_hash, request.cookies.get(COOKIE, "")):
            raise RefusedError(409, "password: changed by another request at the same time")
        audit_log.record(database, "user.password", user.id, user.id, caller.address)
    return Response(status_code=204)


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
    """A new API token. Its text is in this answer and nowhere else."""
    with service.database.begin() as database:
        user = database.get(User, caller.user_id)
        if user is None:
            raise RefusedError(401, "user: gone")
        secret, token = accounts.add_token(database, user, wanted.name, wanted.scope, wanted.days)
        audit_log.record(database, "token.add", user.id, token.id, caller.address, scope=token.scope)
        return _shown(token).model_copy(update={"token": secret})


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(token_id: Id, service: Services, caller: Writer) -> Response:
    """Revoke a token, at once."""
    with service.database.begin() as database:
        user = database.get(User, caller.user_id)
        try:
            if user is not None:
                accounts.revoke_token(database, user, token_id)
        except ConfigError:
            raise RefusedError(404, "token: not found") from None
        audit_log.record(database, "token.revoke", caller.user_id, token_id, caller.address)
    return Response(status_code=204)


def _shown(token: Token) -> TokenOut:
    return TokenOut(
        id=token.id, name=token.name, scope=token.scope, created=token.created, expires=token.expires, token=None
    )
