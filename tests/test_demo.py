"""The committed demo smear is what the command in its README makes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from blastdet.cli.data_commands.synth import command
from blastdet.datasets.formats import coco
from blastdet.imaging.io import read_image

DEMO = Path(__file__).resolve().parent.parent / "datasets" / "demo"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo made again, by the command that its README gives."""
    line = re.search(r"^ +blastdet synth (.*)$", (DEMO / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert line, "README.md of the demo names no command"
    arguments = shlex.split(line.group(1))
    assert arguments[0] == "datasets/demo"
    out = tmp_path_factory.mktemp("demo")
    result = CliRunner().invoke(command, [str(out), *arguments[1:]])
    assert result.exit_code == 0, result.output
    return out


def test_picture_is_the_committed_one(rendered: Path) -> None:
    ours, committed = (read_image(folder / "smear.jpg").astype(int) for folder in (rendered, DEMO))
    assert ours.shape == committed.shape == (1200, 1600, 3)
    difference = np.abs(ours - committed)
    assert difference.mean() < 0.5  # another libjpeg or exp() may round differently
    assert np.quantile(difference, 0.999) <= 4


def test_truth_is_the_committed_one(rendered: Path) -> None:
    ours, committed = (coco.read(folder / "truth.json").samples[0] for folder in (rendered, DEMO))
    assert ours.truth is not None
    assert committed.truth is not None
    assert committed.mpp == (0.1, 0.1)
    assert committed.annotated == ("blast", "wbc", "rbc", "platelet")
    np.testing.assert_array_equal(ours.truth.label, committed.truth.label)
    np.testing.assert_allclose(ours.truth.boxes_xyxy, committed.truth.boxes_xyxy, atol=1)


def test_demo_shows_what_its_readme_says() -> None:
    truth = coco.read(DEMO / "truth.json").samples[0].truth
    assert truth is not None
    counts = truth.counts()
    text = " ".join((DEMO / "README.md").read_text(encoding="utf-8").split())
    for name, words in (
        ("blast", "blasts"),
        ("wbc", "other white cells"),
        ("rbc", "red cells"),
        ("platelet", "platelets"),
    ):
        assert f"{counts[name]} {words}" in text
    assert (DEMO / "smear.jpg").stat().st_size < 400_000
