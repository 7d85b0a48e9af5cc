"""Hostile requests find nothing, and two users reach nothing of each other, on every route that the service has."""

from __future__ import annotations

import random
from typing import Any

import pytest
from service_hostile import OPTIONS, PARTS, Hostile
from serving import SMALL, analyzed, served, upload

REQUESTS = {"described": 90, "values": 150, "images": 40, "raw": 150}
_GROWTH_MB = 100


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    with served(tmp_path_factory.mktemp("hostile"), *OPTIONS) as service:
        one = Hostile(service, random.Random(0))
        yield one
        one.close()


@pytest.mark.parametrize("part", PARTS)
def test_no_request_brings_an_error_of_the_server_or_shows_its_inside(hostile, part):
    hostile.faults.clear()
    before = hostile.memory()
    PARTS[part](hostile, REQUESTS[part])
    assert hostile.faults == []
    assert hostile.left_over() == []
    assert hostile.memory() - before < _GROWTH_MB


def test_the_requests_came_past_the_first_look(hostile):
    assert hostile.statuses[200] > 0
    assert hostile.statuses[422] > 0


def test_a_small_file_that_claims_to_be_large_is_refused(hostile):
    """A bomb: 100,000 x 100,000 pixels in a few bytes."""
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\x86\xa0\0\1\x86\xa0\x08\2\0\0\0"
    for path in ("/smears", "/detect?mpp=0.1"):
        answer = hostile.client.post(path, content=head + bytes(500))
        assert answer.status_code == 422, answer.text
    assert hostile.client.get(f"{hostile.service.url}/readyz").status_code == 200


# Two users

PASSWORDS = {"anna": "correct horse", "boris": "battery staple"}

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("PATCH", "/api/v1/smears/{smear_id}"): {"json": {"name": "another.jpg"}},  # a signed one is not deleted
    ("PUT", "/api/v1/smears/{smear_id}/shares/{user}"): {"json": {"may": "write"}},
    ("POST", "/api/v1/smears/{smear_id}/analyses"): {"json": {"mpp": 0.2}},
    ("POST", "/api/v1/analyses/{analysis_id}/corrections"): {
        "json": {"corrections": [{"op": "class", "box_xyxy": [5, 5, 60, 60], "new_class": "wbc"}]}
    },
    ("PATCH", "/api/v1/uploads/{upload_id}"): {
        "content": b"x",
        "headers": {
            "upload-offset": "0",
            "tus-resumable": "1.0.0",
            "content-type": "application/offset+octet-stream",
        },
    },
}
"""What a right request of a route holds beside its address. A new route with a body needs a line here."""

PLACES = {"n": "1", "z": "0", "x": "0", "y": "0", "user": "boris"}
"""Parameters of paths that are no ids."""

GONE = "0" * 32


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    """Two clients that are logged in, and what the first one has, by the name of its parameter."""
    folder = tmp_path_factory.mktemp("two")
    with served(folder, "--requests-per-minute", "0", users=PASSWORDS) as service:
        clients = {}
        for name, password in PASSWORDS.items():
            clients[name] = service.client()
            answer = clients[name].post("/session", json={"name": name, "password": password}).raise_for_status()
            clients[name].headers["x-csrf-token"] = answer.json()["csrf"]
        anna = clients["anna"]
        smear = upload(anna, SMALL)
        analysis = analyzed(anna, smear)
        begun = {"Upload-Length": "9", "Tus-Resumable": "1.0.0"}
        ids = {
            "smear_id": smear["id"],
            "analysis_id": analysis["id"],
            "job_id": anna.get("/jobs").json()["items"][0]["id"],
            "upload_id": anna.post("/uploads", headers=begun).headers["location"].rpartition("/")[2],
            "token_id": anna.post("/tokens", json={"name": "a"}).json()["id"],
        }
        yield service, clients, ids
        for client in clients.values():
            client.close()


def operations_with_ids(client) -> list[tuple[str, str, list[str]]]:
    """Method, path and ids of every operation of the OpenAPI document that takes an id."""
    found = []
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, about in methods.items():
            names = [one["name"] for one in about.get("parameters", []) if one["in"] == "path"]
            ids = [name for name in names if name not in PLACES]
            if ids:
                found.append((method.upper(), path, ids))
                has_body = "requestBody" in about or any("header" in one["in"] for one in about.get("parameters", []))
                known = (method.upper(), path) in BODIES or method.upper() in ("GET", "HEAD", "DELETE")
                assert known or not has_body, f"{method.upper()} {path}: add a right request to BODIES"
    return found


def sent(client, service, operation, ids: dict[str, str]):
    method, path, _ = operation
    options = BODIES.get((method, path), {})
    headers = {"tus-resumable": "1.0.0", **options.get("headers", {})}
    body = {name: value for name, value in options.items() if name != "headers"}
    return client.request(method, service.url + path.format(**PLACES, **ids), headers=headers, **body)


def test_another_user_learns_and_changes_nothing_on_any_route(users):
    service, clients, ids = users
    operations = operations_with_ids(clients["anna"])
    assert {one for _, _, names in operations for one in names} == set(ids)
    assert len(operations) > 25
    for operation in operations:
        real = sent(clients["boris"], service, operation, ids)
        nothing = sent(clients["boris"], service, operation, dict.fromkeys(ids, GONE))
        assert real.status_code == 404, (operation, real.status_code, real.text)
        assert real.text == nothing.text, operation
    smear = clients["anna"].get(f"/smears/{ids['smear_id']}").json()
    assert smear["status"] == "new"
    assert clients["anna"].get(f"/analyses/{ids['analysis_id']}/corrections").json()["version"] == 0
    assert len(clients["anna"].get(f"/smears/{ids['smear_id']}/analyses").json()["items"]) == 1


def test_the_owner_reaches_all_of_it(users):
    """Else the test before proves nothing: what it sends is right. What deletes comes last, the smear at the end."""
    service, clients, ids = users
    anna = clients["anna"]
    operations = operations_with_ids(anna)
    operations.sort(key=lambda one: (one[0] == "DELETE", one[0] == "PATCH", -len(one[1])))
    for operation in operations:
        answer = sent(anna, service, operation, ids)
        assert answer.is_success, (operation, answer.status_code, answer.text[:300])
