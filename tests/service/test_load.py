"""A service under load, and with clients that do not behave."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging
import resource
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
import tifffile
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from serving import SMALL, analyzed, served, upload

from blastdet.core.errors import BlastdetError
from blastdet.imaging.io import DerivedSource, encode_image, open_smear, write_image
from blastdet.service import monitoring
from blastdet.service.api.app import ROUTES, make_app, make_service
from blastdet.service.compute.fair_queue import FairQueue
from blastdet.service.compute.operations import Operations
from blastdet.service.compute.overview import WithOverview, overview_of, overview_size
from blastdet.service.compute.picture_queue import Pictures
from blastdet.service.compute.pipe import DamagedOverviewError
from blastdet.service.compute.pool import ComputeBusyError, ComputeCancelledError, ComputeLimits, ComputePool, Watch
from blastdet.service.compute.tiles import tile_of
from blastdet.service.http import failures
from blastdet.service.http.fair_route import FairRoute
from blastdet.service.security.allowances import Allowance
from blastdet.service.security.callers import COOKIE, RefusedError
from blastdet.service.service_log import Seldom
from blastdet.service.settings import ServiceSettings
from blastdet.service.store import accounts
from blastdet.service.store.blobs import Blobs
from blastdet.service.store.database import open_database
from blastdet.viewer.pictures import QUALITY

TUS = {"Tus-Resumable": "1.0.0"}
SILENCE_S = 6


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    options = ("--requests-per-minute", "0", "--user-disk-gb", "0.2", "--silence-seconds", str(SILENCE_S))
    with served(tmp_path_factory.mktemp("load"), *options) as running:
        yield running


@pytest.fixture(scope="module")
def client(service):
    with service.client() as one:
        yield one


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """An image that takes long to decode."""
    path = tmp_path_factory.mktemp("noise") / "noise.png"
    write_image(path, np.random.default_rng(0).integers(0, 255, (3000, 4000, 3), dtype=np.uint8))
    return path


def _in_a_loop(work: Callable[[], Awaitable[None]]) -> None:
    """Run to its end, in a thread of its own: the browser of other tests has a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(anyio.run, work).result()


def test_a_user_may_keep_so_much_and_no_more(client):
    def begin(megabytes: int) -> httpx.Response:
        return client.post("/uploads", headers={**TUS, "Upload-Length": str(megabytes * 2**20)})

    first = begin(190)
    assert first.status_code == 201
    for refused in (begin(190), client.post("/smears", content=bytes(30 * 2**20))):
        assert refused.status_code == 413
        assert "of your 0.2 GB" in refused.json()["error"]
    assert upload(client, SMALL)["name"] == SMALL.name
    client.delete(first.headers["Location"].removeprefix("/api/v1"), headers=TUS).raise_for_status()
    second = begin(190)
    assert second.status_code == 201
    client.delete(second.headers["Location"].removeprefix("/api/v1"), headers=TUS).raise_for_status()


def test_at_a_full_quota_what_is_there_may_come_again_and_more_is_refused_as_it_comes(service, client):
    content = SMALL.read_bytes()
    smear = upload(client, SMALL)
    others = sum(one["bytes"] for one in client.get("/smears").json()["items"])
    full = {**TUS, "Upload-Length": str(int(0.2 * 2**30) - others)}
    blocking = client.post("/uploads", headers=full).raise_for_status().headers["Location"].removeprefix("/api/v1")
    again = client.post("/smears", content=content)
    assert (again.status_code, again.json()["id"]) == (200, smear["id"])
    sent = []

    def pieces(n: int) -> Iterator[bytes]:  # without Content-Length
        for _ in range(n):
            sent.append(max((path.stat().st_size for path in (service.data / "temporary").iterdir()), default=0))
            yield bytes(2**20)

    for refused in (client.post("/smears", content=content + b"."), client.post("/smears", content=pieces(30))):
        assert refused.status_code == 413
        assert "at most 0 MB more of your 0.2 GB" in refused.json()["error"]
    assert max(sent) < 3 * 2**20
    client.delete(blocking, headers=TUS).raise_for_status()


def test_a_refused_upload_is_read_on_so_that_its_client_sees_why(service):
    host, port = service.url.removeprefix("http://").split(":")
    head = b"POST /api/v1/smears HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 400000000\r\n\r\n"
    with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
        connection.sendall(head)
        for _ in range(2 * SILENCE_S + 4):
            connection.sendall(bytes(4096))
            time.sleep(0.5)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"of your 0.2 GB" in answer
    _, seconds = until_closed(service, head, b"abc", b"def", pause=1)
    assert seconds < 3 * SILENCE_S  # it does not go on


def test_a_piece_that_stops_is_kept_as_far_as_it_came(service, client):
    begun = client.post("/uploads", headers={**TUS, "Upload-Length": "500000"}).raise_for_status()
    where = begun.headers["Location"]
    head = (
        f"PATCH {where} HTTP/1.1\r\nHost: 127.0.0.1\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
        "Content-Type: application/offset+octet-stream\r\nContent-Length: 500000\r\n\r\n"
    )
    answer, _ = until_closed(service, head.encode() + bytes(300_000))
    assert answer.startswith(b"HTTP/1.1 408")
    state = client.head(where.removeprefix("/api/v1"), headers=TUS)
    assert state.headers["Upload-Offset"] == "300000"
    client.delete(where.removeprefix("/api/v1"), headers=TUS).raise_for_status()


def test_who_asks_while_an_upload_becomes_a_smear_loses_nothing(client):
    content = SMALL.read_bytes() + bytes(50 * 2**20)  # hashing takes a moment
    begun = client.post("/uploads", headers={**TUS, "Upload-Length": str(len(content))}).raise_for_status()
    where, asked = begun.headers["Location"].removeprefix("/api/v1"), []
    head = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    client.patch(where, content=content[:-1], headers=head).raise_for_status()
    is_over = threading.Event()

    def ask(method: str) -> None:
        while not is_over.is_set():
            asked.append(client.request(method, where).status_code)

    with ThreadPoolExecutor(4) as pool:
        for method in ("GET", "HEAD", "GET"):
            pool.submit(ask, method)
        head["Upload-Offset"] = str(len(content) - 1)
        last = pool.submit(client.patch, where, content=content[-1:], headers=head).result()
        while last.status_code == 423:  # another one was first to make it a smear
            last = client.patch(where, content=b"", headers=head)
        is_over.set()
    assert last.status_code == 204, last.text
    assert set(asked) <= {200, 423}
    smear = client.get(where).json()["smear"]
    assert client.get(f"/smears/{smear}").json()["bytes"] == len(content)
    client.delete(f"/smears/{smear}").raise_for_status()


def until_closed(service, *pieces: bytes, pause: float = 0.0) -> tuple[bytes, float]:
    """What a connection is answered that sends pieces and then waits, and after how many seconds it is closed."""
    host, port = service.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
        began, answer = time.monotonic(), b""
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        while piece := connection.recv(65536):
            answer += piece
        return answer, time.monotonic() - began


def test_who_takes_nothing_of_an_answer_is_cut_off(service, client, noise):
    smear = client.post("/smears", content=noise.read_bytes()).raise_for_status().json()
    host, port = service.url.removeprefix("http://").split(":")
    asked = f"GET /api/v1/smears/{smear['id']}/image HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    taken = {}
    for pause in (0.0, 3.0 * SILENCE_S):
        with closing(socket.socket()) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            connection.sendall(asked)
            time.sleep(pause)
            n = 0
            with suppress(ConnectionResetError):
                while n < smear["bytes"] and (piece := connection.recv(2**20)):
                    n += len(piece)
            taken[pause] = n
    assert taken[0.0] >= smear["bytes"] > taken[3.0 * SILENCE_S]
    client.delete(f"/smears/{smear['id']}").raise_for_status()


HEAD = b"POST /api/v1/smears HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n\r\n"
JSON = b"PUT /api/v1/smears/x/shares/y HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n"
DETECT = b"POST /api/v1/detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 60000000\r\n\r\n"
ASKED = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize("pieces", [(), (HEAD[:40],), (ASKED, HEAD[:40])])
def test_half_a_request_is_cut_off(service, pieces):
    answer, seconds = until_closed(service, *pieces, pause=0.5)
    assert answer.count(b"HTTP/1.1") == (len(pieces) == 2)
    assert SILENCE_S - 1 < seconds < 3 * SILENCE_S


@pytest.mark.parametrize(("head", "least"), [(HEAD, 1024), (JSON, 1024), (DETECT + bytes(500_000), 262144)])
def test_a_body_that_stops_or_trickles_is_refused(service, head, least):
    answer, seconds = until_closed(service, head + b"abc")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"expected at least %d bytes within 6 s" % least in answer
    assert SILENCE_S - 1 < seconds < 3 * SILENCE_S
    answer, seconds = until_closed(service, head, *[b"."] * (SILENCE_S - 2), pause=1)
    assert answer.startswith(b"HTTP/1.1 408")
    assert seconds < SILENCE_S + 3  # the dots did not put it off
    assert list((service.data / "temporary").iterdir()) == []


@contextmanager
def connected(service, address: str, n: int, content: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections from another address of this machine, each with something sent."""
    host, port = service.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        found = []
        for _ in range(n):
            one = socket.create_connection((host, int(port)), timeout=30, source_address=(address, 0))
            found.append(stack.enter_context(closing(one)))
            with suppress(OSError):  # refused
                one.sendall(content)
        yield found


def answer_of(connection: socket.socket) -> bytes:
    """An answer in JSON, which may come in parts."""
    answer = b""
    while not answer.endswith(b"}") and (piece := connection.recv(4096)):
        answer += piece
    return answer


def test_an_address_has_so_many_connections(service, client):
    with connected(service, "127.0.0.2", 257, b"GET / HTTP") as found:
        answer = answer_of(found[-1])
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"connections of one address: expected at most 256 at once" in answer
        assert client.get("/session").status_code == 200  # at another address
    deadline = time.monotonic() + 20
    while True:  # they count no longer
        with connected(service, "127.0.0.2", 1, ASKED) as (again,):
            if again.recv(1000).startswith(b"HTTP/1.1 200 "):
                return
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_connection_that_asked_for_another_protocol_counts_no_longer_either(service):
    """Where a library for WebSockets is installed, it took such a connection, and nothing noticed its end."""
    ask = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    ask += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n"
    for _ in range(260):
        with connected(service, "127.0.0.5", 1, ask) as (one,):
            assert one.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_user_has_so_many_uploads_at_once(service):
    with connected(service, "127.0.0.3", 64, HEAD + b"abc"):
        time.sleep(1)
        with connected(service, "127.0.0.3", 1, HEAD + b"abc") as (more,):
            assert b"uploads of one user: expected at most 64 at once" in answer_of(more)


def test_a_user_has_so_many_bytes_in_memory(service, client):
    (web,) = service.children("web")
    before = resident_mb(web)
    with connected(service, "127.0.0.4", 4, DETECT + bytes(50 * 2**20)) as found:
        answers = b"".join(answer_of(one) for one in found[2:])
        assert answers.startswith(b"HTTP/1.1 429 ")
        assert b"MB of requests of one user: expected at most 128 at once" in answers
        assert resident_mb(web) - before < 350
    deadline = time.monotonic() + 20
    while client.post("/detect?mpp=0.1", content=SMALL.read_bytes()).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def test_all_users_together_have_a_limit_that_refuses_by_503():
    allowance = Allowance("MB", 3, 4)
    with allowance.holding("anna", 3), pytest.raises(RefusedError, match="too many MB in all") as refused:
        allowance.take("ben", 2)
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})
    with allowance.holding("ben") as take:  # the other's are given back
        take(3)


def test_a_service_has_as_many_files_as_it_may(service):
    (web,) = service.children("web")
    soft, hard = resource.prlimit(web, resource.RLIMIT_NOFILE)
    assert soft == min(hard, 2**16)


def test_images_are_read_while_a_thousand_files_are_open(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    pool = ComputePool(1, ComputeLimits(memory_mb=512))
    try:
        with ExitStack() as stack:
            for _ in range(1100):
                stack.enter_context(Path("/dev/null").open())
            found, _ = pool.call("inspect", {"path": str(SMALL), "name": "a.jpg"})
            assert found["size_wh"]
    finally:
        pool.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_a_child_still_says_is_not_taken_for_the_next_answer(tmp_path):
    """Who watches a request fails in the middle of it; the next request may be of somebody else."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((16_000, 9000), np.uint8), compression="zlib", tile=(512, 512))

    def fail(done: int, total: int) -> None:
        raise ZeroDivisionError

    pool = ComputePool(1, ComputeLimits(memory_mb=1024))
    try:
        with pytest.raises(ZeroDivisionError):
            pool.call("overview", {"path": str(tmp_path / "a.tif")}, watch=Watch(on_progress=fail))
        found, _ = pool.call("inspect", {"path": str(SMALL), "name": "a.jpg"})
        assert found["size_wh"]
    finally:
        pool.close()


def test_a_bug_in_a_child_is_a_line_of_the_log_without_its_message(capfd):
    """Which may quote the name of a file."""
    pool = ComputePool(1, ComputeLimits(memory_mb=512))
    try:
        with pytest.raises(BlastdetError, match="its log says which"):
            pool.call("inspect", {})
    finally:
        pool.close()
    (said,) = capfd.readouterr().err.splitlines()
    line = json.loads(said)
    assert (line["event"], line["op"], line["error"]) == ("compute.bug", "inspect", "KeyError")
    assert any("_inspect" in one for one in line["where"]) and "'path'" not in said


def test_too_many_open_files_are_no_fault_of_the_service():
    answer = failures._system(None, OSError(errno.EMFILE, "Too many open files"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_a_message_that_comes_again_is_logged_once_a_minute(monkeypatch):
    seldom, clock = Seldom(), [0.0]
    monkeypatch.setattr("blastdet.service.service_log.time.monotonic", lambda: clock[0])
    made = [logging.LogRecord("asyncio", 40, "", 0, f"socket.accept()\nsocket {i}", (), None) for i in range(3)]
    assert [seldom.filter(one) for one in made] == [True, False, False]
    clock[0] = 61.0
    assert seldom.filter(made[0])


def test_only_so_many_pictures_wait(noise, tmp_path):
    blobs, pool = Blobs(tmp_path / "data"), ComputePool(1, ComputeLimits(memory_mb=512))
    pictures, found = Pictures(pool, blobs, most_waiting=2), []

    async def ask(i: int) -> None:
        try:
            args = {"path": str(noise), "z": 3, "x": i, "y": 0}
            found.append((await pictures.make(tmp_path / "none", "tile", args))[:2])
        except ComputeBusyError as error:
            found.append(str(error))

    async def rush() -> None:
        async with anyio.create_task_group() as group:
            for i in range(5):
                group.start_soon(ask, i)

    try:
        _in_a_loop(rush)
    finally:
        pool.close()
    assert sorted(found, key=str) == [
        *[b"\xff\xd8"] * 3,
        *["busy: 2 pictures wait already. Try again in a few seconds"] * 2,
    ]


async def _asked(pictures: Pictures, image: Path, path: Path, said: list[str]) -> None:
    """Ask for an overview, and keep what is said instead of one."""
    try:
        await pictures.overview(image, path)
    except BlastdetError as error:
        said.append(str(error))


class SlowPool:
    """A pool whose overviews take until they are let go, and then fail."""

    size = 2

    def __init__(self) -> None:
        self.let_go, self.made = threading.Event(), 0

    def call(self, op: str, args: dict[str, Any], watch: Watch | None = None) -> tuple[dict[str, Any], bytes]:
        if op != "overview":
            return {}, b"tile"
        self.made += 1
        self.let_go.wait(20)
        raise BlastdetError("the image is damaged")


def test_overviews_hold_up_no_tile_and_fail_once(tmp_path):
    image = tmp_path / "a.tif"
    tifffile.imwrite(image, np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    pool = SlowPool()
    pictures, said = Pictures(pool, Blobs(tmp_path / "data")), []

    async def rush() -> None:
        async with anyio.create_task_group() as group:
            for i in range(12):  # of three smears
                group.start_soon(_asked, pictures, image, tmp_path / str(i % 3), said)
            await anyio.sleep(0.5)
            with anyio.fail_after(10):
                assert await pictures.make(tmp_path / "tile", "tile", {}) == b"tile"
            pool.let_go.set()
        await _asked(pictures, image, tmp_path / "0", said)

    _in_a_loop(rush)
    assert said == ["the image is damaged"] * 13
    assert pool.made == 3  # once for each smear


@pytest.fixture
def small_tiff(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    return tmp_path / "a.tif"


def test_few_wait_for_one_overview_and_take_no_places_of_others(small_tiff, tmp_path):
    pool, said = SlowPool(), []
    pictures = Pictures(pool, Blobs(tmp_path / "data"), most_waiting=8)

    asked = partial(_asked, pictures, small_tiff, tmp_path / "1", said)

    async def rush() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(asked)
            await anyio.sleep(0.5)
            assert await pictures.make(tmp_path / "tile", "tile", {}) == b"tile"
            pool.let_go.set()

    _in_a_loop(rush)
    assert said[:4] == ["busy: 8 requests wait for this image already. Try again in a few seconds"] * 4
    assert said[4:] == ["the image is damaged"] * 8


def test_one_user_leaves_room_for_others(small_tiff, tmp_path):
    pool, said = SlowPool(), []
    pictures = Pictures(pool, Blobs(tmp_path / "data"))

    async def asked(name: str, user: str) -> None:
        try:
            await pictures.overview(small_tiff, tmp_path / name, user)
        except BlastdetError as error:
            said.append((user, str(error)))

    async def rush() -> None:
        async with anyio.create_task_group() as group:
            for i in range(6):  # one is made, and three wait
                group.start_soon(asked, f"{i}", "eve")
                await anyio.sleep(0.1)
            group.start_soon(asked, "9", "ben")
            await anyio.sleep(0.3)
            assert await pictures.make(tmp_path / "tile", "tile", {}, "ben") == b"tile"
            pool.let_go.set()

    _in_a_loop(rush)
    assert said[:2] == [("eve", "busy: 3 large images of one user wait already. Try again in a few seconds")] * 2
    damaged = "the image is damaged"
    assert said[2:] == [("eve", damaged), ("eve", damaged), ("ben", damaged), ("eve", damaged), ("eve", damaged)]
    assert pool.made == 5
    assert not pictures._asked and not pictures._overviews


def test_people_take_turns_and_what_nobody_waits_for_is_not_done():
    let_go, done, queue = threading.Event(), [], FairQueue(1, "things", most_waiting=8, most_of_one=5)

    def work(what: str, has_left: Callable[[], bool]) -> None:
        let_go.wait(20)
        done.append((what, has_left()))

    async def asked(user: str, what: str, scope: anyio.CancelScope) -> None:
        with scope, suppress(ComputeBusyError):
            await queue.run(user, partial(work, what))

    async def rush() -> None:
        scopes = [anyio.CancelScope() for _ in range(12)]
        async with anyio.create_task_group() as group:
            for i in range(8):  # one is done, five wait, two are refused
                group.start_soon(asked, "eve", f"eve {i}", scopes[i])
                await anyio.sleep(0.02)
            for i in range(3):
                group.start_soon(asked, "ben", f"ben {i}", scopes[8 + i])
                await anyio.sleep(0.02)
            with pytest.raises(ComputeBusyError, match="busy: 8 things wait already"):
                await queue.run("mia", partial(work, "mia"))
            for i in (0, 2, 8):  # clients that leave
                scopes[i].cancel()
            await anyio.sleep(0.1)
            let_go.set()
        await queue.run("mia", partial(work, "mia"))

    _in_a_loop(rush)
    assert [what for what, _ in done] == [f"{name} {i}" for name, i in (
        ("eve", 0), ("eve", 1), ("ben", 1), ("eve", 3), ("ben", 2), ("eve", 4), ("eve", 5)
    )] + ["mia"]  # fmt: skip
    assert [has_left for _, has_left in done] == [True] + [False] * 7
    assert queue._free == 1 and not queue._waiting


def test_one_user_has_so_many_places_and_no_more():
    let_go, began, queue = threading.Event(), [], FairQueue(2, "things", 8, 8, at_once=1)

    def work(what: str, has_left: Callable[[], bool]) -> None:
        began.append(what)
        let_go.wait(20)

    async def rush() -> None:
        async with anyio.create_task_group() as group:
            for what in ("eve 0", "eve 1", "eve 2", "ben 0", "ben 1"):
                group.start_soon(queue.run, what[:3], partial(work, what))
                await anyio.sleep(0.02)
            await anyio.sleep(0.2)
            assert began == ["eve 0", "ben 0"]
            let_go.set()
        assert sorted(began) == ["ben 0", "ben 1", "eve 0", "eve 1", "eve 2"]

    _in_a_loop(rush)
    assert queue._free == 2 and not queue._held


def test_a_burst_of_one_user_leaves_threads_to_others():
    let_go, began, app = threading.Event(), [], FastAPI()
    queue = FairQueue(2, "requests", 9, 9, at_once=1)
    app.state.service = SimpleNamespace(asking=queue, settings=SimpleNamespace(auth_header="x-user"))
    app.router.route_class = FairRoute

    @app.get("/{name}")
    def work(name: str) -> str:
        began.append(name)
        let_go.wait(20)
        return name

    async def rush() -> None:
        transport = httpx.ASGITransport(app)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
            anyio.create_task_group() as group,
        ):
            for header in ({"authorization": "Bearer a"}, {"cookie": f"{COOKIE}=a"}, {"x-user": "a"}):
                began.clear()
                let_go.clear()
                for name in ("eve", "eve", "ben"):
                    who = {one: value + name for one, value in header.items()}
                    group.start_soon(partial(client.get, f"/{name}", headers=who))
                    await anyio.sleep(0.05)
                await anyio.sleep(0.2)
                assert began == ["eve", "ben"]
                let_go.set()
                await anyio.sleep(0.2)
                assert began == ["eve", "ben", "eve"]

    _in_a_loop(rush)
    assert all(isinstance(route, FairRoute) for module in (*ROUTES, monitoring) for route in module.router.routes)


def test_passwords_are_compared_few_at_a_time_also_to_change_one(tmp_path):
    """Each takes 64 MB."""
    settings = ServiceSettings(data=tmp_path, auth="users")
    database = open_database(settings.database_url)
    with database.begin() as session:
        accounts.add_user(session, "anna", "correct horse")
    database.close()
    service = make_service(settings)
    transport = httpx.ASGITransport(make_app(service))

    async def rush() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost/api/v1") as client:
            login = await client.post("/session", json={"name": "anna", "password": "correct horse"})
            client.headers["x-csrf-token"] = login.json()["csrf"]
            others = [object(), object()]
            for one in others:
                service.checking.acquire_on_behalf_of_nowait(one)
            async with anyio.create_task_group() as group:
                change = {"old": "correct horse", "new": "battery staple"}
                group.start_soon(partial(client.put, "/session/password", json=change))
                with anyio.fail_after(30):
                    while not service.checking.statistics().tasks_waiting:
                        await anyio.sleep(0.05)
                for one in others:
                    service.checking.release_on_behalf_of(one)
            again = await client.post("/session", json={"name": "anna", "password": "battery staple"})
            assert again.status_code == 200

    _in_a_loop(rush)
    service.database.close()


def test_a_large_image_is_decoded_once_for_a_block_of_tiles(tmp_path, monkeypatch):
    side, zoom = 4300, 4
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))
    operations = Operations("cpu", lambda done, total: None)
    made = []

    class Here(SlowPool):
        def call(self, op: str, args: dict[str, Any], watch: Watch | None = None) -> tuple[dict[str, Any], bytes]:
            made.append(op)
            return operations.do(op, args, b"")

    pictures, folder = Pictures(Here(), Blobs(tmp_path / "data")), tmp_path / "smear" / "tiles"
    folder.parent.mkdir()

    async def work() -> None:
        for x, y in ((3, 2), (7, 7), (0, 0), (8, 8)):
            args = {"path": str(tmp_path / "a.png"), "z": zoom, "x": x, "y": y}
            tile = await pictures.make(folder / f"{zoom}-{x}-{y}.jpg", "tile", args)
            with open_smear(tmp_path / "a.png") as image:
                assert tile == encode_image(tile_of(image, zoom, x, y), ".jpg", QUALITY)

    _in_a_loop(work)
    assert made == ["tile", "tile"]  # 8 x 8 of 9 x 9, and the last one
    assert len(list(folder.iterdir())) == 65
    with open_smear(tmp_path / "a.png") as image:
        for x, y in ((1, 0), (6, 7)):
            expected = encode_image(tile_of(image, zoom, x, y), ".jpg", QUALITY)
            assert (folder / f"{zoom}-{x}-{y}.jpg").read_bytes() == expected


def test_who_leaves_is_not_waited_for(service, client, tmp_path):
    """A request for /detect whose client goes away frees its engine long before it would be done."""
    rgb = np.random.default_rng(0).integers(0, 255, (6000, 6000, 3), dtype=np.uint8)
    write_image(tmp_path / "slow.png", rgb)
    for _ in range(6):
        with suppress(httpx.TimeoutException):
            httpx.post(f"{service.url}/api/v1/detect?mpp=0.8", content=(tmp_path / "slow.png").read_bytes(), timeout=4)
    began = time.monotonic()
    client.post("/detect?mpp=0.1", content=SMALL.read_bytes()).raise_for_status()
    assert time.monotonic() - began < 40  # six that are done take minutes


def test_an_image_that_is_too_large_to_detect_at_once_is_refused(client, tmp_path):
    rgb = np.full((8001, 8000, 3), 200, np.uint8)
    write_image(tmp_path / "large.png", rgb)
    answer = client.post("/detect?mpp=0.1", content=(tmp_path / "large.png").read_bytes())
    assert answer.status_code == 422
    line = "expected at most 64 megapixels, got 65. Send it as a smear: POST /smears"
    assert line in answer.json()["error"]


class EndlessPool(SlowPool):
    """A pool whose overviews take until they are cancelled."""

    def call(self, op: str, args: dict[str, Any], watch: Watch | None = None) -> tuple[dict[str, Any], bytes]:
        self.made += 1
        while not watch.is_cancelled():
            time.sleep(0.05)
        raise ComputeCancelledError("cancelled")


def test_a_deleted_smear_ends_the_making_of_its_overview(small_tiff, tmp_path):
    pool, said = EndlessPool(), []
    pictures = Pictures(pool, Blobs(tmp_path / "data"))

    asked = partial(_asked, pictures, small_tiff, tmp_path / "1", said)

    async def rush() -> None:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(asked)
                await anyio.sleep(0.5)
                small_tiff.unlink()
            await asked()  # also of one that comes later

    _in_a_loop(rush)
    assert said == ["the image is gone: it was deleted"] * 4
    assert pool.made == 1


def test_an_overview_that_takes_too_long_is_given_up(small_tiff, tmp_path):
    pool, said = EndlessPool(), []
    pictures = Pictures(pool, Blobs(tmp_path / "data"), overview_seconds=0.5)

    async def ask() -> None:
        with anyio.fail_after(10):
            for _ in range(2):
                await _asked(pictures, small_tiff, tmp_path / "1", said)

    _in_a_loop(ask)
    what = "expected an image that is read once within 0.5 s, got a slower one"
    assert said == [f"{what}. Save it upright and in tiles, and upload it again"] * 2
    assert pool.made == 1


def test_an_overview_is_made_to_its_end_for_whoever_comes_later(small_tiff, tmp_path, monkeypatch):
    pool, let_go = SlowPool(), threading.Event()
    monkeypatch.setattr(pool, "call", lambda op, args, watch: (let_go.wait(20) and {}, b"overview"))
    pictures, path = Pictures(pool, Blobs(tmp_path / "data")), tmp_path / "smear" / "tiles" / "overview.tif"
    path.parent.mkdir(parents=True)

    async def work() -> None:
        with anyio.move_on_after(0.3):
            await pictures.overview(small_tiff, path)
        let_go.set()
        assert await pictures.overview(small_tiff, path) == path

    _in_a_loop(work)


def test_an_overview_is_made_again_once_a_full_disk_has_room(small_tiff, tmp_path, monkeypatch):
    pool = SlowPool()
    monkeypatch.setattr(pool, "call", lambda op, args, watch: ({}, b"overview"))
    blobs = Blobs(tmp_path / "data")
    pictures, path = Pictures(pool, blobs), tmp_path / "smear" / "tiles" / "overview.tif"
    monkeypatch.setattr("blastdet.service.compute.picture_queue._FULL_S", 1.0)

    async def work() -> None:
        with pytest.raises(OSError, match="no room"):  # nothing can be kept there
            await pictures.overview(small_tiff, path)
        path.parent.mkdir(parents=True)
        with pytest.raises(OSError, match="no room"):  # for a moment, so that not each request tries
            await pictures.overview(small_tiff, path)
        await anyio.sleep(1.1)
        assert await pictures.overview(small_tiff, path) == path
        assert path.read_bytes() == b"overview"

    _in_a_loop(work)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """A TIFF of 20,000 x 15,000 pixels, most of it empty, without a pyramid."""
    path = tmp_path_factory.mktemp("sparse") / "sparse.tif"
    cell = np.random.default_rng(0).integers(100, 200, (512, 512, 3), dtype=np.uint8)
    glass = np.full((512, 512, 3), 240, np.uint8)
    tiles = (cell if i % 97 == 5 else glass for i in range(30 * 40))
    about = {"dtype": np.uint8, "tile": (512, 512), "photometric": "rgb", "compression": "zlib", "metadata": None}
    tifffile.imwrite(path, tiles, shape=(15000, 20000, 3), **about)
    return path


def test_an_overview_is_the_image_reduced_in_little_memory(sparse, tmp_path):
    pool = ComputePool(1, ComputeLimits(memory_mb=700))  # decoded as a whole it is 860 MB
    try:
        _, content = pool.call("overview", {"path": str(sparse)})
        peak = Path(f"/proc/{pool._all[0].pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    finally:
        pool.close()
    (tmp_path / "overview.tif").write_bytes(content)
    with open_smear(sparse) as image, open_smear(tmp_path / "overview.tif") as overview:
        assert overview.size_wh == overview_size(image.size_wh) == (5000, 3750)
        box = (2000.0, 0.0, 4000.0, 1000.0)  # with the noise of a tile
        expected = image.read(box, (0.25, 0.25)).astype(float)
        found = overview.read(tuple(v / 4 for v in box)).astype(float)
    assert np.abs(found - expected).mean() < 4
    assert int(peak) < 800 * 1024


class Counted(DerivedSource):
    """A source that counts the pixels it reads."""

    read_pixels = 0

    def read(self, box_xyxy, scale_xy=(1.0, 1.0)):
        rgb = self._source.read(box_xyxy, scale_xy)
        self.read_pixels += rgb.size // 3
        return rgb


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """A long image and its overview, half as large; neither side is even."""
    folder = tmp_path_factory.mktemp("reduced")
    y, x = np.mgrid[0:301, 0:10001]
    smooth = np.stack([128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 9), np.full(x.shape, 90)], axis=-1)
    tifffile.imwrite(folder / "image.tif", smooth.astype(np.uint8), photometric="rgb", metadata=None)
    with open_smear(folder / "image.tif") as image:
        (folder / "overview.tif").write_bytes(overview_of(image, lambda done, total: None))
    return folder / "image.tif", folder / "overview.tif"


@given(data=st.data(), scale=st.tuples(st.floats(0.02, 1.0), st.floats(0.02, 1.0)))
@settings(max_examples=60, deadline=None)
def test_what_is_read_from_an_overview_is_what_the_image_shows(reduced, data, scale):
    image, overview = reduced
    counted = Counted(open_smear(image))
    with WithOverview(counted, open_smear(overview)) as both:
        x1, y1 = data.draw(st.floats(0, 9800)), data.draw(st.floats(0, 200))
        box = x1, y1, x1 + data.draw(st.floats(110, 10001 - x1)), y1 + data.draw(st.floats(60, 301 - y1))
        found = both.read(box, scale)
    with open_smear(image) as whole:
        expected = whole.read(box, scale)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 4  # half a pixel off: 6
    assert (counted.read_pixels == 0) == (max(scale) * 2 <= 1.05)


@pytest.mark.parametrize("size_wh", [(600_000, 5), (3, 600_000)])
def test_tiles_of_a_thin_and_very_long_tiff(tmp_path, size_wh):
    rgb = np.full((size_wh[1], size_wh[0], 3), 90, np.uint8)
    tifffile.imwrite(tmp_path / "thin.tif", rgb, photometric="rgb", rowsperstrip=1024, compression="zlib")
    with open_smear(tmp_path / "thin.tif") as image:
        (tmp_path / "overview.tif").write_bytes(overview_of(image, lambda done, total: None))
    with WithOverview(open_smear(tmp_path / "thin.tif"), open_smear(tmp_path / "overview.tif")) as both:
        for zoom, longest in ((0, 293), (1, 512), (2, 512)):
            tile = tile_of(both, zoom, 0, 0)
            assert sorted(tile.shape[:2]) == [1, longest]
            assert tile.mean() == pytest.approx(90, abs=2)


def test_the_overview_of_a_large_tiff_is_made_once_and_for_low_zooms_only(service, client, sparse):
    smear = upload(client, sparse)
    folder = service.data / "smears" / smear["id"][:2] / smear["id"]
    base = f"/smears/{smear['id']}"
    top = len(client.get(f"{base}/tiles").json()["levels"]) - 1
    client.get(f"{base}/tiles/{top}/5/0").raise_for_status()
    assert not (folder / "tiles" / "overview.tif").exists()
    with ThreadPoolExecutor(4) as threads:
        asked = list(threads.map(lambda x: client.get(f"{base}/tiles/2/{x % 3}/{x // 3}"), range(4)))
    assert {answer.status_code for answer in asked} == {200}
    made = (folder / "tiles" / "overview.tif").stat()
    client.get(f"{base}/picture.jpg").raise_for_status()
    assert (folder / "tiles" / "overview.tif").stat().st_mtime_ns == made.st_mtime_ns
    client.delete(base).raise_for_status()
    assert not folder.exists()


def test_what_is_wrong_with_an_overview_does_not_say_where_it_is(small_tiff, tmp_path):
    overview = tmp_path / "overview.tif"
    overview.touch()
    pool = ComputePool(1, ComputeLimits(memory_mb=512))
    try:
        with pytest.raises(DamagedOverviewError, match=r"^the image: .*an empty file$"):
            pool.call("picture", {"path": str(small_tiff), "overview": str(overview)})
    finally:
        pool.close()


def test_a_damaged_overview_is_made_again(service, client, tmp_path):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (50, 9000, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "long.tif", rgb, photometric="rgb")
    smear, other = upload(client, tmp_path / "long.tif"), upload(client, SMALL)["id"]
    folder = service.data / "smears" / smear["id"][:2] / smear["id"] / "tiles"
    picture = client.get(f"/smears/{smear['id']}/picture.jpg").raise_for_status().content
    good = (folder / "overview.tif").read_bytes()
    for kept in (0, 8, len(good) // 2):
        (folder / "overview.tif").write_bytes(good[:kept])
        (folder / "picture.jpg").unlink()
        client.get(f"/smears/{other}/tiles/0/0/0").raise_for_status()  # a child keeps the last image open
        (folder.parents[2] / other[:2] / other / "tiles" / "0-0-0.jpg").unlink()
        assert client.get(f"/smears/{smear['id']}/picture.jpg").raise_for_status().content == picture
        assert (folder / "overview.tif").read_bytes() == good
    client.delete(f"/smears/{smear['id']}").raise_for_status()


def test_all_that_shows_a_large_tiff_as_a_whole_comes_from_its_overview(service, client, sparse):
    smear = client.post("/smears", content=sparse.read_bytes() + b" ").raise_for_status().json()
    base = f"/smears/{smear['id']}"
    folder = service.data / "smears" / smear["id"][:2] / smear["id"] / "tiles"
    folder.mkdir()
    width, height = overview_size((20000, 15000))
    blue = np.full((height, width, 3), (20, 20, 250), np.uint8)  # what comes from it shows
    tifffile.imwrite(folder / "overview.tif", blue, photometric="rgb", metadata=None)
    links = analyzed(client, smear, mpp=0.1, region=[0, 0, 600, 500])
    links = {name: service.url + link for name, link in links["links"].items()}
    shown = client.get(f"{base}/tiles/0/0/0").raise_for_status().content
    assert Image.open(io.BytesIO(shown)).size == (312, 234)
    pictures = [shown, client.get(f"{base}/picture.jpg").content, client.get(links["overlay.jpg"]).content]
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as rgb:
            assert np.median(np.asarray(rgb)[:100], axis=(0, 1)).tolist() == pytest.approx([20, 20, 250], abs=6)
    assert client.get(links["report.pdf"]).raise_for_status().content[:4] == b"%PDF"
    assert client.get(links["sheet.jpg"]).json() == {"error": "sheet: the result has no nucleated cells"}
    client.delete(base).raise_for_status()


def test_slow_pictures_hold_up_nothing_else(service, client, noise):
    smears = [upload(client, noise)]
    for i in range(2):  # the same image with a byte more: each in turn is decoded anew
        content = noise.read_bytes() + bytes(i + 1)
        smears.append(client.post("/smears", content=content).raise_for_status().json())

    def tile(i: int) -> None:
        where = f"/smears/{smears[i % 3]['id']}/tiles/3/{i // 3 % 8}/{i // 24}"
        with suppress(httpx.TimeoutException):
            httpx.get(f"{service.url}/api/v1{where}", timeout=15)

    with ThreadPoolExecutor(60) as pool:
        asked = [pool.submit(tile, i) for i in range(60)]
        time.sleep(2)
        for path in ("/healthz", "/api/v1/smears"):
            began = time.monotonic()
            assert httpx.get(service.url + path, timeout=60).status_code == 200
            assert time.monotonic() - began < 5, path
        assert sum(not one.done() for one in asked) > 5  # they are made still


@pytest.mark.parametrize(("side", "status"), [(1_000_000, 201), (1_000_001, 422)])
def test_the_longest_image_has_a_picture_and_a_longer_one_is_refused(client, tmp_path, side, status):
    path = tmp_path / "long.tif"
    about = {"photometric": "rgb", "rowsperstrip": 4, "compression": "zlib", "metadata": None}
    tifffile.imwrite(path, np.full((4, side, 3), 90, np.uint8), **about)
    answer = client.post("/smears", content=path.read_bytes())
    assert answer.status_code == status, answer.text
    if status == 422:
        assert answer.json()["error"] == "image: expected at most 1000000 pixels a side, got 1000001 x 4"
        return
    base = f"/smears/{answer.json()['id']}"
    for name in ("picture.jpg", "tiles/0/0/0"):
        assert client.get(f"{base}/{name}").content[:2] == b"\xff\xd8"
    client.delete(base).raise_for_status()


def test_clients_that_do_not_read_hold_little_memory(service, client, tmp_path):
    rgb = np.random.default_rng(1).integers(0, 255, (3000, 3200, 3), dtype=np.uint8)
    write_image(tmp_path / "noise.png", rgb)
    smear = upload(client, tmp_path / "noise.png")
    picture = client.get(f"/smears/{smear['id']}/picture.jpg").raise_for_status()
    assert len(picture.content) == int(picture.headers["Content-Length"]) > 4 * 10**6
    assert client.get(f"/smears/{smear['id']}/picture.jpg").content == picture.content
    (web,) = service.children("web")

    def memory() -> int:
        return int(Path(f"/proc/{web}/status").read_text().partition("VmRSS:")[2].split()[0]) // 1024

    host, port = service.url.removeprefix("http://").split(":")
    request = f"GET /api/v1/smears/{smear['id']}/picture.jpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    before, held = memory(), []
    try:
        for _ in range(60):
            one = socket.socket()
            held.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect((host, int(port)))
            one.sendall(request.encode())
        time.sleep(4)
        assert memory() - before < 100  # MB; all of the pictures are 300
    finally:
        for one in held:
            one.close()
    client.delete(f"/smears/{smear['id']}").raise_for_status()


def test_who_leaves_a_queue_just_now_leaves_the_others_in_it():
    """A cancelled waiter is still in the line when a place is given back in the same turn of the loop."""
    done = []

    async def work() -> None:
        queue = FairQueue(1, "images", 20, 20)

        async def wait(n: int) -> None:
            async with queue.place("anna"):
                done.append(n)

        await queue._turn("anna")
        waiting = [asyncio.ensure_future(wait(n)) for n in range(4)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # its future is cancelled at once, its task hears of it later
        queue._give_back("anna")
        with anyio.fail_after(10):
            await asyncio.gather(*waiting, return_exceptions=True)
        assert not queue.is_waited_for
        assert queue._free == 1

    _in_a_loop(work)
    assert done == [1, 2, 3]
