"""What the viewer's script needs to show a result: the same document as in ``index.html`` of ``blastdet detect``."""

from __future__ import annotations

from typing import Any

from blastdet.core.model_card import Card
from blastdet.inference.outputs.cell_record import cell_record
from blastdet.inference.outputs.run_page import image_columns, run_data
from blastdet.inference.outputs.run_totals import RunTotals, entry_of
from blastdet.inference.result import Result
from blastdet.service.compute.tiles import TILE_PX, highest_zoom, tile_count
from blastdet.service.offered_models import OfferedModel
from blastdet.service.results.stored_result import StoredResult
from blastdet.viewer.pictures import LONGEST_PX

_FIGURES = ("unknown", "sentences", "differential", "counts", "remarks")


def viewer_data(result: Result, model: OfferedModel, ids: tuple[str, str]) -> dict[str, Any]:
    """The document of one image.

    Parameters
    ----------
    result : Result
        Without corrections: the viewer applies them itself.
    model : OfferedModel
    ids : (str, str)
        Of the smear and of the analysis, for the addresses of its pictures.
    """
    smear_id, analysis_id = ids
    totals = _totals(result, model.classifier)
    smear, analysis = f"/api/v1/smears/{smear_id}", f"/api/v1/analyses/{analysis_id}"
    image = image_columns(totals, totals.entries[0], f"{smear}/picture.jpg", f"{analysis}/sheet.jpg")
    image["crops"] = f"{analysis}/cells"
    if max(result.size_wh) > LONGEST_PX:  # the picture is reduced
        image["tiles"] = {"url": f"{smear}/tiles", **tile_grid(result.size_wh)}
    return run_data(totals, [image])


def corrected_figures(stored: StoredResult, model: OfferedModel) -> dict[str, Any]:
    """The parts of that document that change with corrections."""
    data = run_data(_corrected_totals(stored, model), [])
    return {name: data[name] for name in _FIGURES}


def run_part(stored: StoredResult, model: OfferedModel) -> dict[str, Any]:
    """One image of a run, with corrections: all that `RunTotals` needs, for a program that puts images together."""
    totals = _corrected_totals(stored, model)
    card = totals.classifier
    return {
        "entry": totals.entries[0],
        "classes": list(totals.classes),
        "classifier": None if card is None else card.model_dump(mode="json"),
        "model": totals.model,
    }


def _corrected_totals(stored: StoredResult, model: OfferedModel) -> RunTotals:
    return _totals(stored.corrected, model.classifier)


def tile_grid(size_wh: tuple[int, int]) -> dict[str, Any]:
    """Side of a tile in pixels, and columns and rows at each zoom.

    Examples
    --------
    >>> tile_grid((600, 300))["levels"]
    [{'zoom': 0, 'columns': 1, 'rows': 1}, {'zoom': 1, 'columns': 2, 'rows': 1}]
    """
    counts = [tile_count(size_wh, zoom) for zoom in range(highest_zoom(size_wh) + 1)]
    levels = [{"zoom": zoom, "columns": columns, "rows": rows} for zoom, (columns, rows) in enumerate(counts)]
    return {"tile": TILE_PX, "levels": levels}


def _totals(result: Result, classifier: Card | None) -> RunTotals:
    entry = {**entry_of(result), "cells": cell_record(result.detections)}
    return RunTotals([entry], result.classes, classifier, result.model, {})
