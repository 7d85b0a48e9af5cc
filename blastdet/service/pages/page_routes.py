"""Pages for people. Each shows what the interface under ``/api/v1`` answers, and its scripts call nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from blastdet.service.api import account_routes, analysis_routes, audit_routes, job_routes, smear_routes
from blastdet.service.http.context import Id, Service, Services, limited_caller, service_of
from blastdet.service.http.schemas import Status, TokenOut, WorklistQuery
from blastdet.service.pages.page_assets import assets
from blastdet.service.pages.rendering import ACTIONS, LANGUAGE_COOKIE, Page, PageRoute, failed, local_path
from blastdet.service.pages.translations import LANGUAGES
from blastdet.service.security.callers import Caller, RefusedError
from blastdet.service.store import accounts, correction_rows, job_rows, smears

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_PER_PAGE = 50
Name = Annotated[str, Query(max_length=150, pattern=r"^[^\x00-\x1f\x7f]*$")]
After = Annotated[str, Query(pattern="^([0-9TZ:.-]{27}_[0-9a-f]{32})?$")]
MaybeId = Annotated[str, Query(pattern="^([0-9a-f]{32})?$")]


def _reader(request: Request) -> Caller:
    """Who looks at a page; a redirect to the log-in otherwise."""
    caller = limited_caller(request)
    if caller is None and service_of(request).gate.mode == "users":
        where = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        raise HTTPException(303, headers={"Location": f"/login?next={quote(where, safe='')}"})
    if caller is None:
        raise RefusedError(401, "expected a user that the proxy in front of this service names")
    if caller.scope not in ("read", "write"):
        raise RefusedError(403, f"token: expected the scope read or write, got {caller.scope}")
    return caller


@router.get("/")
def worklist(
    request: Request,
    service: Services,
    status: Status | Literal[""] = "",
    name: Name = "",
    analyzed: Literal["", "true", "false"] = "",
    after: After = "",
) -> Response:
    """Smears, and where new ones are dropped."""
    caller = _reader(request)
    has = None if not analyzed else analyzed == "true"
    asked = WorklistQuery(status=status or None, name=name or None, analyzed=has, limit=_PER_PAGE, after=after or None)
    found = smear_routes.worklist(service, caller, asked)
    filters = {"status": status, "name": name, "analyzed": analyzed}
    with service.database.read() as session:  # only for smears that the list above shows
        jobs = job_rows.active_of(session, [one.id for one in found.items])
        failures = job_rows.failures(session, [one.id for one in found.items if not one.last_analysis])
    in_turn = sorted(jobs.items(), key=lambda pair: (pair[1].state != "running", pair[1].created))
    data = {"max_bytes": service.settings.max_upload, "jobs": [[smear_id, job.id] for smear_id, job in in_turn]}
    return Page(request, caller).render(
        "worklist.jinja",
        data,
        smears=found.items,
        jobs=jobs,
        failures=failures,
        next=found.next,
        first=not after,
        filters=filters,
        models=analysis_routes.models(service, caller),
        max_mb=service.settings.max_upload_mb,
    )


@router.get("/smears/{smear_id}")
async def smear(smear_id: Id, request: Request, service: Services, analysis: MaybeId = "") -> Response:
    """One smear: viewer, differential, gallery, corrections."""
    caller = await run_in_threadpool(_reader, request)
    page = partial(_smear_page, smear_id, request, caller, analysis)
    return await analysis_routes.rendered(request, service, caller.user_id, page)


def _smear_page(smear_id: str, request: Request, caller: Caller, analysis: str) -> Response:
    service = service_of(request)
    found = smear_routes.one(smear_id, service, caller)
    results = analysis_routes.results_of(smear_id, service, caller).items
    shown = next((one for one in results if one.id == analysis), results[0] if results else None)
    job = next(iter(job_routes.jobs(service, caller, limit=1, smear=smear_id).items), None)
    with service.database.read() as session:
        corrections = {one.id: correction_rows.count(session, one.id) for one in results if len(results) > 1}
    data = {
        "smear": found.model_dump(mode="json"),
        "analysis": None if shown is None else shown.id,
        "job": None if job is None or job.state in ("done", "cancelled") else job.model_dump(mode="json"),
    }
    return Page(request, caller).render(
        "smear.jinja",
        data,
        smear=found,
        results=results,
        corrections=corrections,
        shown=shown,
        job=job,
        models=analysis_routes.models(service, caller),
    )


@router.get("/compare")
def compare(request: Request, service: Services, left: MaybeId = "", right: MaybeId = "") -> Response:
    """Two smears side by side."""
    caller = _reader(request)
    choices = smear_routes.worklist(service, caller, WorklistQuery(analyzed=True, limit=200)).items
    sides = [smear_routes.one(one, service, caller) if one else None for one in (left, right)]
    known = {one.id for one in choices}
    choices += [one for one in sides if one is not None and one.id not in known]
    data = {"sides": [None if one is None else one.model_dump(mode="json") for one in sides]}
    return Page(request, caller).render("compare.jinja", data, choices=choices, sides=sides)


@router.get("/account")
def account(request: Request, service: Services) -> Response:
    """Who you are, and your API tokens."""
    caller = _reader(request)
    tokens = account_routes.tokens(service, caller)
    return Page(request, caller).render("account.jinja", {}, tokens=tokens, n_ending_with=_n_ending_with(tokens))


def _n_ending_with(tokens: Sequence[TokenOut]) -> dict[str, int]:
    """Id of each token -> number of those that were made with it, or with one of these, and end with it."""
    found = dict.fromkeys((one.id for one in tokens), 0)
    makers = {one.id: one.made_with for one in tokens}
    for one in tokens:
        maker = one.made_with
        while maker in found:
            found[maker] += 1
            maker = makers[maker]
    return found


@router.get("/audit")
def audit(request: Request, service: Services, user: Name = "", before: After = "") -> Response:
    """What was done, by whom and when; for administrators."""
    caller = _reader(request)
    lines = audit_routes.audit(service, caller, _PER_PAGE + 1, before or None, user or None)
    with service.database.read() as session:
        people = {one.id: one.name for one in accounts.users(session)}
        # A name may be that of a patient: administrators read only those of smears that they see anyway.
        seen = {one.smear: smears.access(session, caller.user_id, one.smear) for one in lines if one.smear}
    return Page(request, caller).render(
        "audit.jinja",
        {},
        lines=lines[:_PER_PAGE],
        next=f"{lines[_PER_PAGE - 1].time}_{lines[_PER_PAGE - 1].id}" if len(lines) > _PER_PAGE else "",
        first=not before,
        user=user,
        people=people,
        names={smear_id: right.smear.name for smear_id, right in seen.items() if right is not None},
        actions=ACTIONS,
    )


@router.get("/login")
def login(request: Request, service: Services, next: Annotated[str, Query(max_length=2000)] = "/") -> Response:
    """Log in; without users, there is nothing to log in to."""
    to = local_path(next)
    if service.gate.mode != "users" or _who(request, service) is not None:
        return RedirectResponse(to, 303)
    return Page(request, None).render("login.jinja", {"next": to})


def _who(request: Request, service: Service) -> Caller | None:
    try:
        return service.gate.caller(request)
    except RefusedError:
        return None


@router.get("/language/{language}")
def language(language: str, request: Request, service: Services, back: str = "/") -> Response:
    """Remember a language in this browser, and go back."""
    if language not in LANGUAGES:
        raise RefusedError(404, f"language: expected one of {', '.join(LANGUAGES)}")
    answer = RedirectResponse(local_path(back[:2000]), 303)
    secure = service.gate.is_secure(request)
    answer.set_cookie(LANGUAGE_COOKIE, language, max_age=365 * 86400, samesite="lax", httponly=True, secure=secure)
    return answer


@router.get("/static/{name}")
def static(name: str, request: Request) -> Response:
    """A script or a style."""
    found = assets().get(name)
    if found is None:
        raise RefusedError(404, "file: not found")
    headers: dict[str, Any] = {"ETag": found.etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)


def add_pages(app: FastAPI) -> None:
    """Add the pages to an application; a browser that asks for an address that is not there gets a page, too."""
    app.include_router(router)
    answer: Any = app.exception_handlers[HTTPException]

    def missing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        is_page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")
        if error.status_code == 404 and is_page:
            return failed(request, 404)
        shown: Response = answer(request, error)
        return shown

    app.add_exception_handler(HTTPException, missing)
