"""What passes every request."""

from __future__ import annotations

import asyncio
import json

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

    asyncio.run(stop())
    return sent


def test_a_request_that_a_stop_cancels_is_told_to_come_again():
    head, body = cancelled(has_begun=False)
    assert (head["status"], dict(head["headers"])[b"retry-after"]) == (503, b"5")
    assert json.loads(body["body"]) == {"error": "the service is stopping; try again in a moment"}


def test_an_answer_that_has_begun_gets_no_second_head():
    assert [one["status"] for one in cancelled(has_begun=True)] == [200]
