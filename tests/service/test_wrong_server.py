"""The client and ``blastdet detect --server`` where the server is none of blastdet, or answers wrongly."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner
from serving import SMALL, own_certificate

import blastdet
from blastdet.cli import cli
from blastdet.core.columns import CELL_COLUMNS
from blastdet.core.constants import NOT_WHITE
from blastdet.core.errors import ConfigError, ServiceError
from blastdet.core.model_card import find_weights, read_card
from blastdet.inference.differential import WhiteCells
from blastdet.inference.outputs.jobs import Job
from blastdet.service import client as client_module
from blastdet.service import reaching
from blastdet.service.remote_detection import RemoteOutcome, RemoteRun, detect_remotely

ID = "0" * 32
STRANGER = "expected JSON of a blastdet service"


class Foreign(BaseHTTPRequestHandler):
    """Stands for a foreign host: it answers each request with what the test sets for the end of its path."""

    protocol_version = "HTTP/1.1"
    answers: dict[str, Any]
    asked: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        end = self.path.partition("?")[0].rpartition("/")[2]
        answer = self.answers.get(end, {})
        if isinstance(answer, Iterator):
            answer = next(answer)
        if callable(answer):
            self.close_connection = True
            answer(self)
            return
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if status != 204:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def foreign(answers: dict[str, Any]) -> Iterator[tuple[blastdet.Client, list[str]]]:
    """A client of a foreign host, and the paths that the host is asked for."""
    asked: list[str] = []
    handler = type("Handler", (Foreign,), {"answers": answers, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            with blastdet.Client(f"http://127.0.0.1:{server.server_port}") as client:
                yield client, asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"<html>log in here</html>", STRANGER),
        (b"\xff\xfe\x00", STRANGER),
        (b"[" * 200_000, STRANGER),
        ([1], STRANGER),
        ({}, STRANGER),
        ({"id": "x HTTP/1.1\r\nEvil: 1\r\n\r\n"}, STRANGER),
        ((204, b""), STRANGER),
        ((302, b""), "answered with status 302"),
        ((422, b"[" * 200_000), "answered with status 422"),
    ],
)
def test_an_upload_to_a_foreign_host_is_one_line(answer, words):
    with foreign({"smears": answer}) as (client, _), pytest.raises(ServiceError) as caught:
        client.upload(SMALL)
    assert str(caught.value) == f"{client.url}: {words}"


@pytest.mark.parametrize(
    "job",
    [
        {},
        {"state": 5},
        {"state": "running"},
        {"state": "running", "id": "../../x y\n"},
        {"state": "done"},
        {"state": "done", "analysis": "../../x y\n"},
        {"state": "failed", "error": 5},
    ],
)
def test_a_job_of_a_foreign_host_is_one_line(job):
    with foreign({"analyses": job}) as (client, asked), pytest.raises(ServiceError, match=STRANGER):
        client.analyze(ID)
    assert len(asked) == 1


def test_other_answers_of_a_foreign_host_are_one_line():
    with foreign({}) as (client, _):
        for ask in (lambda: client.correct(ID, []), lambda: list(client.smears())):
            with pytest.raises(ServiceError, match=STRANGER):
                ask()
    with foreign({"result.json": b"[]"}) as (client, _), pytest.raises(ServiceError, match=STRANGER):
        client.result(ID)


def test_texts_of_a_foreign_host_are_one_short_line():
    text = "line 1\nline 2\x1b[31m" + "A" * 100_000
    answers = {"smears": (422, {"error": text}), "analyses": {"state": "failed", "error": text}}
    with foreign(answers) as (client, _):
        for ask in (lambda: client.upload(SMALL), lambda: client.analyze(ID)):
            with pytest.raises(ServiceError, match=r"line 1 line 2\\x1b\[31mAA") as caught:
                ask()
            assert len(str(caught.value)) == len(client.url) + 2 + 300


def _chunked(handler: Foreign) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(4):
        handler.wfile.write(b"400\r\n" + b" " * 1024 + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def _claimed(handler: Foreign) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (50 * 2**30))


def _until_closed(handler: Foreign) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + b" " * 4096)


@pytest.mark.parametrize("answer", [_chunked, _claimed, _until_closed])
def test_an_endless_answer_of_a_foreign_host_is_not_read_to_its_end(monkeypatch, answer):
    monkeypatch.setattr(client_module, "_JSON_BYTES", 2**11)
    with foreign({"smears": answer}) as (client, _):
        with pytest.raises(ServiceError, match="expected an answer of at most"):
            client.upload(SMALL)
        assert client._connection is None


def test_an_answer_that_is_cut_short_is_no_file(monkeypatch):
    monkeypatch.setattr(reaching, "PATIENCE_S", 0.0)

    def answer(handler: Foreign) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}")

    with foreign({"result.json": answer}) as (client, _), pytest.raises(ServiceError, match="does not answer"):
        client.file(ID, "result.json")


@pytest.mark.parametrize("page", [{"items": [], "next": "x"}, {"items": [{}], "next": "x"}])
def test_a_worklist_without_end_is_left(page):
    with foreign({"smears": page}) as (client, asked), pytest.raises(ServiceError, match=STRANGER):
        list(client.smears())
    assert len(asked) <= 2


def test_corrections_whose_answer_is_lost_are_stored_once():
    """The foreign host stores them, and hangs up once instead of answering."""
    stored, lost = [], []

    def store(handler: Foreign) -> None:
        if handler.headers["If-Match"] != f'"{len(stored)}"':
            body = b'{"error": "corrections: expected version 1, got 0: somebody else was first"}'
            handler.wfile.write(b"HTTP/1.1 412 No\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            return
        stored.append(handler.path)
        lost.append(handler.connection.shutdown(socket.SHUT_RDWR))

    answers = {ID: {"version": 0}, "corrections": lambda handler: store(handler)}
    with foreign(answers) as (client, _), pytest.raises(ServiceError, match="somebody else was first"):
        client.correct(ID, [{"op": "ok"}])
    assert len(stored) == len(lost) == 1


def _continuing(handler: Foreign, number: int) -> None:
    """So many times "100 Continue", then the answer."""
    with suppress(OSError):
        for _ in range(number):
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = json.dumps({"id": ID}).encode()
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def test_continue_without_end_is_given_up_at_once():
    """At the sixth, not after all the time that a service may be away; before an answer a few are in order."""
    with foreign({"smears": lambda handler: _continuing(handler, 6)}) as (client, asked):
        with pytest.raises(ServiceError, match="got 100 Continue more than 5 times") as raised:
            client.upload(SMALL)
        assert raised.value.concerns_all and client._connection is None
    assert len(asked) == 1
    with foreign({"smears": lambda handler: _continuing(handler, 5)}) as (client, _):
        assert client.upload(SMALL) == ID


def _drip(handler: Foreign, begin: bytes) -> None:
    """A byte now and then: no pause is as long as the client's timeout."""
    with suppress(OSError):
        handler.wfile.write(begin)
        for _ in range(200):
            handler.wfile.write(b" ")
            time.sleep(0.05)


@pytest.mark.parametrize(
    "begin", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"]
)
def test_an_answer_that_drips_is_given_up(monkeypatch, begin):
    monkeypatch.setattr(reaching, "PATIENCE_S", 0.0)
    dripped = partial(_drip, begin=begin)
    with foreign({"smears": lambda handler: dripped(handler)}) as (client, asked):
        client._timeout = 1.0
        start = time.monotonic()
        with pytest.raises(ServiceError, match=r"does not answer \((timed out|its answer is too slow)\)"):
            client.upload(SMALL)
        assert time.monotonic() - start < 8  # of ten for which it drips
    assert len(asked) == 1


@pytest.mark.parametrize("exists", [True, False])
def test_a_certificate_that_is_none_is_one_line(tmp_path, exists):
    path = tmp_path / "authority.pem"
    if exists:
        path.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"certificate: expected a PEM file of an authority, got .*authority\.pem"):
        blastdet.Client("https://127.0.0.1:1", certificate=path)


def test_a_header_without_end_is_not_asked_for_again():
    def answer(handler: Foreign) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n")

    start = time.monotonic()
    with foreign({"smears": answer}) as (client, asked), pytest.raises(ServiceError, match="does not answer"):
        client.upload(SMALL)
    assert len(asked) == 1
    assert time.monotonic() - start < 30


def _run_json() -> dict[str, Any]:
    """``run.json`` of an image with one white cell and one red cell."""
    cells = {"box": [9, 9, 60, 60, 90, 9, 130, 50], "label": [1, 2], "kind": ["monocyte", "rbc"], "score": [0.9, 0.8]}
    entry = {
        "name": "a.jpg",
        "image_sha256": "0" * 64,
        "size_wh": [360, 363],
        "mpp": [0.1, 0.1],
        "mpp_source": "given",
        "counts": {"blast": 0, "wbc": 1, "unsure": 0, "rbc": 1, "platelet": 0},
        "white_cells": WhiteCells(0, 1, 0, 0, types={"monocyte": 1}).to_json(),
        "area_mm2": 0.001307,
        "warnings": [],
        "cells": {**cells, "p": [0.9, None], "blast": [0.1, None], "unlike": [], "likely": {}},
    }
    files = {"model.onnx": "0" * 64}
    model = {"name": "default", "files": files, "mpp": 0.3}
    card = read_card(find_weights("differential")).model_dump(mode="json")
    second = {"name": "differential", "files": files, "mpp": 0.2}
    classes = ["blast", "wbc", "rbc", "platelet"]
    return {"entry": entry, "classes": classes, "classifier": card, "model": {**model, "second_stage": second}}


def _answers(part: Any) -> dict[str, Any]:
    table = (",".join(CELL_COLUMNS) + "\na.jpg" + "," * (len(CELL_COLUMNS) - 1) + "\n").encode()
    files = {
        "result.csv": table,
        "result.json": {},
        "picture.jpg": b"\xff\xd8\xff\xd9",
        "sheet.jpg": b"\xff\xd8\xff\xd9",
    }
    return {"smears": {"id": ID}, "analyses": {"state": "done", "analysis": ID}, "run.json": part, **files}


def _detect(client: blastdet.Client, folder: Path) -> list[RemoteOutcome]:
    images = [folder / name for name in ("a.jpg", "b.jpg")]
    for image in images:
        shutil.copy(SMALL, image)
    jobs = [Job(image, image.name) for image in images]
    return list(detect_remotely(jobs, RemoteRun(client, folder / "out", ["json", "csv", "xlsx", "html"], {})))


WRONG = {
    "entry": [
        {"counts": [1]},
        {"counts": {"wbc\n\x1b[31m": 1}},
        {"counts": {"wbc": "many"}},
        {"counts": {"wbc": 10**400}},
        {"size_wh": [1]},
        {"size_wh": ["<script>", 1e308]},
        {"mpp": [0, 0]},
        {"mpp": [float("nan"), 1]},
        {"mpp_source": None},
        {"area_mm2": 0},
        {"area_mm2": "large"},
        {"white_cells": [1, 2]},
        {"white_cells": None},
        {"white_cells": {"blasts": -5}},
        {"white_cells": WhiteCells(0, 10**400, 0, 0).to_json()},
        {"warnings": 5},
        {"warnings": [{"a": 1}]},
        {"warnings": ["\ud800"]},
        {"image_sha256": None},
        {"cells": None},
    ],
    "part": [
        {"entry": []},
        {"classes": None},
        {"classes": ["<b>"]},
        {"classifier": {}},
        {"model": None},
        {"model": "x"},
        {"model": {}},
        {"model": {"name": "x", "mpp": 0.3, "files": {}, "second_stage": {}}},
    ],
}


@pytest.mark.parametrize(("where", "change"), [(where, one) for where, changes in WRONG.items() for one in changes])
def test_a_wrong_part_of_a_run_fails_alone_and_before_a_file_is_written(tmp_path, where, change):
    """A foreign host answers wrongly for the first of two images."""
    good, wrong = _run_json(), _run_json()
    (wrong["entry"] if where == "entry" else wrong).update(change)
    parts = iter([wrong, good])
    with foreign(_answers(parts)) as (client, _):
        first, second = _detect(client, tmp_path)
    start = f"a.jpg: {client.url}: expected a service of this version of blastdet ("
    assert first.error.startswith(start), first
    assert len(first.error) < len(start) + 170
    assert second.totals is not None
    assert second.totals.counts == {"blast": 0, "wbc": 1, "unsure": 0, "rbc": 1, "platelet": 0}
    assert "non-blast white cells" in second.text
    assert not list((tmp_path / "out").rglob("a*"))
    assert {path.name for path in (tmp_path / "out").iterdir()} > {"b.json", "cells.csv", "summary.xlsx", "index.html"}


def test_every_kind_that_is_counted_is_known(tmp_path):
    """A smear with an erythroblast was refused as that of another version."""
    part = _run_json()
    part["entry"]["counts"] = dict.fromkeys(("blast", "wbc", "unsure", *NOT_WHITE, "rbc", "platelet"), 1)
    with foreign(_answers(part)) as (client, _):
        outcomes = _detect(client, tmp_path)
    assert [one.error for one in outcomes] == ["", ""]
    assert all(f"  {name} " in outcomes[0].text for name in NOT_WHITE)


@pytest.mark.parametrize("content", [b'{"a":' * 100_000, b"[]", b"", b"\xff", b"1" * 9000])
def test_a_part_of_a_run_that_is_none_is_one_line(tmp_path, content):
    with foreign(_answers(content)) as (client, _):
        outcomes = _detect(client, tmp_path)
    assert all("expected a service of this version of blastdet" in one.error for one in outcomes), outcomes
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "table",
    [b"\xff\xfe", b"", b"a,b\nx," + b"z" * 200_000, b'"a\nb",c\nx,1\n', b"not,the,columns\n=cmd,1,2\n"],
)
def test_a_wrong_table_is_one_line(tmp_path, table):
    with foreign({**_answers(_run_json()), "result.csv": table}) as (client, _):
        outcomes = _detect(client, tmp_path)
    assert all("expected a service of this version of blastdet" in one.error for one in outcomes), outcomes
    assert not list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("json", "result.json"),
        ("coco", "result.coco.json"),
        ("geojson", "result.geojson"),
        ("overlay", "overlay.jpg"),
        ("pdf", "report.pdf"),
        ("html", "picture.jpg"),
        ("html", "sheet.jpg"),
    ],
)
def test_a_file_of_another_kind_is_not_written(tmp_path, kind, file):
    page = b"<html><script>alert(1)</script></html>"
    with foreign({**_answers(_run_json()), file: page}) as (client, _):
        (outcome,) = detect_remotely([Job(SMALL, SMALL.name)], RemoteRun(client, tmp_path / "out", [kind], {}))
    assert "got a file of another kind" in outcome.error
    assert not any(page in path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file())


def test_a_model_that_changes_within_a_run_is_an_error(tmp_path):
    """Tables of one run need one set of classes."""
    other = _run_json() | {"classifier": None}
    other["entry"]["white_cells"] = None
    parts = iter([_run_json(), other])
    with foreign(_answers(parts)) as (client, _):
        first, second = _detect(client, tmp_path)
    assert not first.error
    assert "expected the model of the first image" in second.error


# Nobody is there, or does not let in


def _failure(client: blastdet.Client) -> tuple[ServiceError, float]:
    """Why a small image cannot be analyzed, and after how many seconds that is said."""
    began = time.monotonic()
    with client, pytest.raises(ServiceError) as raised:
        client.detect(b"x")
    assert "\n" not in str(raised.value)
    return raised.value, time.monotonic() - began


@pytest.mark.parametrize(
    ("number", "words", "tries"),
    [(socket.EAI_NONAME, "which is that of none", 1), (socket.EAI_AGAIN, "no answer from the name service", 2)],
)
def test_an_unknown_host_is_said_at_once(monkeypatch, number, words, tries):
    asked = []

    def unknown(*address: Any, **_: Any) -> None:
        asked.append(address)
        raise socket.gaierror(number, "not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(reaching, "_NAME_PATIENCE_S", 0.5)
    error, seconds = _failure(blastdet.Client("http://films.example.org:8000"))
    assert words in str(error) and "films.example.org" in str(error) and error.concerns_all
    assert (len(asked), seconds < 5) == (tries, True)


def test_the_wrong_scheme_is_said_at_once(tmp_path):
    certificate, key = own_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with foreign({}) as (client, _):
        error, seconds = _failure(blastdet.Client(client.url.replace("http:", "https:")))
        assert f"expected https, got a server that speaks http. Use {client.url}" in str(error) and seconds < 5
    handler = type("Handler", (Foreign,), {"answers": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # what fails is what the test is about
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            error, seconds = _failure(blastdet.Client(f"http://127.0.0.1:{server.server_port}"))
        finally:
            server.shutdown()
            thread.join()
    assert f"expected http, got a server that speaks https. Use https://127.0.0.1:{server.server_port}" in str(error)
    assert error.concerns_all and seconds < 5


def _three(folder: Path) -> list[str]:
    (folder / "images").mkdir()
    for number in range(3):
        shutil.copy(SMALL, folder / "images" / f"{number}.jpg")
    return [str(folder / "images"), "--out", str(folder / "out"), "--server"]


def test_where_nobody_answers_the_other_images_are_not_tried(tmp_path):
    run = CliRunner().invoke(cli, ["detect", *_three(tmp_path), "http://127.0.0.1:9"])
    lines = run.stderr.splitlines()
    assert (run.exit_code, len(lines)) == (2, 1)
    assert lines[0].startswith("failed: 0.jpg: http://127.0.0.1:9: does not answer (Connection refused)")
    assert run.stdout.splitlines() == [
        "3 of 3 failed:",
        f"  {lines[0].removeprefix('failed: ')}",
        "  not tried: 2 other images, which would fail alike",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("status", "line", "token", "words"),
    [
        (401, "expected a session or a token", "", "expected a token, got none. Set BLASTDET_TOKEN to a token of the"),
        (
            401,
            "token: unknown or expired",
            "x",
            "token: unknown or expired. Set BLASTDET_TOKEN to a token of the service",
        ),
        (403, "token: expected the scope write, got detect", "x", "Set BLASTDET_TOKEN to a token of that scope"),
    ],
)
def test_who_may_not_is_told_once_what_to_do(tmp_path, monkeypatch, status, line, token, words):
    monkeypatch.setenv("BLASTDET_TOKEN", token)
    with foreign({"smears": (status, {"error": line})}) as (client, asked):
        run = CliRunner().invoke(cli, ["detect", *_three(tmp_path), client.url])
    assert (run.exit_code, len(asked)) == (2, 1)
    assert words in run.stderr and "not tried: 2 other images" in run.stdout
    assert run.stderr.count("BLASTDET_TOKEN") == 1


def test_an_image_that_is_refused_stops_no_other(tmp_path):
    with foreign({"smears": (422, {"error": "0.jpg: damaged"})}) as (client, asked):
        run = CliRunner().invoke(cli, ["detect", *_three(tmp_path), client.url])
    assert (run.exit_code, len(asked)) == (1, 3)
    assert run.stderr.splitlines() == [
        "failed: 0.jpg: damaged",
        "failed: 1.jpg: 0.jpg: damaged",  # the service may know the bytes by another name
        "failed: 2.jpg: 0.jpg: damaged",
    ]
    assert run.stdout.splitlines()[0] == "3 of 3 failed:"


def test_a_signed_smear_is_told_what_to_do(tmp_path):
    line = "smear: it is signed. Reopen it to analyze it again"
    answers = {"smears": {"id": ID}, "analyses": (409, {"error": line})}
    with foreign(answers) as (client, _):
        run = CliRunner().invoke(cli, ["detect", *_three(tmp_path), client.url])
    assert run.exit_code == 1
    assert run.stderr.startswith("failed: 0.jpg: it is signed in the service"), run.stderr
    assert "Reopen it there, or leave the image out" in run.stderr


def test_a_service_that_is_silent_is_waited_for_aloud(tmp_path, monkeypatch):
    """Once, whatever is asked; a run whose service answers says nothing."""
    monkeypatch.setattr(reaching, "_SAY_AFTER_S", 0.1)
    monkeypatch.setattr(reaching, "PATIENCE_S", 1.5)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections are taken, requests are not
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with blastdet.Client(url, timeout=0.5, waiting=said.append) as client:
            for _ in range(2):
                with pytest.raises(ServiceError, match="does not answer"):
                    client.upload(SMALL)
    assert said == [f"{url}: does not answer yet. Waiting for it"]
    with foreign({"smears": {"id": ID}}) as (client, _), blastdet.Client(client.url, waiting=said.append) as other:
        for _ in range(3):
            other.upload(SMALL)
            time.sleep(0.15)
    assert len(said) == 1
