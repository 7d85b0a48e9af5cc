"""Options of `blastdet.evaluate`."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from blastdet import EvaluateOptions
from blastdet.core.errors import ConfigError


@pytest.mark.parametrize(
    "options", [{"iou": 0}, {"iou": 1.1}, {"max_dets": 0}, {"resamples": 0}, {"resamples": 2.5}, {"max_dets": True}]
)
def test_a_value_out_of_range_is_refused_by_name(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"^{name}: expected .*, got {options[name]}"):
        EvaluateOptions(**options)


def test_options_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        EvaluateOptions().iou = 0.7
