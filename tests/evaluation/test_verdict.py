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
        ([[97, 3], [2, 0]], "97 of 100 found, 2 of 99 detections false: the count can be used."),
        ([[95, 5], [0, 0]], "95 of 100 found, 0 of 95 detections false: the count can be used."),
        ([[90, 10], [0, 0]], "90 of 100 found, 0 of 90 detections false: check the count by eye."),
        ([[90, 10], [30, 0]], "90 of 100 found, 30 of 120 detections false: do not count them with this model."),
        ([[0, 100], [0, 0]], "0 of 100 found, 0 of 0 detections false: do not count them with this model."),
        ([[29, 0], [0, 0]], "29 of 29 found, 0 of 29 detections false: too few cells to judge."),
    ],
)
def test_the_advice_follows_the_worse_of_sensitivity_and_precision(matrix, line):
    result: Any = SimpleNamespace(matrix=np.array(matrix), classes=("wbc",))
    assert verdicts(result) == [("white cells", line)]


def test_a_class_that_does_not_occur_is_left_out():
    result: Any = SimpleNamespace(matrix=np.zeros((2, 2), int), classes=("blast",))
    assert verdicts(result) == []
