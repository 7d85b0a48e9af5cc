"""Uploads that may break off and go on: the tus protocol 1.0 with the extensions creation and termination.

What has arrived is the length of the file on disk, so that a process may end at any time.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, Any

import sqlalchemy as sql
from fastapi import APIRouter, Header, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from blastdet.core.errors import BlastdetError, counted
from blastdet.service.api.smear_routes import in_turn, keep_smear
from blastdet.service.compute.pool import ComputeBusyError, ComputeDiedError
from blastdet.service.http.context import Id, Service, Services, Writer
from blastdet.service.http.disk_quota import check_room
from blastdet.service.http.fair_route import FairRoute
from blastdet.service.http.schemas import UploadOut
from blastdet.service.security.callers import Caller, RefusedError
from blastdet.service.store.blobs import TooLargeError, display_name, leave_room, sha256_and_sync
from blastdet.service.store.schema import Upload, new_id

router = APIRouter(prefix="/uploads", tags=["uploads"], route_class=FairRoute)

_VERSION = "1.0.0"
_HEADERS = {"Tus-Resumable": _VERSION}
_PIECE = "application/offset+octet-stream"
_AT_ONCE = 2**20

Resumable = Annotated[str | None, Header(description=_VERSION)]


@router.options("", status_code=204)
def options(service: Services) -> Response:
    """What this server can do."""
    able = {
        "Tus-Version": _VERSION,
        "Tus-Extension": "creation,termination",
        "Tus-Max-Size": str(service.settings.max_upload),
    }
    return Response(status_code=204, headers={**_HEADERS, **able})


@router.post("", status_code=201)
def create(
    service: Services,
    caller: Writer,
    upload_length: Annotated[str | None, Header(description="bytes in all")] = None,
    upload_metadata: Annotated[str | None, Header(max_length=4000, description="filename BASE64")] = None,
    tus_resumable: Resumable = None,
) -> Response:
    """Begin an upload; its address is in ``Location``."""
    _check_version(tus_resumable)
    if upload_length is None or not upload_length.isdecimal() or len(upload_length) > 18:
        raise RefusedError(400, "upload-length: expected a number of bytes")
    n_bytes = int(upload_length)
    if n_bytes > service.settings.max_upload:
        raise TooLargeError(service.settings.max_upload)
    name = display_name(_metadata(upload_metadata or "").get("filename", ""))
    upload = Upload(id=new_id(), owner_id=caller.user_id, name=name, n_bytes=n_bytes)
    path = service.blobs.upload(upload.id)
    path.touch()
    try:
        with service.database.begin() as session:
            check_room(service, session, caller, n_bytes)
            session.add(upload)
    except BaseException:  # also a full disk
        path.unlink(missing_ok=True)
        raise
    return Response(status_code=201, headers={**_HEADERS, "Location": f"/api/v1/uploads/{upload.id}"})


@router.head("/{upload_id}")
async def head(upload_id: Id, request: Request, service: Services, caller: Writer) -> Response:
    """How much has arrived."""
    found = await in_turn(request, service, caller, partial(_completed, service, caller, upload_id))
    return Response(headers=_state(found))


@router.get("/{upload_id}")
async def state(upload_id: Id, request: Request, service: Services, caller: Writer) -> UploadOut:
    """How much has arrived, and the smear it became."""
    return await in_turn(request, service, caller, partial(_completed, service, caller, upload_id))


@router.patch("/{upload_id}", status_code=204)
async def append(
    upload_id: Id,
    request: Request,
    service: Services,
    caller: Writer,
    upload_offset: Annotated[str | None, Header(description="where this piece begins")] = None,
    tus_resumable: Resumable = None,
) -> Response:
    """Append a piece. With the last one the upload becomes a smear, which the header ``Upload-Smear`` names."""
    _check_version(tus_resumable)
    if request.headers.get("content-type", "") != _PIECE:
        raise RefusedError(415, f"content-type: expected {_PIECE}")
    if upload_offset is None or not upload_offset.isdecimal() or len(upload_offset) > 18:
        raise RefusedError(400, "upload-offset: expected a number of bytes")
    upload = await run_in_threadpool(_owned, service, caller, upload_id)
    if upload.smear_id is None:
        with suppress(FileNotFoundError), service.uploads.holding(caller.user_id, 1):  # completed or given up meanwhile
            await _receive(request, service, upload, int(upload_offset))
    found = await in_turn(request, service, caller, partial(_completed, service, caller, upload_id))
    return Response(status_code=204, headers=_state(found))


async def _receive(request: Request, service: Service, upload: Upload, offset: int) -> None:
    with _exclusive(service, upload.id) as handle:
        size = os.fstat(handle).st_size
        if size != offset:
            raise RefusedError(409, f"upload-offset: expected {size}, got {offset}")
        waiting = bytearray()
        try:
            async for piece in request.stream():
                size += len(piece)
                if size > upload.n_bytes:
                    raise RefusedError(413, f"upload: expected {counted(upload.n_bytes, 'byte')} in all, got more")
                waiting += piece
                if len(waiting) >= _AT_ONCE:
                    ready, waiting = bytes(waiting), bytearray()  # never written twice, also if this fails
                    await run_in_threadpool(_write, handle, ready)
        except ClientDisconnect:
            pass
        finally:  # what has arrived is kept, also of a body that stopped
            await run_in_threadpool(_write, handle, bytes(waiting))
            await run_in_threadpool(os.fsync, handle)


@router.delete("/{upload_id}", status_code=204)
def delete(upload_id: Id, service: Services, caller: Writer, tus_resumable: Resumable = None) -> Response:
    """Give an upload up."""
    with service.database.begin() as session:
        _found(session, caller, upload_id)
        session.execute(sql.delete(Upload).where(Upload.id == upload_id))
    service.blobs.upload(upload_id).unlink(missing_ok=True)
    return Response(status_code=204, headers=_HEADERS)


def _write(handle: int, content: bytes) -> None:
    leave_room(handle, len(content))
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


@contextmanager
def _exclusive(service: Service, upload_id: str) -> Iterator[int]:
    """The file of an upload, for one request at a time; `FileNotFoundError` if it became a smear, or was given up."""
    handle = os.open(service.blobs.upload(upload_id), os.O_WRONLY | os.O_APPEND)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield handle
    except BlockingIOError:
        line = "upload: another request is writing to it; try again in a second"
        raise RefusedError(423, line, {"Retry-After": "1"}) from None
    finally:
        os.close(handle)


def _found(session: Session, caller: Caller, upload_id: str) -> Upload:
    upload = session.get(Upload, upload_id)
    if upload is None or upload.owner_id != caller.user_id:
        raise RefusedError(404, "upload: not found")
    return upload


def _owned(service: Service, caller: Caller, upload_id: str) -> Upload:
    with service.database.read() as session:
        return _found(session, caller, upload_id)


def _completed(service: Service, caller: Caller, upload_id: str) -> UploadOut:
    """The upload; one that is whole becomes a smear. `RefusedError` while another request sees to that."""
    upload = _owned(service, caller, upload_id)
    with suppress(FileNotFoundError):  # completed or given up meanwhile: the row says which
        if upload.smear_id is None and _size(service, upload_id) >= upload.n_bytes:
            with _exclusive(service, upload_id):
                upload = _owned(service, caller, upload_id)
                if upload.smear_id is None:
                    _make_smear(service, caller, upload)
    upload = _owned(service, caller, upload_id)
    if upload.smear_id is not None:
        return UploadOut(id=upload.id, offset=upload.n_bytes, length=upload.n_bytes, smear=upload.smear_id)
    try:
        return UploadOut(id=upload.id, offset=_size(service, upload_id), length=upload.n_bytes, smear=None)
    except FileNotFoundError:
        raise RefusedError(404, "upload: not found") from None


def _size(service: Service, upload_id: str) -> int:
    return service.blobs.upload(upload_id).stat().st_size


def _make_smear(service: Service, caller: Caller, upload: Upload) -> None:
    """Under the lock of the file. It is removed only once its smear is there, or if it is no image."""
    path = service.blobs.upload(upload.id)
    about = (upload.name, sha256_and_sync(path))
    try:
        smear, _ = keep_smear(service, caller, path, about, has_room=True)
    except ComputeBusyError:
        raise
    except ComputeDiedError:  # perhaps not by its fault: what has arrived is kept
        line = "upload: the process that looks into it ended; it is kept. Try again in a few seconds"
        raise RefusedError(503, line, {"Retry-After": "5"}) from None
    except BlastdetError:  # no image: nothing to go on with
        with service.database.begin() as session:
            session.execute(sql.delete(Upload).where(Upload.id == upload.id))
        path.unlink(missing_ok=True)
        raise
    with service.database.begin() as session:  # it may have been given up: then nothing is there to update
        session.execute(sql.update(Upload).where(Upload.id == upload.id).values(smear_id=smear.id))
    path.unlink(missing_ok=True)


def _state(found: UploadOut) -> dict[str, str]:
    headers = {**_HEADERS, "Upload-Offset": str(found.offset), "Upload-Length": str(found.length)}
    return headers if found.smear is None else {**headers, "Upload-Smear": found.smear}


def _check_version(given: str | None) -> None:
    if given != _VERSION:
        raise RefusedError(412, f"tus-resumable: expected {_VERSION}", {"Tus-Version": _VERSION})


def _metadata(text: str) -> dict[str, str]:
    """Keys and values of ``Upload-Metadata``; `RefusedError` if it is malformed."""
    found: dict[str, Any] = {}
    for pair in filter(None, (one.strip() for one in text.split(","))):
        key, _, value = pair.partition(" ")
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            raise RefusedError(400, "upload-metadata: expected pairs of a key and base64") from None
    return found
