"""Processes are killed in the middle of their work: no job is lost, none is done twice, nothing half is left."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
from serving import SMALL, Served, analyzed, done, served, upload

from blastdet.imaging.io import write_image
from blastdet.service.processes import SUPERVISOR, WORKER
from blastdet.service.settings import ServiceSettings


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with served(tmp_path_factory.mktemp("survive"), "--memory-mb", "700") as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Served):
    with service.client() as one:
        yield one


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A smear of many tiles: a second of work and more."""
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    noise = np.random.default_rng(0).integers(150, 255, (3000, 4000, 3), dtype=np.uint8)
    write_image(path, noise)
    return path


def running(client, job: dict) -> dict:
    """The job as soon as a worker has it."""
    end = time.monotonic() + 300
    while job["state"] == "queued" and time.monotonic() < end:
        time.sleep(0.02)
        job = client.get(f"/jobs/{job['id']}").json()
    assert job["state"] == "running"
    return job


def ask(client, smear: dict, **options) -> dict:
    return client.post(f"/smears/{smear['id']}/analyses", json={"mpp": 0.1, **options}).raise_for_status().json()


@pytest.mark.parametrize("victim", ["worker", "child"])
def test_a_job_outlives_the_process_that_computes_it(service, client, large, victim):
    smear = upload(client, large)
    job = running(client, ask(client, smear, min_score=0.31 if victim == "worker" else 0.32))
    if victim == "worker":
        (pid,) = service.children("worker")
    else:  # the child of the worker, not those of the web process
        (worker,) = service.children("worker")
        pids = [pid for pid in service.children("child") if parent(pid) == worker]
        pid = pids[0]
    os.kill(pid, signal.SIGKILL)
    job = done(client, job)
    assert (job["state"], job["attempts"]) == ("done", 2)
    listed = client.get(f"/smears/{smear['id']}/analyses").json()["items"]
    assert [one["id"] for one in listed].count(job["analysis"]) == 1
    folder = service.data / "smears" / smear["id"][:2] / smear["id"] / "analyses"
    assert {path.name for path in folder.iterdir()} == {one["id"] for one in listed}


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_web_process_is_started_again_and_requests_wait(service, client):
    (pid,) = service.children("web")
    os.kill(pid, signal.SIGKILL)
    with httpx.Client(base_url=service.url, timeout=300) as fresh:
        assert fresh.get("/healthz").status_code == 200
    assert service.children("web") != [pid]
    service.wait_until_ready()


def test_a_job_outlives_the_service(service, client, large):
    smear = upload(client, large)
    job = running(client, ask(client, smear, min_score=0.33))
    service.stop(signal.SIGKILL)
    time.sleep(2)  # its processes end with it
    service.start()
    with service.client() as fresh:
        job = done(fresh, job)
        assert job["state"] == "done"


def test_a_service_that_is_stopped_gives_its_job_back(service, client, large):
    with service.client() as fresh:
        smear = upload(fresh, large)
        job = running(fresh, ask(fresh, smear, min_score=0.34))
        assert service.stop() == 0
        service.start()
        job = done(fresh, job)
        assert (job["state"], job["attempts"]) == ("done", 1)


def test_a_process_whose_supervisor_went_while_it_started_ends(tmp_path):
    """It would keep the socket, so that no other service could listen there."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environment = {**ServiceSettings(data=tmp_path).to_environment(), SUPERVISOR: str(gone.pid), WORKER: "worker-1"}
    command = [sys.executable, "-m", "blastdet.service.processes", "worker"]
    run = subprocess.run(command, env=environment, timeout=120, capture_output=True)  # else it would not end
    assert run.returncode in {-signal.SIGTERM, 0, 1}


def test_a_running_job_is_cancelled_between_tiles(service, large):
    with service.client() as client:
        smear = upload(client, large)
        job = running(client, ask(client, smear, min_score=0.35))
        assert client.post(f"/jobs/{job['id']}/cancel").status_code == 202
        job = done(client, job)
        assert (job["state"], job["analysis"]) == ("cancelled", None)
        assert analyzed(client, smear, min_score=0.35)["id"]  # and can be asked for again


def test_a_smear_that_is_deleted_while_it_is_analyzed_is_gone(service, large):
    with service.client() as client:
        smear = upload(client, large)
        job = running(client, ask(client, smear, min_score=0.36))
        assert client.delete(f"/smears/{smear['id']}").status_code == 204
        assert client.get(f"/jobs/{job['id']}").status_code == 404
        small = upload(client, SMALL)
        analyzed(client, small)  # the worker goes on
        assert not (service.data / "smears" / smear["id"][:2] / smear["id"]).exists()


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that claims and holds side x side black pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack("!I", len(content)) + kind + content + struct.pack("!I", zlib.crc32(kind + content))

    head = struct.pack("!IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(bytes(1 + 3 * side)) for _ in range(side)) + rows.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_bomb_ends_a_child_and_nothing_else(service):
    """400 megapixels would take 1.2 GB; the child may take 700 MB."""
    with service.client() as client:
        (web,), (worker,) = service.children("web"), service.children("worker")
        content = bomb(19_900)
        assert len(content) < 2 * 2**20
        refused = client.post("/detect?mpp=0.1", content=content)
        assert refused.status_code == 422
        assert "at most 64 megapixels" in refused.json()["error"]
        smear = client.post("/smears", params={"name": "bomb.png"}, content=content).raise_for_status().json()
        job = done(client, ask(client, smear))
        assert job["state"] == "failed"
        assert "memory" in job["error"]
        assert client.get(f"/smears/{smear['id']}/tiles/0/0/0").status_code == 422
        assert (service.children("web"), service.children("worker")) == ([web], [worker])
        assert client.post("/detect?mpp=0.1", content=SMALL.read_bytes()).status_code == 200
        refused = client.post("/smears", content=bomb(20_100))
        assert refused.status_code == 422
        assert "at most 400 megapixels" in refused.json()["error"]
