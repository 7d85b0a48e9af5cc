"""Corrections: the lines of a review, appended under a version, with who and when."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from blastdet.core.errors import FormatError, shown
from blastdet.datasets.corrections import Correction, correction_line, correction_of, from_rows
from blastdet.service.api.analysis_routes import Kept, etag
from blastdet.service.http.context import Id, Reader, Service, Services, Writer, analysis_access
from blastdet.service.http.fair_route import FairRoute
from blastdet.service.http.schemas import CorrectionsIn, CorrectionsMade, CorrectionsOut
from blastdet.service.results.stored_result import StoredResult
from blastdet.service.security.callers import Caller, RefusedError
from blastdet.service.store import audit_log, correction_rows, smears
from blastdet.service.store.schema import User

router = APIRouter(tags=["corrections"], route_class=FairRoute)

_LINES = "application/x-ndjson"
_MOST_BYTES = 8 * 2**20
_MOST_LINES = 20_000
_MOST_ROWS = 100_000  # of an analysis
_MOST_LETTERS = 2000  # of a text, such as the reason
_LONGEST_LINE = 2**16
_START = 80  # letters that are looked at for a message
_AT_ONCE = 1000

_HEAD = re.compile(r'\s*+\{\s*+"corrections"\s*+:\s*+\[\s*+')
_LINE = re.compile(r'\{[^{}"]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^{}"]*+)*+\}', re.DOTALL)
_AFTER = re.compile(r"\s*+(,|\]\s*+\}\s*+\Z)\s*+")

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": CorrectionsIn.model_json_schema()},
            _LINES: {"schema": {"type": "string"}},
        },
    }
}


@router.get("/analyses/{analysis_id}/corrections")
def history(
    analysis_id: Id,
    service: Services,
    caller: Reader,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=_MOST_LINES)] = 1000,
    after: Annotated[str | None, Query(pattern="^[0-9]{1,9}-[0-9]{1,9}$", description="`next` of a page")] = None,
) -> CorrectionsOut:
    """Corrections of an analysis in order, each with who and when."""
    place = None if after is None else (int(after.split("-")[0]), int(after.split("-")[1]))
    with service.database.read() as session:
        analysis, _ = analysis_access(session, caller, analysis_id)
        found = correction_rows.page_of(session, analysis_id, place, limit + 1)
    response.headers.update(etag(analysis.version))
    more = f"{found[limit - 1][1]}-{found[limit - 1][2]}" if len(found) > limit else None
    return CorrectionsOut(version=analysis.version, corrections=[row for row, *_ in found[:limit]], next=more)


@router.post(
    "/analyses/{analysis_id}/corrections", status_code=201, response_model=CorrectionsMade, openapi_extra=_BODY
)
async def correct(
    analysis_id: Id,
    request: Request,
    service: Services,
    caller: Writer,
    if_match: Annotated[str | None, Header(description="version that the corrections were made on")] = None,
) -> Response:
    """Append corrections, all or none; the answer has these only.

    With `If-Match`: 412 if somebody else was first; look at theirs, then again. The same request sent again, because
    its answer was lost, adds nothing and is answered as before.
    """
    version = _version(if_match)
    await run_in_threadpool(_check_access, service, caller, analysis_id)
    kind = request.headers.get("content-type", "")
    with service.bodies.holding(caller.user_id) as take:
        parse = partial(_parsed, await _text(request, take), kind)
        corrections = await to_thread.run_sync(parse, limiter=service.parsing)
    kept = await run_in_threadpool(Kept, service, caller, analysis_id)
    corrections = await kept.shown(request, partial(_checked, kept, corrections))
    return await run_in_threadpool(_append, service, caller, (analysis_id, version), corrections)


def _check_access(service: Service, caller: Caller, analysis_id: str) -> None:
    """Refuse who may not correct before a byte of the body is read."""
    with service.database.read() as session:
        analysis_access(session, caller, analysis_id, "write")
        _check_room(session, analysis_id, 1)


def _check_room(session: Session, analysis_id: str, n_new: int) -> None:
    n_rows = correction_rows.count(session, analysis_id) + n_new
    if n_rows > _MOST_ROWS:
        raise RefusedError(422, f"corrections: expected at most {_MOST_ROWS} for an analysis, got {n_rows}")


async def _text(request: Request, take: Callable[[int], None]) -> bytes:
    content = bytearray()
    async for piece in request.stream():
        take(len(piece))
        content += piece
        if len(content) > _MOST_BYTES:
            raise RefusedError(413, f"corrections: expected at most {_MOST_BYTES // 2**20} MB, got more")
    return bytes(content)


def _parsed(content: bytes, kind: str) -> list[Correction]:
    """Corrections of a JSON object or of JSON Lines; `RefusedError` if they are at fault."""
    try:
        lines = _of_text(content.decode(), kind)
    except UnicodeDecodeError:
        raise RefusedError(400, "corrections: expected JSON in UTF-8, got other bytes") from None
    return [_correction(line, f"corrections: line {number}") for number, line in enumerate(lines, 1)]


def _of_text(text: str, kind: str) -> list[str]:
    """The lines of a body, none of which is long: JSON is read in one go, and all others wait meanwhile."""
    if kind.lower().startswith(_LINES):
        if (n_lines := text.count("\n")) > _MOST_LINES:
            raise _wrong_number(n_lines)
        lines = [line for line in text.split("\n") if line.strip()]
        for number, line in enumerate(lines, 1):
            if len(line) > _LONGEST_LINE:
                raise _no_line(number, line)
    else:
        lines = _of_object(text)
    if not lines:
        raise _wrong_number(0)
    return lines


def _of_object(text: str) -> list[str]:
    """The lines of ``{"corrections": [...]}``, each an object without others in it."""
    head = _HEAD.match(text)
    if head is None:
        form = f'{{"corrections": [...]}}, or JSON Lines as {_LINES}'
        raise RefusedError(422, f"corrections: expected {form}, got {shown(text[:_START])}")
    lines: list[str] = []
    place, is_over = head.end(), text.startswith("]", head.end())
    while not is_over:
        if len(lines) == _MOST_LINES:
            raise _wrong_number("more")
        found = _LINE.match(text, place, place + _LONGEST_LINE)
        if found is None:
            raise _no_line(len(lines) + 1, text[place : place + _START])
        lines.append(found[0])
        after = _AFTER.match(text, found.end())
        if after is None:
            got = shown(text[found.end() : found.end() + _START])
            raise RefusedError(422, f"corrections: line {len(lines)}: expected a comma or the end after it, got {got}")
        place, is_over = after.end(), after[1] != ","
    return lines


def _no_line(number: int, got: str) -> RefusedError:
    what = f"an object of at most {_LONGEST_LINE // 2**10} kB without others in it"
    return RefusedError(422, f"corrections: line {number}: expected {what}, got {shown(got)}")


def _wrong_number(n_lines: int | str) -> RefusedError:
    return RefusedError(422, f"corrections: expected 1 to {_MOST_LINES}, got {n_lines}")


def _correction(line: str, where: str) -> Correction:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise RefusedError(400, f"{where}: expected JSON, got {shown(line)}") from None
    if isinstance(row, dict) and not row.get("image"):  # the address says which
        row["image"] = "smear"
    try:
        one = correction_of(row, where)
    except FormatError as error:
        raise RefusedError(422, str(error)) from None
    if not re.fullmatch(r"([0-9a-f]{64})?", one.model_sha256):
        what = f"expected 64 hexadecimal digits, got {shown(one.model_sha256)}"
        raise RefusedError(422, f"{where}: model_sha256: {what}")
    for name, value in vars(one).items():
        if isinstance(value, str) and len(value) > _MOST_LETTERS:
            raise RefusedError(422, f"{where}: {name}: expected at most {_MOST_LETTERS} letters, got {len(value)}")
    return one


def _version(if_match: str | None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    found = re.fullmatch(r'(?:W/)?"?([0-9]{1,9})"?', if_match.strip())
    if found is None:
        raise RefusedError(422, 'if-match: expected the ETag of the analysis, such as "3"')
    return int(found[1])


def _checked(kept: Kept, corrections: list[Correction]) -> list[Correction]:
    """Corrections with the image that they are about; `RefusedError` if a box is not on it."""
    stored = kept.result()
    corrections = [_of_image(one, stored) for one in corrections]
    try:
        _ = replace(stored, corrections=[*stored.corrections, *corrections]).corrected
    except FormatError as error:
        raise RefusedError(422, str(error)) from None
    return corrections


def _append(service: Service, caller: Caller, where: tuple[str, int | None], corrections: list[Correction]) -> Response:
    """The answer is written here: thousands of corrections would hold up the event loop."""
    analysis_id, version = where
    with service.database.begin() as session:
        # a signature at the same moment comes before or after
        analysis, access = analysis_access(session, caller, analysis_id, "write", lock=True)
        _check_room(session, analysis_id, len(corrections))
        expected = analysis.version if version is None else version
        user = session.get(User, caller.user_id)
        assert user is not None
        new = correction_rows.append(session, analysis, expected, user, corrections)
        if new is None:
            if not correction_rows.are_there(session, analysis, expected, user, corrections):
                line = f"corrections: expected version {analysis.version}, got {expected}: somebody else was first"
                raise RefusedError(412, line, etag(analysis.version))
            new = expected + 1
        elif access.smear.status == "signed":
            raise RefusedError(409, "smear: it is signed. Reopen it to correct it")
        else:
            if access.smear.status == "reviewed" and access.smear.analysis_id == analysis_id:
                smears.set_status(access.smear, "new")  # its numbers are others than were looked at
            about = {"n": len(corrections), "version": new}
            audit_log.record(session, "corrections.add", caller.user_id, analysis_id, caller.address, **about)
    with service.database.read() as session:
        rows = [row for row, *_ in correction_rows.page_of(session, analysis_id, (new, -1), len(corrections))]
        answer = CorrectionsMade(version=new, count=correction_rows.count(session, analysis_id), corrections=rows)
    return Response(answer.model_dump_json(), 201, media_type="application/json")


def _of_image(correction: Correction, stored: StoredResult) -> Correction:
    """A correction with the image that it is about; `RefusedError` if it is about another."""
    sha256 = stored.original.image_sha256
    if correction.image_sha256 not in ("", sha256):
        raise RefusedError(422, f"corrections: expected image_sha256 {sha256}, got {correction.image_sha256}")
    return replace(correction, image_sha256=sha256, image=stored.original.name)


@router.get("/corrections", response_class=Response)
def every(
    service: Services,
    caller: Reader,
    since: Annotated[str, Query(max_length=40, pattern="^[0-9TZ:.+-]*$", description="ISO time in UTC")] = "",
) -> Response:
    """Corrections of all smears that you see, as JSON Lines, which ``train``, ``adapt`` and ``evaluate`` read."""
    headers = {"Content-Disposition": 'attachment; filename="corrections.jsonl"'}
    return StreamingResponse(_lines(service, caller, since), media_type=_LINES, headers=headers)


def _lines(service: Service, caller: Caller, since: str) -> Iterator[str]:
    """All lines, some at a time: a history of years fits into memory."""
    after = None
    while True:
        with service.database.read() as session:
            rows = correction_rows.rows_for(session, caller.user_id, since, after, _AT_ONCE)
        if not rows:
            return
        after = rows[-1][1]
        corrections = from_rows([row for row, _ in rows])
        yield "".join(correction_line(one) + "\n" for one in corrections)
