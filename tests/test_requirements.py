"""The pins: one OpenCV, no index addresses, and nothing that the ranges of pyproject.toml do not admit."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import cv2
import pytest
from packaging.requirements import Requirement

REPO = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]


def _pins(name):
    lines = (REPO / "requirements" / name).read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {pin.name: pin for pin in pins if pin.marker is None or pin.marker.evaluate()}


@pytest.mark.parametrize("name", ["base.txt", "all.txt"])
def test_installed_is_what_is_pinned(name):
    differing = {
        pin.name: metadata.version(pin.name)
        for pin in _pins(name).values()
        if metadata.version(pin.name) not in pin.specifier
    }
    assert not differing


def test_one_opencv():
    pins = _pins("all.txt")
    assert "opencv-python" not in pins  # it would unpack over the headless build
    pinned = str(pins["opencv-python-headless"].specifier).removeprefix("==")
    assert pinned.startswith(cv2.__version__)
    installed = {d.name for d in metadata.distributions() if d.name.lower().startswith("opencv")}
    assert installed == {"opencv-python-headless"}


def test_base_is_part_of_all():
    whole = _pins("all.txt")
    assert all(whole[name].specifier == pin.specifier for name, pin in _pins("base.txt").items())


def test_ranges_admit_the_pins():
    pins = _pins("all.txt")
    extras = PYPROJECT["optional-dependencies"]
    asked = [Requirement(text) for texts in (PYPROJECT["dependencies"], *extras.values()) for text in texts]
    for requirement in asked:
        if requirement.name in pins:
            version = str(pins[requirement.name].specifier).removeprefix("==")
            assert version in requirement.specifier, f"{requirement}: {version} pinned"


def test_base_needs_no_torch():
    assert not {"torch", "ultralytics", "fiftyone", "albumentations"} & _pins("base.txt").keys()


def test_no_address_of_an_index_is_committed():
    files = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout.split("\n")
    index = re.compile(rb"py" rb"pi\.org|python" rb"hosted|--(extra-)?index-url http")
    guilty = [
        name
        for name in files
        if name and (REPO / name).is_file() and (REPO / name).stat().st_size < 2_000_000
        if index.search((REPO / name).read_bytes())
    ]
    assert not guilty


def test_nothing_committed_is_over_25_mb():
    files = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout.split("\n")
    assert not [name for name in files if name and (REPO / name).is_file() and (REPO / name).stat().st_size > 25e6]
