"""What passes every request."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import urlsplit

from serving import served

from blastdet.service.metrics import Metrics
from blastdet.service.security.guard import Guard


def cancelled(has_begun: bool) -> list[dict]:
    """What a client is sent whose request is cancelled because the service stops."""
    sent = []

    async def app(scope, receive, send):
        if has_begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    async def stop():
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        task = asyncio.create_task(Guard(app, None, Metrics())(scope, None, send))
        await asyncio.sleep(0.05)
        task.cancel()
        await task

    with ThreadPoolExecutor(1) as pool:  # the browser of other tests has a loop in this thread
        pool.submit(lambda: asyncio.run(stop())).result()
    return sent


def test_a_request_that_a_stop_cancels_is_told_to_come_again():
    head, body = cancelled(has_begun=False)
    assert (head["status"], dict(head["headers"])[b"retry-after"]) == (503, b"5")
    assert json.loads(body["body"]) == {"error": "the service is stopping; try again in a moment"}


def test_files_of_pages_are_logged_only_where_they_fail(monkeypatch):
    said = []
    monkeypatch.setattr("blastdet.service.security.guard.service_log.say", lambda event, **fields: said.append(fields))
    for path, status in (("/static/{name}", 200), ("/static/{name}", 304), ("/static/{name}", 404), ("/", 200)):

        async def app(scope, receive, send, path=path, status=status):
            scope["route"] = SimpleNamespace(path=path)
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async def send(message):
            pass

        scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        guarded = Guard(app, None, Metrics())
        with ThreadPoolExecutor(1) as pool:  # the browser of other tests has a loop in this thread
            pool.submit(lambda: asyncio.run(guarded(scope, lambda: None, send))).result()  # noqa: B023
    assert [(one["route"], one["status"]) for one in said] == [("/static/{name}", 404), ("/", 200)]


def test_an_answer_that_has_begun_gets_no_second_head():
    assert [one["status"] for one in cancelled(has_begun=True)] == [200]


def test_an_upload_that_lasts_longer_than_the_stop_is_told_so(tmp_path):
    with served(tmp_path) as service:
        where = urlsplit(service.url)
        with socket.create_connection((where.hostname, where.port), timeout=30) as upload:
            head = f"POST /api/v1/smears HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: 90000\r\n\r\n"
            upload.sendall(head.encode() + b"the first bytes")
            time.sleep(1)
            assert service.stop() == 0
            answer = upload.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert "Traceback" not in service.log.read_text() and "ASGI" not in service.log.read_text()
