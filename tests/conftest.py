"""Shared fixtures: where the real data is, and what a test may skip for."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import pytest
from audited import write_clean_set
from hypothesis import settings
from made import image_file
from postgres_server import postgres_folder

REPO = Path(__file__).resolve().parent.parent
# One thread for numerical libraries, in this process and those that tests start: sums depend on the number of threads,
# and with one pytest worker for each core, more threads only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

# An example may take long on a busy machine: no test judges by time.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}


NOT_IN_FAST = {"cli", "review", "service", "training", "test_demo.py", "test_docs.py", "test_packaging.py"}
# Files that take longest, longest first, then a folder of them: one pytest worker runs a whole file, and a long one
# at the end would leave the other without work.
LONG = (
    "test_docs.py",
    "test_faster_rcnn_run.py",
    "test_killed.py",
    "test_jobs_survive.py",
    "test_app.py",
    "test_sklearn_models.py",
    "test_session.py",
    "test_cnn.py",
    "test_detection.py",
    "training",
    "test_packaging.py",
    "test_detect.py",
    "test_detect_runs.py",
)
LEFT_OUT_OF_FAST = {"slow", "realdata", "browser"}


class NoTorch(MetaPathFinder):
    """Makes ``import torch`` fail as where it is not installed."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] == "torch":
            raise ModuleNotFoundError("the quick tests may not need torch", name=fullname)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--fast``: the quick tests of `make test-fast`, which need neither torch nor datasets nor a browser."""
    parser.addoption("--fast", action="store_true", help="only quick tests, with torch blocked")


def pytest_configure(config: pytest.Config) -> None:
    """In the quick tests, importing torch fails, so that none of them can come to need it."""
    if config.getoption("--fast"):
        sys.meta_path.insert(0, NoTorch())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out of the quick tests what needs torch, and what starts a process for every test."""
    left_out = collection_path.parent == REPO / "tests" and collection_path.name in NOT_IN_FAST
    return True if config.getoption("--fast") and left_out else None


def _data_dir() -> Path:
    return Path(os.environ.get("BLASTDET_DATA", REPO.parent / "shared" / "data")).resolve()


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _rank(item: pytest.Item) -> int:
    """Place in the order of the files; those that are not long keep theirs, after the long ones."""
    return min(
        (rank for rank, name in enumerate(LONG) if name in (item.path.name, item.path.parent.name)), default=len(LONG)
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests that need something this machine lacks, with a reason; in CI nothing is skipped."""
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
    if config.getoption("--fast"):
        quick = [item for item in items if not LEFT_OUT_OF_FAST & {mark.name for mark in item.iter_markers()}]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(quick)])
        items[:] = quick
    items.sort(key=_rank)
    if IN_CI:
        return
    missing = {}
    if not (_data_dir() / "bccd").is_dir():
        missing["realdata"] = f"no datasets in {_data_dir()} (set BLASTDET_DATA)"
    if _chromium() is None:
        missing["browser"] = "no Chromium on this machine"
    if postgres_folder() is None:
        missing["postgresql"] = "no PostgreSQL on this machine"
    for item in items:
        for marker, reason in missing.items():
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def image_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 0.png, 1.png and 2.png, for `made.datasets`."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        image_file(root / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real datasets; tests that use it carry the marker ``realdata``."""
    return _data_dir()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; tests that use it get the marker ``browser``."""
    path = _chromium()
    assert path, "Chromium is missing, although this is CI"
    return path


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    """One Chromium for all tests; each opens pages of its own, and closes them."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """``once(name, make)``: a folder that `make` filled, in the first pytest worker that asks; not to be changed.

    What takes seconds of training is done once for all workers.
    """
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    root.mkdir(exist_ok=True)

    def folder_of(name: str, make: Callable[[Path], None]) -> Path:
        folder, unfinished = root / name, root / f".{name}"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def clean_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset without a fault for the audit; read only."""
    return write_clean_set(tmp_path_factory.mktemp("audit") / "set")


@pytest.fixture
def faulty(clean_set: Path, tmp_path: Path) -> Path:
    """A copy of `clean_set` to put faults into."""
    return Path(shutil.copytree(clean_set, tmp_path / "set"))
