"""Names of the settings that differ."""

from __future__ import annotations

import copy

import pytest

from blastdet.core.errors import differing

SETTINGS = {"model": "yolov5n", "lr": 0.001, "mpp": [0.2, 0.2], "data": [{"path": "a", "share": 1.0}, {"path": "b"}]}


@pytest.mark.parametrize(
    ("keys", "value", "name"),
    [
        (["lr"], 0.002, "lr"),
        (["mpp"], [0.2, 0.3], "mpp"),
        (["mpp"], None, "mpp"),
        (["data", 0, "share"], 2.0, "data.0.share"),
        (["data", 1, "share"], 2.0, "data.1.share"),
        (["data"], [], "data.0 data.1"),
        (["seed"], 1, "seed"),
    ],
)
def test_the_entry_that_differs_is_returned(keys, value, name):
    other = copy.deepcopy(SETTINGS)
    part = other
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    assert differing(SETTINGS, SETTINGS) == []
    assert differing(SETTINGS, other) == name.split()
    assert differing(other, SETTINGS) == name.split()


def test_values_that_are_not_settings_differ_as_a_whole():
    assert differing(None, SETTINGS) == ["all of it"]
