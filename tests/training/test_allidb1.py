"""The configurations for ALL-IDB1, end to end on a look-alike of it; with the real folder the same command trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lookalike import allidb1

from blastdet.core.model_card import read_card

REPO = Path(__file__).parents[2]
TINY = {
    "mpp": 0.6,
    "crop": 96,
    "epochs": 1,
    "epoch_samples": 4,
    "batch": 2,
    "workers": 0,
    "data.0.path": "ALL_IDB1",
    "data.0.options.boxes": "fixed",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("allidb1")
    stems = [f"Im{n:03d}_{int(n < 13)}" for n in range(1, 17)]
    points = {stem: [(400 + 60 * i, 400), (900, 700 + 20 * i)] for i, stem in enumerate(stems) if stem.endswith("1")}
    allidb1(folder / "ALL_IDB1", stems, points)
    return folder


@pytest.mark.parametrize("kind", ["yolov4", "yolov5", "rcnn"])
def test_trains_and_detects(kind, folder, blastdet):
    settings = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    small = {"yolov4": "yolov4n", "yolov5": "yolov5n", "rcnn": "fasterrcnn_mobilenet"}[kind]
    config = REPO / f"configs/allidb1-{kind}.yaml"
    run = blastdet("train", config, "--out", kind, "--set", f"model={small}", *settings, cwd=folder)
    assert "export equals torch within 0.0" in run.stdout
    assert read_card(folder / kind / "weights").classes == ("blast",)
    words = ["--weights", f"{kind}/weights", "--mpp", "0.07", "--out", f"{kind}-found"]
    blastdet("detect", "ALL_IDB1/im/Im001_1.jpg", *words, cwd=folder)
    assert json.loads((folder / f"{kind}-found/Im001_1.json").read_text())["model"]["name"] == f"allidb1-{kind}"
