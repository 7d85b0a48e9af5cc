"""Shared fixtures: where the real data is, and what a test may skip for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from made import picture

REPO = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}


def _data_dir() -> Path:
    return Path(os.environ.get("BLASTDET_DATA", REPO.parent / "shared" / "data")).resolve()


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with a reason, what needs something this machine lacks; in CI nothing is skipped."""
    if IN_CI:
        return
    missing = {}
    if not (_data_dir() / "bccd").is_dir():
        missing["realdata"] = f"no data sets in {_data_dir()} (set BLASTDET_DATA)"
    if _chromium() is None:
        missing["browser"] = "no Chromium on this machine"
    for item in items:
        for marker, reason in missing.items():
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 0.png, 1.png and 2.png, for `made.datasets`."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        picture(root / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets; tests that use it carry the marker ``realdata``."""
    return _data_dir()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; tests that use it carry the marker ``browser``."""
    path = _chromium()
    assert path, "Chromium is missing, although this is CI"
    return path
