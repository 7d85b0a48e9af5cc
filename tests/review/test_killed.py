"""Nothing is lost if a session or its database is killed: with a real MongoDB and a real process."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from blastdet.core.types import Dataset
from blastdet.datasets.corrections import read_corrections
from blastdet.datasets.formats.coco import read as read_coco
from blastdet.datasets.formats.coco import write as write_coco
from blastdet.imaging.io import read_image, write_image

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "datasets/demo/truth.json"
PART = (0, 600, 600, 920)  # of the demo smear: three white cells, in a fraction of the time


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def mongod(tmp_path):
    """A MongoDB that no other test shares: its process and its address."""
    spec = importlib.util.find_spec("fiftyone")
    assert spec is not None and spec.submodule_search_locations
    binary = Path(spec.submodule_search_locations[0]) / "db/bin/mongod"
    (tmp_path / "mongo").mkdir()
    port = _free_port()
    words = ["--dbpath", str(tmp_path / "mongo"), "--port", str(port), "--bind_ip", "127.0.0.1"]
    process = subprocess.Popen([str(binary), *words], stdout=subprocess.DEVNULL)
    _wait(lambda: _answers(port), process)
    yield process, f"mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=5000"
    process.kill()
    process.wait()


def _environment(uri: str) -> dict[str, str]:
    outside = {key: value for key, value in os.environ.items() if not key.startswith("FIFTYONE_")}
    return {**outside, "FIFTYONE_DATABASE_URI": uri, "FIFTYONE_DO_NOT_TRACK": "true"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the demo smear with its truth."""
    folder = tmp_path_factory.mktemp("part")
    (smear,) = read_coco(DEMO)
    assert smear.truth is not None
    x1, y1, x2, y2 = PART
    write_image(folder / "part.png", read_image(smear.path)[y1:y2, x1:x2])
    boxes = smear.truth.boxes_xyxy - np.array([x1, y1, x1, y1], np.float32)
    inside = (boxes[:, :2] >= 0).all(axis=1) & (boxes[:, 2:] <= (x2 - x1, y2 - y1)).all(axis=1)
    truth = smear.truth.with_columns(boxes_xyxy=boxes)[inside]
    sample = replace(smear, path=folder / "part.png", size_wh=(x2 - x1, y2 - y1), truth=truth)
    write_coco(Dataset("part", folder, (sample,)), folder / "set")
    return folder / "set"


def _session(data: Path, folder: Path, uri: str, log: str) -> subprocess.Popen[bytes]:
    words = ["review", "--data", str(data), "--weights", "default", "--no-browser", "--name", "kept"]
    words += ["--port", str(_free_port()), "--database-uri", uri]
    command = [sys.executable, "-m", "blastdet", *words]
    with (folder / log).open("w") as out:
        return subprocess.Popen(command, cwd=folder, env=_environment(uri), stdout=out, stderr=subprocess.STDOUT)


def _wait(holds, process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + 240
    while not holds():
        assert time.monotonic() < end and (process is None or process.poll() is None)
        time.sleep(0.1)


def _tag(uri: str, row: int, tag: str) -> None:
    """Set a tag as FiftyOne's App does, without the seconds that it takes to load."""
    import pymongo

    with pymongo.MongoClient(uri) as client:
        database = client["fiftyone"]
        (kept,) = database["datasets"].find({"name": "kept"})
        change = {
            "$push": {f"truth.detections.{row}.tags": tag},
            "$set": {"last_modified_at": datetime.now(UTC)},
        }
        assert database[kept["sample_collection_name"]].update_one({}, change).modified_count == 1


def test_a_killed_session_continues_and_a_killed_database_gives_a_one_line_error(mongod, data, tmp_path):
    database, uri = mongod
    file, ready = tmp_path / "corrections.jsonl", "Press Ctrl-C"
    first = _session(data, tmp_path, uri, "first")
    _wait(lambda: ready in (tmp_path / "first").read_text(), first)
    _tag(uri, 0, "fix:ignore")
    _wait(file.is_file, first)
    first.kill()
    first.wait()
    _tag(uri, 1, "ok")  # while no session is running
    second = _session(data, tmp_path, uri, "second")
    _wait(lambda: len(read_corrections(file)) == 2, second)
    _wait(lambda: ready in (tmp_path / "second").read_text(), second)
    database.kill()
    _wait(lambda: second.poll() is not None)
    assert second.returncode == 2
    text = (tmp_path / "second").read_text()
    assert "lost the connection to FiftyOne's database" in text and "Traceback" not in text
    assert [line.op for line in read_corrections(file)] == ["ignore", "ok"]


def test_the_database_of_a_later_fiftyone_gives_a_one_line_error(mongod, data, tmp_path):
    import pymongo

    _, uri = mongod
    with pymongo.MongoClient(uri) as client:
        client["fiftyone"]["config"].insert_one({"version": "99.0.0", "type": "fiftyone"})
    session = _session(data, tmp_path, uri, "log")
    _wait(lambda: session.poll() is not None)
    text = (tmp_path / "log").read_text()
    assert session.returncode == 2, text
    assert "cannot be used" in text and "99.0" in text and "Traceback" not in text
