"""The pages of a real service in a real browser: from a dropped file to an export, by mouse and by keyboard alone."""

from __future__ import annotations

import asyncio
import csv
import errno
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import httpx
import numpy as np
import pytest
from fastapi import APIRouter, FastAPI
from serving import REPO, SMALL, SMEAR, Served, analyzed, served, upload
from sqlalchemy.exc import OperationalError
from viewing import chosen_kind

from blastdet.core.constants import RESEARCH_USE
from blastdet.imaging.io import read_image, write_image
from blastdet.inference.blast_fraction import BlastFraction
from blastdet.inference.differential import beside, progress, why_no_percentages
from blastdet.inference.outputs.method import interval_of_blasts
from blastdet.inference.scale import ONE_CELL
from blastdet.service.compute.fair_queue import FairQueue
from blastdet.service.compute.pool import ComputeBusyError
from blastdet.service.http.failures import add_handlers
from blastdet.service.http.schemas import Status
from blastdet.service.pages.rendering import ACTIONS, PageRoute
from blastdet.service.pages.translations import LANGUAGES, catalog
from blastdet.service.security.callers import Gate, RefusedError
from blastdet.service.settings import ServiceSettings
from blastdet.service.store import job_rows
from blastdet.service.store.database import open_database
from blastdet.service.store.job_rows import JobRequest
from blastdet.service.store.schema import Smear

USERS = {"anna": "a long password", "ben": "another password", "root": "a third password"}
PATIENCE = 120_000  # ms, on a machine that does other things


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("pages"), users={name: USERS[name] for name in ("anna", "ben")}) as running:
        yield running


@contextmanager
def _client(service: Served, name: str) -> Iterator[httpx.Client]:
    with service.client() as client:
        session = client.post("/session", json={"name": name, "password": USERS[name]}).raise_for_status().json()
        client.headers["x-csrf-token"] = session["csrf"]
        yield client


@pytest.fixture(scope="module")
def anna(service) -> Iterator[httpx.Client]:
    with _client(service, "anna") as client:
        yield client


@pytest.fixture(scope="module")
def ben(service) -> Iterator[httpx.Client]:
    with _client(service, "ben") as client:
        yield client


_TELL = "document.addEventListener('securitypolicyviolation', (e) => console.error('CSP ' + e.violatedDirective))"


@pytest.fixture(scope="module")
def root(service) -> Iterator[httpx.Client]:
    """An administrator, added while the service runs."""
    command = [
        sys.executable,
        "-m",
        "blastdet",
        "serve",
        "users",
        "add",
        "root",
        "--admin",
        "--data",
        str(service.data),
    ]
    subprocess.run(command, input=USERS["root"] + "\n", text=True, check=True, capture_output=True, cwd=REPO)
    with _client(service, "root") as client:
        yield client


@pytest.fixture
def tab(browser, service, anna) -> Iterator[Any]:
    """A page that anna is logged in to. Any error, refused content or request to elsewhere fails the test."""
    with _tab(browser, service, anna) as page:
        yield page


@contextmanager
def _tab(browser: Any, service: Served, user: httpx.Client) -> Iterator[Any]:
    context = browser.new_context(base_url=service.url, viewport={"width": 1366, "height": 768})
    context.set_default_timeout(PATIENCE)
    context.add_cookies([{"name": name, "value": value, "url": service.url} for name, value in user.cookies.items()])
    context.add_init_script(_TELL)
    page, faults = context.new_page(), []
    page.expected = []  # faults that a test is about
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("request", lambda asked: None if asked.url.startswith((service.url, "blob:")) else faults.append(asked.url))
    yield page
    context.close()
    assert not [one for one in faults if not any(part in one for part in page.expected)]


def _shown(page: Any, address: str = "") -> None:
    """Wait until the scripts of a smear or of a comparison have drawn it."""
    if address:
        page.goto(address)
    page.wait_for_selector("body[data-ready]")


def _saved(page: Any) -> None:
    _until(page, "document.getElementById('saved').textContent === 'Saved.'")


def _until(page: Any, expression: str) -> None:
    """Wait until this is true. (`wait_for_function` needs `eval`, which the pages forbid.)"""
    end = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


@pytest.fixture(scope="module")
def small(anna) -> dict[str, Any]:
    """An analysis of one white cell."""
    return analyzed(anna, upload(anna, SMALL))


# Without a browser


def test_without_a_session_pages_lead_to_the_log_in(service):
    answer = httpx.get(f"{service.url}/smears/{'0' * 32}?analysis=")
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        f"/login?next=%2Fsmears%2F{'0' * 32}%3Fanalysis%3D",
    )
    login = httpx.get(f"{service.url}/login", params={"next": "//evil.example"})
    assert login.status_code == 200 and '"next": "/"' in login.text


def test_no_page_has_an_inline_script_or_style(service, anna, small):
    pages = ["/", f"/smears/{small['smear']}", f"/compare?left={small['smear']}&right={small['smear']}", "/account"]
    for path in [*pages, "/login", "/nowhere", "/smears/x"]:
        cookies = None if path == "/login" else anna.cookies
        text = httpx.get(service.url + path, cookies=cookies, headers={"accept": "text/html"}).text
        assert RESEARCH_USE in text, path
        assert not re.search(r"<style| style=| on[a-z]+=|javascript:|https?://", text), path
        kinds = re.findall(r"<script([^>]*)>", text)
        assert kinds and all("src=" in kind or 'type="application/json"' in kind for kind in kinds), path


def test_a_smear_of_somebody_else_is_not_found(service, ben, small):
    answer = httpx.get(f"{service.url}/smears/{small['smear']}", cookies=ben.cookies)
    assert answer.status_code == 404 and "Not found" in answer.text


def test_files_are_asked_for_once_and_nothing_else_is_served(service):
    first = httpx.get(f"{service.url}/static/smear.js")
    assert first.headers["content-type"].startswith("text/javascript")
    again = httpx.get(f"{service.url}/static/smear.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for name in ("page_routes.py", "..%2fpage_routes.py", "keep.js"):
        assert httpx.get(f"{service.url}/static/{name}").status_code == 404


def test_the_language_is_that_of_the_browser_until_one_is_chosen(service):
    german = httpx.get(f"{service.url}/login", headers={"accept-language": "de-AT, en;q=0.5"})
    assert '<html lang="de">' in german.text and "Nur für Forschungszwecke." in german.text
    chosen = httpx.get(f"{service.url}/language/fr", params={"back": "/login"})
    assert (chosen.status_code, chosen.headers["location"]) == (303, "/login")
    cookie = {"cookie": chosen.headers["set-cookie"].partition(";")[0], "accept-language": "de"}
    assert "Se connecter" in httpx.get(f"{service.url}/login", headers=cookie).text
    assert httpx.get(f"{service.url}/language/xx").status_code == 404


def test_a_page_that_fails_is_a_page():
    """Whatever the error is, also where the database is away: a person gets no JSON."""
    app, router = FastAPI(), APIRouter(route_class=PageRoute)
    add_handlers(app)
    asking = FairQueue(1, "requests", 1, 1)
    gate = Gate(ServiceSettings(), None)
    app.state.service = SimpleNamespace(asking=asking, settings=gate.settings, gate=gate)  # nothing else is asked
    errors = {
        "/away": OperationalError("SELECT", {}, Exception("away")),
        "/bug": ZeroDivisionError(),
        "/full": OSError(errno.ENOSPC, "full"),
        "/busy": ComputeBusyError("busy: 9 wait"),
        "/gone": RefusedError(404, "smear: not found"),
    }

    def failing(error: Exception) -> Callable[[], None]:
        def fail() -> None:
            raise error

        return fail

    for path, error in errors.items():
        router.get(path)(failing(error))
    app.include_router(router)
    with ThreadPoolExecutor(1) as pool:  # the browser of other tests has a loop in this thread
        answers = pool.submit(lambda: asyncio.run(_got(app, list(errors)))).result()
    assert [one.status_code for one in answers.values()] == [503, 500, 507, 503, 404]
    for path, words in {"/away": "Bitte warten", "/bug": "ein Fehler", "/full": "voll", "/gone": "nichts"}.items():
        assert words in answers[path].text and "expected" not in answers[path].text


async def _got(app: FastAPI, paths: list[str]) -> dict[str, httpx.Response]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x", headers={"accept-language": "de"}) as client:
        return {path: await client.get(path) for path in paths}


def test_translations_fit_the_texts():
    path = REPO / "docs/translations.py"
    code = f"import runpy, json; found = runpy.run_path({str(path)!r})['files']()\n"
    code += "print(json.dumps({str(path): text == path.read_text('utf-8') for path, text in found.items()}))"
    fresh = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert len(fresh) == len(LANGUAGES) and all(fresh.values()), "run: python docs/translations.py"
    template = (REPO / "blastdet/service/pages/locale/pages.pot").read_text("utf-8")
    for language in LANGUAGES:
        assert language == "en" or len(catalog(language)) == template.count('\nmsgid "'), f"{language}: incomplete"
        for text, translation in catalog(language).items():
            assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", translation)), (language, text)
    assert [one for one in catalog("fr").values() if re.search(r" [:;?!»]|« ", one)] == []  # a line would break there


def test_the_sides_of_a_comparison_are_no_rights():
    for language, side in (("de", "Rechts"), ("fr", "Droite"), ("es", "Derecha")):
        assert catalog(language)["Right"] == side != catalog(language)["Access"]


def test_each_action_of_the_audit_log_has_words():
    recorded = set()
    for path in (REPO / "blastdet/service").rglob("*.py"):
        recorded |= set(re.findall(r'audit_log\.record\(\s*\w+,\s*f?"([^"]+)"', path.read_text("utf-8")))
    assert recorded | {"smear.reopen"} | {f"smear.{status}" for status in get_args(Status)} == set(ACTIONS)


# In a browser


@pytest.mark.browser
def test_from_a_dropped_file_to_an_export(tab, anna, tmp_path):
    tab.goto("/")
    tab.set_input_files("#files", [SMEAR])
    tab.wait_for_url("**/smears/*")
    _shown(tab)
    facts = tab.inner_text(".facts")
    assert "default + differential" in facts and "µm/px" in facts and "unsure" in facts
    assert "of 200 counted" in tab.inner_text("#progress") and "95 %" in tab.inner_text("#sentences")
    before = int(tab.inner_text("#rows tr:first-child td:nth-child(2)"))
    cell = tab.locator(".group:has(h3:has-text('neutrophil')) .cell").first
    name = cell.get_attribute("data-cell")
    cell.click()
    assert chosen_kind(tab) == "neutrophil"  # the viewer follows
    tab.keyboard.press("1")
    _saved(tab)
    is_blast = f".group:has(h3:has-text('blast')) [data-cell='{name}']"
    assert tab.locator(is_blast).count() == 1
    _shown(tab, tab.url)
    assert tab.locator(is_blast).count() == 1  # after a reload, too
    assert tab.inner_text("#history li").startswith("1 cell: neutrophil → blast\nanna, ")
    row = tab.locator("#rows tr").first.locator("th, td").all_inner_texts()
    assert row[:3] == ["blast", str(before + 1), str(before)]
    assert "no percentages" in tab.inner_text("#why")  # of 14 cells
    with tab.expect_download() as file:
        tab.click(".menu summary")
        tab.click("text=Cells (CSV)")
    file.value.save_as(tmp_path / "cells.csv")
    with (tmp_path / "cells.csv").open(encoding="utf-8", newline="") as rows:
        assert [row["class"] for row in csv.DictReader(rows) if row["origin"] == "human"] == ["blast"]
    with tab.expect_download() as picture:
        tab.click("text=Picture with boxes")
    saved = [one.value.suggested_filename for one in (file, picture)]
    assert saved[1].endswith(".overlay.jpg") and saved[1].replace("overlay.jpg", "result.csv") == saved[0]


@pytest.mark.browser
def test_the_next_key_is_for_the_cell_that_is_shown(tab, anna):
    smear = anna.post("/smears", params={"name": "keys.jpg"}, content=SMEAR.read_bytes() + b"\0").json()
    analyzed(anna, smear)
    _shown(tab, f"/smears/{smear['id']}")
    tab.keyboard.press("ArrowDown")
    where = "[document.activeElement.dataset.cell, '0/' + viewer.row]"
    assert tab.evaluate(where) == [tab.get_attribute("#groups .cell >> nth=0", "data-cell")] * 2
    for key in "12z":
        tab.keyboard.press(key)
    now, shown = tab.evaluate(where)
    assert now == shown
    tab.keyboard.press("3")
    found = tab.evaluate(f"shown.KINDS[shown.images[0].kind[{now[2:]}]].name")
    assert found == "monocyte" and tab.evaluate("shown.corrections.size") == 2
    _saved(tab)
    tab.keyboard.press("Enter")  # in the image, too, one goes on by what is first in the gallery
    _until(tab, "document.activeElement.id === 'stage'")
    first = tab.evaluate("viewer.row")
    tab.keyboard.press("1")
    _until(tab, f"viewer.row !== {first} && shown.corrections.size === 3")
    tab.keyboard.press("z")
    _until(tab, f"viewer.row === {first} && document.activeElement.id === 'stage'")
    _saved(tab)
    anna.delete(f"/smears/{smear['id']}").raise_for_status()


@pytest.mark.browser
def test_undo_is_saved_and_a_signed_smear_is_locked(tab, anna, small):
    _shown(tab, f"/smears/{small['smear']}")
    tab.locator(".cell").first.focus()
    tab.keyboard.press("2")
    _saved(tab)
    tab.keyboard.press("z")
    _until(tab, "document.querySelectorAll('#history li').length === 2")
    assert tab.inner_text("#history li >> nth=0").startswith("1 cell: undone, monocyte again")
    figures = anna.get(f"/analyses/{small['id']}").json()["summary"]["counts"]
    assert figures == small["summary"]["counts"]
    for _ in range(2):  # at once, and after a reload
        assert not tab.locator(".diff .was").first.is_visible()
        _shown(tab, tab.url)
    tab.click("[data-status=signed]")
    asked = "1 of 1 white cells not reviewed."
    assert tab.inner_text("#signing-text") == asked and tab.inner_text("#signing-title") == "Sign all the same?"
    tab.click("#signing [data-close]")
    assert anna.get(f"/smears/{small['smear']}").json()["status"] == "new"
    tab.click("[data-status=signed]")
    tab.click("#sign-anyway")
    tab.wait_for_selector(".status.signed")
    _shown(tab)
    assert "anna" in tab.inner_text("#signed") and tab.inner_text("#signed-left") == "1 of 1 not reviewed"
    tab.locator(".cell").first.focus()
    tab.keyboard.press("1")
    assert "signed" in tab.inner_text("#saved") and tab.locator(".group h3").count() == 1
    tab.click("text=Reopen")
    tab.wait_for_selector(".status.new")


@pytest.mark.browser
def test_an_unsure_cell_that_is_called_a_type_is_no_confirmation_anywhere(tab, anna):
    """In the history of the page, in its remarks, and in those that programs read."""
    smear = anna.post("/smears", params={"name": "unsure.jpg"}, content=SMEAR.read_bytes() + b"\0\0").json()
    where = f"/analyses/{analyzed(anna, smear)['id']}"
    _shown(tab, f"/smears/{smear['id']}")
    tab.locator(".cell.unsure").first.focus()
    tab.keyboard.press("1")
    _saved(tab)
    assert tab.inner_text("#history li >> nth=0").startswith("1 cell: unsure → blast")
    warnings = anna.get(where).json()["summary"]["warnings"]
    assert warnings[-1] == "reviewed by people: 1 classified"
    assert anna.get(f"{where}/run.json").json()["entry"]["warnings"] == warnings
    _shown(tab, tab.url)
    assert "Reviewed by people: 1 classified" in tab.inner_text("#summary")
    anna.delete(f"/smears/{smear['id']}").raise_for_status()


@pytest.mark.browser
def test_a_result_is_not_signed_before_it_is_shown(tab, anna, small):
    held: list[Any] = []
    tab.route("**/view", lambda route: held.append(route))  # the cells are still on their way
    tab.goto(f"/smears/{small['smear']}")
    tab.click("[data-status=signed]")
    _until(tab, "document.getElementById('fault-of-page').textContent === 'The cells are on their way.'")
    held[0].continue_()
    _shown(tab)
    assert anna.get(f"/smears/{small['smear']}").json()["status"] == "new"


@pytest.mark.browser
def test_two_who_correct_at_once_are_told(tab, anna, ben, small):
    tab.expected = ["412"]
    anna.put(f"/smears/{small['smear']}/shares/ben", json={"may": "write"}).raise_for_status()
    _shown(tab, f"/smears/{small['smear']}")
    view = ben.get(f"/analyses/{small['id']}/view").json()
    box = view["images"][0]["box"][:4]
    line = {"op": "class", "box_xyxy": box, "new_class": "wbc", "new_type": "smudge"}
    line["image_sha256"] = view["images"][0]["sha256"]
    ben.post(f"/analyses/{small['id']}/corrections", json={"corrections": [line]}).raise_for_status()
    tab.evaluate("shown.correct([[0, 0]], 'class', 'lymphocyte')")
    tab.wait_for_selector("#conflict:visible")
    said = tab.inner_text("#conflict-text")
    assert said == "Corrections by ben: 1. Yours, not saved: 1. Cells that both of you changed: 1."
    with tab.expect_navigation():
        tab.click("#keep-mine")
    _shown(tab)
    whose = [line.partition(",")[0] for line in tab.locator("#history small").all_inner_texts()[:2]]
    assert whose == ["anna", "ben"]
    assert tab.evaluate("shown.KINDS[shown.images[0].kind[0]].name") == "lymphocyte"


@pytest.mark.browser
def test_who_was_late_and_finds_it_signed_is_offered_to_load_the_page(tab, anna, ben, small):
    tab.expected = ["412", "409"]
    where = f"/smears/{small['smear']}"
    anna.put(f"{where}/shares/ben", json={"may": "write"}).raise_for_status()
    _shown(tab, where)
    view = ben.get(f"/analyses/{small['id']}/view").json()
    line = {"op": "class", "box_xyxy": view["images"][0]["box"][:4], "new_class": "wbc", "new_type": "smudge"}
    line["image_sha256"] = view["images"][0]["sha256"]
    made = ben.post(f"/analyses/{small['id']}/corrections", json={"corrections": [line]}).json()
    tab.evaluate("shown.correct([[0, 0]], 'class', 'eosinophil')")
    tab.wait_for_selector("#conflict:visible")
    tab.click("[data-status=signed]")
    _until(tab, "document.getElementById('fault-of-page').textContent.startsWith('Choose above first')")
    signed = {"status": "signed", "analysis": small["id"], "version": made["version"]}
    ben.patch(where, json=signed).raise_for_status()
    tab.click("#keep-mine")
    _until(tab, "document.getElementById('fault-of-page').textContent.startsWith('This smear is signed')")
    tab.click("#fault-of-page button:has-text('Load the page again')")
    tab.wait_for_selector(".status.signed")
    _shown(tab)
    anna.patch(where, json={"status": "new"}).raise_for_status()


@pytest.mark.browser
def test_remarks_are_named_in_the_worklist_and_beside_the_doubt(tab, anna):
    """The scale is contradicted by the red cells; corrections are no remark."""
    smear = anna.post("/smears", params={"name": "remarks.jpg"}, content=SMEAR.read_bytes() + b"remarks").json()
    first = analyzed(anna, smear)
    doubted = analyzed(anna, smear, mpp=0.25)
    n = len(doubted["summary"]["warnings"])
    said = "1 remark" if n == 1 else f"{n} remarks"
    assert n and not first["summary"]["warnings"]
    _shown(tab, f"/smears/{smear['id']}")
    tab.evaluate("document.querySelector('[data-status]').focus()")
    tab.keyboard.press("ArrowDown")  # wherever the focus is: the first cell
    cell = tab.get_attribute("#groups .cell >> nth=0", "data-cell")
    assert tab.evaluate("[document.activeElement.dataset.cell, '0/' + viewer.row]") == [cell, cell]
    tab.evaluate("document.activeElement.blur()")
    tab.keyboard.press("ArrowRight")  # goes on from the one that is framed
    second = tab.get_attribute("#groups .cell >> nth=1", "data-cell")
    assert tab.evaluate("document.activeElement.dataset.cell") == second
    tab.keyboard.press("1")
    _saved(tab)
    _shown(tab, tab.url)
    assert tab.inner_text("#doubt").endswith(f" · {said}") and tab.locator("#remarks li").count() == n + 1
    first_letter = "getComputedStyle(document.querySelector('#remarks li'), '::first-letter').textTransform"
    assert tab.evaluate(first_letter) == "uppercase"
    tab.expected = ["404"]
    tab.route(f"**/smears/{smear['id']}/tiles/**", lambda route: route.fulfill(status=404))
    tab.goto("/")
    row = f"tr[data-smear='{smear['id']}'] .result"
    tab.wait_for_selector(f"{row} small")
    assert tab.inner_text(row).endswith(said)
    thumb = tab.locator(f"tr[data-smear='{smear['id']}'] .thumb")
    thumb.locator(".blank").wait_for()
    assert not thumb.locator("img").count()  # no sign of a broken one
    anna.patch(f"/smears/{smear['id']}", json={"status": "reviewed", "analysis": doubted["id"], "version": 1})
    _shown(tab, f"/smears/{smear['id']}?analysis={first['id']}")
    assert "remark" not in tab.inner_text("#doubt")
    results = tab.locator("#results option").all_inner_texts()
    ends = [" · ".join(one.split(" · ")[1:]) for one in results]
    assert ends == ["1 correction · reviewed", ""], results
    anna.delete(f"/smears/{smear['id']}").raise_for_status()


@pytest.mark.browser
def test_by_keyboard_alone(tab, service, tmp_path):
    tab.context.clear_cookies()
    tab.goto("/")
    tab.keyboard.type("anna")  # the name has the focus
    tab.keyboard.press("Tab")
    tab.keyboard.type(USERS["anna"])
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#drop")
    _tab_to(tab, "files")
    with tab.expect_file_chooser() as chooser:
        tab.keyboard.press("Space")
    (tmp_path / "by key.jpg").write_bytes(SMALL.read_bytes() + b"\0")  # another file
    chooser.value.set_files(tmp_path / "by key.jpg")
    tab.wait_for_selector("#queue .failed, #work")
    if tab.locator("#queue .failed").count():  # too few red cells to measure the scale: the next page asks for it
        _tab_to(tab, "", "by key.jpg")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("body.smear[data-ready]")
        _tab_to(tab, "", "Analyze")
        tab.keyboard.press("Enter")
        _tab_to(tab, "again-scale")
        tab.keyboard.type("given")
        _tab_to(tab, "again-mpp")
        tab.keyboard.type("0.1")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#work")
    _shown(tab)
    _tab_to(tab, "", cell="0/")
    cell = tab.evaluate("document.activeElement.dataset.cell")
    tab.keyboard.press("5")
    _until(tab, "document.querySelectorAll('#history li button').length === 1")
    tab.keyboard.press("z")
    _until(tab, "document.querySelectorAll('#history li button').length === 2")
    assert tab.inner_text("#history li >> nth=0").startswith("1 cell: undone, monocyte again")
    assert tab.evaluate("document.activeElement.dataset.cell") == cell  # the place is not lost
    tab.keyboard.press("5")
    _until(tab, "document.querySelectorAll('#history li button').length === 3")
    tab.keyboard.press("Enter")
    _until(tab, "document.activeElement.id === 'stage'")
    tab.keyboard.press("Escape")
    _until(tab, f"document.activeElement.dataset.cell === '{cell}'")
    _tab_to(tab, "", "Sign", key="Shift+Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".status.signed")
    _shown(tab)
    _tab_to(tab, "", "Reopen")  # a signed smear is not deleted
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".status.signed", state="detached")
    _shown(tab)
    _tab_to(tab, "", "Delete")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#deleting[open]")
    _tab_to(tab, "delete")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#drop")
    assert "by key.jpg" not in tab.inner_text("main")


_FOCUSED = "[document.activeElement].map((e) => [e.id, e.textContent.trim(), e.dataset.cell || ''])[0]"


def _tab_to(page: Any, element: str, text: str = "", cell: str = "", key: str = "Tab") -> None:
    """Press Tab, or another key, until an element has the focus: by id, by its text, or a cell of the gallery."""
    for _ in range(120):
        at = page.evaluate(_FOCUSED)
        if (element and at[0] == element) or (text and at[1].startswith(text)) or (cell and at[2].startswith(cell)):
            return
        page.keyboard.press(key)
    raise AssertionError(f"not reached: {element or text or cell}")


def _drop(page: Any, files: list[Path]) -> None:
    """Drag files of the machine over the worklist and let go of them, by way of the browser's own mouse."""
    box = page.locator("#drop").bounding_box()
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path) for path in files], "dragOperationsMask": 1}
    mouse = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver"):
        mouse.send("Input.dispatchDragEvent", {"type": kind, **at, "data": data})
    page.wait_for_selector("#drop.over")
    mouse.send("Input.dispatchDragEvent", {"type": "drop", **at, "data": data})
    page.wait_for_selector("#drop:not(.over)")


def _given_scale(page: Any) -> None:
    page.click("#drop .menu summary")
    page.select_option("#new-scale", "given")
    page.fill("#new-mpp", "0.1")
    page.keyboard.press("Escape")


@pytest.mark.browser
def test_of_several_dropped_files_a_bad_one_stops_no_other(tab, anna, tmp_path):
    tab.expected = ["422"]
    for n, name in enumerate(("first.jpg", "second.jpg")):
        (tmp_path / name).write_bytes(SMALL.read_bytes() + bytes(10 + n))  # other files for the service
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    tab.goto("/")
    _given_scale(tab)
    _drop(tab, [tmp_path / name for name in ("first.jpg", "bad.jpg", "empty.jpg", "second.jpg")])
    _until(tab, "document.querySelectorAll('#queue .failed, #queue .done').length === 4")
    said = dict(line.split("\n")[:2] for line in tab.locator("#queue li").all_inner_texts())
    assert (said["first.jpg"], said["second.jpg"]) == ("done", "done")
    assert said["bad.jpg"].startswith("This file cannot be read as an image.")
    assert said["empty.jpg"] == "The file is empty."
    for name in ("first.jpg", "second.jpg"):  # in the list without a reload
        result = f"#list tr:has(a:text-is('{name}')) .result"
        tab.wait_for_selector(f"{result}:has-text('white cell')")
        assert re.fullmatch("1 white cell\n.* unsure\nfewer than the 200 of a differential", tab.inner_text(result))
    assert tab.locator("#queue .failed").count() == 2 and "UTC" not in tab.inner_text("#list td:has(time) >> nth=0")
    tab.check("#list .pick >> nth=0")
    tab.check("#list .pick >> nth=1")
    assert tab.locator("#compare").is_enabled()
    for smear in anna.get("/smears", params={"analyzed": True}).json()["items"]:
        if smear["name"] in said:
            anna.delete(f"/smears/{smear['id']}").raise_for_status()
            said.pop(smear["name"])
    assert sorted(said) == ["bad.jpg", "empty.jpg"]


@pytest.mark.browser
def test_an_upload_goes_on_after_the_page_was_loaded_again(tab, anna, tmp_path):
    """The second piece never arrives; the page is loaded anew, and the same file again sends only what is missing."""
    rng = np.random.default_rng(1)
    write_image(tmp_path / "broken off.bmp", rng.integers(0, 255, (1800, 3000, 3), np.uint8))
    content = (tmp_path / "broken off.bmp").read_bytes()
    piece = 8 * 2**20
    sent: list[tuple[str, str]] = []

    def held(route: Any) -> None:
        request = route.request
        sent.append((request.method, request.headers.get("upload-offset", "")))
        if request.method == "PATCH" and request.headers["upload-offset"] != "0":
            return  # neither sent nor refused
        route.continue_()

    tab.on("dialog", lambda dialog: dialog.accept())  # it asks before one leaves
    tab.route("**/uploads**", held)
    tab.goto("/")
    tab.click("#drop .menu summary")
    tab.uncheck("#new-analyze")
    tab.set_input_files("#files", [tmp_path / "broken off.bmp"])
    end = time.monotonic() + PATIENCE / 1000
    while ("PATCH", str(piece)) not in sent and time.monotonic() < end:
        tab.wait_for_timeout(50)
    assert [one for one in sent if one[0] == "PATCH"] == [("PATCH", "0"), ("PATCH", str(piece))]
    tab.reload()
    hint = "#unfinished li:has-text('broken off.bmp: 51 % have arrived')"
    tab.wait_for_selector(hint)
    tab.unroute("**/uploads**")
    tab.on("request", lambda request: sent.append((request.method, request.headers.get("upload-offset", ""))))
    sent.clear()
    tab.click("#drop .menu summary")
    tab.uncheck("#new-analyze")
    tab.set_input_files("#files", [tmp_path / "broken off.bmp"])
    assert not tab.locator(hint).count()
    tab.wait_for_url("**/smears/*")
    assert [one for one in sent if one[0] == "PATCH"] == [("PATCH", str(piece))] and ("POST", "") not in sent
    where = f"/smears/{tab.url.rpartition('/')[2]}"
    assert anna.get(f"{where}/image").content == content
    anna.delete(where).raise_for_status()


@pytest.mark.browser
def test_jobs_under_way_leave_connections_to_other_requests(tab, anna, service, tmp_path):
    """A browser has six to one service, and each stream of events takes one until its job is over."""
    ids = []
    for n in range(8):
        write_image(tmp_path / f"{n}.png", np.full((40, 40, 3), 20 * n, np.uint8))
        ids.append(upload(anna, tmp_path / f"{n}.png")["id"])
    database = open_database(ServiceSettings(data=service.data).database_url)
    with database.begin() as session:  # of a worker that is not there: after 20 s others do them
        for smear_id in ids:
            smear = session.get(Smear, smear_id)
            request = JobRequest("default", "0" * 64, {"mpp": [0.1, 0.1], "min_score": None, "region": None}, "1")
            job_rows.ask(session, smear, smear.owner_id, request)
            assert job_rows.claim(session, "gone") is not None
    streams: list[str] = []
    tab.on("request", lambda request: streams.append(request.url) if request.url.endswith("/events") else None)
    tab.goto("/")
    rows = f"{json.dumps(ids)}.map((id) => document.querySelector(`tr[data-smear='${{id}}'] .result`))"
    _until(tab, f"{rows}.every((one) => one && !one.dataset.analysis)")
    assert tab.evaluate("fetch('/api/v1/session').then((answer) => answer.status)") == 200
    assert len(streams) == 2
    _until(tab, f"{rows}.every((one) => one.dataset.analysis)")  # each is followed at last
    tab.goto("/account")  # which asks for nothing of the smears that are deleted now
    for smear_id in ids:
        anna.delete(f"/smears/{smear_id}").raise_for_status()
    database.close()


@pytest.mark.browser
@pytest.mark.parametrize("status", [401, 507])
def test_an_upload_goes_on_after_a_refusal_that_passes(tab, anna, tmp_path, status):
    """The session ended, or the disk was full: what has arrived is not sent again."""
    rng = np.random.default_rng(status)
    write_image(tmp_path / "large.bmp", rng.integers(0, 255, (1800, 3000, 3), np.uint8))
    piece, sent = str(8 * 2**20), []

    def refused(route: Any) -> None:
        if route.request.method == "PATCH" and route.request.headers["upload-offset"] == piece:
            route.fulfill(status=status, json={"error": "no"})
        else:
            route.continue_()

    tab.expected.append("Failed to load resource")
    tab.route("**/uploads**", refused)
    tab.goto("/")
    tab.click("#drop .menu summary")
    tab.uncheck("#new-analyze")
    tab.set_input_files("#files", [tmp_path / "large.bmp"])
    tab.wait_for_selector("#queue .failed")
    tab.unroute("**/uploads**")
    tab.on("request", lambda request: sent.append((request.method, request.headers.get("upload-offset", ""))))
    tab.set_input_files("#files", [tmp_path / "large.bmp"])
    tab.wait_for_selector("#queue .done a")
    assert [one for one in sent if one[0] == "PATCH"] == [("PATCH", piece)] and ("POST", "") not in sent
    where = tab.get_attribute("#queue .done a", "href")
    anna.delete(where).raise_for_status()


@pytest.mark.browser
def test_from_a_dropped_smear_to_weights_of_ones_own(tab, anna, tmp_path):
    """Drop, correct 24 cells by key, export, and `blastdet adapt` on that export, with the model that is shipped."""
    fields = tmp_path / "fields"
    fields.mkdir()
    rgb = read_image(SMEAR)
    write_image(fields / "two fields.png", np.hstack([rgb, rgb[::-1]]))
    tab.goto("/")
    _given_scale(tab)
    _drop(tab, [fields / "two fields.png"])
    tab.wait_for_url("**/smears/*")
    _shown(tab)
    names = [cell.get_attribute("data-cell") for cell in tab.locator("#groups .cell").all()]
    chosen = names[:12] + names[-12:]  # the groups of the gallery differ by type: so do the two halves
    assert len({*chosen}) == 24
    for k, name in enumerate(chosen):
        tab.locator(f"[data-cell='{name}']").focus()
        tab.keyboard.press("1" if k < 12 else "2")
    _until(tab, "document.querySelectorAll('#history li').length > 1")
    _saved(tab)
    with tab.expect_download() as file:
        tab.click(".actions .menu summary")
        tab.click("#export-corrections")
    file.value.save_as(tmp_path / "corrections.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "corrections.jsonl").read_text("utf-8").splitlines()]
    assert len({tuple(line["box_xyxy"]) for line in lines}) == 24 and {line["who"] for line in lines} == {"anna"}
    command = [sys.executable, "-m", "blastdet", "adapt", "--data", str(fields), "--from", "images", "--mpp", "0.1"]
    command += [
        "--corrections",
        str(tmp_path / "corrections.jsonl"),
        "--out",
        str(tmp_path / "mine"),
        "--device",
        "cpu",
    ]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPO)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "24: 12 blasts, 12 other white cells" in run.stdout
    command = [
        sys.executable,
        "-m",
        "blastdet",
        "detect",
        str(fields),
        "--weights",
        str(tmp_path / "mine"),
        "--mpp",
        "0.1",
    ]
    subprocess.run([*command, "--format", "json", "--out", str(tmp_path / "out")], check=True, cwd=REPO)
    cells = json.loads((tmp_path / "out/two fields.json").read_text("utf-8"))["cells"]
    assert sum(one["label"] == "blast" for one in cells) >= 6  # of the 12 that the model called otherwise


@pytest.fixture(scope="module")
def axe() -> str:
    import axe_playwright_python

    return next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js")).read_text("utf-8")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(tab, axe, small, scheme, root, service):
    tab.expected = ["404"]
    tab.emulate_media(color_scheme=scheme)
    both = f"/compare?left={small['smear']}&right={small['smear']}"
    pages = {"/": "", f"/smears/{small['smear']}": ".cell", both: ".cell", "/account": "", "/nowhere": "", "/login": ""}
    for path, click in pages.items():
        if path == "/login":
            tab.context.clear_cookies()
        tab.goto(path)
        if click:
            _shown(tab)
            tab.locator(click).first.click()
        _check(tab, axe, path)
        if path.startswith("/smears"):
            for opener in (
                "#help",
                "[data-dialog=renaming]",
                "[data-dialog=sharing]",
                "[data-dialog=deleting]",
                "[data-dialog=again]",
            ):
                tab.click(opener)
                _check(tab, axe, opener)
                tab.keyboard.press("Escape")
    cookies = [{"name": name, "value": value, "url": service.url} for name, value in root.cookies.items()]
    tab.context.add_cookies(cookies)
    for width in (1366, 390):
        tab.set_viewport_size({"width": width, "height": 768})
        tab.goto("/audit")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        _check(tab, axe, f"/audit {width}")


def _check(page: Any, axe: str, where: str) -> None:
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    bad = [(one["id"], one["nodes"][0]["target"]) for one in found if one["impact"] in ("serious", "critical")]
    assert not bad, (where, bad)


PAINTED = """(([figure]) => {
  const of = document.getElementById(figure.dataset.of + "picture");
  const [red, green] = of.getContext("2d").getImageData(of.width / 2, of.height / 2, 1, 1).data;
  return red - green > 15;
})(document.querySelectorAll("figure.paper"))"""
"""The image has arrived: its middle is stained, and the ground of the viewer is grey."""


@pytest.mark.browser
def test_on_paper_each_sheet_says_what_it_is_of(tab, axe, anna, small):
    tab.emulate_media(color_scheme="dark")
    _shown(tab, f"/smears/{small['smear']}")
    _until(tab, PAINTED)
    view = tab.evaluate("[viewer.scale, ...viewer.place(0, 0)]")
    sheet = tab.evaluate("document.adoptedStyleSheets[0].cssRules[0].cssText")
    name = anna.get(f"/smears/{small['smear']}").json()["name"]
    for words in (name, "default (default + differential), 0.1 µm/px", RESEARCH_USE, "counter(page)", "counter(pages)"):
        assert words in sheet
    assert sheet.count("nowrap") == 3 and "overflow-wrap: anywhere" in sheet  # a long name wraps
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.emulate_media(media="print", color_scheme="dark")
    for shown in (
        "h1",
        ".facts",
        "#differential",
        "figure.paper canvas",
        "#groups .cell >> nth=0",
        "#method",
        "#history",
    ):
        assert tab.locator(shown).is_visible(), shown
    _check(tab, axe, "on paper")
    for hidden in ("#viewer", ".actions", "nav", "#order", "#undo", "#language", "footer a", ".back"):
        assert not tab.locator(hidden).first.is_visible(), hidden
    paper, ink = tab.evaluate(
        "[document.body, document.querySelector('h1')].map((e) => getComputedStyle(e))"
        ".map((style, k) => k ? style.color : style.backgroundColor)"
    )
    assert (paper, ink) == ("rgb(255, 255, 255)", "rgb(0, 0, 0)")
    corners = tab.evaluate("""[document.querySelector("figure.paper canvas")].map((one) => {
      const pen = one.getContext("2d"), w = one.width - 3, h = one.height - 3;
      return [[2, 2], [w, 2], [w, h]].map(([x, y]) => Math.max(...pen.getImageData(x, y, 1, 1).data.slice(0, 3)));
    })[0]""")
    assert min(corners) > 120  # the smear, not the dark ground around it
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    for paper in ("A4", "Letter"):
        assert tab.pdf(format=paper).count(b"/Type /Page\n") <= 2
    tab.emulate_media(media="screen", color_scheme="dark")
    tab.wait_for_timeout(200)
    assert tab.evaluate("[viewer.scale, ...viewer.place(0, 0)]") == pytest.approx(view)
    assert not tab.evaluate("document.querySelector('.method').open")


@pytest.mark.browser
@pytest.mark.parametrize("language", ["en", "de"])
def test_the_picture_is_on_the_first_sheet(tab, anna, language):
    """Figures and picture on one sheet, cells and method on the next: a picture that does not fit leaves a gap."""
    smear = analyzed(anna, upload(anna, SMEAR))["smear"]
    tab.goto(f"/language/{language}?back=/")
    _shown(tab, f"/smears/{smear}")
    _until(tab, PAINTED)
    for paper in ("A4", "Letter"):
        assert tab.pdf(format=paper).count(b"/Type /Page\n") == 2, paper


@pytest.mark.browser
def test_a_large_smear_takes_few_sheets(tab, many):
    """A row of each type, which says of how many; all are back on the screen."""
    _shown(tab, f"/smears/{many['smear']}")
    _until(tab, PAINTED)
    for paper in ("A4", "Letter"):
        assert tab.pdf(format=paper).count(b"/Type /Page\n") <= 3, paper
    counted = """[...document.querySelectorAll(".group")].map(
      (one) => [one.querySelectorAll(".cell").length, one.querySelector("small").textContent])"""
    on_screen = tab.evaluate(counted)
    assert sum(n for n, _ in on_screen) > 50
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    on_paper = tab.evaluate(counted)
    assert on_paper == [[min(n, 7), f"7 of {n}" if n > 7 else str(n)] for n, _ in on_screen]
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate(counted) == on_screen


@pytest.mark.browser
def test_two_languages_and_dark_by_choice(tab, small):
    _shown(tab, f"/smears/{small['smear']}")
    assert tab.evaluate("document.documentElement.lang") == "en"
    with tab.expect_navigation():
        tab.select_option("#language", "de")
    _shown(tab)
    assert tab.evaluate("document.documentElement.lang") == "de"
    assert "Nur für Forschungszwecke" in tab.inner_text(".research") and tab.inner_text("nav >> text=Arbeitsliste")
    assert re.search("Monozyt|Lymphozyt", tab.inner_text("#gallery")) and "durchgesehen" in tab.inner_text("#done")
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.select_option("#theme", "dark")
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    tab.reload()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    _shown(tab)
    border = tab.evaluate("getComputedStyle(document.querySelector('#rows i')).boxShadow")
    assert border.startswith("rgba(255, 255, 255")  # squares of dark types are seen, too


@pytest.fixture(scope="module")
def many(anna, tmp_path_factory) -> dict[str, Any]:
    """An analysis of so many white cells that percentages are stated."""
    rgb = read_image(SMEAR)
    half = np.hstack([rgb, rgb[:, ::-1]])
    path = tmp_path_factory.mktemp("many") / "four fields.png"
    write_image(path, np.vstack([half, half[::-1]]))
    return analyzed(anna, upload(anna, path))


@pytest.mark.browser
@pytest.mark.parametrize("language", ["en", "de", "fr", "es"])
def test_names_and_numbers_are_in_the_language_of_the_page(tab, anna, many, language):
    summary = anna.get(f"/analyses/{many['id']}").json()["summary"]
    tab.goto(f"/language/{language}?back=/")
    row = f"tr[data-smear='{many['smear']}']"
    tab.wait_for_selector(f"{row} .result span:has-text('{summary['white_cells']['n']}')")
    point = "." if language == "en" else ","
    assert f"0{point}1 µm/px" in tab.inner_text(row)
    wide = {"en": "3,200", "de": "3.200", "fr": "3\u202f200", "es": "3200"}[language]
    assert f"{wide} × " in tab.inner_text(row)
    _shown(tab, f"/smears/{many['smear']}")
    percent = {"en": " %", "de": "\xa0%", "fr": "\xa0%", "es": "\xa0%"}[language]
    words = {"en": {}, **{one: catalog(one) for one in ("de", "fr", "es")}}[language]
    for found, line in zip(summary["differential"], tab.locator("#rows tr").all(), strict=True):
        cells = line.locator("th, td").all_text_contents()
        name = found["cell_type"].replace("_", " ").replace("wbc", "other wbc")
        assert cells[:2] == [words.get(name, name), str(found["n"])]
        assert cells[3] == f"{100 * found['fraction']:.1f}".replace(".", point) + percent
        assert cells[4] == "–".join(f"{100 * side:.1f}" for side in found["ci95"]).replace(".", point) + percent
    if language == "de":
        assert words["lymphocyte"] == "Lymphozyt" and words["neutrophil"] == "neutrophiler Granulozyt"
        assert "Lymphozyt" in tab.inner_text("#groups") and "lymphocyte" not in tab.inner_text("main").lower()
    thousands = {"en": r"\d,\d{3}", "de": r"\d\.\d{3}", "fr": "\\d\u202f\\d{3}", "es": r"\d{4}"}[language]
    assert re.fullmatch(thousands, tab.inner_text("#totals tr:nth-child(2) td:nth-child(3)"))  # red cells per mm²
    head = tab.inner_text(".diff thead th:nth-child(5)")
    assert head == words.get("95 % CI (counting)", "95 % CI (counting)")
    assert tab.inner_text("#" + tab.get_attribute(".diff thead th:nth-child(5)", "aria-describedby"))


@pytest.mark.browser
@pytest.mark.parametrize("language", ["en", "de", "fr", "es"])
def test_no_word_and_no_button_is_cut(tab, many, language):
    tab.goto(f"/language/{language}?back=/")
    _shown(tab, f"/smears/{many['smear']}")
    tab.locator(".cell").first.click()
    end = "(one) => one.getBoundingClientRect().bottom"
    steps = "#kinds button, aside .ops button, #advance, #draw"
    below = tab.evaluate(f"[...document.querySelectorAll('{steps}')].map({end})")
    side = tab.evaluate(f"[document.querySelector('aside')].map({end})[0]")
    assert len(below) == 21 and max(below) <= side <= 768  # all in sight without scrolling
    cut = tab.evaluate("""[document.querySelector(".cell.unsure .words b")].map((b) => shown.KINDS.filter((kind) => {
      b.textContent = kind.title + "?";
      const [word, cell] = [b, b.closest(".cell")].map((one) => one.getBoundingClientRect().right);
      return b.scrollWidth > b.clientWidth + 1 || word > cell;
    }).map((kind) => kind.title))[0]""")
    assert cut == []


# Lines of the interface and of jobs, and what a page says instead
_LINES = {
    "user: expected the name of another user": (404, "There is no user of that name."),
    "too many log-ins; try again in 31 s": (429, "Too many tries. Wait 31 seconds, then try again."),
    "smear: expected the right to correct, got the right to read it": (403, "You may look at this smear, but not"),
    "name: string should have at most 150 characters, got 'x'": (422, "This name cannot be used."),
    "weights: expected one of default, got 'other'": (422, "This model is not offered any more."),
    "analysis: its result is gone": (404, "This is no longer there."),
    "upload: expected at most 3 MB more of your 1.0 GB, got more. Delete …": (
        413,
        "Your space on this service is used",
    ),
    "upload: expected at most 8,192 MB, got more": (413, "The file is larger than this service takes."),
    "a.jpg: could not determine the scale: fewer than 5 red cells. Give …": (0, "The scale could not be measured"),
    "a.png: truncated or damaged image data (…)": (0, "The image is damaged"),
    "the process that computes it ended (killed): the image is damaged, or memory ran out": (
        0,
        "The image could not be",
    ),
    "busy: 128 pictures wait already. Try again in a few seconds": (503, "The service is busy."),
    "anything new: expected words, got none": (403, "You are not allowed to do this."),
}


@pytest.mark.browser
def test_failures_are_said_in_plain_words_in_each_language(tab):
    tab.goto("/account")
    said = """([line, status, texts]) => import("/static/plain.js").then(
      ({ plain }) => plain((one) => texts[one] || one, status, line))"""
    for line, (status, expected) in _LINES.items():
        words = tab.evaluate(said, [line, status, {}])
        assert words.startswith(expected) and "expected" not in words, line
        for language in ("de", "fr", "es"):
            assert tab.evaluate(said, [line, status, dict(catalog(language))]) != words, (language, line)
    unknown = "anything new: expected words, got none"
    assert tab.evaluate(said, [unknown, 422, {}]) == f"That did not work: {unknown}"


def _sentences() -> Iterator[str]:
    """What a result may say, of many results."""
    ends = [(None, None), (0.1, None), (0.1, (0.05, 0.2))]
    counts = [(0, 1, 0), (1, 0, 0), (0, 0, 1), (1, 12, 1), (2, 12, 3), (3, 52, 0), (3, 52, 1), (3, 52, 9), (3, 195, 1)]
    counts += [(3, 196, 0), (3, 495, 2), (30, 1200, 40), (0, 0, 0), (1, 2, 60)]
    for (blasts, others, unsure), (corrected, interval), left_out in product(counts, ends, (True, False)):
        n = blasts + others + unsure
        counted = {"blasts": blasts, "others": others, "unsure": unsure, "called": blasts, "erythroblasts": n // 9}
        some = {"interval": (0.01, 0.3), "corrected": corrected, "corrected_interval": interval, "smudges": n // 5}
        unlike = unsure if unsure > 50 else 0
        found = BlastFraction(**counted, **some, over_laboratories=left_out, unlike=unlike)
        yield from [*found.summary(), progress(n), *beside(found), why_no_percentages(found), found.warning() or ""]
        for seen in {min(blasts, 1), n // 2, n}:
            rates = (None, None) if seen == n else (corrected, corrected and (interval or (0.0, 0.2)))
            of_people = {"reviewed": seen, "reviewed_blasts": min(blasts, seen)}
            by_people = replace(found, **of_people, corrected=rates[0], corrected_interval=rates[1])
            yield from [*by_people.summary(), *interval_of_blasts(by_people)]
    changes = ("added", "classified", "confirmed", "deleted", "ignored", "moved", "relabelled")
    yield "reviewed by people: " + ", ".join(f"2 {what}" for what in changes)
    yield from ("the image has no colour; no cell is certain", "red cells (n=141)", "given", "file", ONE_CELL)
    scale = "red cells suggest 0.10 µm/px (n=90); 0.07 was given. Check the scale."
    stain = (
        "9 of 9 white cells are unlike the training data: this stain or camera is unknown to the classifier, and no "
    )
    yield from (
        scale,
        f"{scale} {stain}blast fraction is given. Check the cells by eye, or adapt the classifier to this laboratory.",
    )
    yield "red cells suggest 0.25 µm/px (n=90); the file states 0.5. Check the scale."


@pytest.mark.browser
def test_sentences_on_a_result_are_translated(tab, anna, many):
    """All that a result may say is known in each language; one that is not stays English, and says so."""
    sayer = """([texts, sentences, models]) => import("/static/sentences.js").then(
      ({ sayerOf }) => sentences.map(sayerOf(texts, models, (one) => one)))"""
    tab.goto("/account")
    view = anna.get(f"/analyses/{many['id']}/view").json()
    sentences = sorted({*_sentences(), *view["method"], view["lead"] + " " + view["images"][0]["about"]} - {""})
    assert len(sentences) > 60
    for language in ("de", "fr", "es"):
        said = tab.evaluate(sayer, [dict(catalog(language)), sentences, view["models"]])
        assert [one for one, found in zip(sentences, said, strict=True) if found is None] == []
        numbers = [sorted(re.findall(r"\d+", one)) for one in sentences]
        assert [sorted(re.findall(r"\d+", found)) for found in said] == numbers  # none is lost
    said = tab.evaluate(sayer, [{"{1} added": "{1} hinzugefügt"}, ["2 added, 1 burnt"], []])
    assert said == [None]
    tab.goto("/language/de?back=/")
    _shown(tab, f"/smears/{many['smear']}")
    assert "von 200 gezählt" in tab.inner_text("#progress") and "Blasten: " in tab.inner_text("#sentences")
    assert tab.inner_text("#source") == "angegeben" and not tab.locator("main [lang]").count()
    tab.goto("/language/en?back=/")


# Colour on the screen at a place of the image
_COLOUR = """((x, y) => {
  const canvas = document.getElementById("picture"), frame = canvas.getBoundingClientRect(), at = viewer.place(x, y);
  return [...canvas.getContext("2d").getImageData(at[0] - frame.left, at[1] - frame.top, 1, 1).data];
})"""


@pytest.mark.browser
def test_a_large_smear_comes_in_pieces_and_is_shown_in_tiles(tab, anna, tmp_path):
    """26 MB go up in pieces; the viewer asks for the tiles in sight, and colours are where they belong."""
    rgb = np.full((2400, 3600, 3), 235, np.uint8)
    rgb[1500:1700, 3000:3300] = (200, 30, 30)
    write_image(tmp_path / "large.bmp", rgb)
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    tab.goto("/")
    tab.click(".menu summary")
    tab.uncheck("#new-analyze")
    tab.set_input_files("#files", [tmp_path / "large.bmp"])
    tab.wait_for_url("**/smears/*")
    assert sum(one.startswith("PATCH") for one in asked) == 4
    smear = anna.get(f"/smears/{tab.url.rpartition('/')[2]}").json()
    analyzed(anna, smear, region=[0, 0, 300, 300])
    asked.clear()
    refused: set[str] = set()

    def busy(route: Any) -> None:
        if route.request.url in refused:
            route.continue_()
        else:
            refused.add(route.request.url)
            route.fulfill(status=503, json={"error": "busy: 128 pictures wait already"})

    tab.expected.append("503")
    tab.route("**/tiles/3/**", busy)  # once for each tile: it is asked for again
    _shown(tab, tab.url)
    tab.evaluate("viewer.match(1 / 0.1)")  # a pixel of the image is a pixel of the screen
    tab.evaluate("viewer.pan(-1350, -400)")
    _until(tab, f"[{_COLOUR}(3150, 1600)].every(([r, g]) => r > 150 && g < 80)")
    end = time.monotonic() + PATIENCE / 1000
    while not any(asked.count(f"GET {one}") > 1 for one in refused):
        assert time.monotonic() < end
        tab.wait_for_timeout(50)
    top = [one for one in asked if "/tiles/3/" in one]
    assert top and len(top) < 40 and not [one for one in asked if "picture.jpg" in one]
    assert tab.evaluate(f"{_COLOUR}(3150, 1450)")[1] > 200


@pytest.mark.browser
def test_two_smears_side_by_side(tab, anna, small):
    other = analyzed(anna, upload(anna, REPO / "datasets/demo/blood/aml-blast-1.jpg"))
    tab.goto("/")
    for one in (small, other):
        tab.check(f".pick[value='{one['smear']}']")
    tab.click("#compare")
    tab.wait_for_url("**/compare?*")
    _shown(tab)
    rows = {row[0]: row[1:] for row in (line.split("\t") for line in tab.locator("#both tr").all_inner_texts())}
    for place, one in ((0, other), (3, small)):  # the worklist has the newest first
        counts = anna.get(f"/analyses/{one['id']}").json()["summary"]["differential"]
        known = {row["cell_type"]: str(row["n"]) for row in counts if row["cell_type"] in rows}
        assert known.get("blast") and known == {name: rows[name][place] for name in known}
    before = tab.evaluate("sides.map((one) => one.viewer.scale)")
    tab.click("#left-in")
    after = tab.evaluate("sides.map((one) => one.viewer.scale)")
    assert before == pytest.approx([before[0]] * 2) and after == pytest.approx([1.25 * before[0]] * 2)


@pytest.mark.browser
def test_two_smears_of_any_size_are_shown_at_one_scale(tab, small, many):
    """Also beyond what the smaller one alone could be zoomed out to; by buttons, wheel, and the way to a cell."""
    _shown(tab, f"/compare?left={many['smear']}&right={small['smear']}")
    scales, bars = "sides.map((one) => one.viewer.scale)", "[...document.querySelectorAll('.ruler')]"
    seen = [tab.evaluate(scales)]

    def look() -> None:
        seen.append(tab.evaluate(scales))
        assert seen[-1] == pytest.approx([seen[-1][0]] * 2)

    for button in ("#left-out", "#left-out", "#right-in", "#right-fit", "#left-in"):
        tab.click(button)
        look()
    for _ in range(12):
        tab.click("#right-out")
    look()
    assert seen[-1][0] < 0.6 * seen[0][0]
    tab.locator("#types .cell").last.click()
    look()
    tab.hover("#right-stage")
    tab.mouse.wheel(0, 240)
    _until(tab, f"{scales}[1] < {0.9 * seen[-1][0]}")
    look()
    tab.wait_for_timeout(100)  # for the next frame
    assert len(set(tab.evaluate(f"{bars}.map((one) => one.textContent + one.offsetWidth)"))) == 1
    tab.uncheck("#together")
    tab.click("#right-fit")
    left, right = tab.evaluate(scales)
    assert left == pytest.approx(seen[-1][0]) and right != pytest.approx(left)


@pytest.mark.browser
def test_a_failed_analysis_says_so_and_asks_for_the_scale(tab, anna, tmp_path):
    """In the worklist, while other files are on their way, and on its page; 0,1 is a tenth in every language."""
    write_image(tmp_path / "blank.png", np.full((300, 300, 3), 235, np.uint8))
    (tmp_path / "held.jpg").write_bytes(SMALL.read_bytes() + bytes(30))
    tab.on("dialog", lambda dialog: dialog.accept())  # it asks before one leaves
    tab.route("**/smears?name=held.jpg", lambda route: None)  # neither sent nor refused
    tab.goto("/")
    tab.set_input_files("#files", [tmp_path / "blank.png", tmp_path / "held.jpg"])
    row = "#list tr:has(a:text-is('blank.png'))"
    tab.wait_for_selector(f"{row} .result:has-text('failed')")
    said = tab.inner_text(f"{row} .result")
    assert re.fullmatch(r"failed\nThe scale could not be measured on red cells\. .*", said)
    tab.click(f"{row} th a")
    tab.wait_for_selector("body.smear[data-ready]")
    assert "could not be measured" in tab.inner_text("#job-text") and not tab.locator("#no-result").is_visible()
    tab.goto(f"/language/de?back=/smears/{tab.url.rpartition('/')[2]}")
    tab.wait_for_selector("body.smear[data-ready]")
    tab.click("[data-dialog=again]")
    assert tab.evaluate("document.activeElement.id") == "again-mpp" and tab.input_value("#again-scale") == "given"
    for typed in ("", "0,", "null", "0", "1000"):
        tab.fill("#again-mpp", typed)
        assert not tab.evaluate("document.getElementById('again-mpp').checkValidity()"), typed
    tab.fill("#again-mpp", "0,1")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#work:visible")
    assert "0,1 µm/px" in tab.inner_text(".facts")
    tab.goto("/language/en?back=/")
    for smear in anna.get("/smears").json()["items"]:
        if smear["name"] == "blank.png":
            anna.delete(f"/smears/{smear['id']}").raise_for_status()


@pytest.mark.browser
def test_no_key_loses_its_place_and_the_history_tells_steps_apart(tab, anna):
    smear = anna.post("/smears", params={"name": "steps.jpg"}, content=SMEAR.read_bytes() + b"steps").json()
    analyzed(anna, smear)
    _shown(tab, f"/smears/{smear['id']}")
    _tab_to(tab, "", "Skip to the cells")
    tab.keyboard.press("Enter")
    _tab_to(tab, "", cell="0/")
    assert tab.evaluate("viewer.isOpen()")  # the address of the link is not one of a cell
    last = tab.locator("#groups .cell").last
    cell = last.get_attribute("data-cell")
    last.focus()
    tab.keyboard.press("o")
    tab.keyboard.press("o")  # said already
    for key in "23z":
        tab.keyboard.press(key)
        tab.locator(f"[data-cell='{cell}']").focus()
    _saved(tab)
    tab.evaluate("document.getElementById('order').value = 'image', document.getElementById('order').onchange()")
    others = tab.evaluate("[...document.querySelectorAll('#groups .cell')].map((one) => one.dataset.cell)")
    pairs = [[0, int(one[2:])] for one in others if one != cell]
    tab.evaluate(f"shown.correct({pairs}, 'ignore')")  # nothing is left to go on to
    tab.locator(f"[data-cell='{cell}']").focus()
    tab.keyboard.press("Delete")
    assert tab.evaluate("[document.activeElement.id, '0/' + viewer.row]") == ["stage", cell]
    tab.keyboard.press("u")
    assert tab.locator(f"[data-cell='{cell}']").count() == 1
    tab.keyboard.press("d")
    assert tab.evaluate("viewer.drawing")
    tab.keyboard.press("Escape")
    assert not tab.evaluate("viewer.drawing") and tab.evaluate("document.activeElement.id") == "stage"
    tab.evaluate("viewer.choose([]), document.activeElement.blur()")
    tab.keyboard.press("u")  # of no cell: the last step
    assert tab.locator(f"[data-cell='{cell}']").count() == 0
    tab.keyboard.press("z")
    _until(tab, "document.querySelectorAll('#history li').length >= 5")
    _saved(tab)
    lines = [one.partition("\n")[0] for one in tab.locator("#history li").all_inner_texts()][::-1]
    first = lines[0].removesuffix(" confirmed")
    steps = [f"{first} confirmed", f"{first} → lymphocyte", "1 cell: lymphocyte → monocyte"]
    assert lines[:4] == [*steps, "1 cell: undone, lymphocyte again"], lines
    assert any(re.fullmatch(r"\d+ cells: \w.* → ignored", one) for one in lines), lines
    tab.click("#help")
    assert tab.locator("#keytypes li").all_inner_texts()[:2] == ["1 blast", "2 lymphocyte"]
    anna.delete(f"/smears/{smear['id']}").raise_for_status()


@pytest.mark.browser
def test_a_phone_shows_figures_first_and_types_for_the_cell(tab, many):
    tab.set_viewport_size({"width": 390, "height": 844})
    _shown(tab, f"/smears/{many['smear']}")
    tops = "['summary', 'viewer', 'gallery', 'history'].map((id) => document.getElementById(id).offsetTop)"
    found = tab.evaluate(tops)
    assert found == sorted(found) and tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert not tab.locator("#bulk").is_visible()
    cell = tab.locator(".group:has(h3:has-text('neutrophil')) .cell").first
    name = cell.get_attribute("data-cell")
    cell.click()
    for button in tab.locator("#bulk button").all():
        assert button.is_visible()
    bar = tab.locator("#bulk").bounding_box()
    assert bar["y"] + bar["height"] == pytest.approx(844, abs=1) and bar["height"] < 400
    tab.click("#bulkkinds [data-kind=basophil]")
    assert tab.evaluate(f"shown.KINDS[shown.images[0].kind[{name[2:]}]].name") == "basophil"
    assert tab.locator("#bulk").is_visible()  # for the next one
    tab.click("#nothing")
    assert not tab.locator("#bulk").is_visible()
    tab.evaluate("shown.withdraw()")
    _saved(tab)


@pytest.mark.browser
def test_a_second_window_of_your_own_is_called_that(tab, anna, small):
    tab.expected = ["412"]
    _shown(tab, f"/smears/{small['smear']}")
    figures = (
        "[...document.querySelectorAll('#rows, #sentences, #totals, #doubt')].map((one) => one.textContent).join()"
    )
    before = tab.evaluate(figures)
    view = anna.get(f"/analyses/{small['id']}/view").json()
    line = {"op": "class", "box_xyxy": view["images"][0]["box"][:4], "new_class": "wbc", "new_type": "basophil"}
    line["image_sha256"] = view["images"][0]["sha256"]
    anna.post(f"/analyses/{small['id']}/corrections", json={"corrections": [line]}).raise_for_status()
    tab.evaluate("shown.correct([[0, 0]], 'class', 'blast')")
    tab.wait_for_selector("#conflict:visible")
    assert tab.inner_text("#conflict-title") == "This smear was corrected in another window (anna)"
    assert tab.evaluate(figures) == before  # all of them wait for what is saved
    with tab.expect_navigation():
        tab.click("#drop-mine")
    _shown(tab)
    assert tab.evaluate("shown.KINDS[shown.images[0].kind[0]].name") == "basophil"


@pytest.mark.browser
def test_a_correction_makes_a_reviewed_smear_new(tab, anna):
    smear = anna.post("/smears", params={"name": "seen.jpg"}, content=SMEAR.read_bytes() + b"seen").json()
    analyzed(anna, smear)
    _shown(tab, f"/smears/{smear['id']}")
    with tab.expect_navigation():
        tab.click("[data-status=reviewed]")
    _shown(tab)
    assert tab.inner_text("#status") == "reviewed" and not tab.locator("[data-status=reviewed]").is_visible()
    tab.evaluate("void shown.correct([[0, 0]], 'class', 'blast')")
    _saved(tab)
    _until(tab, "document.getElementById('status').textContent === 'new'")
    assert tab.inner_text("#signed") == "" and tab.locator("[data-status=reviewed]").is_visible()
    assert anna.get(f"/smears/{smear['id']}").json()["status"] == "new"
    anna.delete(f"/smears/{smear['id']}").raise_for_status()


@pytest.mark.browser
def test_corrections_whose_answer_is_lost_are_sent_again_and_kept_once(tab, anna):
    smear = anna.post("/smears", params={"name": "lost.jpg"}, content=SMEAR.read_bytes() + b"lost").json()
    where = f"/analyses/{analyzed(anna, smear)['id']}/corrections"
    _shown(tab, f"/smears/{smear['id']}")
    tab.expected = ["Failed to load resource", "net::ERR_FAILED"]

    def lose(route):
        route.fetch()
        tab.evaluate("void shown.correct([[0, 1]], 'class', 'blast')")  # waits, and is sent after the first
        route.abort()

    tab.route(f"**{where}", lose, times=1)
    tab.evaluate("void shown.correct([[0, 0]], 'class', 'blast')")
    _saved(tab)
    rows = anna.get(where).json()
    assert (rows["version"], len(rows["corrections"])) == (2, 2)
    assert not tab.locator("#conflict").is_visible()
    anna.delete(f"/smears/{smear['id']}").raise_for_status()


@pytest.mark.browser
def test_a_smear_is_shared_and_a_reader_cannot_correct(tab, anna, ben, small, service):
    smear = upload(anna, REPO / "datasets/demo/blood/lymphocyte.jpg")
    analyzed(anna, smear)
    _shown(tab, f"/smears/{smear['id']}")
    tab.click("[data-dialog=sharing]")
    assert tab.locator("#share-may option").all_inner_texts() == ["read", "correct and sign"]  # that, too, is allowed
    tab.fill("#share-user", "nobody")
    tab.expected = ["404"]
    tab.click("#share button")
    tab.wait_for_selector("#share-fault:not(:empty)")
    assert tab.inner_text("#share-fault") == "There is no user of that name."
    tab.fill("#share-user", "ben")
    tab.click("#share button")
    tab.wait_for_selector("#shares li")
    assert tab.inner_text("#shares li").split("\n") == ["ben – read", "Stop sharing"]
    assert not tab.locator("#share-none").is_visible()  # "Only you see this smear."
    tab.context.clear_cookies()
    tab.context.add_cookies([{"name": name, "value": value, "url": service.url} for name, value in ben.cookies.items()])
    tab.goto("/")
    assert "shared with you" in tab.inner_text(f"[data-smear='{smear['id']}']")
    _shown(tab, f"/smears/{smear['id']}")
    assert tab.locator("[data-dialog=deleting], [data-status]").count() == 0
    tab.locator(".cell").first.focus()
    tab.keyboard.press("1")
    assert "for reading" in tab.inner_text("#saved")


@pytest.mark.browser
def test_a_smear_is_renamed_on_its_page(tab, anna, ben, root):
    path = REPO / "datasets/demo/blood/monocyte.jpg"
    smear = anna.post("/smears", params={"name": "left.jpg"}, content=path.read_bytes() + b"\0\0").json()
    where = f"/smears/{smear['id']}"
    result = analyzed(anna, smear)
    report = f"/analyses/{result['id']}/overlay.jpg"
    before = anna.get(report).content
    _shown(tab, where)
    _tab_to(tab, "", "Rename")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "new-name"
    tab.fill("#new-name", "  Case 12/26, <b>left")
    with tab.expect_navigation():
        tab.keyboard.press("Enter")
    _shown(tab)
    assert tab.inner_text("h1") == "Case 12-26, <b>left" and tab.title().startswith("Case 12-26, <b>left")
    assert anna.get(report).content != before  # its caption has the new name
    anna.put(f"{where}/shares/ben", json={"may": "read"}).raise_for_status()
    assert ben.patch(where, json={"name": "x"}).status_code == 403
    anna.put(f"{where}/shares/ben", json={"may": "write"}).raise_for_status()
    assert ben.patch(where, json={"name": "by ben"}).json()["name"] == "by ben"
    assert anna.patch(where, json={"name": "by ben"}).status_code == 200  # as it is: no line in the log
    lines = [one for one in root.get("/audit").json() if one["action"] == "smear.rename"]
    assert [one["user"] for one in lines] == ["ben", "anna"] and {one["smear"] for one in lines} == {smear["id"]}
    assert not [name for name in ("left.jpg", "Case", "by ben") if name in str(lines)]
    anna.patch(where, json={"status": "signed", "analysis": result["id"], "version": 0}).raise_for_status()
    assert anna.patch(where, json={"name": "y"}).status_code == 409
    _shown(tab, where)
    assert not tab.locator("[data-dialog=renaming], #renaming").count()
    anna.patch(where, json={"status": "new"}).raise_for_status()
    anna.delete(where).raise_for_status()


@pytest.mark.browser
def test_an_administrator_reads_the_audit_log(browser, service, anna, ben, root, tmp_path):
    mine = root.post("/smears", params={"name": "mine.jpg"}, content=SMALL.read_bytes() + b"\0\0\0").json()["id"]
    hers = upload(anna, REPO / "datasets/demo/blood/neutrophil.jpg")["id"]
    anna.put(f"/smears/{hers}/shares/ben", json={"may": "read"}).raise_for_status()
    anna.delete(f"/smears/{hers}/shares/ben").raise_for_status()
    for _ in range(60):
        anna.patch(f"/smears/{hers}", json={"status": "reviewed"}).raise_for_status()
    with _tab(browser, service, root) as page:
        page.goto("/")
        with page.expect_navigation():
            page.click("nav >> text=Audit log")
        _until(page, "!document.querySelector('time').textContent.includes('UTC')")
        rows = page.locator(".lines tbody tr")
        assert rows.count() == 50
        first = rows.first.locator("th, td").all_inner_texts()
        assert first[1:] == ["anna", "Smear reviewed", hers[:8], "127.0.0.1"]  # the name is for those who see the smear
        with page.expect_navigation():
            page.click("text=Older")
        more = page.locator(".lines tbody tr").all_inner_texts()
        assert sum("Smear reviewed" in one and hers[:8] in one for one in more) == 10
        assert any("mine.jpg" in one for one in more)
        said = [one.split("\t")[2] for one in more if "Sharing changed" in one]
        assert said[:2] == ["Sharing changed ben: no access", "Sharing changed ben: read"]
        page.select_option("select[name=user]", "root")
        with page.expect_navigation():
            page.click("main form button")
        assert set(page.locator(".lines tbody td:nth-child(2)").all_inner_texts()) == {"root"}
        with page.expect_download() as file:
            page.click("text=Table (CSV)")
        file.value.save_as(tmp_path / "audit.csv")
    with (tmp_path / "audit.csv").open(encoding="utf-8", newline="") as lines:
        table = list(csv.DictReader(lines))
    assert {row["user"] for row in table} == {"root"} and mine in {row["smear"] for row in table}
    every = root.get("/audit.csv").text.splitlines()
    assert len(every) > 60 and "mine.jpg" not in "".join(every)
    pages = [root.get("/audit", params={"limit": 7}).json()]
    pages.append(
        root.get("/audit", params={"limit": 7, "before": f"{pages[0][-1]['time']}_{pages[0][-1]['id']}"}).json()
    )
    assert [*pages[0], *pages[1]] == root.get("/audit", params={"limit": 14}).json()
    for user in (anna, ben):
        assert {user.get(path).status_code for path in ("/audit", "/audit.csv")} == {403}
        answer = httpx.get(f"{service.url}/audit", cookies=user.cookies)
        assert answer.status_code == 403 and "You are not allowed to see this page." in answer.text
        assert "Audit log" not in httpx.get(service.url, cookies=user.cookies).text
    assert root.get("/audit", params={"user": "nobody"}).status_code == 404


@pytest.mark.browser
def test_a_token_is_shown_once_and_revoked(tab, service):
    tab.goto("/account")
    tab.fill("#token-name", "analyser")
    tab.click("text=Add a token")
    tab.wait_for_selector("#made:visible")
    assert tab.evaluate("document.activeElement.id") == "copy"
    tab.wait_for_selector(".tokens tr:has-text('analyser')")  # without a reload
    row = tab.inner_text(".tokens tbody tr")
    assert "UTC" not in row and "No tokens" not in tab.inner_text("main")
    bearer = {"authorization": f"Bearer {tab.inner_text('#token')}"}
    assert httpx.get(f"{service.url}/api/v1/smears", headers=bearer).status_code == 200
    child = httpx.post(f"{service.url}/api/v1/tokens", headers=bearer, json={"name": "plate 7"}).raise_for_status()
    tab.reload()
    assert tab.inner_text(".tokens tr:has-text('plate 7') th") == "plate 7 made with analyser"
    tab.click("[data-revoke][data-name='plate 7']")
    assert tab.inner_text("#revoking-title") == "Revoke plate 7?"
    tab.click("#revoking [data-close]")
    of_child = {"authorization": f"Bearer {child.json()['token']}"}
    assert httpx.get(f"{service.url}/api/v1/smears", headers=of_child).status_code == 200
    tab.click("[data-revoke][data-name='analyser']")
    assert tab.inner_text("#revoking-title") == "Revoke analyser and 1 token made with it?"
    tab.click("#revoke")
    tab.wait_for_selector("text=No tokens.")
    assert not tab.locator("[data-revoke]").count()
    assert httpx.get(f"{service.url}/api/v1/smears", headers=bearer).status_code == 401


@pytest.mark.browser
def test_a_password_is_changed_on_the_account_page(tab, service):
    for language, words in (("de", "Passwort ändern"), ("en", "Change the password")):
        tab.goto(f"/language/{language}?back=/account")
        assert tab.inner_text("#change button") == words
    kinds = tab.evaluate("[...document.querySelectorAll('#change input')].map((one) => one.autocomplete)")
    assert kinds == ["username", "current-password", "new-password"]
    tab.expected = ["403"]
    for old, new, said in (
        ("wrong one", "another password", "#password-fault"),
        (USERS["anna"],) * 2 + ("#password-changed",),
    ):
        tab.fill("#password-old", old)
        tab.fill("#password-new", new)
        tab.click("#change button")
        tab.wait_for_selector(f"{said}:not(:empty)")
    assert tab.inner_text("#password-fault") == "" and tab.inner_text("#password-changed") == "Password changed"
    assert tab.input_value("#password-old") == ""


@pytest.mark.browser
def test_log_out_ends_the_session(tab, service):
    tab.context.clear_cookies()
    tab.goto("/account")
    assert len(set(tab.evaluate("[...document.querySelectorAll('#login input')].map((one) => one.offsetWidth)"))) == 1
    tab.fill("#name", "ben")
    tab.fill("#password", "wrong")
    tab.expected = ["401"]
    tab.click("form button")
    tab.wait_for_selector("#fault:not(:empty)")
    tab.fill("#password", USERS["ben"])
    tab.click("form button")
    tab.wait_for_url("**/account")
    tab.click("#logout")
    tab.wait_for_url("**/login")
    tab.goto("/")
    assert "/login" in tab.url
