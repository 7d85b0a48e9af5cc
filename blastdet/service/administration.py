"""What the operator does beside a running service: users, tokens, shares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from blastdet.core.errors import ConfigError, counted
from blastdet.service.jobs import clock_watch
from blastdet.service.settings import ServiceSettings
from blastdet.service.store import accounts, audit_log, job_rows, smears
from blastdet.service.store.blobs import Blobs
from blastdet.service.store.database import open_database
from blastdet.service.store.schema import Job, Smear, User


@contextmanager
def _session(settings: ServiceSettings, *, may_be_new: bool = False) -> Iterator[Session]:
    if may_be_new:
        Blobs(settings.data)
    else:
        _check_exists(settings)
    database = open_database(settings.database_url)
    try:
        with database.begin() as session:
            yield session
    finally:
        database.close()


def _check_exists(settings: ServiceSettings) -> None:
    """`ConfigError` where no service was: a command in another folder must not begin one."""
    if settings.database is None and not (settings.data / "blastdet.db").is_file():
        raise ConfigError(f"{settings.data}: expected the folder of a service, got none. Name it with --data")


def _named_user(session: Session, settings: ServiceSettings, name: str) -> User:
    where = f"{settings.data} (--data)" if settings.database is None else "the database"
    return accounts.named_user(session, name, f" in {where}")


def add_user(settings: ServiceSettings, name: str, password: str | None, *, is_admin: bool = False) -> int:
    """Add a user; errors as for `accounts.add_user`.

    Returns
    -------
    int
        Smears from before there was a log-in, which only the user ``local`` sees; 0 if this is not the first user.
    """
    with _session(settings, may_be_new=True) as session:
        is_first = all(user.name == accounts.LOCAL for user in accounts.users(session))
        user = accounts.add_user(session, name, password, is_admin=is_admin)
        audit_log.record(session, "user.add", None, user.id)
        if not is_first:
            return 0
        of_local = select(func.count()).select_from(Smear).join(User, User.id == Smear.owner_id)
        return session.scalar(of_local.where(User.name == accounts.LOCAL)) or 0


def set_password(settings: ServiceSettings, name: str, password: str, *, revoke_tokens: bool = False) -> int:
    """Give a user another password, and end its sessions.

    Returns
    -------
    int
        Tokens of the user that are valid; with `revoke_tokens`, that were.
    """
    with _session(settings) as session:
        user = _named_user(session, settings, name)
        user.password_hash = accounts.hash_password(password)
        accounts.end_sessions(session, user)
        audit_log.record(session, "user.password", None, user.id)
        valid = [token.id for token in accounts.valid_tokens(session, user)]
        for one in accounts.revoke_tokens(session, user, valid) if revoke_tokens else ():
            audit_log.record(session, "token.revoke", None, one)
        return len(valid)


def remove_user(settings: ServiceSettings, name: str) -> None:
    """Remove a user; `ConfigError` while it owns smears."""
    with _session(settings) as session:
        audit_log.record(session, "user.remove", None, _named_user(session, settings, name).id)
        accounts.remove_user(session, name)


def hand_over(settings: ServiceSettings, giver: str, taker: str) -> tuple[int, int]:
    """Make the user `taker` the owner of all smears of `giver`; see `smears.hand_over`.

    Returns
    -------
    int, int
        Smears that have another owner now; smears that the giver keeps.

    Raises
    ------
    ConfigError
        If there is no such user, or both are the same.
    """
    with _session(settings) as session:
        users = [_named_user(session, settings, name) for name in (giver, taker)]
        if giver == taker:
            raise ConfigError(f"user: expected two users, got {giver} twice")
        ids, n_kept = smears.hand_over(session, *users)
        for one in ids:
            audit_log.record(session, "smear.hand_over", None, one, giver=users[0].id, taker=users[1].id)
        return len(ids), n_kept


def list_jobs(settings: ServiceSettings) -> list[str]:
    """A line for each job that waits or runs, in the order in which they were asked for."""
    with _session(settings) as session:
        return [_job_line(*row) for row in job_rows.active(session)]


def _job_line(job: Job, smear: Smear, user: User) -> str:
    progress = f" ({job.done} of {counted(job.total, 'tile')})" if job.state == "running" and job.total else ""
    size = f"{smear.width} x {smear.height} pixels"
    return f"{job.id}  {user.name}, {size}, asked {job.created[:16]}Z, {job.state}{progress}"


def cancel_job(settings: ServiceSettings, job_id: str) -> None:
    """Cancel a job of any user; `ConfigError` if none of this id waits or runs."""
    with _session(settings) as session:
        job = session.get(Job, job_id)
        if job is None or job.state not in job_rows.ACTIVE:
            raise ConfigError(f"job: expected the id of a job that waits or runs, got {job_id!r:.60}")
        job_rows.cancel(session, job)
        audit_log.record(session, "job.cancel", None, job.id)


def list_users(settings: ServiceSettings) -> list[str]:
    """A line for each user."""
    with _session(settings) as session:
        return [_user_line(user) for user in accounts.users(session)]


def _user_line(user: User) -> str:
    parts = [user.name, f"since {user.created[:10]}"]
    parts += ["administrator"] if user.is_admin else []
    parts += [] if user.password_hash else ["no password"]
    return ", ".join(parts)


def add_token(settings: ServiceSettings, user: str, name: str, scope: str, days: float | None) -> str:
    """A new token of a user; its text, which is stored nowhere."""
    with _session(settings) as session:
        secret, token = accounts.add_token(session, _named_user(session, settings, user), name, scope, days)
        audit_log.record(session, "token.add", None, token.id, scope=scope)
        return secret


def confirm_clock(settings: ServiceSettings) -> bool:
    """Have a service that held deletion by age back, because the time jumped, go on; noted in the audit log.

    Returns
    -------
    bool
        Whether it held anything back. If not, nothing is done: a confirmation is about a jump that was noticed.
    """
    _check_exists(settings)
    if not clock_watch.is_held(settings.data):
        return False
    with _session(settings) as session:
        audit_log.record(session, "clock.confirm", None)
    clock_watch.confirm_clock(settings.data)
    return True


def list_tokens(settings: ServiceSettings, user: str) -> list[str]:
    """A line for each token of a user."""
    with _session(settings) as session:
        found = accounts.tokens(session, _named_user(session, settings, user))
        return [
            f"{token.id}  {token.name}, {token.scope}, "
            + ("never expires" if token.expires is None else f"until {token.expires[:10]}")
            + ("" if token.made_with is None else f", made with {token.made_with}")
            for token in found
        ]


def revoke_token(settings: ServiceSettings, user: str, token_id: str) -> int:
    """Revoke a token of a user.

    Returns
    -------
    int
        Tokens that were made with it, and are revoked with it.
    """
    with _session(settings) as session:
        revoked = accounts.revoke_token(session, _named_user(session, settings, user), token_id)
        for one in revoked:
            audit_log.record(session, "token.revoke", None, one)
        return len(revoked) - 1
