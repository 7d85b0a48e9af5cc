"""Small films and a model trained on them, made once."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings

import pytest
import yaml
from click.testing import CliRunner

from blastdet.cli import cli

# Two threads on a busy machine were seen to add up in another order: "identical when resumed" is promised for one.
os.environ["OMP_NUM_THREADS"] = "1"

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
    command = [sys.executable, "-m", "blastdet", "synth", "films", "--n", "10", "--size", "240x180", "--mpp", "0.25"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    rcnn = SETTINGS | {"name": "rcnn", "model": "fasterrcnn_mobilenet", "epochs": 2, "lr": 0.0005}
    (folder / "rcnn.yaml").write_text(yaml.safe_dump(rcnn), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def blastdet(films):
    """Runs the program beside the films and checks its exit code; in this process, since torch loads slowly."""

    def run(*words, code=0, cwd=films):
        with contextlib.chdir(cwd), warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            patch.setenv("BLASTDET_DATA", os.environ.get("BLASTDET_DATA", "nowhere"))  # or the command sets it for all
            warnings.simplefilter("ignore")  # as in a process of its own
            done = CliRunner().invoke(cli, [str(word) for word in words])
        assert done.exit_code == code, done.output
        return done

    return run


@pytest.fixture(scope="session")
def trained(films, blastdet):
    """Run folder of a finished training of YOLOv5n."""
    run = blastdet("train", "tiny.yaml", "--out", "whole")
    assert "export equals torch within 0.0" in run.stdout
    return films / "whole"
