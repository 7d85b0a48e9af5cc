"""Wheel and source distribution: built, installed beside the base packages only, and run from there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPO = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "site", "runs", "data", "*.egg-info", "__pycache__", ".*_cache"
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(REPO, folder / "source", ignore=LEFT_OUT)
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "source")]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("blastdet-*.whl")
    return path


def test_wheel_contains_every_file_of_the_package_and_what_ships_with_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {p.relative_to(REPO).as_posix() for p in (REPO / "blastdet").rglob("*") if p.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    shipped = {
        f"blastdet/_shipped/{path.relative_to(REPO).as_posix()}"
        for folder in ("weights", "configs", "datasets")
        for path in (REPO / folder).rglob("*")
        if path.is_file()
    }
    assert not (package | shipped) - names
    assert wheel.stat().st_size < 25e6


def test_source_distribution_contains_tests_and_documentation(built: Path) -> None:
    (path,) = built.glob("blastdet-*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tests/test_packaging.py", "docs/index.md", "mkdocs.yml", "LICENSE", "weights/default/card.json"} <= names


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and the packages of requirements/base.txt, linked from this environment."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for line in (REPO / "requirements" / "base.txt").read_text("utf-8").splitlines():
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate():
            distribution = metadata.distribution(pin.name)
            for top in {
                file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")
            }:
                link, target = packages / top, Path(str(distribution.locate_file(top)))
                if target.exists() and not link.exists():
                    link.symlink_to(target)
    words = [
        "-m",
        "pip",
        "--python",
        str(folder / "bin" / "python"),
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        str(wheel),
    ]
    subprocess.run([sys.executable, *words], check=True)
    return folder


def _run(installed: Path, folder: Path, *words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "BLASTDET"))}
    command = [str(installed / "bin" / "blastdet"), *words]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_installed_wheel_runs_the_demo(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(REPO / "datasets" / "demo" / "blood", tmp_path / "blood")
    _run(installed, tmp_path, "detect", "blood", "--out", "found", "--format", "json,overlay")
    cells = [json.loads(path.read_text("utf-8"))["cells"] for path in (tmp_path / "found").rglob("*.json")]
    assert len(cells) == 9
    assert all(any(cell["label"] in ("wbc", "blast") for cell in found) for found in cells)
    assert len(list((tmp_path / "found").rglob("*.overlay.jpg"))) == 9


def test_installed_wheel_finds_what_ships_with_it(installed: Path, tmp_path: Path) -> None:
    assert metadata.version("blastdet") in _run(installed, tmp_path, "--version")
    assert "bccd" in _run(installed, tmp_path, "data", "list")
    look = "import blastdet, pathlib, sys; sys.exit(str(pathlib.Path(blastdet.__file__).parents[0]))"
    where = subprocess.run(
        [str(installed / "bin" / "python"), "-I", "-c", look], capture_output=True, text=True, check=False
    )
    assert Path(where.stderr.strip()).is_relative_to(installed)
