"""Versions are those of the imported modules, whichever distribution provides them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from blastdet.core.packages import versions


@pytest.fixture
def gpu_build(tmp_path, monkeypatch):
    """A module from a distribution with another name, such as onnxruntime from onnxruntime-gpu."""
    (tmp_path / "somewhere_runtime").mkdir()
    (tmp_path / "somewhere_runtime/__init__.py").write_text("")
    info = tmp_path / "somewhere_runtime_gpu-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somewhere-runtime-gpu\nVersion: 1.2.3\n")
    (info / "top_level.txt").write_text("somewhere_runtime\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "somewhere_runtime"
    sys.modules.pop("somewhere_runtime", None)


def test_the_distribution_that_provides_a_module_is_reported(gpu_build):
    found = versions([gpu_build, "numpy"])
    assert found["somewhere-runtime-gpu"] == "1.2.3" and "numpy" in found and "blastdet" in found


def test_a_module_that_is_not_installed_is_left_out():
    assert list(versions(["surely_not_installed"])) == ["blastdet"]


@pytest.mark.parametrize("name", ["train", "export", "calibrate"])
def test_a_public_name_that_needs_an_extra_says_which(name):
    code = f"""
import subprocess
import sys
sys.modules["torch"] = None
import blastdet
try:
    blastdet.{name}
except blastdet.BlastdetError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == f"blastdet.{name}: torch is not installed. Run: pip install 'blastdet[train]'\n"
