"""Smears: upload, worklist, images and tiles, sharing, deletion."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from blastdet.core.errors import counted, shown
from blastdet.service.compute.pool import Watch
from blastdet.service.http.body import AROUND, ImageBody
from blastdet.service.http.context import (
    Id,
    Reader,
    Service,
    Services,
    Writer,
    smear_access,
)
from blastdet.service.http.disk_quota import ArrivingQuota, check_room
from blastdet.service.http.fair_route import FairRoute
from blastdet.service.http.presence import while_connected
from blastdet.service.http.saved_names import disposition
from blastdet.service.http.schemas import ShareIn, ShareOut, SmearChange, SmearList, SmearOut, WorklistQuery
from blastdet.service.security.callers import Caller, RefusedError
from blastdet.service.store import accounts, audit_log, job_rows, retention, smears
from blastdet.service.store.blobs import Arriving, display_name
from blastdet.service.store.schema import Analysis, Smear, new_id
from blastdet.service.store.smears import Access

router = APIRouter(prefix="/smears", tags=["smears"], route_class=FairRoute)

T = TypeVar("T")

_ARRIVE = 2**20  # bytes written at once
_INSPECT_S = 30.0  # in which an uploaded file must be understood
_MOST_PIXELS = 50 * 10**9  # a slide at the highest magnification has 10
_LONGEST = 10**6  # pixels: 75 mm of glass at 0.1 µm have 750,000

IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
        },
    }
}


@router.post("", status_code=201, response_model=SmearOut, openapi_extra=IMAGE_BODY)
async def upload(
    request: Request,
    service: Services,
    caller: Writer,
    name: Annotated[str | None, Query(max_length=300, description="name of a raw body")] = None,
) -> Response:
    """Upload one image: as the body, or as the file of a form. The same bytes give the same smear again."""
    length = request.headers.get("content-length", "")
    stated = max(int(length) - AROUND, 0) if length.isdecimal() else 0
    if stated > service.settings.max_upload:
        raise RefusedError(413, f"upload: expected at most {service.settings.max_upload_mb:,.0f} MB, got more")
    quota = await run_in_threadpool(ArrivingQuota, service, caller)
    quota.check(stated)
    arriving = await run_in_threadpool(Arriving, service.blobs.new_temporary(), service.settings.max_upload)
    try:
        body, waiting = ImageBody(request), bytearray()
        with service.uploads.holding(caller.user_id, 1):
            async for piece in body.pieces():
                quota.take(len(piece))
                waiting += piece
                if len(waiting) >= _ARRIVE:
                    await run_in_threadpool(arriving.write, bytes(waiting))
                    waiting.clear()
            await run_in_threadpool(arriving.write, bytes(waiting))
        sha256 = await run_in_threadpool(arriving.finish)
        about = (display_name(name or body.name), sha256)
        kept = await in_turn(request, service, caller, partial(keep_smear, service, caller, arriving.path, about))
    finally:
        quota.give_back()
        await run_in_threadpool(arriving.discard)
    out, is_new = kept
    headers = {"Location": f"/api/v1/smears/{out.id}"}
    return JSONResponse(out.model_dump(mode="json"), 201 if is_new else 200, headers)


async def in_turn(request: Request, service: Service, caller: Caller, do: Callable[[], T]) -> T:
    """Look into an uploaded file when it is the turn of a user, unless the client goes away before.

    Raises
    ------
    ComputeBusyError
        If too many wait already.
    """
    return await while_connected(request, service.inspecting.run(caller.user_id, lambda has_left: do()))


def keep_smear(
    service: Service, caller: Caller, path: Path, about: tuple[str, str], *, has_room: bool = False
) -> tuple[SmearOut, bool]:
    """Make a smear of a file that is on disk; the file stays, also if this fails, until the caller removes it.

    Parameters
    ----------
    about : (str, str)
        Name for people, and sha256.
    has_room : bool
        Whether its bytes are counted for this user already.

    Returns
    -------
    SmearOut, bool
        And whether it is new: the same bytes of the same user are the same smear.

    Raises
    ------
    BlastdetError
        If it is no image.
    """
    name, sha256 = about
    if found := _existing(service, caller, sha256):
        return found, False
    n_bytes = path.stat().st_size
    head, _ = service.inspectors.call(
        "inspect", {"path": str(path), "name": name}, watch=Watch(stall_seconds=_INSPECT_S)
    )
    _check_size(*head["size_wh"])
    smear = Smear(id=new_id(), owner_id=caller.user_id, name=name, sha256=sha256, n_bytes=n_bytes)
    smear.width, smear.height = head["size_wh"]
    smear.mpp, smear.notes = head["mpp"], head["notes"]
    try:
        service.blobs.also(path, service.blobs.image(smear.id))
        with service.database.begin() as session:
            if not has_room:
                check_room(service, session, caller, n_bytes)
            session.add(smear)
            audit_log.record(session, "smear.upload", caller.user_id, smear.id, caller.address)
    except IntegrityError:  # the same bytes came twice at once
        service.blobs.delete_smear(smear.id)
        if found := _existing(service, caller, sha256):
            return found, False
        raise
    except BaseException:
        service.blobs.delete_smear(smear.id)
        raise
    service.metrics.uploaded(n_bytes)
    return SmearOut.of(Access(smear, "owner"), None), True


def _check_size(width: int, height: int) -> None:
    if width * height > _MOST_PIXELS:
        most = f"{_MOST_PIXELS / 1e9:.0f} gigapixels"
        raise RefusedError(422, f"image: expected at most {most}, got {width * height / 1e9:,.0f}")
    if max(width, height) > _LONGEST:
        raise RefusedError(422, f"image: expected at most {_LONGEST} pixels a side, got {width} x {height}")


def _existing(service: Service, caller: Caller, sha256: str) -> SmearOut | None:
    with service.database.read() as session:
        smear = smears.same_upload(session, caller.user_id, sha256)
        if smear is None:
            return None
        return SmearOut.of(Access(smear, "owner"), smears.last_analyses(session, [smear.id]).get(smear.id))


@router.get("")
def worklist(
    service: Services,
    caller: Reader,
    asked: Annotated[WorklistQuery, Query()],
) -> SmearList:
    """Smears that you own or that are shared with you, the newest first."""
    before, limit = None, asked.limit
    if asked.after is not None:
        time, _, last_id = asked.after.partition("_")
        before = (time, last_id)
    with service.database.read() as session:
        wanted = smears.Wanted(asked.status, asked.name, asked.analyzed, before, limit + 1)
        found = smears.listed(session, caller.user_id, wanted)
        last = smears.last_analyses(session, [smear.id for smear in found])
        rights = {smear.id: smears.access(session, caller.user_id, smear.id) for smear in found}
    shown = [SmearOut.of(right, last.get(smear_id)) for smear_id, right in rights.items() if right is not None]
    more = f"{found[limit - 1].created}_{found[limit - 1].id}" if len(found) > limit else None
    return SmearList(items=shown[:limit], next=more)


@router.get("/{smear_id}")
def one(smear_id: Id, service: Services, caller: Reader) -> SmearOut:
    """A smear."""
    with service.database.read() as session:
        found = smear_access(session, caller, smear_id)
        return SmearOut.of(found, smears.last_analyses(session, [smear_id]).get(smear_id))


@router.patch("/{smear_id}")
def change(smear_id: Id, change: SmearChange, service: Services, caller: Writer) -> SmearOut:
    """Rename a smear, or move it in the worklist: one of its results was reviewed, or signed, by you.

    Which one, and at which version, must be said where there is one: it is what you looked at. A signed smear
    can only be reopened, by the status ``new``.
    """
    with service.database.begin() as session:
        found = smear_access(session, caller, smear_id, "write", lock=True)  # two signatures at once are one
        if change.status in (None, "new") and (change.analysis, change.version) != (None, None):
            raise RefusedError(422, "analysis, version: expected the status reviewed or signed with them")
        if change.name is not None:
            _rename(session, found.smear, change, caller)
        if change.status is not None:
            _move(session, found.smear, change, caller)
        session.flush()
        return SmearOut.of(found, smears.last_analyses(session, [smear_id]).get(smear_id))


def _move(session: Session, smear: Smear, change: SmearChange, caller: Caller) -> None:
    status, is_signed = change.status or "new", smear.status == "signed"
    if is_signed and status != "new":
        raise RefusedError(409, f"smear: it is signed by {smear.reviewed_by}. Reopen it first")
    if status == "signed" and job_rows.is_active(session, smear.id):
        raise RefusedError(409, "smear: an analysis is running. Wait for its result, or cancel it")
    analysis_id = None if status == "new" else _looked_at(session, smear, change)
    smears.set_status(smear, status, caller.name, analysis_id)
    action = "smear.reopen" if is_signed else f"smear.{status}"
    audit_log.record(session, action, caller.user_id, smear.id, caller.address)


def _looked_at(session: Session, smear: Smear, change: SmearChange) -> str | None:
    """Id of the result that a person reviewed or signs; ``None`` for an image that was not analyzed."""
    is_none_said = change.analysis is None and change.version is None
    if is_none_said and not smears.last_analyses(session, [smear.id]):
        return None
    if change.analysis is None or change.version is None:
        got = "neither" if is_none_said else "only one of them"
        line = f"expected the id of the result that you looked at and its version, got {got}"
        raise RefusedError(422, f"analysis, version: {line}. GET /analyses/ID gives both")
    analysis = session.get(Analysis, change.analysis, with_for_update=True)
    if analysis is None or analysis.smear_id != smear.id:
        raise RefusedError(422, f"analysis: expected a result of this smear, got {change.analysis}")
    if change.version > analysis.version:
        raise RefusedError(412, f"smear: expected version {analysis.version}, got {change.version}")
    if change.version < analysis.version:
        raise RefusedError(412, "smear: somebody corrected it meanwhile. Look at it again")
    return analysis.id


def _rename(session: Session, smear: Smear, change: SmearChange, caller: Caller) -> None:
    """Rename a smear, and record that it was done: the audit log has no names."""
    name = display_name(re.sub(r"[/\\]", "-", change.name or ""))  # people write 12/26: no folder is meant
    if name == smear.name:
        return
    if smear.status == "signed" and change.status != "new":
        raise RefusedError(409, "smear: it is signed. Reopen it to rename it")
    smear.name = name
    audit_log.record(session, "smear.rename", caller.user_id, smear.id, caller.address)


@router.delete("/{smear_id}", status_code=204)
def delete(smear_id: Id, service: Services, caller: Writer) -> Response:
    """Delete a smear with its results, corrections, files and tiles. Nothing is kept. A signed one is not deleted."""
    check = partial(_check_deletable, caller=caller, smear_id=smear_id)
    with service.database.read() as session:  # most are refused without a turn to write
        check(session)
    retention.delete_smear(service.database, service.blobs, smear_id, caller.user_id, caller.address, check)
    return Response(status_code=204)


def _check_deletable(session: Session, caller: Caller, smear_id: str) -> None:
    smear_access(session, caller, smear_id, "owner")
    # Within the deletion, a signature that comes at the same time waits for it, or it for the signature.
    if session.scalar(select(Smear.status).where(Smear.id == smear_id).with_for_update()) == "signed":
        raise RefusedError(409, "smear: it is signed. Reopen it to delete it")


@router.get("/{smear_id}/image", response_class=FileResponse)
def image(smear_id: Id, request: Request, service: Services, caller: Reader) -> FileResponse:
    """The file as it was uploaded; with `Range`, a part of it. Of several parts at once, all of it."""
    with service.database.read() as session:
        name = smear_access(session, caller, smear_id).smear.name
    path = service.blobs.image(smear_id)
    try:
        found = path.stat()
    except FileNotFoundError:
        raise RefusedError(404, "smear: its file is gone") from None
    wanted = request.headers.get("range", "")
    if "," in wanted:  # thousands of parts would cost much
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
    elif wanted:
        _check_range(wanted, found.st_size)
    stem, _, suffix = name.rpartition(".")
    is_suffix = bool(stem) and re.fullmatch("[A-Za-z0-9]{1,8}", suffix)
    called = disposition(stem, f".{suffix}") if is_suffix else disposition(name)
    headers = {"Content-Disposition": called}
    return FileResponse(path, media_type="application/octet-stream", headers=headers, stat_result=found)


def _check_range(wanted: str, size: int) -> None:
    """`RefusedError` for a range that is none, or has nothing of a file of `size` bytes."""
    found = re.fullmatch(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-0*([1-9][0-9]{0,17}))", wanted, re.IGNORECASE)
    first, last = (0, size) if found is None or found[3] else (int(found[1]), int(found[2] or size))
    if found is None or not first <= last or first >= size:
        line = f"range: expected bytes=FIRST-LAST of {counted(size, 'byte')}, got {shown(wanted)}"
        raise RefusedError(416, line, {"Content-Range": f"bytes */{size}"})


@router.get("/{smear_id}/shares")
def shares(smear_id: Id, service: Services, caller: Reader) -> list[ShareOut]:
    """Who else may see this smear."""
    with service.database.read() as session:
        smear_access(session, caller, smear_id, "owner")
        found = smears.shares_of(session, smear_id)
        return [ShareOut(user=user, may="write" if may == "write" else "read") for user, may in found]


@router.put("/{smear_id}/shares/{user}")
def share(smear_id: Id, user: str, wanted: ShareIn, service: Services, caller: Writer) -> ShareOut:
    """Let another user see this smear, or also correct it."""
    _share(service, caller, smear_id, (user, wanted.may))
    return ShareOut(user=user, may=wanted.may)


@router.delete("/{smear_id}/shares/{user}", status_code=204)
def unshare(smear_id: Id, user: str, service: Services, caller: Writer) -> Response:
    """End that."""
    _share(service, caller, smear_id, (user, None))
    return Response(status_code=204)


def _share(service: Service, caller: Caller, smear_id: str, wanted: tuple[str, str | None]) -> None:
    name, may = wanted
    with service.database.begin() as session:
        smear_access(session, caller, smear_id, "owner")
        other = accounts.find_user(session, name) if re.fullmatch(r"[^\x00]{1,100}", name) else None
        if other is None or other.id == caller.user_id:
            raise RefusedError(404, "user: expected the name of another user")
        smears.share(session, smear_id, other.id, may)
        audit_log.record(session, "smear.share", caller.user_id, smear_id, caller.address, user=other.id, may=may)
