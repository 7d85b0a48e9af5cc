"""The record of a run: versions of every start, and what a resumed run does with other ones."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blastdet import __version__
from blastdet.core.errors import ConfigError
from blastdet.core.model_card import find_weights
from blastdet.training.config import TrainConfig
from blastdet.training.entry_points import TrainOptions, train
from blastdet.training.loop.run_folder import check_weights
from blastdet.training.loop.run_record import check_versions, note_start, portable, versions_of

CONFIG = TrainConfig(name="x", mpp=0.3, data=[{"path": "here"}])


def _started_with(run, **changes):
    """A run folder whose last start had other versions; a version of None was not installed."""
    note_start(CONFIG, run, torch.device("cpu"))
    (start,) = json.loads((run / "record.json").read_text())
    start["versions"] = {k: v for k, v in (start["versions"] | changes).items() if v is not None}
    (run / "record.json").write_text(json.dumps([start]))


def test_the_same_versions_are_resumed_without_a_word(tmp_path):
    lines = []
    check_versions(tmp_path / "new", lines.append)
    _started_with(tmp_path)
    check_versions(tmp_path, lines.append)
    assert lines == [] and versions_of(tmp_path)["torch"] == metadata.version("torch")


def test_another_version_of_a_library_is_noted(tmp_path):
    lines = []
    _started_with(tmp_path, numpy="1.0", torchvision=None, onnxruntime=None, **{"onnxruntime-gpu": "1.9"})
    check_versions(tmp_path, lines.append)
    (line,) = lines
    assert line.startswith(f"note: versions changed since {tmp_path} was started")
    assert f"numpy 1.0 -> {metadata.version('numpy')}" in line and "onnxruntime-gpu 1.9 -> missing" in line
    assert f"torchvision missing -> {metadata.version('torchvision')}" in line


def test_another_version_of_blastdet_is_refused_unless_it_is_allowed(tmp_path):
    lines = []
    _started_with(tmp_path, blastdet="0.1.0")
    with pytest.raises(ConfigError, match=f"started with blastdet 0.1.0, expected {__version__}"):
        check_versions(tmp_path, lines.append)
    assert lines == []
    check_versions(tmp_path, lines.append, allow_change=True)
    assert f"blastdet 0.1.0 -> {__version__}" in lines[0]


def test_train_checks_the_versions_before_it_reads_any_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("{name: x, mpp: 0.3, data: [{path: nowhere}]}")
    _started_with(tmp_path, blastdet="0.1.0")
    with pytest.raises(ConfigError, match=r"started with blastdet 0\.1\.0"):
        train("c.yaml", out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="no run to resume"):
        train("c.yaml", out=tmp_path, resume=True, options=TrainOptions(allow_version_change=True))


def test_an_unknown_device_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="expected auto, cpu"):
        TrainOptions("tpu")


@given(st.sampled_from(["/a/b/set", "set", "${DATA}/set", "c, /d"]), st.sampled_from(["/a/b", "/x"]))
def test_a_card_holds_no_path_of_a_machine(path, base):
    found = portable({"data": [{"path": path}], "seed": 0}, Path(base))
    absolute = path.startswith("/")
    assert found == {"data": [{"path": "set" if absolute else path}], "seed": 0}


@pytest.mark.parametrize("name", ["default", "differential"])
def test_shipped_cards_are_portable(name):
    card = json.loads((find_weights(name) / "card.json").read_text(encoding="utf-8"))
    assert portable(card, Path("/nowhere")) == card


def test_a_folder_with_other_files_is_not_replaced_by_weights(tmp_path):
    check_weights(tmp_path / "missing")
    for name in ("card.json", "model.onnx", ".lock"):
        (tmp_path / name).touch()
    check_weights(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"notes\.txt: not part of weights"):
        check_weights(tmp_path)
    with pytest.raises(ConfigError, match="expected a folder for weights, got a file"):
        check_weights(tmp_path / "notes.txt")
