"""The verdict in words at the top of a report."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from blastdet.evaluation.reporting.verdict import verdicts


@pytest.mark.parametrize(
    ("matrix", "line"),
    [
        ([[990, 10], [10, 0]], "990 of 1,000 found, 10 of 1,000 detections false: the count can be used."),
        ([[72, 0], [0, 0]], "72 of 72 found, 0 of 72 detections false: the count can be used."),
        ([[71, 0], [0, 0]], "71 of 71 found, 0 of 71 detections false: check the count by eye."),  # 0.9494 to 1
        ([[30, 0], [0, 0]], "30 of 30 found, 0 of 30 detections false: check the count by eye."),
        ([[97, 3], [2, 0]], "97 of 100 found, 2 of 99 detections false: check the count by eye."),
        ([[1000, 0], [40, 0]], "1,000 of 1,000 found, 40 of 1,040 detections false: check the count by eye."),
        ([[90, 10], [0, 0]], "90 of 100 found, 0 of 90 detections false: check the count by eye."),
        ([[90, 10], [30, 0]], "90 of 100 found, 30 of 120 detections false: do not count them with this model."),
        ([[0, 100], [0, 0]], "0 of 100 found, 0 of 0 detections false: do not count them with this model."),
        ([[29, 0], [0, 0]], "29 of 29 found, 0 of 29 detections false: too few cells to judge."),
    ],
)
def test_the_advice_follows_the_worse_of_sensitivity_and_precision_and_their_intervals(matrix, line):
    result: Any = SimpleNamespace(matrix=np.array(matrix), classes=("wbc",))
    assert verdicts(result) == [("white cells", line)]


def test_a_class_that_does_not_occur_is_left_out():
    result: Any = SimpleNamespace(matrix=np.zeros((2, 2), int), classes=("blast",))
    assert verdicts(result) == []
