"""Rows and files of the service: migrations, jobs that are claimed once, names of files, accounts."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from click.testing import CliRunner
from postgres_server import postgres
from sqlalchemy import delete, event, insert, select, text, true
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import ObjectDeletedError

from blastdet.cli import cli
from blastdet.core.errors import BlastdetError, ConfigError
from blastdet.datasets.corrections import Correction
from blastdet.service.api import smear_routes, upload_routes
from blastdet.service.compute.pool import ComputeDiedError
from blastdet.service.http.schemas import SmearChange
from blastdet.service.jobs.backend import HueyBackend
from blastdet.service.jobs.clock_watch import DAY_S, ClockWatch, confirm_clock, is_held
from blastdet.service.jobs.reconciler import Reconciler
from blastdet.service.jobs.runner import Runner
from blastdet.service.security.callers import Caller, RefusedError
from blastdet.service.store import accounts, correction_rows, job_rows, retention, smears
from blastdet.service.store.blobs import Arriving, Blobs, TooLargeError, display_name, is_stale
from blastdet.service.store.database import Database, open_database
from blastdet.service.store.job_rows import JobRequest
from blastdet.service.store.schema import Analysis, Base, Job, Share, Smear, Upload, User, new_id


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)], scope="module")
def url(request, tmp_path_factory):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('db') / 'blastdet.db'}"
        return
    with postgres() as one:
        yield one.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(scope="module")
def database(url):
    opened = open_database(url)
    yield opened
    opened.close()


def new_smear(database: Database, name: str = "a") -> Smear:
    with database.begin() as session:
        user = accounts.ensure_user(session, "anna")
        smear = Smear(id=new_id(), owner_id=user.id, name=name, sha256=new_id() * 2, n_bytes=1, width=1, height=1)
        session.add(smear)
    return smear


def asked(database: Database, smear: Smear, **options) -> Job:
    with database.begin() as session:
        found = session.get(Smear, smear.id)
        assert found is not None
        return job_rows.ask(session, found, smear.owner_id, JobRequest("default", "0" * 64, options, "1"))[0]


def state(database: Database, job: Job) -> tuple[str, int]:
    with database.read() as session:
        found = session.get(Job, job.id)
        assert found is not None
        return found.state, found.attempts


@pytest.fixture
def job(database):
    job = asked(database, new_smear(database))
    yield job
    with database.begin() as session:
        smears.delete_rows(session, job.smear_id)


def test_the_migrations_make_the_tables_of_the_schema(database):
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_opening_again_changes_nothing_and_a_later_version_is_refused(database, url):
    smear = new_smear(database)
    again = open_database(url)
    with again.read() as session:
        assert session.get(Smear, smear.id) is not None
    again.close()
    with database.begin() as session:
        version = session.scalar(text("SELECT version_num FROM alembic_version"))
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BlastdetError, match="made by a later version"):
        open_database(url)
    with database.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})


def test_a_database_that_is_not_there_is_one_line():
    with pytest.raises(BlastdetError, match=r"^database: cannot be opened"):
        open_database("postgresql+psycopg://nobody@127.0.0.1:9/none")


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["CREATE TABLE users (x INT)"], "one with a table users"),
        (["CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES (1), (2)"], "another"),
    ],
)
def test_a_database_of_another_program_is_left_alone(tmp_path, statements, words):
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        for one in statements:
            other.execute(one)
        other.commit()
    with pytest.raises(BlastdetError, match="expected one that is empty or of blastdet, got .*" + words):
        open_database(f"sqlite:///{tmp_path / 'other.db'}")
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        assert other.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone() == (1,)


@pytest.mark.parametrize("url", ["u:p@ss:secret@127.0.0.1:1/db", "u:secret@[::1/db", "u:secret@h:abc/db"])
def test_a_wrong_address_of_a_database_is_one_line_without_its_password(url):
    with pytest.raises(BlastdetError, match="expected postgresql://user:password@host/name") as raised:
        open_database(f"postgresql+psycopg://{url}")
    assert "secret" not in str(raised.value) and "%40" in str(raised.value)


def test_a_job_is_claimed_once(database, job):
    def claim(n: int) -> str | None:
        with database.begin() as session:
            found = job_rows.claim(session, f"worker-{n}")
            return None if found is None else found.id

    with ThreadPoolExecutor(6) as pool:
        claimed = [one for one in pool.map(claim, range(12)) if one is not None]
    assert claimed == [job.id]
    assert state(database, job) == ("running", 1)


def test_who_lost_a_job_cannot_finish_it(database, job):
    analysis = {"smear_id": job.smear_id, "key": job.key, "weights": "default", "request": {}}
    with database.begin() as session:
        assert job_rows.claim(session, "first") is not None
        assert job_rows.beat(session, job.id, "first", (1, 2, 0.5)) is False
        assert job_rows.release(session, true(), 3) == 1
        assert job_rows.claim(session, "second") is not None
        assert job_rows.beat(session, job.id, "first", (2, 2, None)) is None
        assert not job_rows.finish(session, job.id, "first", Analysis(id=new_id(), **analysis))
        assert not job_rows.end(session, job.id, "first", "failed")
        assert job_rows.finish(session, job.id, "second", Analysis(id=new_id(), **analysis))
    assert state(database, job) == ("done", 2)
    assert asked(database, Smear(id=job.smear_id, owner_id=job.owner_id)).id == job.id


def test_a_job_whose_process_always_ends_fails(database, job):
    for attempt in (1, 2, 3):
        with database.begin() as session:
            assert job_rows.claim(session, "one") is not None
            job_rows.release(session, Job.worker == "one", 3)
        assert state(database, job) == ("queued" if attempt < 3 else "failed", attempt)


def test_a_job_that_is_given_back_was_no_attempt(database, job):
    with database.begin() as session:
        job_rows.claim(session, "one")
        job_rows.give_back(session, job.id, "one")
    assert state(database, job) == ("queued", 0)


def test_cancelled_while_queued_and_while_running(database, job):
    with database.begin() as session:
        found = session.get(Job, job.id)
        job_rows.claim(session, "one")
        session.refresh(found)
        job_rows.cancel(session, found)
        session.flush()
        assert job_rows.beat(session, job.id, "one", (0, 0, None)) is True
        assert job_rows.end(session, job.id, "one", "cancelled")
    other = asked(database, Smear(id=job.smear_id, owner_id=job.owner_id))
    assert other.id != job.id
    with database.begin() as session:
        job_rows.cancel(session, session.get(Job, other.id))
    assert state(database, other)[0] == "cancelled"


def test_what_is_asked_for_again_while_it_is_cancelled_is_a_new_job(database, job):
    with database.begin() as session:
        assert job_rows.claim(session, "one") is not None
        job_rows.cancel(session, session.get(Job, job.id))
    other = asked(database, Smear(id=job.smear_id, owner_id=job.owner_id))
    assert other.id != job.id
    with database.begin() as session:
        assert job_rows.claim(session, "two").id == other.id
    about = {"smear_id": job.smear_id, "key": job.key, "weights": "default", "request": {}}
    with database.begin() as session:  # the first is done before its worker hears of it
        assert not job_rows.finish(session, job.id, "one", Analysis(id=new_id(), **about))
    assert state(database, job)[0] == "cancelled"
    with database.begin() as session:
        assert job_rows.finish(session, other.id, "two", Analysis(id=new_id(), **about))


def test_a_job_that_a_worker_took_just_now_is_cancelled(database, job):
    with database.begin() as session:
        assert job_rows.claim(session, "one") is not None
    with database.begin() as session:
        session.add(job)  # as it was read while it waited
        job_rows.cancel(session, job)
        assert (job.state, job.cancel) == ("running", True)
    with database.begin() as session:
        assert job_rows.beat(session, job.id, "one", (0, 0, None)) is True


def test_a_worker_whose_process_ended_leaves_a_job_to_who_has_it_now(database, job, tmp_path):
    """It was taken for dead, and the job is at another worker when its own process ends."""

    class Ending:
        def call(self, *_: object, **__: object) -> None:
            with database.begin() as session:
                assert job_rows.release(session, Job.id == job.id, 3) == 1
                assert job_rows.claim(session, "other") is not None
            first.must_stop = lambda: True  # after this job
            raise ComputeDiedError("killed")

    model = SimpleNamespace(folder=tmp_path)
    first = Runner("first", database, Blobs(tmp_path), Ending(), {"default": model})
    first.drain()
    with database.read() as session:
        found = session.get(Job, job.id)
        assert (found.state, found.worker, found.attempts) == ("running", "other", 2)


def test_a_job_that_is_deleted_while_it_is_cancelled_was_changed_by_another(database, job):
    with database.begin() as session:
        found = session.get(Job, job.id)
        session.execute(delete(Job).execution_options(synchronize_session=False))
        job_rows.cancel(session, found)
        with pytest.raises(ObjectDeletedError):  # an answer of 409
            _ = found.state


def test_one_of_two_corrections_of_a_version_is_kept(database, job):
    with database.begin() as session:
        analysis = Analysis(id=new_id(), smear_id=job.smear_id, key="k", weights="default", request={})
        session.add(analysis)
    with database.begin() as session:
        user = accounts.named_user(session, "anna")
        assert correction_rows.append(session, analysis, 0, user, []) == 1
        assert correction_rows.append(session, analysis, 0, user, []) is None


def test_corrections_come_in_pages(database, job):
    with database.begin() as session:
        analysis = Analysis(id=new_id(), smear_id=job.smear_id, key="pages", weights="default", request={})
        session.add(analysis)
        user = accounts.named_user(session, "anna")
        for version in range(3):
            made = [Correction(op="class", image="a", reason=f"{version}{place}") for place in range(4)]
            correction_rows.append(session, analysis, version, user, made)
    with database.read() as session:
        whole = [row["reason"] for row in correction_rows.rows_of(session, analysis.id, 3)]
        paged, after = [], None
        while page := correction_rows.page_of(session, analysis.id, after, 5):
            paged += [row["reason"] for row, *_ in page]
            after = page[-1][1:]
        every, place = [], None
        while some := correction_rows.rows_for(session, user.id, "", place, 5):
            every += [row["reason"] for row, _ in some]
            place = some[-1][1]
    assert whole == paged == every == [f"{version}{place}" for version in range(3) for place in range(4)]


def test_old_smears_are_swept_with_their_files(database, tmp_path):
    blobs = Blobs(tmp_path)
    old, young = new_smear(database, "old"), new_smear(database, "young")
    for smear in (old, young):
        blobs.keep(blobs.image(smear.id), b"pixels")
    with database.begin() as session:
        found = session.get(Smear, old.id)
        found.created = "2001-01-01T00:00:00.000000Z"
    assert retention.sweep(database, blobs, 30) == 1
    assert not blobs.smear(old.id).exists()
    assert blobs.image(young.id).read_bytes() == b"pixels"


class Time:
    """Both clocks of a machine, as a test sets them."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_800_000_000.0, 50.0

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def watch(self, folder, newest=lambda: None) -> ClockWatch:
        return ClockWatch(folder, newest, lambda: self.wall, lambda: self.steady)


@pytest.mark.parametrize("jump", [40 * DAY_S, -40 * DAY_S])
def test_after_a_jump_of_the_time_nothing_is_believed_for_a_day(tmp_path, jump):
    time = Time()
    watch = time.watch(tmp_path)
    assert watch.is_steady()
    time.go(3 * DAY_S)
    assert watch.is_steady()
    time.wall += jump
    assert not watch.is_steady()
    time.go(DAY_S - 60)
    assert not watch.is_steady()
    assert not time.watch(tmp_path).is_steady()  # the next run remembers
    time.go(120)
    assert watch.is_steady()


def test_a_jump_between_two_runs_is_noticed_and_can_be_confirmed(tmp_path):
    time = Time()
    assert time.watch(tmp_path).is_steady()
    time.wall += 16 * 3600  # off for a night
    assert time.watch(tmp_path).is_steady()
    time.wall += 2 * DAY_S
    watch = time.watch(tmp_path)
    assert not watch.is_steady()
    confirm_clock(tmp_path)
    assert watch.is_steady()
    time.wall += 2 * DAY_S
    assert not watch.is_steady()  # one confirmation is for one jump


def test_a_confirmation_from_before_a_jump_is_not_about_it(tmp_path):
    time = Time()
    watch = time.watch(tmp_path)
    assert watch.is_steady()
    confirm_clock(tmp_path)
    time.go(60)
    assert watch.is_steady()
    time.wall += 40 * DAY_S
    assert not watch.is_steady()
    time.go(5)
    assert not watch.is_steady()
    assert is_held(tmp_path)


def test_small_jumps_do_not_shorten_the_day(tmp_path):
    time = Time()
    watch = time.watch(tmp_path)
    watch.is_steady()
    time.wall += 40 * DAY_S
    assert not watch.is_steady()
    for hours in (23.8, 0.5):
        time.go(60)
        time.wall += 3600 * hours
        assert not watch.is_steady()
    watch = time.watch(tmp_path)  # the next run goes on counting
    assert not watch.is_steady()
    time.go(DAY_S - 180)
    assert not watch.is_steady()
    time.go(120)
    assert watch.is_steady()


def test_a_clock_that_nobody_doubts_is_not_confirmed(tmp_path):
    data, time = tmp_path / "data", Time()
    data.mkdir()
    open_database(f"sqlite:///{data / 'blastdet.db'}").close()
    watch, ask = time.watch(data), ["serve", "confirm-clock", "--data", str(data)]
    watch.is_steady()
    said = CliRunner().invoke(cli, ask)
    assert (said.exit_code, said.output) == (0, "clock: nothing is held back, so there was nothing to confirm\n")
    time.wall += 40 * DAY_S
    assert not watch.is_steady()
    said = CliRunner().invoke(cli, ask)
    assert (said.exit_code, said.output) == (0, "clock: confirmed\n")
    assert watch.is_steady()


def test_without_memory_the_newest_row_tells_the_time(database, tmp_path):
    new_smear(database)
    time = Time()
    newest = lambda: retention.newest_time(database)  # noqa: E731
    time.wall = newest() + 60
    assert time.watch(tmp_path / "a", newest).is_steady()
    time.wall += 2 * DAY_S
    assert not time.watch(tmp_path / "b", newest).is_steady()


def test_a_clock_that_jumps_deletes_no_smear(database, tmp_path):
    blobs, time = Blobs(tmp_path), Time()
    smear = new_smear(database)
    with database.begin() as session:
        session.get(Smear, smear.id).created = "2001-01-01T00:00:00.000000Z"  # so old it seems after the jump
    time.wall = retention.newest_time(database)
    watch = time.watch(tmp_path)
    assert watch.is_steady()
    time.wall += 40 * DAY_S
    upload = Upload(id=new_id(), owner_id=smear.owner_id, name="a", n_bytes=9, created="2001-01-01T00:00:00.000000Z")
    with database.begin() as session:
        session.add(upload)
    blobs.upload(upload.id).touch()
    looking = Reconciler(database, blobs, HueyBackend(tmp_path / "queue.db"), keep_days=30, watch=watch)
    looking.clock = lambda: 100.0
    looking.tick()
    with database.read() as session:
        assert session.get(Smear, smear.id) is not None
        assert session.get(Upload, upload.id) is not None
    time.go(2 * DAY_S)
    looking.tick()  # at once, not when the hour of the sweep is over
    with database.read() as session:
        assert session.get(Smear, smear.id) is None
        assert session.get(Upload, upload.id) is None


def test_many_who_write_at_once_come_in_turn_and_hold_up_no_reader(database):
    order: list[int] = []

    def write(i: int) -> None:
        with database.begin():
            order.append(i)

    with ThreadPoolExecutor(20) as pool, database.begin():
        for i in range(20):
            pool.submit(write, i)
            time.sleep(0.02)  # in this order
        began = time.monotonic()
        with database.read() as session:
            accounts.users(session)
        assert time.monotonic() - began < 5
    assert order == list(range(20)) if database.is_sqlite else len(order) == 20


def test_a_log_that_readers_hold_is_emptied_with_more_patience_after_some_tries(tmp_path):
    database = open_database(f"sqlite:///{tmp_path / 'blastdet.db'}")
    log, seconds = tmp_path / "blastdet.db-wal", [0.0]
    looking = Reconciler(database, Blobs(tmp_path), HueyBackend(tmp_path / "queue.db"), clock=lambda: seconds[0])
    is_read, may_end = threading.Event(), threading.Event()

    def read() -> None:
        with database.read() as session:
            accounts.users(session)
            is_read.set()
            may_end.wait(30)
            time.sleep(1)  # longer than the moment that is waited at first

    with ThreadPoolExecutor(1) as pool:
        pool.submit(read)
        assert is_read.wait(30)
        new_smear(database)
        for _ in range(3):
            looking.tick()
            seconds[0] += 61
            assert log.stat().st_size > 0
        may_end.set()
        looking.tick()
    assert log.stat().st_size == 0
    database.close()


def test_no_name_of_a_client_becomes_a_path(tmp_path):
    blobs = Blobs(tmp_path / "data")
    for name in ("../../etc/passwd", "", "A" * 32, "0" * 31, "0" * 33, "0" * 31 + "\n"):
        with pytest.raises(ValueError, match="expected the id"):
            blobs.smear(name)


def test_an_upload_is_counted_and_hashed_as_it_arrives(tmp_path):
    arriving = Arriving(tmp_path / "a", 10)
    arriving.write(b"12345")
    arriving.write(b"67890")
    with pytest.raises(TooLargeError):
        arriving.write(b"1")
    arriving.discard()
    assert not (tmp_path / "a").exists()
    whole = Arriving(tmp_path / "b", 10)
    whole.write(b"abc")
    assert whole.finish() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    whole.discard()


@pytest.mark.parametrize(
    ("given", "shown"),
    [("../../a.jpg", "a.jpg"), ("..", "smear"), ("\x00\n", "smear"), ("x" * 300, "x" * 150), (".hidden", "hidden")],
)
def test_names_are_for_people_only(given, shown):
    assert display_name(given) == shown


def test_a_token_is_revoked_with_all_that_were_made_with_it(database):
    with database.begin() as session:
        users = [accounts.add_user(session, name) for name in ("dora", "emil")]
        made = {}
        for name, parent in (("first", None), ("child", "first"), ("grandchild", "child"), ("other", None)):
            with_id = None if parent is None else made[parent][1].id
            made[name] = accounts.add_token(session, users[0], name, "write", 1, with_id)
    with database.begin() as session, pytest.raises(ConfigError, match="expected the id of a token of emil"):
        accounts.revoke_token(session, users[1], made["first"][1].id)
    with database.begin() as session:
        revoked = accounts.revoke_token(session, users[0], made["first"][1].id)
    assert sorted(revoked) == sorted(made[name][1].id for name in ("first", "child", "grandchild"))
    with database.begin() as session:
        left = [name for name, (secret, _) in made.items() if accounts.find_token(session, secret) is not None]
        for user in users:
            accounts.remove_user(session, user.name)
    assert left == ["other"]


def test_a_token_is_not_made_with_one_that_is_revoked_at_the_same_moment(database):
    """Whichever comes first: nothing that was made with a revoked token stays."""
    with database.begin() as session:
        user = accounts.add_user(session, "finn")
        ids = [accounts.add_token(session, user, f"{n}", "write", 1)[1].id for n in range(8)]
    refused = []

    def make(token_id: str) -> None:
        try:
            with database.begin() as session:
                accounts.add_token(session, user, "late", "write", 1, token_id)
        except ConfigError as error:
            refused.append(str(error))

    def revoke(token_id: str) -> None:
        with database.begin() as session:
            accounts.revoke_token(session, user, token_id)

    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(do, one) for one in ids for do in (make, revoke)]
        for one in waiting:
            one.result()
    with pytest.raises(ConfigError, match="got one that was revoked just now"), database.begin() as session:
        accounts.add_token(session, user, "late", "write", 1, ids[0])
    with database.begin() as session:
        assert accounts.tokens(session, user) == []
        accounts.remove_user(session, "finn")
    assert set(refused) <= {"token: expected a valid one, got one that was revoked just now"}


def test_accounts_keep_no_secret(database):
    with database.begin() as session:
        user = accounts.add_user(session, "carla", "correct horse")
        secret, token = accounts.add_token(session, user, "t", "read", 1)
        begun = accounts.begin_session(session, user, 1)
        assert begun is not None
    cookie, login = begun
    stored = [user.password_hash, token.sha256, login.sha256]
    assert str(user.password_hash).startswith("$argon2id$")
    assert not any(one in str(stored) for one in ("correct horse", secret, cookie))
    with database.begin() as session:
        assert accounts.checked_password(session, "carla", "correct horse") is not None
        assert accounts.checked_password(session, "carla", "wrong horse") is None
        assert accounts.find_token(session, secret) is not None
        found = session.merge(token)
        found.expires = "2001-01-01T00:00:00.000000Z"
        session.flush()
        assert accounts.find_token(session, secret) is None
        accounts.end_session(session, cookie)
        assert accounts.find_session(session, cookie) is None
        accounts.remove_user(session, "carla")
        assert accounts.find_user(session, "carla") is None


def test_a_log_in_with_the_old_password_does_not_outlive_its_change(database):
    """Its password is compared, then another log-in changes the password and ends all sessions that there are."""
    with database.begin() as session:
        accounts.add_user(session, "erik", "correct horse")
    with database.read() as session:
        user = accounts.checked_password(session, "erik", "correct horse")
    with database.begin() as session:
        assert accounts.replace_password(session, user, accounts.hash_password("battery staple"), "")
    with database.begin() as session:
        assert accounts.begin_session(session, user, 1) is None


def test_a_user_whom_a_proxy_names_is_made_once_by_many_requests_at_once(database):
    def seen(name: str) -> str:
        with database.begin() as session:
            return accounts.ensure_user(session, name).id

    with ThreadPoolExecutor(8) as pool:
        for n in range(20):
            assert len(set(pool.map(seen, [f"new-{n}"] * 8))) == 1
    with pytest.raises(ConfigError, match="expected a name"):
        seen("a b")


@pytest.mark.parametrize(
    ("name", "password", "words"),
    [("a b", "long enough", "expected a name"), ("dora", "short", "at least 8"), ("anna", "long enough", "a new name")],
)
def test_wrong_accounts_are_refused(database, name, password, words):
    with pytest.raises(ConfigError, match=words), database.begin() as session:
        accounts.ensure_user(session, "anna")
        accounts.add_user(session, name, password)


def test_people_take_turns_with_the_workers(database):
    with database.begin() as session:
        users = [User(name=name) for name in ("eva", "jan")]
        session.add_all(users)
        session.flush()
        smear = Smear(owner_id=users[0].id, name="a", sha256="1" * 64, n_bytes=1, width=1, height=1)
        session.add(smear)
        session.flush()
        for key, owner, created in (("e1", 0, 1), ("e2", 0, 2), ("e3", 0, 3), ("j1", 1, 4), ("j2", 1, 5)):
            about = {"weights": "default", "request": {}, "created": f"2026-01-01T00:00:0{created}.000000Z"}
            session.add(Job(smear_id=smear.id, owner_id=users[owner].id, key=key, active_key=key, **about))
    taken = []
    for _ in range(5):
        with database.begin() as session:
            taken.append(job_rows.claim(session, "w").key)
        time.sleep(0.001)  # times are those of the day, in microseconds
    assert taken == ["e1", "j1", "e2", "j2", "e3"]


def with_smear(session: Session, name: str) -> tuple[User, Smear]:
    """A new user and a smear of it."""
    user = User(name=name)
    session.add(user)
    session.flush()
    smear = Smear(owner_id=user.id, name="a", sha256=new_id() * 2, n_bytes=1, width=1, height=1)
    session.add(smear)
    session.flush()
    return user, smear


def queue_of(database: Database, name: str, n: int) -> str:
    """A new user with so many queued jobs of one smear; returns its id."""
    with database.begin() as session:
        user, smear = with_smear(session, name)
        about = {"smear_id": smear.id, "owner_id": user.id, "weights": "default", "request": {}}
        session.execute(insert(Job), [{**about, "key": f"{i}", "active_key": f"{smear.id}{i}"} for i in range(n)])
        return user.id


def test_a_long_queue_is_not_read_for_each_job_that_is_claimed(database):
    users, taken, steps = [queue_of(database, "ada", 12_000), queue_of(database, "bo", 3)], [], []
    with database.begin() as session:
        if database.is_sqlite:
            sqlite = session.connection().connection.dbapi_connection
            sqlite.set_progress_handler(lambda: steps.append(1), 1000)
        for _ in range(5):
            taken.append(users.index(job_rows.claim(session, "w").owner_id))
            time.sleep(0.001)
        if database.is_sqlite:
            sqlite.set_progress_handler(None, 0)
        session.execute(delete(Job).where(Job.owner_id.in_(users)))
    assert taken == [0, 1, 0, 1, 0]
    assert len(steps) < 1000  # of 1000 instructions each; without indexes it is a million


def test_a_user_has_so_many_jobs_at_once_and_no_more(database):
    zoe = queue_of(database, "zoe", job_rows.MOST_ACTIVE)
    new = JobRequest("default", "0" * 64, {"mpp": 0.3}, "1")
    with database.begin() as session:
        smear = session.scalar(select(Smear).where(Smear.owner_id == zoe))
        with pytest.raises(job_rows.TooManyJobsError, match=r"expected at most 1000 .*, got 1001\. Wait .* or cancel"):
            job_rows.ask(session, smear, zoe, new)
        first = session.scalar(select(Job).where(Job.owner_id == zoe).limit(1))
        job_rows.cancel(session, first)
        job, is_new = job_rows.ask(session, smear, zoe, new)
        assert (job_rows.ask(session, smear, zoe, new), is_new) == ((job, False), True)  # an equal one is no new one
        session.execute(delete(Job).where(Job.owner_id == zoe))


def test_a_result_that_comes_after_the_signature_is_not_added(database):
    made = {}
    with database.begin() as session:
        user = User(name="zita")
        session.add(user)
        session.flush()
        for n, status in enumerate(("signed", "reviewed")):
            smear = Smear(owner_id=user.id, name="a", sha256=f"{n}" * 64, n_bytes=1, width=1, height=1)
            session.add(smear)
            session.flush()
            job, _ = job_rows.ask(session, smear, user.id, JobRequest("default", "0" * 64, {}, "1"))
            job.state, job.worker = "running", "w"
            smears.set_status(smear, status, "zita")
            made[status] = smear.id, job.id
    for status, (smear_id, job_id) in made.items():
        result = Analysis(id=new_id(), smear_id=smear_id, key="k", weights="default", request={})
        with database.begin() as session:
            assert job_rows.finish(session, job_id, "w", result) == (status == "reviewed")
        with database.read() as session:
            smear, job = session.get(Smear, smear_id), session.get(Job, job_id)
            said = (smear.status, smear.reviewed_by, job.state)
        assert said == (("signed", "zita", "cancelled") if status == "signed" else ("new", "", "done"))


def test_a_smear_is_not_signed_while_it_is_analyzed(database):
    with database.begin() as session:
        user, smear = with_smear(session, "yan")
        job, _ = job_rows.ask(session, smear, user.id, JobRequest("default", "0" * 64, {}, "1"))
        caller = Caller(user.id, "yan", False, "write", "")
        with pytest.raises(RefusedError, match="an analysis is running") as refused:
            smear_routes._move(session, smear, SmearChange(status="signed"), caller)
        assert refused.value.status == 409
        smear_routes._move(session, smear, SmearChange(status="reviewed"), caller)
        job_rows.cancel(session, job)
        smear_routes._move(session, smear, SmearChange(status="signed"), caller)
        assert smear.status == "signed"


def test_a_worker_is_left_for_images_that_are_not_large(database):
    with database.begin() as session:
        user = User(name="mia")
        session.add(user)
        session.flush()
        for n, side in enumerate((100_000, 50_000, 4000, 40_000)):  # the second and the first overflow 32 bits
            smear = Smear(owner_id=user.id, name="a", sha256=f"{n}" * 64, n_bytes=1, width=side, height=side)
            session.add(smear)
            session.flush()
            about = {"weights": "default", "request": {}, "created": f"2026-01-01T00:00:0{n}.000000Z"}
            session.add(Job(smear_id=smear.id, owner_id=user.id, key=f"{n}", active_key=f"{n}", **about))

    def claimed() -> str | None:
        with database.begin() as session:
            found = job_rows.claim(session, "w", most_large=1)
            return None if found is None else found.key

    assert [claimed() for _ in range(3)] == ["0", "2", None]
    with database.begin() as session:
        (running,) = session.scalars(select(Job).where(Job.key == "0"))
        job_rows.end(session, running.id, "w", "cancelled")
    assert [claimed() for _ in range(2)] == ["1", None]


def test_smears_are_handed_over_with_jobs_and_shares(database):
    with database.begin() as session:
        giver, taker, friend = users = [User(name=name) for name in ("lea", "ole", "uwe")]
        session.add_all(users)
        session.flush()
        about = {"name": "a", "n_bytes": 1, "width": 1, "height": 1}
        own, shared, same = (Smear(owner_id=giver.id, sha256=f"{n}" * 64, **about) for n in range(3))
        other = Smear(owner_id=taker.id, sha256="2" * 64, **about)
        session.add_all([own, shared, same, other])
        session.flush()
        session.add_all(Share(smear_id=shared.id, user_id=user.id, may="write") for user in (taker, friend))
        session.add(Job(smear_id=own.id, owner_id=giver.id, key="k", active_key="k", weights="default", request={}))
        session.flush()
        ids, n_kept = smears.hand_over(session, giver, taker)
        assert (set(ids), n_kept) == ({own.id, shared.id}, 1)
        session.expire_all()
        assert {one.owner_id for one in (own, shared, other)} == {taker.id}
        assert same.owner_id == giver.id
        assert smears.shares_of(session, shared.id) == [("uwe", "write")]
        assert session.scalar(select(Job.owner_id).where(Job.key == "k")) == taker.id
        with pytest.raises(ConfigError, match=r"lea owns 1 smear\. Delete it, or"):
            accounts.remove_user(session, "lea")
        session.execute(delete(Smear).where(Smear.id == same.id))
        accounts.remove_user(session, "lea")
        assert session.scalar(select(Job.owner_id).where(Job.key == "k")) == taker.id


def test_an_upload_outlives_the_process_that_looks_into_it(database, tmp_path):
    blobs = Blobs(tmp_path / "kept")
    with database.begin() as session:
        user = User(name="ida")
        session.add(user)
        session.flush()
        upload = Upload(id=new_id(), owner_id=user.id, name="a.png", n_bytes=4)
        session.add(upload)
    blobs.upload(upload.id).write_bytes(b"data")

    class Dying:
        def call(self, *_: object, **__: object) -> None:
            raise ComputeDiedError("killed")

    caller = Caller(user.id, "ida", False, "write", "")
    service = SimpleNamespace(database=database, blobs=blobs, inspectors=Dying())
    with pytest.raises(RefusedError, match="it is kept") as refused:
        upload_routes._completed(service, caller, upload.id)
    assert refused.value.status == 503 and blobs.upload(upload.id).read_bytes() == b"data"
    service.inspectors.call = _no_image
    with pytest.raises(BlastdetError, match="no image"):
        upload_routes._completed(service, caller, upload.id)
    assert not blobs.upload(upload.id).exists()


def _no_image(*_: object, **__: object) -> None:
    raise BlastdetError("no image")


@pytest.mark.parametrize("typed", ["Ärztin Ö", "ärztin ö", "ÄRZTIN", "7%_x"])
def test_a_name_is_found_in_any_case(database, typed):
    smear = new_smear(database, "Ärztin Ö 7%_x.jpg")
    with database.read() as session:
        found = smears.listed(session, smear.owner_id, smears.Wanted(name=typed))
        assert [one.id for one in found] == [smear.id]
        assert smears.listed(session, smear.owner_id, smears.Wanted(name="Ärztin O")) == []
    with database.begin() as session:
        smears.delete_rows(session, smear.id)


def test_a_sweep_takes_any_number_of_folders_and_uploads(tmp_path):
    """A statement has only so many values: 32,766 in SQLite as it comes, 65,535 in PostgreSQL; here 50."""
    database, blobs = open_database(f"sqlite:///{tmp_path / 'a.db'}"), Blobs(tmp_path)
    database.engine.dispose()
    number = sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER
    event.listen(database.engine, "connect", lambda connection, record: connection.setlimit(number, 50))
    kept = new_smear(database)
    folders = [blobs.smear(kept.id), *(blobs.smear(new_id()) for _ in range(60))]
    for folder in folders:
        folder.mkdir(parents=True)
        os.utime(folder, (0, 0))
    for _ in range(60):
        with database.begin() as session:
            session.add(Upload(owner_id=kept.owner_id, name="a", n_bytes=1, created="2001-01-01T00:00:00.000000Z"))
    retention.sweep(database, blobs, None)
    assert [folder.is_dir() for folder in folders] == [True] + 60 * [False]
    with database.read() as session:
        assert session.scalars(select(Upload)).all() == []
    database.close()


def test_what_is_gone_meanwhile_is_not_stale(tmp_path):
    assert not is_stale(tmp_path / "a")
    (tmp_path / "b").touch()
    assert not is_stale(tmp_path / "b")
    os.utime(tmp_path / "b", (0, 0))
    assert is_stale(tmp_path / "b")
