"""Exports of a finished run, the list of runs, and errors for missing or damaged files."""

from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest
import torch
import yaml

from blastdet.core.errors import BlastdetError
from blastdet.core.model_card import read_card, sha256_of, write_card
from blastdet.training.config_file import read_config
from blastdet.training.detection import precision
from blastdet.training.detection.export import check_parity, raw_on_cpu
from blastdet.training.detection.samples import load_image
from blastdet.training.detection.train import build
from blastdet.training.detection.training_data import load_data
from blastdet.training.loop import checkpoints, engine
from blastdet.training.loop.run_list import as_table, find_runs

OPENVINO = importlib.util.find_spec("openvino") is not None


def test_f32_is_exported_again_and_compared(trained, blastdet):
    before = read_card(trained / "weights")
    assert "weights: whole/weights" in blastdet("export", "whole").stdout
    after = read_card(trained / "weights")
    assert after.files == before.files and after.thresholds == before.thresholds


def test_int8_reports_its_change_in_precision_and_detect_runs_it(trained, blastdet):
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
        ("whole", "--precision", "bf16"): "not supported by ONNX Runtime on CPUs; use --to openvino",
        ("nowhere",): "nowhere/config.yaml: cannot be read",
    }
    if not OPENVINO:
        lines["whole", "--to", "openvino"] = "openvino: not installed"
    for words, line in lines.items():
        error = blastdet("export", *words, code=2).stderr
        assert line in error and len(error.strip().splitlines()) == 1


def test_parity_detects_every_difference(trained, films, tmp_path):
    """A model that detects cells, exported, and compared with altered outputs of torch."""
    config = read_config(trained / "config.yaml")
    data, cpu = load_data(config, films), torch.device("cpu")
    state = checkpoints.load_best(engine.start(build(config), config, cpu), trained)
    for branch in state.model.module.model[-1].cv3:
        branch[-1].bias.data += 8
    card = read_card(trained / "weights")
    images = [load_image(sample, config) for sample in data.val]
    raws = raw_on_cpu(state, images, card)
    assert all(raw[4:].max() > 0.5 for raw in raws)
    state.model.export(tmp_path / "model.onnx")
    write_card(card.model_copy(update={"files": {"model.onnx": sha256_of(tmp_path / "model.onnx")}}), tmp_path)
    assert "export equals torch within 0.0" in check_parity(tmp_path, images, raws)
    for row, change in ((0, 0.6), (1, -0.6), (2, 1.2), (3, 1.2), (4, 0.01), (6, -0.01)):
        other = raws[1].copy()
        other[row, 17] += change
        with pytest.raises(BlastdetError, match=r"export and torch differ by .* [12] of \d+ outputs"):
            check_parity(tmp_path, images, [raws[0], other])
    other[0, 17] = np.nan
    with pytest.raises(BlastdetError, match="export and torch differ by up to nan px"):
        check_parity(tmp_path, images, [raws[0], other])
    with pytest.raises(BlastdetError, match="export and torch differ by up to inf px"):
        check_parity(tmp_path, images, [raws[0][:, 1:], raws[1]])


def test_an_export_is_of_the_best_epoch_so_far(trained, films, blastdet, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    card = read_card(trained / "weights")
    early = card.model_copy(update={"training": card.training.model_copy(update={"epochs": 99})})
    write_card(early, tmp_path / "run/weights")
    words = ("--to", "openvino") if OPENVINO else ("--precision", "int8")
    blastdet("export", tmp_path / "run", *words)
    for name in ("weights", "weights-openvino-f32" if OPENVINO else "weights-onnx-int8"):
        training = read_card(tmp_path / "run" / name).training
        assert training.epochs == card.training.epochs and training.device == card.training.device


def test_an_export_on_a_full_disk_is_one_line(trained, blastdet, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())

    def full(*words, **settings):
        raise RuntimeError("a line of C++\nbasic_ios::clear: iostream error")

    monkeypatch.setattr(precision, "quantise", full)  # a full disk would be the machine's
    error = blastdet("export", tmp_path / "run", "--precision", "int8", code=2).stderr
    assert "cannot be written (basic_ios::clear: iostream error; " in error and " MB free" in error
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
@pytest.mark.parametrize("precision", ["f32", "bf16", "int8"])
def test_openvino(precision, trained, blastdet):
    assert "all AP50" in blastdet("export", "whole", "--to", "openvino", "--precision", precision).stdout
    words = ["--weights", f"whole/weights-openvino-{precision}", "--mpp", "0.25", "--out", f"found-{precision}"]
    blastdet("detect", "films/smear_0000.jpg", *words)


def test_a_damaged_best_epoch_is_one_line(trained, films, blastdet, tmp_path):
    for name in ("last.pt", "last.pt.sha256", "config.yaml", "sources.json"):
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
