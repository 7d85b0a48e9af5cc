"""The connection to the database, SQLite or PostgreSQL, and its migrations."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

from blastdet.core.errors import BlastdetError, one_line
from blastdet.service.store.schema import Base
from blastdet.service.store.turns import Turns

T = TypeVar("T")

UNREACHABLE = (OperationalError, InterfaceError, InternalError, PoolTimeoutError)
"""What a database that is locked, full, gone or a standby, which takes no changes, raises."""

_MIGRATION_LOCK = 0x626C617374
_BUSY_MS = 20_000
_LOG_MS = 200
_LATE_MS = 5000
_TURN_S = 60.0


class Database:
    """Opens transactions on one database; safe from several threads.

    Parameters
    ----------
    url : str
        As SQLAlchemy takes it; see `ServiceSettings.database_url`.
    """

    def __init__(self, url: str) -> None:
        self.is_sqlite = url.startswith("sqlite")
        self.engine = _sqlite(url) if self.is_sqlite else _postgresql(url)
        self._writes = sessionmaker(self.engine, expire_on_commit=False)
        self._reads = sessionmaker(self.engine.execution_options(only_reads=True), expire_on_commit=False)
        self._turns = Turns()

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A transaction that may write: committed at the end of the block, rolled back on an error."""
        with self._turn_to_write(), self._writes.begin() as session:
            yield session

    @contextmanager
    def _turn_to_write(self) -> Iterator[None]:
        """One thread of this process at a time asks SQLite for its lock.

        SQLite lets writers try again at intervals, in no order: of many at once, some never come to it within the busy
        timeout. Those that wait here hold no connection either, which readers need.
        """
        if not self.is_sqlite:
            yield
            return
        if not self._turns.take(_TURN_S):
            raise PoolTimeoutError(f"no turn to write within {_TURN_S:.0f} s")
        try:
            yield
        finally:
            self._turns.give_back()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads; in SQLite it waits for no writer."""
        with self._reads.begin() as session:
            yield session

    def is_alive(self) -> bool:
        """Whether the database answers."""
        try:
            with self.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            return False
        return True

    def forget_deleted(self, *, is_late: bool = False) -> bool:
        """Move deleted rows out of SQLite's log, where their content would stay for a while.

        Writers wait meanwhile, and this waits for readers: it does so for a moment only, and not while others want to
        write. The supervisor comes back to it every minute.

        Parameters
        ----------
        is_late : bool
            Wait for some seconds: it did not succeed before.

        Returns
        -------
        bool
            Whether nothing is left in the log.
        """
        if not self.is_sqlite:
            return True
        wait_ms = _LATE_MS if is_late else _LOG_MS
        if not self._turns.take(wait_ms / 1000 if is_late else 0):
            return False
        try:
            return self._empty_log(wait_ms)
        finally:
            self._turns.give_back()

    def _empty_log(self, wait_ms: int) -> bool:
        connection = self.engine.raw_connection()  # a transaction cannot do this
        try:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={wait_ms}")
            is_busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
            return not is_busy
        except sqlite3.OperationalError:  # another process is at it
            connection.invalidate()  # with its short timeout
            return False
        finally:
            connection.close()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _sqlite(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": _BUSY_MS / 1000, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own leaves an Ä as it is
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # a committed job outlives a power cut
            "foreign_keys=ON",
            "secure_delete=ON",
            f"busy_timeout={_BUSY_MS}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # a transaction that reads and then writes fails at once if another wrote in between, whatever the busy timeout
        only_reads = connection.get_execution_options().get("only_reads")
        connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")

    return engine


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _postgresql(url: str) -> Engine:
    # a connection that broke is noticed and replaced; a server that is gone does not hold a thread for minutes
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=20,
        pool_timeout=10,
        # without an encoding, a server in SQL_ASCII answers in bytes
        connect_args={"connect_timeout": 5, "options": "-c statement_timeout=60000", "client_encoding": "utf8"},
    )


def open_database(url: str) -> Database:
    """A database with all migrations applied.

    Raises
    ------
    BlastdetError
        If the URL is none, or the database cannot be reached, is not in UTF-8, or belongs to a later version of
        blastdet or to another program.
    """
    try:
        database = Database(url)
    except (ArgumentError, ValueError):  # whose texts have parts of the password
        line = "expected postgresql://user:password@host/name, got what cannot be read as that"
        raise BlastdetError(f"database: {line}. In a password, write @ as %40, : as %3A and / as %2F") from None
    try:
        with database.engine.begin() as connection:
            if not database.is_sqlite:  # of several machines that start at once, one migrates
                _check_encoding(connection)
                connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATION_LOCK})
            _migrate(connection)
    except BlastdetError:
        database.close()
        raise
    except SQLAlchemyError as error:
        database.close()
        said = one_line(error.orig) if isinstance(error, DBAPIError) and error.orig else one_line(error)
        raise BlastdetError(f"database: cannot be opened ({said})") from None
    return database


def _check_encoding(connection: Any) -> None:
    found = connection.execute(text("SHOW server_encoding")).scalar_one()
    if found != "UTF8":
        how = "CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
        raise BlastdetError(f"database: expected the encoding UTF8, got {found}. Make it by: {how}")


def _migrate(connection: Any) -> None:
    config = Config()
    config.set_main_option("script_location", "blastdet:service")
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", _folder())
    script = ScriptDirectory.from_config(config)
    context = MigrationContext.configure(connection)
    current = _revision(context)
    if current is None and (taken := sorted(set(inspect(connection).get_table_names()) & set(Base.metadata.tables))):
        raise BlastdetError(f"database: expected one that is empty or of blastdet, got one with a table {taken[0]}")
    if current is not None and current not in {one.revision for one in script.walk_revisions()}:
        raise BlastdetError(f"database: made by a later version of blastdet (revision {current}). Update blastdet")
    steps = list(script.iterate_revisions("head", current or "base"))
    with Operations.context(context):
        for step in reversed(steps):
            step.module.upgrade()
            context.stamp(script, step.revision)


def _revision(context: MigrationContext) -> str | None:
    from alembic.util import CommandError

    try:
        return context.get_current_revision()
    except CommandError:  # several at once, of which blastdet has none
        raise BlastdetError("database: expected one that is empty or of blastdet, got another program's") from None


def _folder() -> str:
    import blastdet.service.migrations

    return str(blastdet.service.migrations.__path__[0])


def patiently(do: Callable[[], T], seconds: float = 60.0) -> T:
    """Call `do` again while the database does not answer, for so many seconds; then its error is raised."""
    end = time.monotonic() + seconds
    pause = 0.1
    while True:
        try:
            return do()
        except UNREACHABLE:
            if time.monotonic() > end:
                raise
            time.sleep(pause * (0.5 + random.random()))
            pause = min(2 * pause, 2.0)
