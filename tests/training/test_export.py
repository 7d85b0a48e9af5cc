"""Exports of a finished run, the list of runs, and what a user sees when something is missing or broken."""

from __future__ import annotations

import importlib.util
import shutil

import pytest
import yaml

from blastdet.cards import read_card
from blastdet.errors import BlastdetError
from blastdet.training.runs import as_table, find_runs

OPENVINO = importlib.util.find_spec("openvino") is not None


def test_f32_is_made_again_and_compared(trained, blastdet):
    before = read_card(trained / "weights")
    assert "export equals torch within 0.0" in blastdet("export", "whole").stdout
    after = read_card(trained / "weights")
    assert after.files == before.files and after.thresholds == before.thresholds


def test_int8_says_what_it_costs_and_detect_runs_it(trained, blastdet):
    out = blastdet("export", "whole", "--precision", "int8").stdout
    assert "validation, " in out and "all AP50" in out
    folder = trained / "weights-onnx-int8"
    card = read_card(folder)
    assert (card.precision, card.format, card.metrics) == ("int8", "onnx", ())
    assert (folder / "model.onnx").stat().st_size < (trained / "weights/model.onnx").stat().st_size / 2
    words = ["--weights", "whole/weights-onnx-int8", "--mpp", "0.25", "--out", "found8"]
    blastdet("detect", "films/smear_0000.jpg", *words)


def test_what_cannot_be_exported_is_one_line(trained, films, blastdet):
    lines = {
        ("whole", "--precision", "bf16"): "ONNX Runtime computes it on no CPU; use --to openvino",
        ("nowhere",): "nowhere/config.yaml: cannot be read",
    }
    if not OPENVINO:
        lines["whole", "--to", "openvino"] = "openvino: not installed"
    for words, line in lines.items():
        error = blastdet("export", *words, code=2).stderr
        assert line in error and len(error.strip().splitlines()) == 1


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
@pytest.mark.parametrize("precision", ["f32", "bf16", "int8"])
def test_openvino(precision, trained, blastdet):
    assert "all AP50" in blastdet("export", "whole", "--to", "openvino", "--precision", precision).stdout
    words = ["--weights", f"whole/weights-openvino-{precision}", "--mpp", "0.25", "--out", f"found-{precision}"]
    blastdet("detect", "films/smear_0000.jpg", *words)


def test_a_damaged_best_epoch_is_one_line(trained, films, blastdet, tmp_path):
    for name in ("last.pt", "last.pt.sha256", "config.yaml"):
        shutil.copy(trained / name, tmp_path)
    (tmp_path / "best.pt").write_bytes((trained / "best.pt").read_bytes()[:1000])
    error = blastdet("export", tmp_path, code=2).stderr
    assert "best.pt: missing or damaged" in error and len(error.strip().splitlines()) == 1


def test_a_missing_picture_is_one_line(films, blastdet, tmp_path):
    shutil.copytree(films / "films", tmp_path / "films")
    (tmp_path / "films/smear_0003.jpg").unlink()
    words = ["--set", f"data.0.path={tmp_path}/films/truth.json", "--out", tmp_path / "run"]
    error = blastdet("train", "tiny.yaml", *words, code=2).stderr
    assert "smear_0003.jpg" in error and len(error.strip().splitlines()) == 1


def test_runs_side_by_side(trained, films, blastdet, tmp_path):
    out = blastdet("runs", ".").stdout.splitlines()
    assert out[0].split() == ["name", "model", "data", "epochs", "AP", "AP50", "time", "state"]
    row = next(line.split() for line in out if line.startswith("whole "))
    assert row[1:4] == ["yolov5n", "truth.json", "3/3"] and row[-1] == "finished"
    for name in ("begun", "broken"):
        (tmp_path / name).mkdir()
    settings = yaml.safe_load((films / "tiny.yaml").read_text())
    (tmp_path / "begun/config.yaml").write_text(yaml.safe_dump(settings | {"epochs": 7}))
    (tmp_path / "broken/config.yaml").write_text("name: [")
    (tmp_path / "begun/metrics.csv").write_text("epoch,AP,AP50,fitness,seconds\n1,,,,30\n2,0.2,0.4,0.3,60\n")
    begun, broken = find_runs(tmp_path)
    assert begun.cells() == ("begun", "yolov5n", "truth.json", "2/7", "0.200", "0.400", "1 min", "unfinished")
    assert broken.state.startswith("unreadable: ") and "broken/config.yaml" in as_table([begun, broken])
    with pytest.raises(BlastdetError, match="no run found"):
        find_runs(tmp_path / "begun" / "nothing")
