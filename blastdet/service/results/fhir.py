"""A result as FHIR R4: a bundle of a DiagnosticReport and one Observation for each row of the differential.

The codes are blastdet's own: codes of a terminology for clinical findings would claim what a research tool cannot.
"""

from __future__ import annotations

from typing import Any

from blastdet import __version__
from blastdet.core.constants import RESEARCH_USE
from blastdet.inference.blast_fraction import BlastFraction
from blastdet.inference.differential import DifferentialRow, spoken_type
from blastdet.inference.result import Result
from blastdet.service.store.schema import Analysis, Smear

SYSTEM = "urn:blastdet:code"

_NO_DIAGNOSIS = "This is a count of cells, not a diagnosis."
_RESEARCH = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
    "code": "HRESCH",
    "display": "healthcare research",
}
_META = {"tag": [_RESEARCH]}
_UNITS = "http://unitsofmeasure.org"
_LABORATORY = {
    "coding": [
        {
            "system": "http://terminology.hl7.org/CodeSystem/observation-category",
            "code": "laboratory",
            "display": "Laboratory",
        }
    ]
}

Resource = dict[str, Any]


def fhir_bundle(result: Result, analysis: Analysis, smear: Smear) -> Resource:
    """The bundle, type ``collection``.

    It names no patient: the service knows none. The specimen has the name of the smear as its accession number. The
    report is ``final`` if a person signed this result, else ``preliminary``.

    Parameters
    ----------
    result : Result
        With corrections, if there are any.
    analysis : Analysis
    smear : Smear
    """
    status = "final" if smear.status == "signed" and smear.analysis_id == analysis.id else "preliminary"
    white = result.blast_fraction
    observations = [] if white is None else [_observation(row, white, analysis, status) for row in result.differential]
    observations += [
        _count(name, number, result, analysis, status)
        for name, number in result.counts.items()
        if name in ("rbc", "platelet") or not result.differential
    ]
    entries = [_report(result, analysis, smear, (status, observations)), *observations]
    return {
        "resourceType": "Bundle",
        "id": analysis.id,
        "meta": _META,
        "type": "collection",
        "timestamp": analysis.created,
        "entry": [{"fullUrl": _url(one["id"]), "resource": one} for one in entries],
    }


def _url(name: str) -> str:
    return f"urn:blastdet:{name}"


def _code(name: str, text: str) -> Resource:
    return {"coding": [{"system": SYSTEM, "code": name, "display": text}], "text": text}


def _report(result: Result, analysis: Analysis, smear: Smear, rest: tuple[str, list[Resource]]) -> Resource:
    status, observations = rest
    sentences = " ".join([*result.summary(), _NO_DIAGNOSIS, RESEARCH_USE])
    report: Resource = {
        "resourceType": "DiagnosticReport",
        "id": f"{analysis.id}-report",
        "meta": _META,
        "status": status,
        "code": _code("blood-film-count", "Cells of a stained blood film, counted by image analysis"),
        "effectiveDateTime": analysis.created,
        "issued": smear.reviewed if status == "final" else analysis.created,
        "identifier": [{"system": "urn:blastdet:analysis", "value": analysis.id}],
        "contained": [_specimen(smear)],
        "specimen": [{"reference": "#smear"}],
        "result": [{"reference": _url(one["id"]), "display": one["code"]["text"]} for one in observations],
        "conclusion": sentences,
    }
    if smear.analysis_id == analysis.id:
        report["resultsInterpreter"] = [{"display": smear.reviewed_by}]
    if not observations:
        del report["result"]
    return report


def _specimen(smear: Smear) -> Resource:
    keys = {"smear": smear.id, "image-sha256": smear.sha256}
    return {
        "resourceType": "Specimen",
        "id": "smear",
        "identifier": [{"system": f"urn:blastdet:{name}", "value": value} for name, value in keys.items()],
        "accessionIdentifier": {"system": "urn:blastdet:smear-name", "value": smear.name},
    }


def _base(name: str, text: str, analysis: Analysis, status: str) -> Resource:
    return {
        "resourceType": "Observation",
        "id": f"{analysis.id}-{name.replace('_', '-')}",
        "meta": _META,
        "status": status,
        "category": [_LABORATORY],
        "code": _code(name.replace("_", "-"), text),
        "effectiveDateTime": analysis.created,
        "device": {"display": f"blastdet {__version__}, model {analysis.weights}"},
        "note": [{"text": RESEARCH_USE}],
    }


def _percent(value: float) -> Resource:
    return {"value": round(100 * value, 2), "unit": "%", "system": _UNITS, "code": "%"}


def _observation(row: DifferentialRow, white: BlastFraction, analysis: Analysis, status: str) -> Resource:
    """One row: the fraction of the white cells, its interval and the numbers of cells."""
    name = f"white-cells-{row.cell_type}"
    found = _base(name, f"{spoken_type(row.cell_type)}, fraction of the white cells", analysis, status)
    numbers = [
        {"code": _code("cells-counted", "cells of this type"), "valueInteger": row.n},
        {"code": _code("white-cells-counted", "white cells counted"), "valueInteger": white.n},
    ]
    if not white.states_percentages:  # too few white cells, or an unknown stain: pages and PDF print none either
        unknown = {"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "unknown"}
        return {**found, "dataAbsentReason": {"coding": [unknown]}, "component": numbers}
    interval = _interval("ci95-of-counting", "95 % interval of counting alone", (row.interval.low, row.interval.high))
    if row.cell_type == "blast" and (white.is_reviewed or white.corrected is not None):
        interval += _interval("ci95", "95 % interval with the errors of the classifier", white.printed_interval)
    return {**found, "valueQuantity": _percent(row.fraction), "component": [*numbers, *interval]}


def _interval(code: str, text: str, sides: tuple[float, float]) -> list[Resource]:
    """Its two sides, each a component."""
    return [
        {"code": _code(f"{code}-{side}", f"{text}, {word}"), "valueQuantity": _percent(value)}
        for side, word, value in (("low", "lower", sides[0]), ("high", "upper", sides[1]))
    ]


def _count(name: str, number: int, result: Result, analysis: Analysis, status: str) -> Resource:
    """Number of cells of another class, and how many on a square millimetre of the film."""
    found = _base(f"cells-{name}", f"{name}, cells detected", analysis, status)
    density = {
        "value": round(number / result.area_mm2, 1),
        "unit": "/mm2",
        "system": _UNITS,
        "code": "/mm2",
    }
    component = {"code": _code("density", "cells per mm2 of the film"), "valueQuantity": density}
    return {**found, "valueInteger": number, "component": [component]}
