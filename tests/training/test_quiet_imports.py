"""Importing blastdet.training, and using the libraries below it, changes nothing for the process."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import json, logging, os, sys, threading
import numpy, torch

LIBRARIES = ("LD_", "KMP_", "TORCH")  # set by OpenCV, scikit-learn and torch themselves

def state():
    root = logging.getLogger()
    return {
        "environment": {name: value for name, value in os.environ.items() if not name.startswith(LIBRARIES)},
        "root logger": [root.level, root.disabled, len(root.handlers)],
        "hooks": [str(sys.excepthook), str(threading.excepthook)],
        "threads": torch.get_num_threads(),
        "print options": str(numpy.get_printoptions()),
    }

before = state()
import blastdet.training.entry_points
import blastdet.training.detection.precision
import blastdet.training.classification.sklearn_models
from pathlib import Path
from tempfile import TemporaryDirectory
from blastdet.training.detection.yolo_network import Yolo
from blastdet.training.loop.session import draw_curves, event_file
from blastdet.training.photometric import photometric

Yolo("yolov5n", 3).to(torch.device("cpu"))
photometric(numpy.zeros((9, 9, 3), numpy.uint8), 1.0, numpy.random.default_rng(0))
with TemporaryDirectory() as folder:
    with event_file(Path(folder), 0) as write:
        write({"epoch": 1.0, "loss": 2.0})
    draw_curves([{"epoch": 1.0, "loss": 2.0}], Path(folder) / "curves.png")
after = state()
import matplotlib
print(json.dumps({
    "changed": [name for name in before if before[name] != after[name]],
    "backend": matplotlib.get_backend(auto_select=False),
    "request for updates": str(sys.modules["albumentations.check_version"].opener),
}))
"""


def test_nothing_is_left_behind_and_no_update_is_searched_for():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert found == {"changed": [], "backend": None, "request for updates": "None"}
