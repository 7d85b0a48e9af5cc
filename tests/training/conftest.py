"""Small films and a model trained on them, made once."""

from __future__ import annotations

import contextlib
import csv
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from made import cell_image, run_in_process
from PIL import Image

from blastdet.cli import cli
from blastdet.datasets.cropping.crop_table import CropRow
from blastdet.training.detection.samples import TrainingSample
from blastdet.training.detection.yolo_network import Yolo

torch.set_num_threads(1)  # as in the processes that tests start (tests/conftest.py)

SETTINGS = {
    "name": "tiny",
    "mpp": 0.4,
    "crop": 96,
    "data": [{"path": "films/truth.json", "format": "coco", "split": "grouped"}],
    "epochs": 3,
    "batch": 4,
    "epoch_samples": 8,
    "plain_epochs": 1,
    "warmup_epochs": 1,
    "workers": 0,
}


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """A folder with ten films and configurations tiny.yaml (YOLOv5n) and rcnn.yaml."""
    folder = tmp_path_factory.mktemp("films")
    run_in_process(folder, "synth", "films", "--n", "10", "--size", "240x180", "--mpp", "0.25")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    rcnn = SETTINGS | {"name": "rcnn", "model": "fasterrcnn_mobilenet", "epochs": 2, "lr": 0.0005}
    (folder / "rcnn.yaml").write_text(yaml.safe_dump(rcnn), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def blastdet(films):
    """Runs the program beside the films and checks its exit code; in this process, since torch loads slowly."""

    def run(*words, code=0, cwd=films):
        with contextlib.chdir(cwd), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in a process of its own
            done = CliRunner().invoke(cli, [str(word) for word in words])
        assert done.exit_code == code, done.output
        return done

    return run


@pytest.fixture(scope="session")
def trained(films, blastdet, once):
    """Run folder of a finished training of YOLOv5n."""

    def train(folder):
        shutil.copytree(films, folder, dirs_exist_ok=True)
        run = blastdet("train", "tiny.yaml", "--out", "whole", cwd=folder)
        assert "export equals torch within 0.0" in run.stdout

    return Path(shutil.copytree(once("trained", train) / "whole", films / "whole"))


@pytest.fixture(scope="session")
def crops_folder(tmp_path_factory):
    """Forty crops of two kinds from ten smears, and a configuration."""
    root = tmp_path_factory.mktemp("crops")
    (root / "made").mkdir()
    rng, rows = np.random.default_rng(0), []
    for i in range(40):
        kind, mpp = ("blast", "wbc")[i % 2], (0.2, 0.5)[i // 2 % 2]
        Image.fromarray(cell_image(kind, rng, round(20 / mpp))).save(root / f"made/{i:03d}.png")
        place = {"source": f"s{i // 4}.png", "group": f"g{i // 4}", "cluster": f"c{i // 4}"}
        numbers = {"x1": 0, "y1": 0, "x2": 10, "y2": 10, "score": 1, "mpp": mpp}
        rows.append({"crop": f"{i:03d}.png", **place, "label": kind, **numbers})
    with (root / "made/crops.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(CropRow.__annotations__), restval="")
        writer.writeheader()
        writer.writerows(rows)
    config = {"task": "classify", "name": "made", "label": "blast", "classes": ["blast", "wbc"], "val_fraction": 0.3}
    config |= {
        "data": [{"path": "made", "licence": "none"}],
        "epochs": 10,
        "epoch_samples": 96,
        "warmup_epochs": 0.5,
        "workers": 0,
        "lr": 0.003,
    }
    (root / "made.yaml").write_text(yaml.safe_dump(config))
    return root


@pytest.fixture(scope="session")
def crops_run(crops_folder, once):
    """Run folder of a network trained on them."""

    def train(folder):
        shutil.copytree(crops_folder, folder, dirs_exist_ok=True)
        text = run_in_process(folder, "train", "made.yaml", "--out", "run")
        assert "export equals the model within 0.0" in text

    return Path(shutil.copytree(once("crops", train) / "run", crops_folder / "run"))


@pytest.fixture
def yolo_batch():
    """A function of the known cells of the grid and the number of boxes: a batch of one 96 x 96 image for YOLO."""

    def batch(known, cells=1):
        rgb = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        boxes = np.array([[20, 20, 60, 60]], np.float32)[:cells]
        return Yolo.collate([TrainingSample(rgb, boxes, np.zeros(cells, np.int64), known)])

    return batch
