"""Results: the analyses of smears in every format, their pictures, and ``/detect`` for small images."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from blastdet.core.model_card import ValidationCounts
from blastdet.datasets.corrections import from_rows
from blastdet.inference.writers import head
from blastdet.service.api.job_routes import offered, options_of
from blastdet.service.api.picture_routes import has_overview, jpeg
from blastdet.service.api.smear_routes import IMAGE_BODY
from blastdet.service.compute.fair_queue import HasLeft
from blastdet.service.compute.pool import Answer, ComputeCancelledError, Watch
from blastdet.service.http.body import whole_body
from blastdet.service.http.context import (
    AnyCaller,
    Detecting,
    Id,
    Reader,
    Service,
    Services,
    analysis_access,
    smear_access,
)
from blastdet.service.http.fair_route import FairRoute
from blastdet.service.http.presence import while_connected
from blastdet.service.http.saved_names import disposition
from blastdet.service.http.schemas import AnalysisIn, AnalysisList, AnalysisOut, ModelOut
from blastdet.service.results.renderings import RENDERINGS
from blastdet.service.results.stored_result import StoredResult, shown_result
from blastdet.service.security.callers import Caller, RefusedError
from blastdet.service.store import correction_rows
from blastdet.service.store.blobs import display_name
from blastdet.service.store.schema import Analysis

router = APIRouter(tags=["analyses"], route_class=FairRoute)

T = TypeVar("T")

_DETECT_PIXELS = 64 * 10**6  # of an image that is analyzed at once
_DETECT_S = 60.0  # others may wait for as long

Corrected = Annotated[bool, Query(description="with the corrections of reviewers")]


class Kept:
    """An analysis that a caller may read, with what is needed to show it.

    Parameters
    ----------
    service : Service
    caller : Caller
    analysis_id : str
    """

    def __init__(self, service: Service, caller: Caller, analysis_id: str) -> None:
        with service.database.read() as session:
            self.analysis, access = analysis_access(session, caller, analysis_id)
            self.smear = access.smear
        self.service, self.user_id = service, caller.user_id
        self.record = service.blobs.record(self.smear.id, self.analysis.id)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Its corrections."""
        with self.service.database.read() as session:
            return correction_rows.rows_of(session, self.analysis.id, self.analysis.version)

    def result(self) -> StoredResult:
        """The result; `RefusedError` if its file is gone."""
        which = (self.record, self.smear.name, self.analysis.version)
        try:
            return shown_result(which, lambda: from_rows(self.rows), self._trials())
        except FileNotFoundError:
            raise RefusedError(404, "analysis: its result is gone") from None

    async def shown(self, request: Request, show: Callable[[], T]) -> T:
        """What `show` makes of it: in a thread of few, when it is the turn of this user."""
        return await rendered(request, self.service, self.user_id, show)

    def _trials(self) -> Sequence[ValidationCounts]:
        """Error rates of the classifier, if the service still offers it."""
        model = self.service.models.get(self.analysis.weights)
        return () if model is None or model.classifier is None else model.classifier.trials

    def saved_as(self, name: str, how: str = "attachment") -> dict[str, str]:
        """The header that names a file after its smear; `how` is ``attachment``, or ``inline`` for what is shown."""
        stem = self.smear.name.rpartition(".")[0] or self.smear.name
        return {"Content-Disposition": disposition(stem, f".{name}", how)}

    async def picture(
        self, request: Request, op: str, suffix: str, args: dict[str, Any], *, depends: bool = True
    ) -> Response:
        """A picture that a child process draws from a result; kept for this version and words if it `depends` on them.

        One that shows all of a large image needs its overview.
        """
        args = {"record": str(self.record), "name": self.smear.name, **args}
        called = hashlib.sha256(f"{self.smear.name}{args.get('review', '')}".encode()).hexdigest()[:8]
        path = self.record.with_name(f"v{self.analysis.version}-{called}-{suffix}" if depends else suffix)
        headers = {"ETag": f'"{path.stem}"', "Cache-Control": "private, no-cache"}  # one address, changing content
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        is_new = not path.is_file()
        reduced = op != "sheet" and has_overview(self.smear)
        args = {"corrections": await self.shown(request, lambda: self.rows) if depends else [], **args}
        answer = await jpeg(request, path, op, self.smear, args, reduced=reduced)
        if is_new:
            await run_in_threadpool(_delete_others, path, suffix)
        answer.headers.update(headers)
        return answer


async def rendered(request: Request, service: Service, user_id: str, show: Callable[[], T]) -> T:
    """What `show` makes of results, in a thread of few, when it is the turn of a user."""
    return await while_connected(request, service.rendering.run(user_id, lambda has_left: show()))


def _delete_others(path: Path, suffix: str) -> None:
    """Delete the pictures of the same kind that are out of date."""
    for one in path.parent.glob(f"v*-{suffix}"):
        if one != path:
            one.unlink(missing_ok=True)


def etag(version: int) -> dict[str, str]:
    """The header that names a version."""
    return {"ETag": f'"{version}"'}


def _shown(kept: Kept, corrected: bool) -> AnalysisOut:
    analysis, result = kept.analysis, kept.result()
    base = f"/api/v1/analyses/{analysis.id}"
    names = [*RENDERINGS, "report.pdf", "report.fhir.json", "overlay.jpg", "sheet.jpg", "view", "corrections"]
    return AnalysisOut(
        id=analysis.id,
        smear=analysis.smear_id,
        weights=analysis.weights,
        request=analysis.request,
        version=analysis.version,
        created=analysis.created,
        seconds=analysis.seconds,
        corrected=corrected and analysis.version > 0,
        summary=head(result.corrected if corrected else result.original),
        links={name: f"{base}/{name}" for name in names},
    )


@router.get("/smears/{smear_id}/analyses")
async def of_smear(
    smear_id: Id,
    request: Request,
    service: Services,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> AnalysisList:
    """Results of a smear, the newest first."""

    def listed(has_left: HasLeft) -> AnalysisList:
        return results_of(smear_id, service, caller, limit, has_left)

    return await while_connected(request, service.rendering.run(caller.user_id, listed))


def results_of(
    smear_id: str, service: Service, caller: Caller, limit: int = 20, has_left: HasLeft = lambda: False
) -> AnalysisList:
    """What `of_smear` answers; once the client has left, no more results are put together."""
    with service.database.read() as session:
        smear_access(session, caller, smear_id)
        query = select(Analysis.id).where(Analysis.smear_id == smear_id).order_by(Analysis.created.desc())
        ids = list(session.scalars(query.limit(limit)))
    return AnalysisList(items=[_shown(Kept(service, caller, one), True) for one in ids if not has_left()])


def _kept(analysis_id: Id, service: Services, caller: Reader) -> Kept:
    return Kept(service, caller, analysis_id)


KeptOne = Annotated[Kept, Depends(_kept)]


@router.get("/analyses/{analysis_id}")
async def one(request: Request, kept: KeptOne, response: Response, corrected: Corrected = True) -> AnalysisOut:
    """A result without its cells: counts, differential, blasts with intervals, doubts, and links to everything else."""
    response.headers.update(etag(kept.analysis.version))
    return await kept.shown(request, partial(_shown, kept, corrected))


async def _file(request: Request, kept: Kept, name: str, corrected: bool) -> Response:
    rendering = RENDERINGS[name]
    headers = {**kept.saved_as(name), **etag(kept.analysis.version)}

    def written() -> Response:
        found = kept.result()
        text = rendering.text(found.corrected if corrected else found.original)
        return Response(text, media_type=rendering.media_type, headers=headers)

    return await kept.shown(request, written)


@router.get("/analyses/{analysis_id}/result.json", response_class=Response)
async def as_json(request: Request, kept: KeptOne, corrected: Corrected = True) -> Response:
    """The JSON document of ``blastdet detect``, with all cells."""
    return await _file(request, kept, "result.json", corrected)


@router.get("/analyses/{analysis_id}/result.csv", response_class=Response)
async def as_csv(request: Request, kept: KeptOne, corrected: Corrected = True) -> Response:
    """One row for each cell."""
    return await _file(request, kept, "result.csv", corrected)


@router.get("/analyses/{analysis_id}/result.coco.json", response_class=Response)
async def as_coco(request: Request, kept: KeptOne, corrected: Corrected = True) -> Response:
    """A COCO document."""
    return await _file(request, kept, "result.coco.json", corrected)


@router.get("/analyses/{analysis_id}/result.geojson", response_class=Response)
async def as_geojson(request: Request, kept: KeptOne, corrected: Corrected = True) -> Response:
    """GeoJSON that QuPath opens."""
    return await _file(request, kept, "result.geojson", corrected)


@router.get("/analyses/{analysis_id}/overlay.jpg", response_class=Response)
async def overlay(request: Request, kept: KeptOne) -> Response:
    """The image with its cells drawn in."""
    answer = await kept.picture(request, "overlay", "overlay.jpg", {})
    answer.headers.update(kept.saved_as("overlay.jpg", "inline"))
    return answer


@router.get("/analyses/{analysis_id}/sheet.jpg", response_class=Response)
async def sheet(request: Request, kept: KeptOne, corrected: Corrected = False) -> Response:
    """Crops of the nucleated cells, 16 in a row of 128 px: as in ``view``, or corrected as in ``run.json``."""
    if corrected:
        return await kept.picture(request, "sheet", "sheet-corrected.jpg", {})
    return await kept.picture(request, "sheet", "sheet.jpg", {}, depends=False)


@router.get("/analyses/{analysis_id}/cells/{n}.jpg", response_class=Response)
async def cell(request: Request, kept: KeptOne, n: int, service: Services) -> Response:
    """The crop of cell ``n`` as the model found it: 1 is ``c00001``."""
    found = (await kept.shown(request, kept.result)).original
    if not 1 <= n <= len(found.detections):
        raise RefusedError(404, f"cell: expected 1 to {len(found.detections)}")
    box = found.detections.boxes_xyxy[n - 1].astype(float).tolist()
    folder = service.blobs.analysis(kept.smear.id, kept.analysis.id)
    return await jpeg(request, folder / f"cell-{n}.jpg", "crop", kept.smear, {"box": box, "mpp": list(found.mpp)})


@router.get("/models")
def models(service: Services, caller: AnyCaller) -> list[ModelOut]:
    """Models that the service offers."""
    return [ModelOut(**model.describe()) for model in service.models.values()]


@router.post("/detect", response_class=Response, openapi_extra=IMAGE_BODY)
async def detect(
    request: Request,
    service: Services,
    caller: Detecting,
    weights: Annotated[str, Query(max_length=100)] = "default",
    mpp: Annotated[str | None, Query(max_length=60, description="X, X,Y or auto")] = None,
    min_score: Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False)] = None,
) -> Response:
    """Analyze one small image at once; nothing of it is stored. The answer is the JSON of ``blastdet detect``."""
    model = offered(service, weights)
    service.detecting.check(caller.user_id)  # before its image is in memory
    with service.bodies.holding(caller.user_id) as take:
        content, name = await whole_body(request, service.settings.max_detect, take)
        options = options_of(AnalysisIn(min_score=min_score), mpp)
        args = {**options, "weights": str(model.folder), "name": display_name(name, "image")}
        do = partial(_detected, service, {**args, "most_pixels": _DETECT_PIXELS}, content)
        about, document = await while_connected(request, service.detecting.run(caller.user_id, do))
    service.metrics.detected(about["seconds"])
    return Response(document, media_type="application/json", headers={"X-Model-Seconds": f"{about['seconds']:.4f}"})


def _detected(service: Service, args: dict[str, Any], content: bytes, has_left: HasLeft) -> Answer:
    end = time.monotonic() + _DETECT_S
    watch = Watch(is_cancelled=lambda: has_left() or time.monotonic() > end)
    try:
        return service.detectors.call("detect", args, content, watch)
    except ComputeCancelledError:
        line = f"detect: expected an image that takes at most {_DETECT_S:g} s, got one that takes longer"
        raise RefusedError(422, f"{line}. Send it as a smear: POST /smears") from None
