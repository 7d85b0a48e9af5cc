"""Sessions and tokens of the one who asks."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from blastdet import __version__
from blastdet.core.errors import ConfigError
from blastdet.service.http.context import AnyCaller, Id, Reader, Services, Writer, service_of
from blastdet.service.http.schemas import Credentials, SessionOut, TokenIn, TokenOut
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
    if wait := max(service.logins.wait(f"{address}"), service.logins.wait(f"name {credentials.name}")):
        seconds = str(int(wait) + 1)
        raise RefusedError(429, f"too many log-ins; try again in {seconds} s", {"Retry-After": seconds})
    with service.database.read() as database:
        user = accounts.checked_password(database, credentials.name, credentials.password)
    with service.database.begin() as database:
        if user is None:
            audit_log.record(database, "login.refused", None, "", address)
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
