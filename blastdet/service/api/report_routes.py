"""Reports of a result: PDF, FHIR, and what the viewer shows."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from blastdet.service.api.analysis_routes import Corrected, KeptOne, etag
from blastdet.service.api.job_routes import offered
from blastdet.service.http.context import Services
from blastdet.service.http.fair_route import FairRoute
from blastdet.service.results.fhir import fhir_bundle
from blastdet.service.results.viewer_data import corrected_figures, run_part, viewer_data
from blastdet.service.store.schema import Analysis, Smear

router = APIRouter(tags=["reports"], route_class=FairRoute)

_PDF = "application/pdf"


@router.get("/analyses/{analysis_id}/report.pdf", response_class=Response)
async def pdf(request: Request, kept: KeptOne, service: Services) -> Response:
    """One page: overlay, differential, blasts and uncertain cells, method and limits; with corrections."""
    model = offered(service, kept.analysis.weights)
    about = {"weights": str(model.folder), "review": review_line(kept.smear, kept.analysis)}
    answer = await kept.picture(request, "pdf", "report.pdf", about)
    answer.headers.update({"Content-Type": _PDF, **kept.saved_as("report.pdf")})
    return answer


def review_line(smear: Smear, analysis: Analysis) -> str:
    """When a result was made, and who looked at it."""
    made = f"Analyzed {analysis.created[:16].replace('T', ' ')} UTC"
    done = "signed" if smear.status == "signed" else "reviewed"
    if smear.status == "new" or smear.reviewed is None:
        return f"{made}. Not reviewed yet."
    if smear.analysis_id != analysis.id:
        return f"{made}. Not reviewed: another result of this smear was {done}."
    return f"{made}; {done} by {smear.reviewed_by}, {smear.reviewed[:16].replace('T', ' ')} UTC."


@router.get("/analyses/{analysis_id}/report.fhir.json", response_class=JSONResponse)
async def fhir(request: Request, kept: KeptOne, corrected: Corrected = True) -> Response:
    """FHIR R4: a bundle of a DiagnosticReport and its Observations. For research use only; never a diagnosis."""
    headers = {**kept.saved_as("report.fhir.json"), **etag(kept.analysis.version)}

    def bundle() -> Response:
        found = kept.result()
        document = fhir_bundle(found.corrected if corrected else found.original, kept.analysis, kept.smear)
        return JSONResponse(document, media_type="application/fhir+json", headers=headers)

    return await kept.shown(request, bundle)


@router.get("/analyses/{analysis_id}/run.json", response_model=dict[str, Any])
async def part_of_run(request: Request, kept: KeptOne, service: Services) -> Response:
    """What ``blastdet detect --server`` makes the page and the tables of a run of; with corrections."""
    model = offered(service, kept.analysis.weights)

    def part() -> Response:
        return JSONResponse(run_part(kept.result(), model), headers=etag(kept.analysis.version))

    return await kept.shown(request, part)


@router.get("/analyses/{analysis_id}/view", response_model=dict[str, Any])
async def view(
    request: Request,
    kept: KeptOne,
    service: Services,
    cells: Annotated[bool, Query(description="false: only `now`")] = True,
) -> Response:
    """What the viewer shows: the cells as the model found them, the corrections so far, and `now`: the figures."""
    model = offered(service, kept.analysis.weights)

    def document() -> Response:
        found = kept.result()
        shown = {"now": corrected_figures(found, model), "version": kept.analysis.version}
        if cells:
            whole = viewer_data(found.original, model, (kept.smear.id, kept.analysis.id))
            shown = {**whole, "corrections": kept.rows, **shown}
        return JSONResponse(shown, headers=etag(kept.analysis.version))

    return await kept.shown(request, document)
