"""A service that is killed, whose disk is full, whose database is gone, and whose clock jumps, keeps its promises."""

from __future__ import annotations

import asyncio
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from service_chaos import OPTIONS, WHAT, Chaos, without_database
from serving import SMALL, analyzed, served, upload

from blastdet.service.jobs.ended_jobs import EndedJobs
from blastdet.service.jobs.reconciler import SILENT_S, Reconciler
from blastdet.service.store import job_rows, retention
from blastdet.service.store.blobs import Blobs
from blastdet.service.store.database import open_database
from blastdet.service.store.schema import Analysis, Job, Smear, User, new_id


def test_nothing_is_lost_or_done_twice_when_processes_are_killed(tmp_path):
    with served(tmp_path, *OPTIONS) as service:
        chaos = Chaos(service, random.Random(0))
        chaos.run(len(WHAT))
        service.stop()
        service.start()
        assert chaos.faults() == []
        assert chaos.killed == {"child": 5, "worker": 5, "web": 1, "server": 1}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 48 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "blastdet-test", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes what is left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as stream:
        for size in (2**20, 2**12):
            try:
                while stream.write(bytes(size)) == size:
                    pass
            except OSError:
                pass
    return path


def test_a_full_disk_is_said_and_survived(small_disk):
    with served(small_disk) as service, service.client() as client:
        kept = upload(client, SMALL)
        filler = fill(small_disk)
        content = SMALL.read_bytes()
        refused = [
            client.post("/smears", content=content + bytes(2**20)),
            client.post(f"/smears/{kept['id']}/analyses", json={"mpp": 0.1}),
            client.post("/uploads", headers={"Upload-Length": "9", "Tus-Resumable": "1.0.0"}),
        ]
        for answer in refused:
            assert answer.status_code in (503, 507), answer.text
            assert "\n" not in answer.json()["error"]
        assert client.get(f"/smears/{kept['id']}/image").content == content
        assert list((service.data / "temporary").iterdir()) == []
        filler.unlink()
        assert client.post("/smears", content=content + b" ").status_code == 201
        assert analyzed(client, kept)["summary"]["counts"]


def _log_in(client: httpx.Client) -> None:
    answer = client.post("/session", json={"name": "anna", "password": "correct horse"})
    client.headers["x-csrf-token"] = answer.raise_for_status().json()["csrf"]


def test_uploads_leave_room_for_the_database_so_that_people_can_log_in_and_delete(small_disk):
    with served(small_disk, users={"anna": "correct horse"}) as service, service.client() as client:
        _log_in(client)
        answers, n = [], 0
        while not answers or answers[-1].status_code == 201:
            n += 1
            answers.append(client.post("/smears", content=SMALL.read_bytes() + bytes(n) + bytes(3 * 2**20)))
        assert 2 < n < 16 and answers[-1].status_code == 507, answers[-1].text
        part = client.post("/uploads", headers={"Upload-Length": f"{2**21}", "Tus-Resumable": "1.0.0"})
        sent = {"Upload-Offset": "0", "Tus-Resumable": "1.0.0", "content-type": "application/offset+octet-stream"}
        there = part.headers["location"].removeprefix("/api/v1")
        assert client.patch(there, content=bytes(2**21), headers=sent).status_code == 507
        _log_in(client)
        for smear in client.get("/smears").json()["items"]:
            assert client.delete(f"/smears/{smear['id']}").status_code == 204
        assert client.post("/smears", content=SMALL.read_bytes() + bytes(3 * 2**20)).status_code == 201


@pytest.mark.postgresql
def test_a_database_that_is_gone_for_a_while_loses_nothing(tmp_path):
    load, faults = without_database(tmp_path, seconds=3)
    assert faults == []
    assert load.statuses[503] > 3 and load.statuses[200] > 3


# The lease of a job, by an injected clock


@pytest.fixture
def leased(tmp_path):
    """A database with a job that worker ``a`` has taken, and what looks after it."""
    database = open_database(f"sqlite:///{tmp_path / 'blastdet.db'}")
    with database.begin() as session:
        user = User(name="anna")
        session.add(user)
        session.flush()
        smear = Smear(owner_id=user.id, name="a", sha256="0" * 64, n_bytes=1, width=1, height=1)
        session.add(smear)
        session.flush()
        job = Job(smear_id=smear.id, owner_id=user.id, key="k", active_key="k", weights="default", request={})
        session.add(job)
    with database.begin() as session:
        assert job_rows.claim(session, "a") is not None
    clock = Clock()
    looking = Reconciler(database, Blobs(tmp_path / "files"), Nobody(), clock=clock)
    yield database, looking, clock, job.id
    database.close()


class Clock:
    """Seconds that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Nobody:
    """A backend without workers."""

    def wake(self) -> None:
        pass

    def is_empty(self) -> bool:
        return True

    def work(self, drain, on_start) -> None:
        pass


def state(database, job_id: str) -> tuple[str, str | None]:
    with database.read() as session:
        job = session.get(Job, job_id)
        return job.state, job.worker


def result(database, job_id: str) -> Analysis:
    with database.read() as session:
        job = session.get(Job, job_id)
        return Analysis(id=new_id(), smear_id=job.smear_id, key=job.key, weights="default", request={})


def test_a_silent_worker_loses_its_job_and_cannot_end_it(leased):
    database, looking, clock, job_id = leased
    looking.tick()
    clock.now += SILENT_S - 1
    looking.tick()
    with database.begin() as session:
        assert job_rows.beat(session, job_id, "a", (1, 2, None)) is False
    clock.now += 2
    looking.tick()
    assert state(database, job_id) == ("running", "a")
    clock.now += SILENT_S + 1
    looking.tick()
    assert state(database, job_id) == ("queued", None)
    with database.begin() as session:
        assert job_rows.claim(session, "b") is not None
    with database.begin() as session:
        assert job_rows.beat(session, job_id, "a", (2, 2, None)) is None
        assert not job_rows.finish(session, job_id, "a", result(database, job_id))
    with database.begin() as session:
        assert job_rows.finish(session, job_id, "b", result(database, job_id))
    assert state(database, job_id) == ("done", "b")


@pytest.mark.parametrize("wrong", ["1970-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"])
def test_a_jump_of_the_time_of_day_costs_no_job(leased, wrong):
    database, looking, clock, job_id = leased
    looking.tick()
    with database.begin() as session:
        job = session.get(Job, job_id)
        job.started = job.created = wrong
    clock.now += 5
    looking.tick()
    assert state(database, job_id) == ("running", "a")
    assert retention.sweep(database, looking.blobs, None) == 0


def test_a_commit_whose_answer_was_lost_is_recognized(leased):
    database, _, _, job_id = leased
    wanted = result(database, job_id)
    values = {name: getattr(wanted, name) for name in ("id", "smear_id", "key", "weights", "request")}
    for _ in range(2):
        with database.begin() as session:
            assert job_rows.finish(session, job_id, "a", Analysis(**values))
    with database.read() as session:
        assert session.query(Analysis).count() == 1


def test_who_waits_for_a_job_learns_of_its_end_and_leaves_nothing_behind(leased):
    database, _, _, job_id = leased
    jobs, looks = EndedJobs(database), []
    unfinished = jobs._unfinished
    jobs._unfinished = lambda ids: looks.append(len(ids)) or unfinished(ids)

    async def wait(name: str, seconds: float, into: dict[str, str]) -> None:
        await jobs.wait(name, seconds)
        into[name] = state(database, job_id)[0]

    async def several() -> dict[str, str]:
        ended: dict[str, str] = {}
        waiting = [asyncio.create_task(wait(job_id, 60, ended)) for _ in range(20)]
        async with asyncio.timeout(10):
            await wait("gone", 60, ended)
        await jobs.wait(job_id, 0.2)  # it is not over
        assert not any(one.done() for one in waiting)
        with database.begin() as session:
            job_rows.end(session, job_id, "a", "failed", "")
        async with asyncio.timeout(10):
            await asyncio.gather(*waiting)
            await jobs._looking
        return ended

    with ThreadPoolExecutor(1) as pool:  # the browser of other tests has a loop in this thread
        found = pool.submit(lambda: asyncio.run(several())).result()
    assert found == {"gone": "running", job_id: "failed"}
    assert not jobs._waiting and max(looks) <= 2  # each job once, however many wait
