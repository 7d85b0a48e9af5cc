"""Results: the analyses of smears in every format, their pictures, and ``/detect`` for small images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from blastdet.core.model_card import ValidationCounts
from blastdet.datasets.corrections import from_rows
from blastdet.inference.writers import head
from blastdet.service.api.job_routes import offered, options_of
from blastdet.service.api.smear_routes import IMAGE_BODY, has_overview, jpeg
from blastdet.service.compute.pool import ComputeBusyError
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
from blastdet.service.http.saved_names import disposition
from blastdet.service.http.schemas import AnalysisIn, AnalysisList, AnalysisOut, ModelOut
from blastdet.service.results.renderings import RENDERINGS
from blastdet.service.results.stored_result import StoredResult, read_result
from blastdet.service.security.callers import Caller, RefusedError
from blastdet.service.store import correction_rows
from blastdet.service.store.blobs import display_name
from blastdet.service.store.schema import Analysis

router = APIRouter(tags=["analyses"])

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
            self.rows = correction_rows.rows_of(session, analysis_id)
        self.service = service
        self.record = service.blobs.record(self.smear.id, self.analysis.id)

    def result(self) -> StoredResult:
        """The result; `RefusedError` if its file is gone."""
        try:
            return read_result(self.record, self.smear.name, from_rows(self.rows), self._trials())
        except FileNotFoundError:
            raise RefusedError(404, "analysis: its result is gone") from None

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
        args = {"record": str(self.record), "name": self.smear.name, "corrections": self.rows, **args}
        called = hashlib.sha256(f"{self.smear.name}{args.get('review', '')}".encode()).hexdigest()[:8]
        path = self.record.with_name(f"v{self.analysis.version}-{called}-{suffix}" if depends else suffix)
        headers = {"ETag": f'"{path.stem}"', "Cache-Control": "private, no-cache"}  # one address, changing content
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        is_new = not path.is_file()
        reduced = op != "sheet" and has_overview(self.smear)
        answer = await jpeg(self.service, path, op, self.smear, args, reduced=reduced)
        if is_new:
            await run_in_threadpool(_delete_others, path, suffix)
        answer.headers.update(headers)
        return answer


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
        corrected=corrected and bool(kept.rows),
        summary=head(result.corrected if corrected else result.original),
        links={name: f"{base}/{name}" for name in names},
    )


@router.get("/smears/{smear_id}/analyses")
def of_smear(smear_id: Id, service: Services, caller: Reader) -> AnalysisList:
    """Results of a smear, the newest first."""
    with service.database.read() as session:
        smear_access(session, caller, smear_id)
        query = select(Analysis.id).where(Analysis.smear_id == smear_id).order_by(Analysis.created.desc())
        ids = list(session.scalars(query))
    return AnalysisList(items=[_shown(Kept(service, caller, one), True) for one in ids])


@router.get("/analyses/{analysis_id}")
def one(
    analysis_id: Id, service: Services, caller: Reader, response: Response, corrected: Corrected = True
) -> AnalysisOut:
    """A result without its cells: counts, differential, blasts with intervals, doubts, and links to everything else."""
    kept = Kept(service, caller, analysis_id)
    response.headers.update(etag(kept.analysis.version))
    return _shown(kept, corrected)


def _file(kept: Kept, name: str, corrected: bool) -> Response:
    rendering, found = RENDERINGS[name], kept.result()
    text = rendering.text(found.corrected if corrected else found.original)
    headers = {**kept.saved_as(name), **etag(kept.analysis.version)}
    return Response(text, media_type=rendering.media_type, headers=headers)


@router.get("/analyses/{analysis_id}/result.json", response_class=Response)
def as_json(analysis_id: Id, service: Services, caller: Reader, corrected: Corrected = True) -> Response:
    """The JSON document of ``blastdet detect``, with all cells."""
    return _file(Kept(service, caller, analysis_id), "result.json", corrected)


@router.get("/analyses/{analysis_id}/result.csv", response_class=Response)
def as_csv(analysis_id: Id, service: Services, caller: Reader, corrected: Corrected = True) -> Response:
    """One row for each cell."""
    return _file(Kept(service, caller, analysis_id), "result.csv", corrected)


@router.get("/analyses/{analysis_id}/result.coco.json", response_class=Response)
def as_coco(analysis_id: Id, service: Services, caller: Reader, corrected: Corrected = True) -> Response:
    """A COCO document."""
    return _file(Kept(service, caller, analysis_id), "result.coco.json", corrected)


@router.get("/analyses/{analysis_id}/result.geojson", response_class=Response)
def as_geojson(analysis_id: Id, service: Services, caller: Reader, corrected: Corrected = True) -> Response:
    """GeoJSON that QuPath opens."""
    return _file(Kept(service, caller, analysis_id), "result.geojson", corrected)


def _kept(analysis_id: Id, service: Services, caller: Reader) -> Kept:
    return Kept(service, caller, analysis_id)


KeptOne = Annotated[Kept, Depends(_kept)]


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
    return await kept.picture(request, "sheet", "sheet.jpg", {"corrections": []}, depends=False)


@router.get("/analyses/{analysis_id}/cells/{n}.jpg", response_class=Response)
async def cell(kept: KeptOne, n: int, service: Services) -> Response:
    """The crop of cell ``n`` as the model found it: 1 is ``c00001``."""
    found = (await run_in_threadpool(kept.result)).original
    if not 1 <= n <= len(found.detections):
        raise RefusedError(404, f"cell: expected 1 to {len(found.detections)}")
    box = found.detections.boxes_xyxy[n - 1].astype(float).tolist()
    folder = service.blobs.analysis(kept.smear.id, kept.analysis.id)
    return await jpeg(service, folder / f"cell-{n}.jpg", "crop", kept.smear, {"box": box, "mpp": list(found.mpp)})


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
    if service.detecting.statistics().tasks_waiting >= service.detectors.most_waiting:
        raise ComputeBusyError("busy: too many images wait already. Try again in a few seconds")
    content, name = await whole_body(request, service.settings.max_detect)
    options = options_of(AnalysisIn(min_score=min_score), mpp)
    args = {**options, "weights": str(model.folder), "name": display_name(name, "image")}
    do = partial(service.detectors.call, "detect", args, content)
    about, document = await to_thread.run_sync(do, limiter=service.detecting)
    service.metrics.detected(about["seconds"])
    return Response(document, media_type="application/json", headers={"X-Model-Seconds": f"{about['seconds']:.4f}"})
