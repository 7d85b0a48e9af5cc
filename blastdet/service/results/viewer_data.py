"""What the viewer's script needs to show a result: the same document as in ``index.html`` of ``blastdet detect``."""

from __future__ import annotations

from typing import Any

from blastdet.inference.outputs.cell_record import cell_record
from blastdet.inference.outputs.run_page import image_columns, run_data
from blastdet.inference.outputs.run_totals import RunTotals, entry_of
from blastdet.inference.result import Result
from blastdet.service.offered_models import OfferedModel


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
    entry = {**entry_of(result), "cells": cell_record(result.detections)}
    totals = RunTotals([entry], result.classes, model.classifier, result.model, {})
    picture, sheet = f"/api/v1/smears/{smear_id}/picture.jpg", f"/api/v1/analyses/{analysis_id}/sheet.jpg"
    return run_data(totals, [image_columns(totals, entry, picture, sheet)])
