"""The API of a real service on SQLite: every route, with the smallest images and the shipped weights."""

from __future__ import annotations

import base64
import io
import json
import re
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from serving import SMALL, SMEAR, Served, analyzed, done, served, upload
from sqlalchemy import delete, insert

from blastdet.datasets.corrections import Correction, read_corrections
from blastdet.service.api import correction_routes, report_routes
from blastdet.service.results import stored_result
from blastdet.service.results.stored_result import StoredResult, shown_result
from blastdet.service.security.callers import RefusedError
from blastdet.service.store.database import Database
from blastdet.service.store.job_rows import MOST_ACTIVE
from blastdet.service.store.schema import Job, Smear


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with served(tmp_path_factory.mktemp("service"), "--max-upload-mb", "4") as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Served):
    with service.client() as one:
        yield one


@pytest.fixture(scope="module")
def smear(client):
    return upload(client)


@pytest.fixture(scope="module")
def analysis(client, smear):
    return analyzed(client, smear)


def refused(answer, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"], answer.text


# Uploads


def test_a_smear_is_what_was_uploaded(client, smear):
    assert (smear["name"], smear["width"], smear["height"]) == ("smear.jpg", 1600, 1200)
    assert client.get(f"/smears/{smear['id']}/image").content == SMEAR.read_bytes()
    assert client.get(f"/smears/{smear['id']}").json()["sha256"] == smear["sha256"]


def test_a_part_of_an_image(client, smear):
    there, whole = f"/smears/{smear['id']}/image", SMEAR.read_bytes()
    for wanted, part in (
        ("bytes=2-5", whole[2:6]),
        (f"bytes={len(whole) - 2}-", whole[-2:]),
        ("bytes=-3", whole[-3:]),
        ("bytes=0-999999999", whole),
    ):
        answer = client.get(there, headers={"range": wanted})
        assert (answer.status_code, answer.content) == (206, part), wanted
    several = client.get(there, headers={"range": "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 12000, 2))})
    assert (several.status_code, several.content) == (200, whole)
    for wanted in ("bytes=5-1", "bytes=-0", "bytes=-", "bytes=abc", f"bytes={len(whole)}-", "lines=0-1", "x" * 5000):
        answer = client.get(there, headers={"range": wanted})
        refused(answer, 416, f"range: expected bytes=FIRST-LAST of {len(whole)} bytes, got '{wanted[:9]}")
        assert answer.headers["content-range"] == f"bytes */{len(whole)}"


def test_the_same_bytes_are_the_same_smear(client, smear):
    again = client.post("/smears", files={"file": ("other name.jpg", SMEAR.read_bytes())})
    assert (again.status_code, again.json()["id"]) == (200, smear["id"])


TEXT = b'--a\r\nContent-Disposition: form-data; name="note"\r\n\r\n' + bytes(2**17)
"""A form with more text than any has, which need not end."""


def test_a_form_and_a_body_are_the_same_upload(client):
    form = client.post("/smears", data={"note": "x"}, files={"file": ("../../m\u00f6no.jpg", SMALL.read_bytes())})
    assert (form.status_code, form.json()["name"]) == (201, "m\u00f6no.jpg")
    body = client.post("/smears", content=SMALL.read_bytes())
    assert (body.status_code, body.json()["id"]) == (200, form.json()["id"])
    assert client.delete(f"/smears/{form.json()['id']}").status_code == 204


@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (b"", {}, 422, "expected JPEG"),
        (b"no image", {}, 422, "expected JPEG"),
        (b"x" * (5 * 2**20), {}, 413, "at most 4 MB"),
        (SMALL.read_bytes()[:200], {}, 422, "damaged"),
        (b"--a\r\n", {"content-type": "multipart/form-data"}, 400, "boundary"),
        (b"rubbish", {"content-type": "multipart/form-data; boundary=a"}, 400, "form"),
        (b"--a--\r\n", {"content-type": "multipart/form-data; boundary=a"}, 422, "expected a file"),
        (TEXT, {"content-type": "multipart/form-data; boundary=a"}, 413, "at most 64 kB around its file"),
    ],
)
def test_a_wrong_upload_is_refused_with_one_line(client, content, headers, status, words):
    refused(client.post("/smears", content=content, headers=headers), status, words)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'{"mpp": -1}', "mpp: expected µm/px between 0.001 and 100, got -1"),
        (b'{"mpp": [1, 2, 3]}', "mpp: expected a number, two numbers or 'auto' as µm/px, got [1, 2, 3]"),
        (b'{"mpp": "x"}', "mpp: expected a number, two numbers X,Y, or 'auto' as µm/px, got 'x'"),
        (b'{"region": [1, 2]}', "region: expected at least 4 items, got [1, 2]"),
        (b'{"min_score": 2}', "min_score: expected at most 1, got 2"),
        (b'{"other": 2}', "other: expected a field that this request knows, got another"),
        (b"[]", "body: expected an object, got []"),
        (b"{", "body: expected JSON ("),
    ],
)
def test_a_wrong_value_is_one_line(client, smear, content, line):
    answer = client.post(
        f"/smears/{smear['id']}/analyses", content=content, headers={"content-type": "application/json"}
    )
    refused(answer, 422, line)


def test_json_that_is_not_called_so_is_told_how(client, smear):
    where = f"/smears/{smear['id']}/analyses"
    line = "body: expected JSON with the header Content-Type: application/json, got Content-Type: "
    refused(client.post(where, content=b'{"mpp": 0.1}'), 422, line + "none")
    form = {"content-type": "application/x-www-form-urlencoded"}  # as curl -d sends it
    refused(client.post(where, content=b'{"mpp": 0.1}', headers=form), 422, line + form["content-type"])


def test_an_image_without_a_name_is_called_image(client):
    refused(client.post("/detect?mpp=0.1", content=b"no image"), 422, "image: expected JPEG")


def test_nothing_of_refused_uploads_is_left(service, client):
    client.post("/smears", content=b"no image")
    assert not list((service.data / "temporary").iterdir())


def resumable(client, content: bytes, **headers: str):
    named = f"filename {base64.b64encode(b'big.jpg').decode()}"
    headers = {"Upload-Length": str(len(content)), "Upload-Metadata": named, "Tus-Resumable": "1.0.0", **headers}
    return client.post("/uploads", headers=headers)


def piece(client, where: str, content: bytes, offset: int):
    headers = {
        "Upload-Offset": str(offset),
        "Tus-Resumable": "1.0.0",
        "Content-Type": "application/offset+octet-stream",
    }
    return client.patch(where, content=content, headers=headers)


def test_an_upload_that_broke_off_goes_on(client):
    content = SMALL.read_bytes()
    where = resumable(client, content).headers["location"].removeprefix("/api/v1")
    assert piece(client, where, content[:1000], 0).headers["upload-offset"] == "1000"
    assert client.head(where).headers["upload-offset"] == "1000"
    refused(piece(client, where, content[1000:], 0), 409, "expected 1000")
    refused(piece(client, where, content + b"more", 1000), 413, "got more")
    at = int(client.head(where).headers["upload-offset"])
    last = piece(client, where, content[at:], at)
    smear = last.headers["upload-smear"]
    assert client.get(f"/smears/{smear}").json()["name"] == "big.jpg"
    assert client.get(f"/smears/{smear}/image").content == content
    assert client.get(where).json() == {
        "id": where.rpartition("/")[2],
        "offset": len(content),
        "length": len(content),
        "smear": smear,
    }
    assert client.delete(f"/smears/{smear}").status_code == 204


def test_resumable_uploads_are_checked(client):
    refused(client.post("/uploads", headers={"Upload-Length": "5"}), 412, "1.0.0")
    refused(resumable(client, b"abc", **{"Upload-Length": "x"}), 400, "upload-length")
    refused(resumable(client, b"abc", **{"Upload-Length": str(10**9)}), 413, "at most")
    refused(resumable(client, b"abc", **{"Upload-Metadata": "filename ***"}), 400, "base64")
    where = resumable(client, b"abc").headers["location"].removeprefix("/api/v1")
    refused(client.patch(where, content=b"abc", headers={"Tus-Resumable": "1.0.0"}), 415, "content-type")
    refused(piece(client, where, b"abc", 0), 422, "expected JPEG")
    refused(client.get(where), 404, "not found")
    other = resumable(client, b"abc").headers["location"].removeprefix("/api/v1")
    assert client.delete(other, headers={"Tus-Resumable": "1.0.0"}).status_code == 204
    assert client.head(other).status_code == 404
    assert client.options("/uploads").headers["tus-extension"] == "creation,termination"


def test_files_are_saved_under_the_name_that_people_gave(client):
    named = upload(client, SMALL, "Müller 3.jpg")
    said = client.get(f"/smears/{named['id']}/image").headers["content-disposition"]
    assert said == "attachment; filename=\"Muller 3.jpg\"; filename*=UTF-8''M%C3%BCller%203.jpg"
    assert client.delete(f"/smears/{named['id']}").status_code == 204


# The worklist


def test_the_worklist_filters_and_pages(client, smear):
    other = upload(client, SMALL, "Zebra 50%.jpg")
    first = client.get("/smears", params={"limit": 1}).json()
    assert [one["id"] for one in first["items"]] == [other["id"]]
    second = client.get("/smears", params={"limit": 1, "after": first["next"]}).json()
    assert ([one["id"] for one in second["items"]], second["next"]) == ([smear["id"]], None)
    names = [one["name"] for one in client.get("/smears", params={"name": "50%"}).json()["items"]]
    assert names == ["Zebra 50%.jpg"]
    changed = client.patch(f"/smears/{other['id']}", json={"status": "signed", "name": "a/b.jpg"}).json()
    assert (changed["status"], changed["reviewed_by"], changed["name"]) == ("signed", "local", "a-b.jpg")
    found = client.get("/smears", params={"status": "signed"}).json()["items"]
    assert [one["id"] for one in found] == [other["id"]]
    refused(client.delete(f"/smears/{other['id']}"), 409, "smear: it is signed. Reopen it to delete it")
    assert client.get(f"/smears/{other['id']}/image").status_code == 200
    client.patch(f"/smears/{other['id']}", json={"status": "new"}).raise_for_status()
    client.patch(f"/smears/{other['id']}", json={"status": "reviewed"}).raise_for_status()
    actions = [one["action"] for one in client.get("/audit").json() if one["subject"] == other["id"]]
    assert actions[:3] == ["smear.reviewed", "smear.reopen", "smear.signed"]
    assert client.delete(f"/smears/{other['id']}").status_code == 204


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "status=old", "after=1", "name=%00", "limit=99999999999999999999999"]
)
def test_wrong_filters_are_named(client, query):
    refused(client.get(f"/smears?{query}"), 422, query.partition("=")[0])


# Analyses


def test_the_result_is_that_of_the_library(client, analysis):
    import blastdet

    expected = blastdet.load("default", device="cpu")(SMEAR, mpp=0.1).to_dict()
    found = client.get(f"/analyses/{analysis['id']}/result.json").json()
    assert found["cells"] == expected["cells"]
    assert analysis["summary"]["counts"] == expected["counts"] == found["counts"]
    assert analysis["summary"]["differential"] == expected["differential"]


def test_an_equal_request_gives_the_same_result_at_once(client, smear, analysis):
    again = client.post(f"/smears/{smear['id']}/analyses", json={"mpp": [0.1, 0.1], "weights": "default"})
    assert (again.status_code, again.json()["analysis"]) == (200, analysis["id"])
    listed = client.get(f"/smears/{smear['id']}/analyses").json()["items"]
    assert [one["id"] for one in listed] == [analysis["id"]]


def test_a_region_has_its_cells_in_pixels_of_the_smear(client, smear, analysis):
    part = analyzed(client, smear, region=[400, 300, 1000, 800])
    cells = client.get(f"/analyses/{part['id']}/result.json").json()
    assert all(300 <= cell["box_xyxy"][1] < 800 and 400 <= cell["box_xyxy"][0] < 1000 for cell in cells["cells"])
    assert cells["area_mm2"] == pytest.approx(600 * 500 * 0.01 / 1e6)
    assert 0 < cells["counts"]["rbc"] < analysis["summary"]["counts"]["rbc"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"weights": "../../etc"}, "weights: expected one of default"),
        ({"mpp": -1}, "mpp"),
        ({"mpp": "fast"}, "mpp"),
        ({"mpp": 1e9}, "mpp"),
        ({"min_score": 2}, "min_score"),
        ({"region": [0, 0, 10**6, 10]}, "region: expected"),
        ({"region": [1, 2, 3]}, "region"),
        ({"speed": 1}, "speed"),
    ],
)
def test_wrong_options_are_named(client, smear, body, words):
    refused(client.post(f"/smears/{smear['id']}/analyses", json=body), 422, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "body: expected JSON (Expecting property name"),
        (b"[" * 9999, "body: expected JSON with few levels, got one too deeply nested"),
        (b'{"mpp": ' + b"9" * 5000 + b"}", "body: expected JSON with short numbers, got one of thousands of digits"),
        (b'{"weights": "\xff"}', "body: expected JSON in UTF-8, got other bytes"),
    ],
)
def test_what_is_no_json_is_refused(client, smear, content, words):
    headers = {"content-type": "application/json"}
    answer = client.post(f"/smears/{smear['id']}/analyses", content=content, headers=headers)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"].startswith(words)


def test_a_job_that_cannot_be_done_fails_with_the_line_of_the_library(client):
    plain = upload(client, SMALL)
    job = client.post(f"/smears/{plain['id']}/analyses", json={"mpp": 50}).json()
    job = done(client, job)
    assert (job["state"], job["attempts"]) == ("failed", 1)
    assert job["error"].startswith("monocyte.jpg: expected at most 0.8 µm/px")
    client.delete(f"/smears/{plain['id']}")


def test_a_job_is_answered_when_it_is_over_or_when_the_time_has_passed(client, smear):
    asked = [
        client.post(f"/smears/{smear['id']}/analyses", json={"mpp": 0.1, "min_score": n / 100}) for n in range(71, 75)
    ]
    first, *_, last = (f"/jobs/{one.json()['id']}" for one in asked)
    assert client.get(last, params={"wait": 0.01}).json()["state"] == "queued"
    states = []
    while not states or states[-1] not in ("done", "failed"):
        states.append(client.get(last, params={"wait": 4}).json()["state"])
    assert states[-1] == "done" and len(states) < 20  # 0.3 s each: a wait that ends at once asks far more often
    assert client.get(first, params={"wait": 4}).json()["state"] == "done"
    for wait in ("4.1", "-1", "nan", "x"):
        assert client.get(first, params={"wait": wait}).status_code == 422


def test_events_end_with_the_state_of_the_job(client, smear):
    job = client.post(f"/smears/{smear['id']}/analyses", json={"mpp": 0.1, "min_score": 0.7}).json()
    with client.stream("GET", f"/jobs/{job['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in stream.iter_lines() if line and not line.startswith(":")]
    assert lines[-2] == "event: done"
    assert json.loads(lines[-1].removeprefix("data: "))["analysis"]
    assert set(lines[:-2:2]) <= {"event: progress"}


# What is made of a result


def test_every_format_can_be_fetched(client, analysis):
    base = f"/analyses/{analysis['id']}"
    assert client.get(f"{base}/result.csv").text.count("\n") == sum(analysis["summary"]["counts"].values()) + 1
    coco = client.get(f"{base}/result.coco.json").json()
    assert len(coco["annotations"]) >= sum(analysis["summary"]["counts"].values())
    assert client.get(f"{base}/result.geojson").json()["type"] == "FeatureCollection"
    pdf = client.get(f"{base}/report.pdf")
    assert pdf.content[:5] == b"%PDF-" and pdf.headers["content-type"] == "application/pdf"
    for picture in ("overlay.jpg", "sheet.jpg", "cells/1.jpg"):
        answer = client.get(f"{base}/{picture}")
        assert (answer.status_code, answer.content[:3]) == (200, b"\xff\xd8\xff"), picture
    for name in ("result.csv", "report.pdf", "report.fhir.json", "overlay.jpg"):
        how = "inline" if name == "overlay.jpg" else "attachment"
        said = client.get(f"{base}/{name}").headers["content-disposition"]
        saved = f"{Path(analysis['summary']['file']).stem}.{name}"
        assert said == f"{how}; filename=\"{saved}\"; filename*=UTF-8''{saved}"
    refused(client.get(f"{base}/cells/0.jpg"), 404, "cell: expected 1 to")
    assert set(analysis["links"].values()) >= {f"/api/v1{base}/result.csv"}


def test_pictures_of_a_result_are_checked_again_and_kept_once(service, client):
    smear = client.post("/smears", params={"name": "one.jpg"}, content=SMALL.read_bytes() + b"\0").json()
    where = f"/analyses/{analyzed(client, smear)['id']}/overlay.jpg"
    first = client.get(where)
    assert first.headers["cache-control"] == "private, no-cache"
    again = client.get(where, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    client.patch(f"/smears/{smear['id']}", json={"name": "two.jpg"}).raise_for_status()
    after = client.get(where, headers={"if-none-match": first.headers["etag"]})
    assert after.status_code == 200
    assert after.content != first.content
    assert len(list(service.data.glob(f"**/{smear['id']}/analyses/*/v*-overlay.jpg"))) == 1
    sheet = client.get(where.replace("overlay", "sheet"))  # without name and corrections: the same for all versions
    client.patch(f"/smears/{smear['id']}", json={"name": "three.jpg"}).raise_for_status()
    again = client.get(where.replace("overlay", "sheet"), headers={"if-none-match": sheet.headers["etag"]})
    assert (sheet.headers["cache-control"], again.status_code) == ("private, no-cache", 304)
    client.delete(f"/smears/{smear['id']}").raise_for_status()


def test_an_unknown_scale_is_said_without_a_command_line(client):
    content = io.BytesIO()
    Image.new("RGB", (300, 200), (200, 180, 190)).save(content, "PNG")
    smear = client.post("/smears", params={"name": "blank.png"}, content=content.getvalue()).json()
    job = done(client, client.post(f"/smears/{smear['id']}/analyses", json={}).json())
    assert job["error"].startswith("blank.png: could not determine the scale: ")
    assert job["error"].endswith("Give the scale: mpp, in µm/px")


def test_fhir_is_valid_and_claims_no_diagnosis(client, analysis):
    from fhir.resources.R4B.bundle import Bundle

    document = client.get(f"/analyses/{analysis['id']}/report.fhir.json").json()
    bundle = Bundle.model_validate(document)
    report = bundle.entry[0].resource
    assert report.status == "preliminary"
    assert "For Research Use Only" in report.conclusion
    assert "not a diagnosis" in report.conclusion
    rows = {one.resource.id.rpartition("white-cells-")[2]: one.resource for one in bundle.entry[1:]}
    n_blasts, n_white = (component.valueInteger for component in rows["blast"].component)
    assert n_blasts == analysis["summary"]["counts"]["blast"]
    assert n_white == analysis["summary"]["white_cells"]["n"] < 50
    assert rows["blast"].valueQuantity is None and rows["blast"].dataAbsentReason is not None  # as on pages
    assert len(report.result) == len(bundle.entry) - 1


def test_the_view_is_what_the_viewer_reads(client, smear, analysis):
    view = client.get(f"/analyses/{analysis['id']}/view").json()
    (image,) = view["images"]
    assert len(image["kind"]) == sum(analysis["summary"]["counts"].values())
    assert client.get(image["file"].removeprefix("/api/v1")).content[:3] == b"\xff\xd8\xff"
    assert client.get(image["sheet"].removeprefix("/api/v1")).content[:3] == b"\xff\xd8\xff"
    assert (view["version"], view["differential"]["n"]) == (0, analysis["summary"]["white_cells"]["n"])


def test_tiles_cover_the_smear(client, smear):
    grid = client.get(f"/smears/{smear['id']}/tiles").json()
    assert grid["levels"][-1] == {"zoom": 2, "columns": 4, "rows": 3}
    for place in ("0/0/0", "2/3/2"):
        answer = client.get(f"/smears/{smear['id']}/tiles/{place}")
        assert (answer.headers["content-type"], answer.content[:3]) == ("image/jpeg", b"\xff\xd8\xff")
    refused(client.get(f"/smears/{smear['id']}/tiles/2/4/0"), 404, "tile")
    refused(client.get(f"/smears/{smear['id']}/tiles/{10**9}/0/0"), 404, "tile")
    refused(client.get(f"/smears/{smear['id']}/tiles/x/0/0"), 422, "z")


def test_pages_find_the_job_of_a_smear_among_hundreds(client, service):
    """A folder of smears is dropped after it: its own job failed, or runs, before all of theirs."""
    smear, other = (upload(client, path) for path in (SMALL, SMALL.with_name("neutrophil.jpg")))
    database = Database(f"sqlite:///{service.data / 'blastdet.db'}")
    with database.begin() as session:
        owner = session.get(Smear, smear["id"]).owner_id
        row = {"smear_id": smear["id"], "owner_id": owner, "weights": "default", "request": {}, "key": "k"}
        later = {**row, "smear_id": other["id"], "created": "2999-01-01T00:00:00.000000Z"}
        for state, job in (("failed", "e" * 32), ("running", "f" * 32)):
            about = {"state": state, "worker": "nobody", "error": "memory ran out"}
            session.execute(insert(Job), [later | about] * 300)
            session.execute(insert(Job), [row | about | {"id": job}])
    worklist, page = (client.get(f"{service.url}/{path}").text for path in ("", f"smears/{smear['id']}"))
    found = client.get("/jobs", params={"smear": smear["id"], "state": "failed"}).json()["items"]
    with database.begin() as session:
        session.execute(delete(Job).where(Job.worker == "nobody"))
    database.close()
    assert "f" * 32 in worklist and "f" * 32 in page
    assert [one["id"] for one in found] == ["e" * 32]
    refused(client.get("/jobs", params={"smear": "x"}), 422, "smear: expected text that fits")
    for one in (smear, other):
        client.delete(f"/smears/{one['id']}").raise_for_status()


# /detect


def test_detect_answers_as_the_library(client):
    import blastdet

    expected = blastdet.load("default", device="cpu")(SMALL, mpp=0.1).to_dict()
    found = client.post("/detect", params={"mpp": "0.1"}, content=SMALL.read_bytes()).json()
    assert (found["cells"], found["counts"]) == (expected["cells"], expected["counts"])
    form = client.post("/detect", params={"mpp": "0.1,0.1"}, files={"file": ("m.jpg", SMALL.read_bytes())}).json()
    assert (form["cells"], form["file"]) == (expected["cells"], "m.jpg")


@pytest.mark.parametrize(
    ("query", "content", "status", "words"),
    [
        ("mpp=x", SMALL.read_bytes(), 422, "mpp"),
        ("mpp=90", SMALL.read_bytes(), 422, "0.8"),
        ("weights=none", SMALL.read_bytes(), 422, "weights"),
        ("min_score=nan", SMALL.read_bytes(), 422, "min_score"),
        ("", b"", 422, "expected JPEG"),
    ],
)
def test_detect_refuses_with_one_line(client, query, content, status, words):
    refused(client.post(f"/detect?{query}", content=content), status, words)


# Corrections

NDJSON = {"content-type": "application/x-ndjson"}


def relabelled(client, analysis, name: str = "blast") -> dict:
    cells = client.get(f"/analyses/{analysis['id']}/result.json", params={"corrected": False}).json()["cells"]
    cell = next(one for one in cells if one["label"] == "wbc")
    return {"op": "class", "box_xyxy": cell["box_xyxy"], "old_class": "wbc", "new_class": name}


def test_the_example_of_the_docs_is_accepted(client):
    smear = client.post("/smears", params={"name": "docs.jpg"}, content=SMEAR.read_bytes() + b" ").json()
    analysis = analyzed(client, smear)
    text = (Path(__file__).parents[2] / "docs/service.md").read_text("utf-8")
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith('{"op"'))
    where = f"/analyses/{analysis['id']}/corrections"
    answer = client.post(where, content=lines, headers={**NDJSON, "If-Match": '"0"'})
    assert (answer.status_code, answer.json()["count"]) == (201, 2), answer.text
    client.delete(f"/smears/{smear['id']}").raise_for_status()
    token = client.post("/tokens", json=json.loads(re.findall(r'`(\{"name": "export".*?\})`', text)[0]))
    assert (token.status_code, token.json()["scope"], bool(token.json()["token"])) == (201, "read", True)


def test_corrections_change_counts_and_keep_who_and_when(client, smear, analysis, tmp_path):
    base = f"/analyses/{analysis['id']}"
    before = analysis["summary"]["counts"]
    line = {**relabelled(client, analysis), "who": "somebody else", "new_type": "blast", "reason": '{"a \\ "}]}'}
    answer = client.post(f"{base}/corrections", json={"corrections": [line]}, headers={"If-Match": '"0"'})
    assert (answer.status_code, answer.json()["version"]) == (201, 1)
    after = client.get(base)
    assert (after.headers["etag"], after.json()["corrected"]) == ('"1"', True)
    assert after.json()["summary"]["counts"]["blast"] == before["blast"] + 1
    assert client.get(base, params={"corrected": False}).json()["summary"]["counts"] == before
    again = client.post(f"{base}/corrections", json={"corrections": [line]}, headers={"If-Match": '"0"'})
    assert (again.status_code, again.json()) == (201, answer.json())  # the answer may have been lost
    for other in ([line, line], [{**line, "reason": "other"}]):
        request = client.post(f"{base}/corrections", json={"corrections": other}, headers={"If-Match": '"0"'})
        refused(request, 412, "first")
    (row,) = client.get(f"{base}/corrections").json()["corrections"]
    assert (row["who"], row["image"], row["image_sha256"]) == ("local", "smear.jpg", smear["sha256"])
    assert row["reason"] == line["reason"]
    lines = json.dumps({**line, "op": "undo", "new_type": ""}) + "\n"
    undone = client.post(f"{base}/corrections", content=lines, headers=NDJSON)
    assert undone.status_code == 201, undone.text
    made = undone.json()
    assert (made["version"], made["count"]) == (2, 2)
    assert [(one["op"], one["who"]) for one in made["corrections"]] == [("undo", "local")]  # not the whole history
    assert client.get(base).json()["summary"]["counts"] == before
    page = client.get(f"{base}/corrections", params={"limit": 1}).json()
    rest = client.get(f"{base}/corrections", params={"limit": 1, "after": page["next"]}).json()
    assert [one["op"] for one in page["corrections"] + rest["corrections"]] == ["class", "undo"]
    assert rest["next"] is None
    every = tmp_path / "corrections.jsonl"
    every.write_bytes(client.get("/corrections").content)
    assert [one.op for one in read_corrections(every)] == ["class", "undo"]
    assert client.get("/corrections", params={"since": "2999"}).text == ""


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"op": "explode"}, 422, "op: expected one of"),
        ({"box_xyxy": [0, 0, 10**6, 10**6]}, 422, "on the image of 1600 x 1200"),
        ({"box_xyxy": [5, 5, 1, 1]}, 422, "box_xyxy"),
        ({"image_sha256": "0" * 64}, 422, "image_sha256"),
        ({"surprise": 1}, 422, "unknown key"),
        ({"reason": "\ud800"}, 422, "reason"),
        ({"reason": "a\0b"}, 422, "corrections: line 1: reason: expected text, got 'a\\x00b'"),
        ({"mpp": [[[1]]]}, 422, "corrections: line 1: mpp: expected a number, two numbers X,Y, or 'auto' as µm/px"),
        ({"model_sha256": "zz"}, 422, "corrections: line 1: model_sha256: expected 64 hexadecimal digits, got 'zz'"),
        ({f"k{i}": 1 for i in range(99)}, 422, "corrections: line 1: unknown key 'k0'"),
        ({"reason": [[]] * 9999}, 422, "corrections: line 1: reason: expected text, got"),
        (
            {"reason": {"a": 1}},
            422,
            "corrections: line 1: expected an object of at most 64 kB without others in it, got",
        ),
        ({"reason": "x" * 2**16}, 422, "corrections: line 1: expected an object of at most 64 kB without others in it"),
        ({"reason": "x" * 2001}, 422, "corrections: line 1: reason: expected at most 2000 letters, got 2001"),
    ],
)
def test_a_wrong_correction_is_refused_and_not_stored(client, analysis, change, status, words):
    base = f"/analyses/{analysis['id']}/corrections"
    before = client.get(base).json()
    content = json.dumps({"corrections": [{**relabelled(client, analysis), **change}]}).encode()
    refused(client.post(base, content=content), status, words)
    assert client.get(base).json() == before


def test_corrections_that_are_no_corrections(client, analysis):
    base = f"/analyses/{analysis['id']}/corrections"
    form = 'corrections: expected {"corrections": [...]}, or JSON Lines as application/x-ndjson, got '
    for content in (b"{", b"[]", b"", b"{" * 20_000, b'{"corrections": 1}', b'{"a": [{}]}'):
        refused(client.post(base, content=content), 422, form)
    refused(client.post(base, content=b'{"corrections": []}'), 422, "corrections: expected 1 to 20000, got 0")
    refused(client.post(base, content=b"\xff"), 400, "corrections: expected JSON in UTF-8, got other bytes")
    line = b'{"op": "ok", "box_xyxy": [1, 2, 3, 4]}'
    for end in (b"]", b"}", b"],}", b" " + line + b"]}", b"]}]"):
        answer = client.post(base, content=b'{"corrections": [' + line + end)
        refused(answer, 422, "corrections: line 1: expected a comma or the end after it, got ")
    for end in (b"]}", b"1]}", b""):
        answer = client.post(base, content=b'{"corrections": [' + line + b"," + end)
        refused(answer, 422, "corrections: line 2: expected an object")
    answer = client.post(base, content=b'{"corrections": [' + line + b", {'op': 1}]}")
    refused(answer, 400, """corrections: line 2: expected JSON, got "{'op': 1}\"""")
    refused(client.post(base, json={"corrections": [{}]}, headers={"If-Match": "abc"}), 422, "if-match")


def test_corrections_are_counted_before_they_are_read(client, analysis):
    lines = b"{}\n" * 2_000_000
    document = b'{"corrections": [' + b"{}," * 20_000 + b"{}]}"
    for content, kind, n in ((lines, "application/x-ndjson", 2_000_000), (document, "application/json", "more")):
        headers = {"content-type": kind}
        answer = client.post(f"/analyses/{analysis['id']}/corrections", content=content, headers=headers)
        refused(answer, 422, f"corrections: expected 1 to 20000, got {n}")
        answer = client.post(f"/analyses/{'0' * 32}/corrections", content=content, headers=headers)
        refused(answer, 404, "analysis: not found")


def test_long_and_nested_corrections_are_refused_before_they_are_read(client, analysis):
    """Python reads JSON in one go: an object of 600,000 keys kept everybody waiting."""
    keys = ",".join(f'"k{n}":1' for n in range(600_000))
    many = "{" * 20_000
    bodies = [f'{{"r": "{many}", {keys}}}', '{"a":' * 20_000, "[" * 100_000]
    expected = "corrections: line 1: expected an object of at most 64 kB without others in it, got "
    for body in bodies:
        lines = client.post(f"/analyses/{analysis['id']}/corrections", content=body, headers=NDJSON)
        refused(lines, 422, expected)
        document = f'{{"corrections": [{body}]}}'
        refused(client.post(f"/analyses/{analysis['id']}/corrections", content=document.encode()), 422, expected)


_TEXT = st.text(max_size=40) | st.sampled_from(['{"a": [', "}", '\\"', "\\", '"}]}', "é\ud83d\n"])


@given(
    st.lists(st.dictionaries(_TEXT, _TEXT | st.lists(st.floats(allow_nan=False), max_size=4)), max_size=5),
    st.booleans(),
)
def test_lines_are_told_apart_whatever_they_hold(rows, is_ascii):
    document = json.dumps({"corrections": rows}, ensure_ascii=is_ascii, indent=1 if is_ascii else None)
    lines = "\n".join(json.dumps(row, ensure_ascii=is_ascii) for row in rows)
    if not rows:
        with pytest.raises(RefusedError, match="expected 1 to 20000, got 0"):
            correction_routes._of_text(document, "application/json")
        return
    for text, kind in ((document, "application/json"), (lines, "application/x-ndjson")):
        assert [json.loads(one) for one in correction_routes._of_text(text, kind)] == rows


def test_an_analysis_has_a_limit_of_corrections(client, analysis, service):
    rows = [(f"{n:032x}", analysis["id"], 0, n, "0" * 32, "{}", "2026") for n in range(100_000)]
    with closing(sqlite3.connect(service.data / "blastdet.db", timeout=30)) as database:
        columns = "(id, analysis_id, version, place, user_id, row, created)"
        database.executemany(f"INSERT INTO corrections {columns} VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        database.commit()
        answer = client.post(f"/analyses/{analysis['id']}/corrections", json={"corrections": [{}]})
        database.execute("DELETE FROM corrections WHERE created = '2026'")
        database.commit()
    refused(answer, 422, "corrections: expected at most 100000 for an analysis, got 1000")


def test_a_signed_smear_is_not_corrected(client, smear, analysis):
    seen = client.get(f"/analyses/{analysis['id']}").json()
    signed = {"status": "signed", "analysis": seen["id"], "version": seen["version"]}
    client.patch(f"/smears/{smear['id']}", json=signed).raise_for_status()
    line = relabelled(client, analysis)
    answer = client.post(f"/analyses/{analysis['id']}/corrections", json={"corrections": [line]})
    refused(answer, 409, "signed")
    where = f"/smears/{smear['id']}/analyses"
    refused(client.post(where, json={"mpp": 0.11}), 409, "smear: it is signed. Reopen it to analyze it again")
    assert client.post(where, json={"mpp": 0.1}).json()["analysis"] == analysis["id"]  # which is there
    pdf = f"/analyses/{analysis['id']}/report.pdf"
    before = client.get(pdf).headers["etag"]
    report = client.get(f"/analyses/{analysis['id']}/report.fhir.json").json()["entry"][0]["resource"]
    at = client.get(f"/smears/{smear['id']}").json()["reviewed"]
    assert (report["status"], report["issued"], report["resultsInterpreter"]) == ("final", at, [{"display": "local"}])
    refused(client.patch(f"/smears/{smear['id']}", json={"status": "reviewed"}), 409, "it is signed by local. Reopen")
    client.patch(f"/smears/{smear['id']}", json={"status": "new"}).raise_for_status()
    assert client.get(pdf).headers["etag"] != before  # the report says who signed it, and when


def test_a_review_is_of_one_result(client):
    """A later result was looked at by nobody: the smear is new, and what was signed stays with what was seen."""
    smear = upload(client, SMALL, "twice.jpg")
    where = f"/smears/{smear['id']}"
    analysis = analyzed(client, smear, mpp=0.1)
    first, lines = analysis["id"], {"corrections": [relabelled(client, analysis)]}
    client.patch(where, json={"status": "reviewed", "analysis": first, "version": 0}).raise_for_status()
    client.post(f"/analyses/{first}/corrections", json=lines).raise_for_status()
    now = client.get(where).json()
    assert (now["status"], now["reviewed_by"]) == ("new", "")  # these numbers were not looked at
    client.patch(where, json={"status": "reviewed", "analysis": first, "version": 1}).raise_for_status()
    second = analyzed(client, smear, mpp=0.11)["id"]
    now = client.get(where).json()
    assert (now["status"], now["reviewed_by"], now["last_analysis"]) == ("new", "", second)
    refused(client.patch(where, json={"status": "signed", "version": True}), 422, "version")
    refused(client.patch(where, json={"name": "x", "version": 0}), 422, "expected the status reviewed or signed")
    refused(
        client.patch(where, json={"status": "signed", "analysis": "0" * 32, "version": 0}),
        422,
        "expected a result of this smear",
    )
    for status in ("reviewed", "signed"):  # of what, that was looked at?
        for some, got in (({}, "neither"), ({"analysis": first}, "only one"), ({"version": 0}, "only one")):
            line = f"analysis, version: expected the id of the result that you looked at and its version, got {got}"
            refused(client.patch(where, json={"status": status, **some}), 422, line)
    change = {"status": "signed", "analysis": first, "version": 1}
    client.post(f"/analyses/{first}/corrections", json=lines).raise_for_status()
    refused(client.patch(where, json=change), 412, "somebody corrected it meanwhile")
    refused(client.patch(where, json={**change, "version": 7}), 412, "smear: expected version 2, got 7")
    assert client.patch(where, json={**change, "version": 2}).json()["last_analysis"] == first
    status = {}
    for one in (first, second):
        document = client.get(f"/analyses/{one}/report.fhir.json").json()
        status[one] = [part["resource"]["status"] for part in document["entry"]]
    assert set(status[first]) == {"final"} and set(status[second]) == {"preliminary"}
    rows = (
        SimpleNamespace(id=first, created="2026-01-01T10:00:00"),
        SimpleNamespace(id=second, created="2026-01-01T11:00"),
    )
    seen = SimpleNamespace(status="signed", reviewed_by="anna", reviewed="2026-01-01T12:00:00Z", analysis_id=first)
    said = [report_routes.review_line(seen, row) for row in rows]
    assert said[0] == "Analyzed 2026-01-01 10:00 UTC; signed by anna, 2026-01-01 12:00 UTC."
    assert said[1] == "Analyzed 2026-01-01 11:00 UTC. Not reviewed: another result of this smear was signed."
    client.patch(where, json={"status": "new"}).raise_for_status()
    client.delete(where).raise_for_status()


def test_a_report_can_be_matched_and_its_intervals_have_names(client, smear, analysis):
    document = client.get(f"/analyses/{analysis['id']}/report.fhir.json").json()
    (specimen,) = document["entry"][0]["resource"]["contained"]
    assert specimen["accessionIdentifier"]["value"] == "smear.jpg"
    assert smear["sha256"] in [one["value"] for one in specimen["identifier"]]


# Watching


def test_health_readiness_and_figures(service, client, smear):
    root = service.url
    assert client.get(f"{root}/healthz").json() == {"status": "ok"}
    assert client.get(f"{root}/readyz").json() == {"database": True, "model": True}
    text = client.get(f"{root}/metrics").text
    assert 'blastdet_requests_total{method="POST",route="/smears",status="201"}' in text
    assert client.request("BREW", f"{root}/healthz").status_code == 405
    text = client.get(f"{root}/metrics").text  # a figure for each method would take memory for ever
    assert "BREW" not in text and 'blastdet_requests_total{method="?",route="/healthz",status="405"}' in text


def test_logs_are_json_and_name_no_file(service, client):
    upload(client, SMALL, "Erika Mustermann.jpg")
    requests = [event for event in service.events() if event["event"] == "request"]
    assert {"method", "route", "status", "ms", "user", "request"} <= set(requests[-1])
    assert "Mustermann" not in service.log.read_text()


def test_the_database_lies_where_nobody_else_reads(service):
    assert oct(service.data.stat().st_mode)[-3:] == "700"


def test_delete_means_gone(service, client):
    content = SMALL.read_bytes()
    smear = client.post("/smears", params={"name": "gone.jpg"}, content=content).json()
    result = analyzed(client, smear)
    client.get(f"/smears/{smear['id']}/tiles/0/0/0")
    client.get(f"/analyses/{result['id']}/overlay.jpg")
    line = {"op": "class", "box_xyxy": [5, 5, 60, 60], "new_class": "wbc", "reason": "the reason of gone"}
    client.post(f"/analyses/{result['id']}/corrections", json={"corrections": [line]})
    assert client.delete(f"/smears/{smear['id']}").status_code == 204
    for path in (f"/smears/{smear['id']}", f"/analyses/{result['id']}", f"/smears/{smear['id']}/tiles/0/0/0"):
        refused(client.get(path), 404, "not found")
    left = [path for path in service.data.rglob("*") if path.is_file()]
    assert not [path for path in left if smear["id"] in str(path)]
    for path in left:
        assert b"the reason of gone" not in path.read_bytes(), path
        assert content not in path.read_bytes(), path


def test_unknown_ids_and_routes_are_not_found(client):
    unknown = "0" * 32
    for path in (f"/smears/{unknown}", f"/analyses/{unknown}", f"/jobs/{unknown}", f"/uploads/{unknown}", "/nothing"):
        assert client.get(path).status_code == 404, path
    refused(client.get("/smears/..%2f..%2fetc"), 404, "")
    refused(client.get("/smears/ABC"), 422, "smear_id")


def test_the_description_of_the_api_lists_every_route(client):
    paths = client.get("/openapi.json").json()["paths"]
    wanted = {"/api/v1/smears", "/api/v1/detect", "/api/v1/analyses/{analysis_id}/report.fhir.json", "/readyz"}
    assert wanted <= set(paths)
    assert "422" in paths["/api/v1/smears"]["post"]["responses"]


def test_a_service_that_is_stopped_ends_in_order(tmp_path: Path):
    with served(tmp_path) as running:
        assert running.stop() == 0
        assert not [event for event in running.events() if event["level"] == "error"]


def test_a_user_with_too_many_jobs_is_asked_to_wait(service, client, smear):
    database = Database(f"sqlite:///{service.data / 'blastdet.db'}")
    with database.begin() as session:
        one = session.get(Smear, smear["id"])
        about = {"smear_id": one.id, "owner_id": one.owner_id, "weights": "default", "request": {}}
        row = {**about, "state": "running", "worker": "nobody"}  # for a moment
        session.execute(insert(Job), [{**row, "key": f"{i}"} for i in range(MOST_ACTIVE)])
    answer = client.post(f"/smears/{smear['id']}/analyses", json={"mpp": 0.17})
    with database.begin() as session:
        session.execute(delete(Job).where(Job.worker == "nobody"))
    database.close()
    refused(answer, 429, "Wait until some are done, or cancel some")
    assert answer.headers["Retry-After"] == "60"


@pytest.mark.parametrize(
    "how",
    [{}, {"bigtiff": True}, {"tile": (256, 256), "compression": "zlib"}, {"compression": "lzw", "rowsperstrip": 9}],
)
def test_a_tiff_is_detected_like_a_png(client, how):
    with Image.open(SMALL) as image:
        rgb = np.asarray(image.convert("RGB"))
    png, tiff = io.BytesIO(), io.BytesIO()
    Image.fromarray(rgb).save(png, "PNG")
    tifffile.imwrite(tiff, rgb, photometric="rgb", **how)
    found = [client.post("/detect?mpp=0.1", content=one.getvalue()).raise_for_status().json() for one in (png, tiff)]
    assert found[0]["cells"] == found[1]["cells"] and found[0]["cells"]


def test_a_result_is_put_together_once_for_all_who_ask(service, analysis):
    record = service.data / "smears" / analysis["smear"][:2] / analysis["smear"] / "analyses" / analysis["id"]
    corrections = [Correction(image_sha256=analysis["summary"]["image_sha256"], box_xyxy=(1, 1, 60, 60), op="delete")]
    read = []

    def rows() -> list[Correction]:
        read.append(1)
        time.sleep(0.3)
        return corrections

    def show(name: str, version: int) -> StoredResult:
        return shown_result((record / "record.json", name, version), rows, ())

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: show("a.jpg", 7), range(8)))
    assert len({id(one) for one in found}) == len(read) == 1
    assert found[0].corrected is found[0].corrected
    assert show("a.jpg", 8).original.name == "a.jpg" and show("b.jpg", 8).original.name == "b.jpg"
    assert len(read) == 3
    assert [key[2:] for key in stored_result._SHOWN if key[0] == record / "record.json"] == [("b.jpg", 8)]


def test_results_in_memory_are_bounded(service, client, smear, monkeypatch):
    kept = stored_result._SHOWN
    kept.clear()
    for n in range(4):
        one = analyzed(client, smear, min_score=0.9 + n / 1000)
        record = service.data / "smears" / smear["id"][:2] / smear["id"] / "analyses" / one["id"] / "record.json"
        found = shown_result((record, "a.jpg", 0), list, ())
        if n == 0:
            monkeypatch.setattr(stored_result, "_MOST_BYTES", int(2.5 * stored_result._bytes_of(found)))
    assert len(kept) == 2
    assert next(reversed(kept))[0] == record
