"""The same service on a real PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
from postgres_server import postgres, postgres_folder
from serving import SMALL, SMEAR, analyzed, done, served, upload

from blastdet.core.errors import BlastdetError
from blastdet.service.settings import ServiceSettings
from blastdet.service.store.database import open_database

pytestmark = pytest.mark.postgresql


@pytest.fixture(scope="module")
def url():
    assert postgres_folder() is not None, "PostgreSQL is missing, although this is CI"
    with postgres() as one:
        yield one


@pytest.fixture(scope="module")
def service(url, tmp_path_factory):
    options = ("--database", url, "--workers", "2")
    with served(tmp_path_factory.mktemp("service"), *options, users={"anna": "correct horse"}) as running:
        yield running


@pytest.fixture(scope="module")
def client(service):
    with service.client() as one:
        answer = one.post("/session", json={"name": "anna", "password": "correct horse"}).raise_for_status()
        one.headers["x-csrf-token"] = answer.json()["csrf"]
        yield one


@pytest.fixture(scope="module")
def smear(client):
    return upload(client, SMALL)


def test_nothing_is_kept_in_sqlite(service):
    assert not list(service.data.glob("blastdet.db*"))


def test_the_whole_life_of_a_smear(client, service):
    smear = upload(client, name="life.jpg")
    result = analyzed(client, smear)
    line = {"op": "class", "box_xyxy": [5, 5, 60, 60], "new_class": "wbc", "reason": "½ 𝄞"}
    there = f"/analyses/{result['id']}"
    nul = client.post(f"{there}/corrections", json={"corrections": [{**line, "reason": "a\0b"}]})
    assert nul.status_code == 422, nul.text  # PostgreSQL has none in its texts
    answer = client.post(f"{there}/corrections", json={"corrections": [line]}, headers={"If-Match": '"0"'})
    assert answer.status_code == 201, answer.text
    assert client.get(there).json()["summary"]["counts"]["wbc"] == result["summary"]["counts"]["wbc"] + 1
    assert client.get("/corrections").json()["reason"] == "½ 𝄞"
    signed = {"status": "signed", "analysis": result["id"], "version": 1}
    assert client.patch(f"/smears/{smear['id']}", json=signed).json()["reviewed_by"] == "anna"
    assert [one["id"] for one in client.get("/smears", params={"status": "signed", "name": "LIFE"}).json()["items"]]
    assert client.delete(f"/smears/{smear['id']}").status_code == 409
    client.patch(f"/smears/{smear['id']}", json={"status": "new"}).raise_for_status()
    assert client.delete(f"/smears/{smear['id']}").status_code == 204
    assert client.get(there).status_code == 404
    assert client.get("/corrections").text == ""
    assert not (service.data / "smears" / smear["id"][:2] / smear["id"]).exists()


def test_equal_requests_at_once_are_one_job_and_one_result(client, smear):
    def ask(_: int) -> str:
        answer = client.post(f"/smears/{smear['id']}/analyses", json={"mpp": 0.1})
        return answer.raise_for_status().json()["id"]

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(ask, range(16)))
    assert len(ids) == 1
    assert done(client, client.get(f"/jobs/{ids.pop()}").json())["state"] == "done"
    assert len(client.get(f"/smears/{smear['id']}/analyses").json()["items"]) == 1


@pytest.mark.parametrize("name", ["İzmir_100%", "ÄRGER", "ẞ\\ς"])
def test_a_smear_is_found_by_its_own_name(client, smear, name):
    renamed = client.patch(f"/smears/{smear['id']}", json={"name": name}).raise_for_status().json()
    found = client.get("/smears", params={"name": renamed["name"]}).json()["items"]
    assert [one["id"] for one in found] == [smear["id"]]


def test_the_same_file_at_once_is_one_smear(client):
    with ThreadPoolExecutor(6) as pool:
        ids = set(pool.map(lambda _: upload(client, name="at once.jpg")["id"], range(6)))
    assert len(ids) == 1


@pytest.mark.parametrize("text", ["\x00", "\ud800", "'; DROP TABLE users; --", "%", "\\", "é" * 100])
def test_hostile_text_is_no_error_of_the_server(client, text):
    raw = text.encode("utf-8", "surrogatepass")
    assert client.post("/session", json={"name": "anna", "password": "x"}).status_code in (401, 429)
    for answer in (
        client.get("/smears", params={"name": raw}),
        client.post("/smears", params={"name": raw}, content=SMALL.read_bytes()),
        client.put(f"/smears/{'0' * 32}/shares/x", json={"may": "read"}),
    ):
        assert answer.status_code < 500, answer.text


def _while_another_is_at_it(url: str, statements: list[str], ask: Callable[[], httpx.Response]) -> httpx.Response:
    """The answer to a request that has to wait for a transaction of these statements, and comes to see them."""
    with psycopg.connect(url) as other, psycopg.connect(url, autocommit=True) as watcher, ThreadPoolExecutor(1) as pool:
        for one in statements:
            other.execute(one)
        answer = pool.submit(ask)
        end = time.monotonic() + 60
        waits = f"SELECT 1 FROM pg_stat_activity WHERE {other.info.backend_pid} = ANY(pg_blocking_pids(pid))"
        while watcher.execute(waits).fetchone() is None:
            assert not answer.done() and time.monotonic() < end, "it waited for nobody"
            time.sleep(0.02)
        other.commit()
        return answer.result()


def test_a_smear_that_is_deleted_at_the_same_moment_is_not_there(url, client):
    smears = [upload(client, name="deleted.jpg", path=one) for one in (SMEAR, SMALL)]
    for smear in smears:
        here = f"/smears/{smear['id']}"
        gone = [
            f"DELETE FROM {table} WHERE {column} = '{smear['id']}'"
            for table, column in (("jobs", "smear_id"), ("analyses", "smear_id"), ("smears", "id"))
        ]
        answer = _while_another_is_at_it(url, gone, lambda here=here: client.patch(here, json={"status": "signed"}))
        assert (answer.status_code, answer.json()["error"]) == (404, "smear: not found")


def test_corrections_at_the_same_moment_wait_for_each_other(url, client):
    result = analyzed(client, upload(client, name="two.jpg"))
    there = f"/analyses/{result['id']}"
    line = {"op": "class", "box_xyxy": [5, 5, 60, 60], "new_class": "wbc"}
    first = [
        f"SELECT 1 FROM smears WHERE id = '{result['smear']}' FOR UPDATE",
        f"UPDATE analyses SET version = version + 1 WHERE id = '{result['id']}'",
    ]

    def ask(**headers: str) -> Callable[[], httpx.Response]:
        return lambda: client.post(f"{there}/corrections", json={"corrections": [line]}, headers=headers)

    answer = _while_another_is_at_it(url, first, ask())
    assert (answer.status_code, answer.json()["version"]) == (201, 2), answer.text
    late = _while_another_is_at_it(url, first, ask(**{"If-Match": '"2"'}))
    assert (late.status_code, late.headers["etag"]) == (412, '"3"'), late.text
    assert "expected version 3, got 2" in late.json()["error"]


def test_sharing_at_the_same_moment(url, service, client):
    smear = upload(client, name="shared.jpg")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO users (id, name, is_admin, created) VALUES ('b', 'boris', false, '2026')")
    here = f"/smears/{smear['id']}/shares/boris"
    client.put(here, json={"may": "read"}).raise_for_status()
    gone = [f"DELETE FROM shares WHERE smear_id = '{smear['id']}'"]
    assert _while_another_is_at_it(url, gone, lambda: client.put(here, json={"may": "write"})).status_code == 200
    assert client.get(f"/smears/{smear['id']}/shares").json() == [{"user": "boris", "may": "write"}]
    assert _while_another_is_at_it(url, gone, lambda: client.delete(here)).status_code == 204
    assert "Warning" not in service.log.read_text()


def test_a_database_that_is_not_in_utf8_is_refused(url):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    with pytest.raises(BlastdetError, match="expected the encoding UTF8, got SQL_ASCII"):
        open_database(ServiceSettings(database=url.replace("/postgres?", "/ascii?")).database_url)


def test_a_database_that_was_away_is_used_again(url, service, client):
    """PostgreSQL restarts: connections of all processes break."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        ).fetchall()
    smear = upload(client, name="after.jpg")
    analyzed(client, smear, min_score=0.5)


@pytest.mark.parametrize(("code", "status", "words"), [("53100", 507, "disk"), ("25006", 503, "does not answer")])
def test_a_database_that_takes_no_changes_is_no_error_of_the_service(url, client, code, status, words):
    """Its disk is full, or it is a standby: said by PostgreSQL itself."""
    raises = f"BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE OR REPLACE FUNCTION no() RETURNS trigger AS $${raises}$$ LANGUAGE plpgsql")
        connection.execute("CREATE TRIGGER no BEFORE INSERT ON audit EXECUTE FUNCTION no()")
        try:
            answer = client.post("/tokens", json={"name": "one"})
        finally:
            connection.execute("DROP TRIGGER no ON audit")
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert client.post("/tokens", json={"name": "one"}).status_code == 201
