"""Users, tokens, proxies: who may do what, and what two users can do to each other (nothing)."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import httpx
import pytest
from serving import REPO, SMALL, analyzed, served, upload
from starlette.requests import Request

from blastdet.service.administration import add_user
from blastdet.service.security.callers import Gate
from blastdet.service.settings import ServiceSettings
from blastdet.service.store import accounts, audit_log
from blastdet.service.store.database import open_database

PASSWORDS = {"anna": "correct horse", "boris": "battery staple"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("users")
    with served(folder, "--requests-per-minute", "0", users=PASSWORDS) as running:
        yield running


def logged_in(service, name: str) -> httpx.Client:
    client = service.client()
    answer = client.post("/session", json={"name": name, "password": PASSWORDS[name]}).raise_for_status()
    client.headers["x-csrf-token"] = answer.json()["csrf"]
    return client


@pytest.fixture(scope="module")
def anna(service):
    with closing(logged_in(service, "anna")) as client:
        yield client


@pytest.fixture(scope="module")
def boris(service):
    with closing(logged_in(service, "boris")) as client:
        yield client


@pytest.fixture
def nobody(service):
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def smear(anna):
    return upload(anna, SMALL)


@pytest.fixture(scope="module")
def analysis(anna, smear):
    return analyzed(anna, smear)


def test_without_log_in_there_is_nothing(service, nobody):
    client = nobody
    document = client.get("/openapi.json").json()["paths"]
    for path, methods in document.items():
        url = service.url + path.replace("{n}", "1").replace("{user}", "anna")
        for name in ("smear_id", "analysis_id", "job_id", "upload_id", "token_id"):
            url = url.replace(f"{{{name}}}", "0" * 32)
        url = url.replace("{z}", "0").replace("{x}", "0").replace("{y}", "0")
        for method in methods:
            free = path in ("/healthz", "/readyz", "/metrics", "/api/v1/session") or method == "options"
            status = client.request(method, url).status_code
            assert free or status in (401, 422), (method, path, status)
    assert client.get("/session").json()["user"] is None


ENDINGS = ("/smears", "/detect", "/corrections", "/uploads/x")


def test_without_log_in_no_body_is_taken(service, nobody):
    """Also not under a name that looks like that of a route for images."""
    unknown, (host, port) = "0" * 32, service.url.removeprefix("http://").split(":")
    document = nobody.get("/openapi.json").json()["paths"]
    routes = [(path, method) for path, methods in document.items() for method in methods]
    routes += [(f"/api/v1/smears/{unknown}/shares{end}", "put") for end in ENDINGS]
    routes += [(f"/api/v1/tokens/{unknown}{end}", "delete") for end in ENDINGS]
    for path, method in routes:
        path = re.sub(r"\{[a-z]+_id\}", unknown, path).translate(str.maketrans({"{": "", "}": ""}))
        head = f"{method.upper()} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        for length in ("Content-Length: 90000000", "Transfer-Encoding: chunked"):
            with closing(socket.create_connection((host, int(port)), timeout=20)) as connection:
                connection.sendall(f"{head}{length}\r\n\r\nf000\r\n".encode() + b" " * 60_000)
                answer = connection.recv(4096)  # although the body goes on
            assert answer.startswith(b"HTTP/1.1 "), (method, path)


def test_a_session_is_a_cookie_that_no_script_reads(nobody):
    answer = nobody.post("/session", json={"name": "anna", "password": PASSWORDS["anna"]})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert PASSWORDS["anna"] not in answer.text


@pytest.mark.parametrize("name", ["anna", "nobody", "a b", "\x00", "x" * 100])
def test_a_wrong_password_is_refused_alike(nobody, name):
    answer = nobody.post("/session", json={"name": name, "password": "wrong"})
    assert answer.status_code in (401, 429)
    assert name not in answer.text


def test_a_change_needs_the_token_of_the_session(anna, smear):
    there = f"/smears/{smear['id']}"
    assert anna.patch(there, json={"name": "x"}, headers={"x-csrf-token": "wrong"}).status_code == 403
    other_site = {"origin": "https://evil.example"}
    assert anna.patch(there, json={"name": "x"}, headers=other_site).status_code == 403
    assert anna.get(there, headers=other_site).headers.get("access-control-allow-origin") is None


def test_a_user_cannot_reach_what_is_of_another(anna, boris, smear, analysis):
    job = anna.get("/jobs").json()["items"][0]["id"]
    begun = {"Upload-Length": "9", "Tus-Resumable": "1.0.0"}
    part = anna.post("/uploads", headers=begun).headers["location"].removeprefix("/api/v1")
    s, a = f"/smears/{smear['id']}", f"/analyses/{analysis['id']}"
    reads = [s, f"{s}/image", f"{s}/picture.jpg", f"{s}/tiles", f"{s}/tiles/0/0/0", f"{s}/shares", f"{s}/analyses"]
    reads += [a, *(f"{a}/{name}" for name in ("result.json", "report.pdf", "view", "corrections", "cells/1.jpg"))]
    reads += [f"/jobs/{job}", f"/jobs/{job}/events", part]
    for path in reads:
        assert boris.get(path).status_code == 404, path
        assert anna.get(path).status_code == 200, path
    line = {"op": "class", "box_xyxy": [5, 5, 60, 60], "new_class": "wbc"}
    changes = [
        ("DELETE", s, None),
        ("PATCH", s, {"status": "signed"}),
        ("POST", f"{s}/analyses", {}),
        ("PUT", f"{s}/shares/boris", {"may": "write"}),
        ("POST", f"{a}/corrections", {"corrections": [line]}),
        ("POST", f"/jobs/{job}/cancel", None),
    ]
    for method, path, body in changes:
        assert boris.request(method, path, json=body).status_code == 404, (method, path)
    piece = {"Upload-Offset": "0", "Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    assert boris.patch(part, content=b"x", headers=piece).status_code == 404
    assert boris.get("/smears").json()["items"] == []
    assert boris.get("/jobs").json()["items"] == []
    assert boris.get("/corrections").text == ""
    assert anna.get(s).json()["status"] == "new"


def test_the_same_file_of_two_users_is_two_smears(anna, boris, smear):
    own = upload(boris, SMALL)
    assert own["id"] != smear["id"]
    assert boris.delete(f"/smears/{own['id']}").status_code == 204
    assert anna.get(f"/smears/{smear['id']}/image").status_code == 200


def test_shared_to_read_and_to_write(anna, boris, smear, analysis):
    s, a = f"/smears/{smear['id']}", f"/analyses/{analysis['id']}"
    line = {"op": "class", "box_xyxy": [5, 5, 60, 60], "new_class": "wbc"}
    assert anna.put(f"{s}/shares/boris", json={"may": "read"}).status_code == 200
    assert boris.get(s).json()["may"] == "read"
    assert boris.get("/smears").json()["items"][0]["id"] == smear["id"]
    assert boris.post(f"{a}/corrections", json={"corrections": [line]}).status_code == 403
    assert anna.put(f"{s}/shares/boris", json={"may": "write"}).status_code == 200
    assert boris.post(f"{a}/corrections", json={"corrections": [line]}).status_code == 201
    assert anna.get(f"{a}/corrections").json()["corrections"][0]["who"] == "boris"
    assert boris.delete(s).status_code == 403
    assert boris.get(f"{s}/shares").status_code == 403
    assert anna.get(f"{s}/shares").json() == [{"user": "boris", "may": "write"}]
    assert anna.delete(f"{s}/shares/boris").status_code == 204
    assert boris.get(s).status_code == 404
    assert anna.put(f"{s}/shares/nobody", json={}).status_code == 404
    assert anna.put(f"{s}/shares/%00", json={}).status_code == 404


def test_tokens_have_scopes_and_end(service, anna, smear):
    too_long = anna.post("/tokens", json={"name": "n" * 101, "scope": "read"})
    assert too_long.status_code == 422 and "100" in too_long.text
    made = {scope: anna.post("/tokens", json={"name": scope, "scope": scope}).json() for scope in ("read", "detect")}
    with service.client() as program:
        program.headers["authorization"] = f"Bearer {made['read']['token']}"
        assert program.get(f"/smears/{smear['id']}").status_code == 200
        assert program.delete(f"/smears/{smear['id']}").status_code == 403
        assert program.post("/detect", content=b"").status_code == 403
        program.headers["authorization"] = f"Bearer {made['detect']['token']}"
        assert program.get("/smears").status_code == 403
        assert program.post("/detect?mpp=0.1", content=SMALL.read_bytes()).status_code == 200
        assert program.get("/models").status_code == 200
        assert anna.delete(f"/tokens/{made['detect']['id']}").status_code == 204
        assert program.get("/models").status_code == 401
        program.headers["authorization"] = "Bearer nonsense"
        assert program.get("/models").status_code == 401
        program.headers["authorization"] = "Basic YTpi"
        assert program.get("/models").status_code == 401
    assert all(made["read"]["token"] not in str(one) for one in anna.get("/tokens").json())
    for path in service.data.glob("blastdet.db*"):
        assert made["read"]["token"].encode() not in path.read_bytes()


def test_events_end_with_the_token_and_a_user_follows_twenty_at_most(service, anna, smear):
    (worker,) = service.children("worker")
    os.kill(worker, signal.SIGSTOP)  # the job stays queued
    try:
        job = anna.post(f"/smears/{smear['id']}/analyses", json={"mpp": 0.123}).json()
        token = anna.post("/tokens", json={"name": "t", "scope": "read"}).json()
        program = {"headers": {"authorization": f"Bearer {token['token']}"}}
        with service.client(**program) as client, ExitStack() as stack:
            streams = [stack.enter_context(client.stream("GET", f"/jobs/{job['id']}/events")) for _ in range(20)]
            assert {one.status_code for one in streams} == {200}
            more = client.get(f"/jobs/{job['id']}/events")
            assert (more.status_code, more.headers["retry-after"]) == (429, "5")
            assert more.json()["error"].startswith("streams of one user: expected at most 20 at once")
            assert anna.delete(f"/tokens/{token['id']}").status_code == 204
            assert "event: progress" in streams[0].read().decode()  # to its end
        with anna.stream("GET", f"/jobs/{job['id']}/events") as again:
            assert again.status_code == 200  # those that ended count no longer
    finally:
        os.kill(worker, signal.SIGCONT)


def test_the_audit_log_is_for_administrators_and_names_nobody(service, anna):
    assert anna.get("/audit").status_code == 403
    assert "monocyte" not in service.log.read_text()


def test_log_out_ends_the_session(service):
    with closing(logged_in(service, "anna")) as client:
        assert client.delete("/session").status_code == 204
        assert client.get("/smears").status_code == 401


def test_users_change_their_own_password(tmp_path):
    """In a session, with the password of now; other sessions end, and nobody may guess."""
    with served(tmp_path, users=PASSWORDS) as service, ExitStack() as stack:
        here, there, boris = (
            stack.enter_context(closing(logged_in(service, name))) for name in ("anna", "anna", "boris")
        )
        where, change = "/session/password", {"old": PASSWORDS["anna"], "new": "a new one, longer"}
        secret = here.post("/tokens", json={"name": "t", "scope": "write"}).json()["token"]
        with service.client(headers={"authorization": f"Bearer {secret}"}) as program:
            refused = program.put(where, json=change)
        assert (refused.status_code, "expected a session" in refused.text) == (403, True)
        with service.client() as nobody:
            assert nobody.put(where, json=change).status_code == 401
        assert here.put(where, json=change, headers={"x-csrf-token": "wrong"}).status_code == 403
        wrong = here.put(where, json={**change, "old": PASSWORDS["boris"]})
        assert (wrong.status_code, wrong.json()["error"]) == (
            403,
            "password: expected the one that you have now, got another",
        )
        short = here.put(where, json={**change, "new": "secret7"})
        assert (short.status_code, "secret7" in short.text) == (422, False)
        assert there.get("/smears").status_code == 200  # nothing has happened so far
        assert here.put(where, json=change).status_code == 204
        assert here.get("/smears").status_code == 200
        assert there.get("/smears").status_code == 401
        assert boris.get("/smears").status_code == 200
        with service.client() as again:
            assert again.post("/session", json={"name": "anna", "password": change["old"]}).status_code == 401
            assert again.post("/session", json={"name": "anna", "password": change["new"]}).status_code == 200
            assert again.post("/session", json={"name": change["new"], "password": "x"}).status_code == 401
        statuses = [here.put(where, json=change).status_code for _ in range(12)]
        assert (statuses[0], statuses[-1]) in {(403, 429), (429, 429)}
        database = open_database(ServiceSettings(data=service.data).database_url)
        with database.read() as session:
            rows, who = audit_log.lines(session), accounts.named_user(session, "anna").id
        database.close()
        assert [(one.user_id, one.subject) for one in rows if one.action == "user.password"] == [(who, who)]
        unknown, known = [one for one in rows if one.action == "login.refused" and one.user_id is None][:2]
        assert (unknown.subject, known.subject) == ("", who)
        assert all(change["new"] not in str(vars(one)) for one in rows)


def test_where_nobody_has_a_password_there_is_none_to_change(tmp_path):
    with served(tmp_path) as service, service.client() as client:
        answer = client.put("/session/password", json={"old": "x", "new": "long enough"})
        assert (answer.status_code, "auth none" in answer.text) == (404, True)
        assert 'id="change"' not in httpx.get(f"{service.url}/account").text


def test_guessing_is_slowed_down(nobody):
    statuses = [nobody.post("/session", json={"name": "eve", "password": "x"}).status_code for _ in range(12)]
    assert statuses[-1] == 429


def from_address(service, address: str) -> httpx.Client:
    """A client at another address of this machine."""
    transport = httpx.HTTPTransport(local_address=address)
    return httpx.Client(base_url=service.url + "/api/v1", timeout=60, transport=transport)


def test_wrong_passwords_lock_nobody_out_at_another_address(service):
    with from_address(service, "127.0.0.2") as eve, from_address(service, "127.0.0.3") as boris:
        tries = [eve.post("/session", json={"name": "boris", "password": "x" * 9}).status_code for _ in range(11)]
        assert (tries[0], tries[-1]) == (401, 429)
        assert eve.post("/session", json={"name": "anna", "password": PASSWORDS["anna"]}).status_code == 200
        right = boris.post("/session", json={"name": "boris", "password": PASSWORDS["boris"]})
        assert right.status_code == 200


def test_a_network_of_ipv6_is_one_client(tmp_path):
    """One machine has all of its addresses; behind a proxy, the service hears of any."""
    with served(tmp_path, "--trusted-proxy", "127.0.0.1", users=PASSWORDS) as service, service.client() as proxy:

        def asked(address: str) -> int:
            wrong = {"name": "anna", "password": "x" * 9}
            return proxy.post("/session", json=wrong, headers={"x-forwarded-for": address}).status_code

        found = [asked(f"2001:db8::{n}") for n in range(11)]
        assert (found[0], found[-1]) == (401, 429)
        assert asked("2001:db8:0:1::1") == 401


def test_figures_are_for_this_machine_also_behind_a_proxy_on_it(tmp_path):
    with served(tmp_path, "--trusted-proxy", "127.0.0.1", users=PASSWORDS) as service:
        where = f"{service.url}/metrics"
        assert httpx.get(where).status_code == 200
        assert httpx.get(where, headers={"x-forwarded-for": "203.0.113.7"}).status_code == 401


def test_wrong_tokens_are_limited_before_the_database_is_asked(service, anna):
    token = anna.post("/tokens", json={"name": "t"}).json()["token"]
    with from_address(service, "127.0.0.4") as eve, from_address(service, "127.0.0.5") as other:

        def asked(client: httpx.Client, secret: str, path: str = "/session") -> int:
            return client.get(path, headers={"authorization": f"Bearer {secret}"}).status_code

        assert asked(eve, token) == 200
        found = []
        while 429 not in found and len(found) < 3000:  # some may ask again each second
            found.append(asked(eve, f"wrong {len(found)}", "/smears" if len(found) % 2 else "/session"))
        assert found[:300] == [401] * 300
        assert found[-1] == 429
        assert asked(eve, token) == 200  # it was right before
        assert asked(other, "wrong") == 401
        eve.headers["cookie"] = "blastdet_session=wrong"
        assert 429 in [eve.get("/smears").status_code for _ in range(60)]


def test_a_token_makes_none_that_outlives_it(service, anna):
    made = anna.post("/tokens", json={"name": "short", "days": 1}).json()
    with service.client(headers={"authorization": f"Bearer {made['token']}"}) as program:
        for days in (None, 90):
            longer = program.post("/tokens", json={"name": "longer", "days": days}).raise_for_status().json()
            assert longer["expires"] == made["expires"]
        shorter = program.post("/tokens", json={"name": "shorter", "days": 0.5}).json()
        assert shorter["expires"] < made["expires"]
    assert anna.post("/tokens", json={"name": "for ever", "days": None}).json()["expires"] is None


def test_what_a_stolen_token_made_ends_with_it(service, anna):
    stolen = anna.post("/tokens", json={"name": "stolen"}).json()
    assert stolen["made_with"] is None
    with service.client(headers={"authorization": f"Bearer {stolen['token']}"}) as thief:
        kept = thief.post("/tokens", json={"name": "kept"}).raise_for_status().json()
        thief.headers["authorization"] = f"Bearer {kept['token']}"
        assert kept["made_with"] == stolen["id"]
        assert thief.get("/smears").status_code == 200
        assert anna.delete(f"/tokens/{stolen['id']}").status_code == 204
        assert thief.get("/smears").status_code == 401
    assert kept["id"] not in [one["id"] for one in anna.get("/tokens").json()]
    database = open_database(f"sqlite:///{service.data / 'blastdet.db'}")
    with database.read() as session:
        lines = [one.subject for one in audit_log.lines(session, limit=9) if one.action == "token.revoke"]
    database.close()
    assert {stolen["id"], kept["id"]} <= set(lines)


def test_a_new_password_says_which_tokens_stay(tmp_path):
    data = ["--data", str(tmp_path / "data")]

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "blastdet", "serve", *words, *data]
        return subprocess.run(command, input="correct horse\n", text=True, check=True, capture_output=True).stdout

    run("users", "add", "anna")
    run("tokens", "add", "anna")
    assert "1 token of anna stay valid. --revoke-tokens ends them" in run("users", "password", "anna")
    assert "1 token revoked" in run("users", "password", "anna", "--revoke-tokens")
    assert run("users", "password", "anna") == "anna: password changed\n"
    assert run("tokens", "list", "anna") == "no tokens\n"


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.0.0.5", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.5", "198.51.100.1, 203.0.113.7, 10.0.0.9", "203.0.113.7"),  # the first is what a client claims
        ("10.0.0.5", "", "10.0.0.5"),
        ("10.0.0.5", "203.0.113.7, nonsense", "10.0.0.5"),
        ("10.0.0.5", "10.0.0.8", "10.0.0.8"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("::ffff:10.0.0.5", "::ffff:203.0.113.7", "203.0.113.7"),  # as a socket for all addresses names them
    ],
)
def test_behind_a_trusted_proxy_the_address_is_that_of_the_client(peer, forwarded, address):
    gate = Gate(ServiceSettings(data="x", trusted_proxies=("10.0.0.0/24",)), None)
    scope = {"type": "http", "client": (peer, 1), "headers": [(b"x-forwarded-for", forwarded.encode())]}
    assert gate.address_of(Request(scope)) == address


def test_headers_forbid_inline_scripts_frames_and_guessing(nobody):
    headers = nobody.get("/session").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_a_body_that_is_larger_than_any_form_is_refused(nobody):
    large = b'{"name": "anna", "password": "' + b"x" * 2**21 + b'"}'
    json = {"content-type": "application/json"}
    assert nobody.post("/session", content=large, headers=json).status_code == 413
    pieces = (large[at : at + 2**16] for at in range(0, len(large), 2**16))
    assert nobody.post("/session", content=pieces, headers=json).status_code in (400, 413)


def start(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "blastdet", "serve", "--port", "0", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=REPO, check=False)


def test_a_running_service_asks_for_a_log_in_once_there_is_a_user(tmp_path):
    with served(tmp_path) as service, service.client() as client:
        assert client.get("/session").json()["auth"] == "none"
        client.post("/tokens", json={"name": "mine"}).raise_for_status()  # must not lock out who made it
        time.sleep(1.5)
        assert client.get("/smears").status_code == 200
        add_user(ServiceSettings(data=service.data), "anna", "correct horse")
        end = time.monotonic() + 30
        while client.get("/smears").status_code != 401:
            assert time.monotonic() < end
            time.sleep(0.2)
        answer = client.post("/session", json={"name": "anna", "password": "correct horse"})
        assert (answer.status_code, answer.json()["auth"]) == (200, "users")
        assert client.get("/smears").status_code == 200


def test_off_the_loopback_it_does_not_start_without_users(tmp_path):
    for options in (["--host", "0.0.0.0"], ["--allowed-host", "films.example.org"], ["--host", "::", "--auth", "none"]):
        run = start("--data", str(tmp_path / "data"), *options)
        assert run.returncode == 2
        assert "expected users where others can reach the service" in run.stderr
        assert len(run.stderr.strip().splitlines()) == 1


def test_a_proxy_is_believed_only_from_its_network(tmp_path):
    proxy = ["--auth", "proxy", "--auth-header", "X-Remote-User", "--allowed-host", "films.example.org"]
    proxy += ["--requests-per-minute", "20"]
    with served(tmp_path, *proxy, "--trusted-proxy", "127.0.0.0/8") as running, running.client() as client:
        named = client.get("/session", headers={"x-remote-user": "chen", "host": "films.example.org"})
        assert named.json()["user"] == "chen"
        assert client.get("/smears").status_code == 401
        assert client.get("/session", headers={"host": "evil.example"}).status_code == 400
        twice = client.get("/session", headers=[("x-remote-user", "mallory"), ("x-remote-user", "chen")])
        assert (twice.status_code, "expected one user of the proxy" in twice.text) == (400, True)
        answers = [client.get("/models", headers={"x-remote-user": "chen"}) for _ in range(40)]
        assert answers[0].status_code == 200
        assert {answer.status_code for answer in answers} == {200, 429}
        assert int(next(one for one in answers if one.status_code == 429).headers["retry-after"]) > 0
