"""Users, their passwords, sessions and tokens."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from blastdet.core.errors import ConfigError, counted, name_key
from blastdet.service.store.schema import Login, Share, Smear, Token, Upload, User, later, now

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SCOPES = ("read", "write", "detect")
"""What a token may do: look; everything its user may; only ``POST /detect``."""

LOCAL = "local"
"""The one user of a service without authentication."""

_NAME = re.compile(r"[^\s/\\\x00-\x1f\x7f]{1,100}")
_SHORTEST_PASSWORD = 8
_LONGEST_PASSWORD = 1000
_LONGEST_TOKEN_NAME = 100
_PREFIX = "blastdet_"


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()


@cache
def _no_password() -> str:
    """A hash to compare with where there is no user: an answer takes the same time."""
    return _hasher().hash(secrets.token_hex())


def hash_of(secret: str) -> str:
    """What is stored of a token or a session; these have 256 random bits, for which a plain hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def add_user(session: Session, name: str, password: str | None = None, *, is_admin: bool = False) -> User:
    """Add a user.

    Raises
    ------
    ConfigError
        If the name is taken or not allowed, or the password too short.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"user: expected a name of 1 to 100 characters without spaces or slashes, got {name!r:.60}")
    if session.scalar(select(User.id).where(User.name == name)):
        raise ConfigError(f"user: expected a new name, got {name}, which exists already")
    user = User(name=name, password_hash=None if password is None else hash_password(password), is_admin=is_admin)
    session.add(user)
    session.flush()
    return user


def hash_password(password: str) -> str:
    """The argon2id hash of a password; `ConfigError` if it is too short or too long."""
    if not _SHORTEST_PASSWORD <= len(password) <= _LONGEST_PASSWORD:
        raise ConfigError(f"password: expected at least {_SHORTEST_PASSWORD} characters, got {len(password)}")
    return _hasher().hash(password)


def named_user(session: Session, name: str, where: str = "") -> User:
    """The user of this name; `ConfigError` if there is none, which says `where` it was looked for."""
    user = find_user(session, name)
    if user is None:
        raise ConfigError(f"user: expected the name of a user{where}, got {name!r:.60}")
    return user


def find_user(session: Session, name: str) -> User | None:
    """The user of this name, if there is one."""
    return session.scalar(select(User).where(User.name == name)) if _NAME.fullmatch(name) else None


def ensure_user(session: Session, name: str) -> User:
    """The user of this name, made on first sight: a proxy has authenticated it."""
    found = find_user(session, name)
    if found is not None:
        return found
    try:
        with session.begin_nested():
            return add_user(session, name)
    except (IntegrityError, ConfigError):  # another request was first, unless the name is none
        found = find_user(session, name)
        if found is None:
            raise
        return found


def users(session: Session) -> list[User]:
    """All users by name."""
    return sorted(session.scalars(select(User)), key=lambda user: name_key(user.name))


def remove_user(session: Session, name: str) -> None:
    """Remove a user with sessions, tokens and shares; `ConfigError` while it owns smears."""
    user = named_user(session, name)
    n = session.scalar(select(func.count()).select_from(Smear).where(Smear.owner_id == user.id)) or 0
    if n:
        them = "it" if n == 1 else "them"
        raise ConfigError(f"user: {name} owns {counted(n, 'smear')}. Delete {them}, or hand {them} over first")
    for column in (Login.user_id, Token.user_id, Share.user_id, Upload.owner_id):
        session.execute(delete(column.class_).where(column == user.id))
    session.delete(user)


def checked_password(session: Session, name: str, password: str) -> User | None:
    """The user, if the password is right; takes the same time for a name that does not exist."""
    from argon2.exceptions import InvalidHashError, VerificationError

    user = find_user(session, name)
    stored = user.password_hash if user is not None and user.password_hash else _no_password()
    try:
        _hasher().verify(stored, password[: _LONGEST_PASSWORD + 1])
    except (VerificationError, InvalidHashError):
        return None
    return user if user is not None and user.password_hash else None


def begin_session(session: Session, user: User, hours: float) -> tuple[str, Login] | None:
    """A new session: the secret for the cookie, and its row; ``None`` if `user` has another password by now.

    A change of the password ends the sessions that there are: a log-in with the old one must not come after it.
    """
    same = (User.id == user.id, User.password_hash == user.password_hash)
    if session.scalar(select(User.id).where(*same).with_for_update()) is None:
        return None
    session.execute(delete(Login).where(Login.expires < now()))
    secret = secrets.token_urlsafe(32)
    login = Login(sha256=hash_of(secret), user_id=user.id, csrf=secrets.token_urlsafe(24), expires=later(hours))
    session.add(login)
    return secret, login


def find_session(session: Session, secret: str) -> tuple[User, Login] | None:
    """Who a cookie belongs to, if it has not expired."""
    login = session.get(Login, hash_of(secret))
    if login is None or login.expires < now():
        return None
    user = session.get(User, login.user_id)
    return None if user is None else (user, login)


def end_session(session: Session, secret: str) -> None:
    """Log out."""
    session.execute(delete(Login).where(Login.sha256 == hash_of(secret)))


def replace_password(session: Session, user: User, new_hash: str, secret: str) -> bool:
    """Give a user another password, and end all sessions but the one of `secret`.

    Returns
    -------
    bool
        False, and nothing is changed, where the password is no longer that of `user`.
    """
    same = (User.id == user.id, User.password_hash == user.password_hash)
    found = session.scalar(update(User).where(*same).values(password_hash=new_hash).returning(User.id))
    if found is None:
        return False
    session.execute(delete(Login).where(Login.user_id == user.id, Login.sha256 != hash_of(secret)))
    return True


def end_sessions(session: Session, user: User) -> None:
    """Log a user out everywhere."""
    session.execute(delete(Login).where(Login.user_id == user.id))


def add_token(
    session: Session, user: User, name: str, scope: str, days: float | None, made_with: str | None = None
) -> tuple[str, Token]:
    """A new token: its text, which is shown once, and its row.

    Parameters
    ----------
    session : Session
    user : User
    name, scope : str
    days : float, optional
    made_with : str, optional
        Id of the token that it is made with, and ends with.

    Raises
    ------
    ConfigError
        If the scope does not exist, the name is empty or too long, or the token `made_with` was revoked meanwhile.
    """
    if scope not in SCOPES:
        raise ConfigError(f"scope: expected one of {', '.join(SCOPES)}, got {scope!r:.40}")
    if not 0 < len(name) <= _LONGEST_TOKEN_NAME:
        raise ConfigError(f"name: expected 1 to {_LONGEST_TOKEN_NAME} letters, got {len(name)}")
    secret, expires = _PREFIX + secrets.token_urlsafe(32), None if days is None else later(24 * days)
    if made_with is not None:
        _wait_for_tokens(session, user)
        maker = session.get(Token, made_with)
        if maker is None:
            raise ConfigError("token: expected a valid one, got one that was revoked just now")
        expires = min(filter(None, (expires, maker.expires)), default=None)
    token = Token(user_id=user.id, name=name, sha256=hash_of(secret), scope=scope, expires=expires)
    token.made_with = made_with
    session.add(token)
    session.flush()
    return secret, token


def _wait_for_tokens(session: Session, user: User) -> None:
    """Until the end of the transaction no other makes a token with one of this user, or revokes one."""
    session.execute(select(User.id).where(User.id == user.id).with_for_update())


def find_token(session: Session, secret: str) -> tuple[User, Token] | None:
    """Who a token belongs to, if it has not expired."""
    token = session.scalar(select(Token).where(Token.sha256 == hash_of(secret)))
    if token is None or (token.expires is not None and token.expires < now()):
        return None
    user = session.get(User, token.user_id)
    return None if user is None else (user, token)


def tokens(session: Session, user: User) -> list[Token]:
    """All tokens of a user."""
    return list(session.scalars(select(Token).where(Token.user_id == user.id).order_by(Token.created)))


def valid_tokens(session: Session, user: User) -> list[Token]:
    """Tokens of a user that have not expired."""
    return [token for token in tokens(session, user) if token.expires is None or token.expires >= now()]


def revoke_token(session: Session, user: User, token_id: str) -> list[str]:
    """Revoke a token; as `revoke_tokens`, with `ConfigError` if the user has none of this id."""
    revoked = revoke_tokens(session, user, [token_id])
    if not revoked:
        raise ConfigError(f"token: expected the id of a token of {user.name}, got {token_id!r:.40}")
    return revoked


def revoke_tokens(session: Session, user: User, token_ids: Collection[str]) -> list[str]:
    """Delete tokens of a user with all that were made with them, and so on; ids of all that are deleted."""
    _wait_for_tokens(session, user)
    gone = select(Token.id).where(Token.id.in_(token_ids), Token.user_id == user.id).cte(recursive=True)
    gone = gone.union(select(Token.id).where(Token.made_with == gone.c.id))
    found = list(session.scalars(select(gone.c.id)))
    session.execute(delete(Token).where(Token.id.in_(found)))
    return found


def can_anybody_log_in(session: Session) -> bool:
    """Whether there is a user with a password, or a token.

    Tokens of `LOCAL` do not count: who makes one without log-in must not be locked out by it.
    """
    has_password = session.scalar(select(User.id).where(User.password_hash.is_not(None)).limit(1))
    of_others = select(Token.id).join(User, User.id == Token.user_id).where(User.name != LOCAL)
    return bool(has_password or session.scalar(of_others.limit(1)))
