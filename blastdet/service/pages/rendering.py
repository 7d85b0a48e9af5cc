"""Templates as answers, and errors as pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from functools import cache, partial
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.exceptions import HTTPException

from blastdet import __version__
from blastdet.core.constants import RESEARCH_USE
from blastdet.service.api.audit_routes import may_audit
from blastdet.service.http.context import service_of
from blastdet.service.http.fair_route import FairRoute
from blastdet.service.pages.translations import LANGUAGES, catalog, chosen_language, formatter, translator
from blastdet.service.security.callers import Caller

LANGUAGE_COOKIE = "blastdet_language"

FAILURES = {
    401: ("Not logged in", "The service does not know who you are. Ask your administrator."),
    403: ("Not allowed", "You are not allowed to see this page. Ask your administrator."),
    404: ("Not found", "There is nothing at this address, or it is not shared with you."),
    422: ("That address is not right", "A part of it is missing or mistyped. Start from the worklist."),
    429: ("Please wait", "Too many requests at once. Try again in a few seconds."),
    503: ("Please wait", "The service is busy. Try again in a few seconds."),
    507: ("That did not work", "The disk of the service is full. Ask your administrator."),
}
"""Status -> title and sentence of the page that says so. What the interface says is for programs."""

FAILED = ("That did not work", "The service failed. Try again, and tell your administrator if it happens again.")
"""For any other status."""

ACTIONS = {
    "smear.upload": "Smear uploaded",
    "smear.rename": "Smear renamed",
    "smear.new": "Smear set to new",
    "smear.reviewed": "Smear reviewed",
    "smear.signed": "Smear signed",
    "smear.reopen": "Smear reopened",
    "smear.share": "Sharing changed",
    "smear.hand_over": "Smear handed over",
    "smear.delete": "Smear deleted",
    "job.ask": "Analysis requested",
    "job.cancel": "Analysis cancelled",
    "corrections.add": "Cells reviewed",
    "login": "Logged in",
    "login.refused": "Log-in refused",
    "token.add": "Token added",
    "token.revoke": "Token revoked",
    "user.add": "User added",
    "user.password": "Password changed",
    "user.remove": "User removed",
    "clock.confirm": "Time confirmed",
}
"""Action of the audit log -> what a page calls it."""


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("blastdet.service.pages"),
        autoescape=select_autoescape(["jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class Page:
    """A page in the language of its reader.

    Parameters
    ----------
    request : Request
    caller : Caller or None
    """

    def __init__(self, request: Request, caller: Caller | None) -> None:
        self.request, self.caller = request, caller
        self.language = chosen_language(
            request.cookies.get(LANGUAGE_COOKIE, ""), request.headers.get("accept-language", "")
        )

    def render(self, template: str, data: dict[str, Any], status: int = 200, **values: Any) -> HTMLResponse:
        """The page of a template.

        Parameters
        ----------
        template : str
        data : dict
            What its scripts need, as JSON.
        status : int
        **values
            What the template needs.
        """
        service = service_of(self.request)
        mode = "" if self.caller is None else service.gate.mode  # a page that says the database is away must not ask it
        csrf = "" if self.caller is None else self.caller.csrf
        texts, number = dict(catalog(self.language)), formatter(self.language)
        user = "" if self.caller is None else self.caller.name
        script = {**data, "csrf": csrf, "user": user, "language": self.language, "auth": mode, "texts": texts}
        text = (
            _environment()
            .get_template(template)
            .render(
                _=translator(self.language),
                number=number,
                when=when,
                scale=partial(scale, number=number),
                size=partial(size, number=number),
                language=self.language,
                languages=LANGUAGES,
                path=self.request.url.path,
                caller=self.caller,
                may_audit=self.caller is not None and may_audit(service, self.caller),
                mode=mode,
                notice=RESEARCH_USE,
                version=__version__,
                data=json.dumps(script, ensure_ascii=False).replace("<", "\\u003c"),
                **values,
            )
        )
        return HTMLResponse(text, status)


class PageRoute(FairRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with its errors caught."""
        handle = super().get_route_handler()

        async def caught(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:  # noqa: BLE001  # of any kind: a person must not get JSON
                if isinstance(error, HTTPException) and error.status_code == 303 and error.headers:
                    return RedirectResponse(error.headers["Location"], 303)
                return failed(request, _status_of(request, error))

        return caught


def _status_of(request: Request, error: Exception) -> int:
    """What the interface answers to an error; it also logs what has to be logged."""
    handlers: Mapping[Any, Callable[[Request, Exception], Response]] = request.app.exception_handlers
    handle = next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)
    return handle(request, error).status_code


def failed(request: Request, status: int) -> HTMLResponse:
    """A page that says what went wrong."""
    title, sentence = FAILURES.get(status, FAILED)
    return Page(request, None).render("failed.jinja", {}, status, title=title, sentence=sentence)


def local_path(path: str) -> str:
    """An address of this service; the start page for any other.

    Examples
    --------
    >>> [local_path(path) for path in ("/smears/1?a=2", "//evil.example", "https://evil.example", "/\\\\evil")]
    ['/smears/1?a=2', '/', '/', '/']
    """
    parts = urlsplit(path)
    is_local = not (parts.scheme or parts.netloc) and path.startswith("/") and "\\" not in path
    return path if is_local and not path.startswith("//") and path.isprintable() else "/"


def when(time: str | None) -> str:
    """A time as people read it, in UTC; the scripts show it in the time of the browser.

    Examples
    --------
    >>> when("2026-03-01T09:30:00.123456Z"), when(None)
    ('2026-03-01 09:30 UTC', '')
    """
    return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M} UTC" if time else ""


def scale(mpp: tuple[float, float] | None, number: Callable[..., str] = format) -> str:
    """µm/px as text, or an empty string.

    Examples
    --------
    >>> scale((0.1, 0.1)), scale((0.1, 0.12)), scale(None)
    ('0.1 µm/px', '0.1 × 0.12 µm/px', '')
    """
    if mpp is None:
        return ""
    x, y = mpp
    sides = [number(x, ".4g")] if abs(x / y - 1) < 1e-6 else [number(side, ".4g") for side in mpp]
    return " × ".join(sides) + " µm/px"


def size(n_bytes: int, number: Callable[..., str] = format) -> str:
    """Bytes as people read them.

    Examples
    --------
    >>> size(820), size(3_400_000), size(2_100_000_000)
    ('820 B', '3.4 MB', '2.1 GB')
    """
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= step:
            return f"{number(n_bytes / step, '.2g' if n_bytes < 10 * step else '.0f')} {unit}"
    return f"{n_bytes} B"
