"""Corruptions do what they say, and the command measures how much accuracy a model loses under them."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from made import limited_files

from blastdet.cli import cli
from blastdet.core.errors import BlastdetError
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.evaluation.robustness.corruptions import CORRUPTIONS, blur, brightness, hue, jpeg, stain
from blastdet.evaluation.robustness.measure import Row, measure_robustness, steps
from blastdet.evaluation.robustness.output import draw
from blastdet.imaging.io import write_image
from blastdet.inference.model import Model
from blastdet.models.fake_detector import FakeDetector, fake_card

RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
MPP = (0.2, 0.2)


@pytest.mark.parametrize("name", [name for name, d in CORRUPTIONS.items() if d.apply and name not in ("blur", "jpeg")])
def test_the_neutral_level_changes_nothing_and_others_do(name):
    corruption = CORRUPTIONS[name]
    np.testing.assert_allclose(corruption.apply(RGB, corruption.none, MPP).astype(int), RGB, atol=1)
    before = RGB.copy()
    assert all((corruption.apply(RGB, level, MPP) != RGB).mean() > 0.3 for level in corruption.levels)
    np.testing.assert_array_equal(RGB, before)


def test_blur_is_in_micrometres():
    dot = np.zeros((81, 81, 3), np.uint8)
    dot[40, 40] = 255
    wide = blur(dot, 1.0, (0.2, 0.4))[..., 0] > 0.4 * blur(dot, 1.0, (0.2, 0.4)).max()
    across, down = wide.any(axis=0).sum(), wide.any(axis=1).sum()
    assert across == pytest.approx(2 * down, abs=2)


def test_stain_adds_up_in_optical_density_and_light_in_rgb():
    np.testing.assert_allclose(stain(np.uint8([[[127, 63, 255]]]), 2.0, MPP)[0, 0], [63, 15, 255], atol=1)
    np.testing.assert_array_equal(brightness(np.uint8([[[100, 200, 250]]]), 1.3, MPP)[0, 0], [130, 255, 255])
    redder = hue(np.full((1, 1, 3), 128, np.uint8), 0.3, MPP)[0, 0].astype(int)
    assert redder[0] > 128 > redder[1] == redder[2]
    assert np.abs(jpeg(RGB, 10, MPP).astype(int) - RGB).mean() > np.abs(jpeg(RGB, 95, MPP).astype(int) - RGB).mean()


@pytest.fixture
def images(tmp_path):
    """Three images with white cells as the fake detector finds them, and COCO annotations."""
    listed, annotations = [], []
    for i in range(3):
        rgb = np.full((128, 160, 3), 255, np.uint8)
        for j, x in enumerate((30, 80, 130)):
            cv2.circle(rgb, (x, 60), 10, (0, 0, 255), cv2.FILLED)
            box = [x - 10, 50, 21, 21]
            row = {"id": 3 * i + j, "image_id": i, "category_id": 2, "bbox": box, "area": 441, "iscrowd": 0}
            annotations.append(row)
        write_image(tmp_path / f"{i}.png", rgb)
        size = {"file_name": f"{i}.png", "width": 160, "height": 128}
        listed.append({"id": i, **size, "mpp": [0.5, 0.5], "group": f"g{i}", "split": "val", "annotated": ["wbc"]})
    document = {"images": listed, "annotations": annotations, "categories": [{"id": 2, "name": "wbc"}]}
    (tmp_path / "truth.json").write_text(json.dumps(document))
    return tmp_path


def test_accuracy_falls_with_the_level(images):
    models = Model(FakeDetector(fake_card(0.5)), images)
    truth = Detections([[20, 50, 41, 71], [70, 50, 91, 71], [120, 50, 141, 71]])
    samples = [
        Sample(images / f"{i}.png", (160, 128), (0.5, 0.5), f"g{i}", annotated=("wbc",), truth=truth) for i in range(3)
    ]
    dataset = Dataset("made", images, tuple(samples))
    called = []
    rows = measure_robustness(dataset, models, ["brightness", "mpp"], lambda: called.append(1))
    assert len(called) == steps(dataset, ["brightness", "mpp"])
    of = {(row.corruption, row.level): row for row in rows if row.name == "wbc"}
    assert of["brightness", 1.0].ap50 == of["mpp", 1.0].ap50 == 1.0 and of["brightness", 1.0].count_error == 0
    assert (
        of["brightness", 0.6].ap50 == 0 and of["brightness", 0.6].count_bias == -3
    )  # too dark for the colour of the mark
    assert [row.level for row in rows if row.name == "all" and row.corruption == "mpp"] == [0.75, 0.9, 1.0, 1.1, 1.25]


def test_the_command_writes_table_and_curves(images):
    words = ["robustness", "--data", images / "truth.json", "--only", "brightness", "--out", images / "out"]
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert "brightness" in done.output and "blur" not in done.output
    rows = json.loads((images / "out/robustness.json").read_text())["rows"]
    with (images / "out/robustness.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == len(rows) == 10  # five levels of wbc and of all
    assert (images / "out/robustness.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--only", "rain"], "--only: expected one of blur, jpeg, stain, hue, brightness, mpp, got rain"),
        (["--mpp", "auto"], "Invalid value for '--mpp': expected data, X or X,Y"),
        (["--split", "train"], "no image in split 'train'. Splits in this dataset: val"),
        (["--out", "."], "contains the source"),
    ],
)
def test_bad_usage_gives_a_one_line_error(images, words, line, monkeypatch):
    monkeypatch.chdir(images)
    done = CliRunner().invoke(
        cli, ["robustness", "--data", str(images / "truth.json"), "--out", str(images / "out"), *words]
    )
    assert done.exit_code == 2 and line in done.output and not (images / "out").exists()


def test_old_names_still_work(images):
    words = ["stress", "--data", images / "truth.json", "--only", "light", "--only", "rain", "--out", images / "out"]
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert (
        "note: stress is now robustness" in done.output and "note: --only light is now --only brightness" in done.output
    )
    assert done.exit_code == 2 and "got rain" in done.output


def test_a_full_disk_while_a_plot_is_written_is_one_line_with_the_path(tmp_path):
    rows = [Row("blur", level, "wbc", 0.9, 0.8, 1.0, 0.0, 0.1) for level in (0, 1)]
    with limited_files(2_000), pytest.raises(BlastdetError, match=r"a\.png: cannot be written .*MB free on that disk"):
        draw(rows, "title", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("title", ["a $x_{1 b", "$", "a_b^c\\frac"])
def test_a_title_is_no_formula(tmp_path, title):
    rows = [Row("blur", level, name, 0.9, 0.8, 1.0, 0.0, 0.1) for level in (0, 1) for name in ("wbc", "all")]
    draw(rows, title, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
