"""Pictures of smears: one for browsers, tiles, and what other routes show of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from blastdet.service.compute.overview import overview_size, reduction_of
from blastdet.service.compute.tiles import highest_zoom, tile_count
from blastdet.service.http.context import Id, ReadableSmear, Reader, Services, service_of, smear_access
from blastdet.service.http.fair_route import FairRoute
from blastdet.service.http.kept_files import is_large, kept_file
from blastdet.service.http.presence import while_connected
from blastdet.service.security.callers import RefusedError
from blastdet.service.store.schema import Smear

router = APIRouter(prefix="/smears", tags=["smears"], route_class=FairRoute)


@router.get("/{smear_id}/picture.jpg", response_class=Response)
async def picture(request: Request, smear: ReadableSmear, service: Services) -> Response:
    """The image for a browser, at most 3200 pixels wide or high."""
    path = service.blobs.smear(smear.id) / "tiles" / "picture.jpg"
    return await jpeg(request, path, "picture", smear, {}, reduced=has_overview(smear))


@router.get("/{smear_id}/tiles")
def tile_grid(smear_id: Id, service: Services, caller: Reader) -> dict[str, Any]:
    """Sizes of the tiles: at zoom 0 one tile shows all, at the highest zoom a pixel is a pixel."""
    with service.database.read() as session:
        smear = smear_access(session, caller, smear_id).smear
    size = (smear.width, smear.height)
    zooms = [{"zoom": z, "columns": tile_count(size, z)[0], "rows": tile_count(size, z)[1]} for z in _zooms(size)]
    return {"width": smear.width, "height": smear.height, "tile": 512, "levels": zooms}


def _zooms(size: tuple[int, int]) -> range:
    return range(highest_zoom(size) + 1)


@router.get("/{smear_id}/tiles/{z}/{x}/{y}", response_class=Response)
async def tile(request: Request, smear: ReadableSmear, z: int, x: int, y: int, service: Services) -> Response:
    """One tile, as a JPEG of at most 512 x 512 pixels."""
    size = (smear.width, smear.height)
    columns, rows = tile_count(size, z) if z in _zooms(size) else (0, 0)
    if not (0 <= x < columns and 0 <= y < rows):
        raise RefusedError(404, f"tile: expected zoom 0 to {highest_zoom(size)} and a place on the image")
    path = service.blobs.tile(smear.id, z, x, y)
    reduced = has_overview(smear) and z <= highest_zoom(overview_size(size))
    return await jpeg(request, path, "tile", smear, {"z": z, "x": x, "y": y}, reduced=reduced)


def has_overview(smear: Smear) -> bool:
    """Whether an image is so large that a picture of all of it comes from its overview."""
    return reduction_of((smear.width, smear.height)) > 1


async def jpeg(
    request: Request, path: Path, op: str, smear: Smear, args: dict[str, Any], *, reduced: bool = False
) -> Response:
    """A picture that is made once and kept until its smear is deleted; if `reduced`, with the help of an overview.

    Where the client goes away before it is begun, it is not made.
    """
    service, user = service_of(request), request.state.user_id
    source = service.blobs.image(smear.id)
    if not source.is_file():
        raise RefusedError(404, "smear: its file is gone")
    answer = await kept_file(path, "image/jpeg")
    if answer is None:
        args = {"path": str(source), **args}
        if reduced:
            overview = service.blobs.overview(smear.id)
            content = await while_connected(request, service.pictures.make_reduced(path, op, args, overview, user))
        else:
            content = await while_connected(request, service.pictures.make(path, op, args, user))
        if is_large(content):
            answer = await kept_file(path, "image/jpeg")  # none on a full disk
        answer = answer or Response(content, media_type="image/jpeg")
    answer.headers["Cache-Control"] = "private, max-age=3600"
    return answer
