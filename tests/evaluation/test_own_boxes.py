"""Truth whose boxes are the model's own."""

from __future__ import annotations

from blastdet.evaluation.predict import Predictions
from blastdet.evaluation.reporting.own_boxes import own_boxes_note
from evaluation.build import cells, dataset

FOUND = [(10, 10, 60, 60, 0.9), (100.04, 10, 150, 60, 0.8), (100, 200, 150, 260, 0.7), (300, 300, 350, 350, 0.6)]


def test_confirmed_boxes_of_the_model_are_counted_and_others_are_not():
    """Drawn by people, read from a file, ignored, and of images that are not labelled."""
    rows = [(10, 10, 60, 60), (100, 10, 150, 60), (100, 200, 150, 260.2), (300, 300, 350, 350), (10, 10, 60, 60)]
    truth = cells(rows, origin=["human", "human", "human", "", "human"], ignore=[False] * 4 + [True])
    found = cells(FOUND)
    note = own_boxes_note(dataset([truth, None]), Predictions("x", (found, found), {}))
    assert note == ["2 of 4 boxes are the model's own, confirmed by people: how well boxes fit is not measured"]
    assert own_boxes_note(dataset([truth], annotated=()), Predictions("x", (found,), {})) == []
    moved = found.with_columns(boxes_xyxy=found.boxes_xyxy + 1)
    assert own_boxes_note(dataset([truth]), Predictions("another", (moved,), {})) == []
