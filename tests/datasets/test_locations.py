"""One rule for where datasets are stored, shared by `data get`, training configurations and `read_dataset`."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import lookalike
import pytest
import yaml

from blastdet.core.errors import FormatError
from blastdet.datasets import locations
from blastdet.datasets.formats import registry
from blastdet.training.config_file import expand


@pytest.mark.parametrize(("value", "expected"), [("/x/y", "/x/y"), ("", "data"), (None, "data"), ("~/d", None)])
def test_data_dir_is_the_variable_or_data(monkeypatch, value, expected):
    monkeypatch.delenv("BLASTDET_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("BLASTDET_DATA", value)
    assert locations.data_dir() == Path(expected or Path.home() / "d")


@pytest.mark.parametrize("spelling", ["${BLASTDET_DATA}/bccd", "$BLASTDET_DATA/bccd"])
def test_a_configuration_uses_the_same_folder_and_leaves_the_environment_alone(monkeypatch, tmp_path, spelling):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLASTDET_DATA", raising=False)
    before = dict(os.environ)
    assert expand(spelling, tmp_path) == tmp_path / "data/bccd"
    assert dict(os.environ) == before
    assert expand(spelling, tmp_path / "elsewhere") == tmp_path / "data/bccd"
    monkeypatch.setenv("BLASTDET_DATA", "relative")
    assert expand(spelling, tmp_path) == tmp_path / "relative/bccd"


def test_a_missing_dataset_names_the_folder_and_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("BLASTDET_DATA", str(tmp_path))
    with pytest.raises(FormatError) as error:
        registry.read(tmp_path / "bccd")
    assert str(error.value).startswith(f"{tmp_path}/bccd: no such file or folder. Get it with: blastdet data get bccd.")
    with pytest.raises(FormatError, match=r"mine: no such file or folder$"):
        registry.read(tmp_path / "mine")
    with pytest.raises(FormatError, match=r"bccd: no such file or folder$"):
        registry.read(tmp_path / "other/bccd")


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[str]:
    """Address of an archive of an ALL fields look-alike, on a server of this machine."""
    for i, label in enumerate(("benign", "early", "pre", "pro")):
        lookalike.image_file(tmp_path / f"source/{label}/WBC-{i}.jpg", (224, 224))
    (tmp_path / "www").mkdir()
    shutil.make_archive(str(tmp_path / "www/set"), "zip", tmp_path / "source")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "www"))
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/set.zip"
    server.shutdown()
    thread.join()
    server.server_close()


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "no_proxy": "127.0.0.1", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("BLASTDET_DATA", None)
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_train_finds_what_data_get_brought_to_a_clean_folder(tmp_path: Path, remote: str):
    folder = tmp_path / "clean"
    folder.mkdir()
    config = {"name": "x", "mpp": 0.4, "epochs": 1, "data": [{"path": "${BLASTDET_DATA}/all_fields"}]}
    (folder / "x.yaml").write_text(yaml.safe_dump(config))

    train = ("-m", "blastdet", "train", "x.yaml")
    before = _run(folder, *train)
    assert before.returncode == 2
    assert f"{folder}/data/all_fields: no such file" in before.stderr
    assert "blastdet data get all_fields" in before.stderr

    got = _run(folder, "-m", "blastdet", "data", "get", "all_fields", "--from", remote)
    assert got.returncode == 0, got.stderr
    assert len(list((folder / "data/all_fields").rglob("*.jpg"))) == 4

    after = _run(folder, *train)  # it reads the images now, and needs a split for them
    assert after.returncode == 2
    assert f"{folder}/data/all_fields: no official split" in after.stderr
