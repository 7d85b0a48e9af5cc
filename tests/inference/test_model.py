"""From image to result with a detector that makes no mistakes, so that every fault is in the pipeline."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blastdet.core.errors import BlastdetError, ConfigError, ScaleError
from blastdet.core.types import CELL_CLASSES, WBC
from blastdet.imaging.io import open_smear
from blastdet.inference import tiled_detection
from blastdet.inference.model import Model, Options
from blastdet.inference.scale import ScaleEstimate, estimate_scale
from blastdet.inference.tiled_detection import find_cells
from blastdet.inference.writers import coco_entry, summary, to_dict, write_coco
from blastdet.models.fake_detector import MARKS, FakeDetector, fake_card


class _Memory:
    """A `Source` without a file, sampled at whole pixels: what is under test is the pipeline, not the resampler."""

    path = "memory"
    mpp = None
    notes = ()

    def __init__(self, rgb):
        self.rgb, self.size_wh = rgb, (rgb.shape[1], rgb.shape[0])

    def read(self, box_xyxy=None, scale_xy=(1.0, 1.0)):
        assert scale_xy == (1.0, 1.0)
        x1, y1, x2, y2 = (round(side) for side in box_xyxy)
        return self.rgb[y1:y2, x1:x2]


def _paint(size_wh, cells):
    rgb = np.full((size_wh[1], size_wh[0], 3), 255, np.uint8)
    for x, y, w, h, name in cells:
        rgb[y : y + h, x : x + w] = MARKS[name]
    return rgb


@st.composite
def image_files(draw):
    """Marks that do not touch: one to a cell of a loose grid, some cut by the edge of the picture."""
    size = draw(st.tuples(st.integers(1, 420), st.integers(1, 420)))
    cells = []
    for gx in range(0, size[0], 60):
        for gy in range(0, size[1], 60):
            if draw(st.booleans()):
                x, y = gx + draw(st.integers(0, 12)), gy + draw(st.integers(0, 12))
                name = draw(st.sampled_from(list(MARKS)))
                cells.append((x, y, draw(st.integers(3, 45)), draw(st.integers(3, 45)), name))
    return _paint(size, cells)


@given(image_files(), st.integers(110, 260), st.integers(110, 260))
@settings(max_examples=60, deadline=None)
def test_tiled_equals_whole(rgb, width, height):
    mpp = 0.5  # of the card too: cells of up to 48 px overlap any seam
    whole = find_cells(_Memory(rgb), (mpp, mpp), FakeDetector(fake_card(mpp, (4000, 4000))))
    tiled = find_cells(_Memory(rgb), (mpp, mpp), FakeDetector(fake_card(mpp, (width, height))))
    np.testing.assert_array_equal(tiled.boxes_xyxy, whole.boxes_xyxy)
    np.testing.assert_array_equal(tiled.label, whole.label)
    np.testing.assert_array_equal(tiled.score, whole.score)


def test_the_number_of_threads_does_not_show(monkeypatch):
    cells = [(x, y, 9, 9, "rbc") for x in range(0, 2000, 20) for y in range(0, 1600, 20)]
    found = []
    for number in (1, 4):
        monkeypatch.setattr(tiled_detection, "workers", lambda number=number: number)
        detector = FakeDetector(fake_card(0.5, (256, 256)))  # more tiles than go one by one
        found.append(find_cells(_Memory(_paint((2000, 1600), cells)), (0.5, 0.5), detector))
    np.testing.assert_array_equal(found[0].boxes_xyxy, found[1].boxes_xyxy)
    assert len(found[0]) == len(cells)


@pytest.fixture
def model(tmp_path):
    return Model(FakeDetector(fake_card(0.5, (256, 256))), tmp_path)


@pytest.fixture
def sample(tmp_path):
    cells = [
        (30, 40, 60, 60, "wbc"),
        (300, 200, 40, 40, "rbc"),
        (500, 80, 12, 12, "platelet"),
        (760, 560, 40, 40, "wbc"),
    ]
    path = tmp_path / "smear.png"
    Image.fromarray(_paint((800, 600), cells)).save(path)
    return path


@pytest.mark.parametrize("mpp", [(0.5, 0.5), (0.25, 0.25), (0.25, 0.4), (0.75, 0.6)])
def test_boxes_come_back_to_full_pixels_whatever_the_scale(sample, model, mpp):
    result = model.analyze(sample, Options(mpp=mpp))
    cells = result.detections
    assert [CELL_CLASSES[i] for i in cells.label] == ["wbc", "platelet", "rbc", "wbc"]
    expected = [[30, 40, 90, 100], [500, 80, 512, 92], [300, 200, 340, 240], [760, 560, 800, 600]]
    np.testing.assert_allclose(cells.boxes_xyxy, expected, atol=4)
    assert (cells.boxes_xyxy[:, 2] <= 800).all() and (cells.boxes_xyxy[:, 3] <= 600).all()
    assert result.mpp == mpp and result.scale.origin == "given"


def test_the_same_bytes_on_every_run(sample, model, tmp_path):
    texts = []
    for number in range(2):
        result = model(sample, mpp=0.5)
        files = result.save(tmp_path / str(number), ["json", "csv", "geojson", "overlay"])
        assert [file.name for file in files] == ["smear.json", "smear.csv", "smear.geojson", "smear.overlay.jpg"]
        texts.append([file.read_bytes() for file in files])
    assert texts[0] == texts[1]
    assert json.loads(texts[0][0]) == json.loads(json.dumps(result.to_dict()))
    assert not list(tmp_path.rglob("*.tmp*"))


def test_numbers_of_the_report_agree_with_each_other(sample, model):
    result = model(sample, mpp=0.5)
    document = to_dict(result)
    assert document["counts"] == {"wbc": 2, "rbc": 1, "platelet": 1}
    assert document["area_mm2"] == pytest.approx(800 * 600 * 0.25e-6)
    assert document["per_mm2"]["wbc"] == pytest.approx(2 / 0.12, abs=0.1)
    assert document["per_field_of_0.038_mm2"]["wbc"] == pytest.approx(2 / 0.12 * 0.038, abs=0.01)
    counted = [one["counted_as"] for one in document["cells"]]
    assert {name: counted.count(name) for name in document["counts"]} == document["counts"]
    assert document["cells"][0]["size_um"] == pytest.approx([30, 30], abs=1)
    assert "diagnos" in document["notice"] and json.dumps(document, allow_nan=False)
    assert summary(result)["counts"] == document["counts"]


def test_min_score_lists_more_but_counts_the_same(sample, model):
    base = model(sample, mpp=0.5)
    low = model.analyze(sample, Options(mpp=(0.5, 0.5), min_score=0.01))
    high = model.analyze(sample, Options(mpp=(0.5, 0.5), min_score=0.53))
    assert low.detections.counts() == base.detections.counts() == base.candidates.counts()
    assert len(low.candidates) >= len(low.detections)
    assert 0 < len(high.detections) < len(base.detections)
    assert high.detections.score.min() >= 0.53 and high.candidates.score.min() >= 0.53
    assert model.thresholds(0.2) == dict.fromkeys(MARKS, 0.5)


def test_coco_holds_all_smears_in_order(sample, model, tmp_path):
    result = model.analyze(sample, Options(mpp=(0.5, 0.25), min_score=0.01))
    path = write_coco(
        [coco_entry(replace(result, name=name)) for name in ("a/x.png", "b.png")], MARKS, tmp_path / "d.json"
    )
    document = json.loads(path.read_text("utf-8"))
    assert [image["file_name"] for image in document["images"]] == ["a/x.png", "b.png"]
    assert document["images"][0] | {"width": 800, "height": 600, "mpp": [0.5, 0.25]} == document["images"][0]
    assert [row["id"] for row in document["annotations"]] == list(range(1, 2 * len(result.candidates) + 1))
    assert {category["id"]: category["name"] for category in document["categories"]} == {
        CELL_CLASSES.index(name) + 1: name for name in MARKS
    }
    x, y, w, h = document["annotations"][0]["bbox"]
    assert [x, y, x + w, y + h] == pytest.approx(result.candidates.boxes_xyxy[0].tolist(), abs=1e-4)
    assert document["annotations"][0]["score"] == pytest.approx(float(result.candidates.score[0]))


@pytest.mark.parametrize("mpp", [(0, 1), (-0.1, 0.1), (1e9, 1), (float("nan"), 1)])
def test_an_impossible_scale_is_refused(mpp):
    with pytest.raises(ScaleError, match=r"expected µm/px between 0\.001 and 100|expected a number"):
        Options(mpp=mpp)


@pytest.mark.parametrize("score", [1.5, float("nan"), "0.5"])
def test_an_impossible_score_is_refused(score):
    with pytest.raises(ConfigError, match="min_score: expected a number from 0 to 1, got"):
        Options(min_score=score)


def test_a_detector_without_red_cells_gives_no_warning_about_their_count(sample, model):
    scale = ScaleEstimate((0.5, 0.5), "red_cells", n_cells=40)
    card = fake_card()
    white = card.model_copy(update={"classes": ("wbc",), "thresholds": {"wbc": card.thresholds["wbc"]}})
    without_red = Model(FakeDetector(white), model.folder)
    with open_smear(sample) as source:
        assert not any("red cells" in line for line in without_red.analyze_source(source, scale, Options()).warnings)
        lines = model.analyze_source(source, scale, Options()).warnings
        assert any("red cells are hardly detected" in line for line in lines)


def test_a_folder_that_cannot_be_written_is_one_line(sample, model, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(BlastdetError, match=r"taken: cannot be written"):
        model(sample, mpp=0.5).save(tmp_path / "taken")


def test_a_scale_too_coarse_to_show_cells_is_refused(sample, model):
    with pytest.raises(ScaleError, match=r"smear\.png: expected at most 0.8 µm/px to show cells, got 5"):
        model.analyze(sample, Options(mpp=(5, 5)))


def test_a_blank_field_asks_for_its_scale(tmp_path, model):
    path = tmp_path / "blank.png"
    Image.new("RGB", (500, 400), (240, 240, 240)).save(path)
    with pytest.raises(ScaleError, match=r"blank\.png: could not determine the scale: .*--mpp"):
        model(path)
    assert len(model.analyze(path, Options(mpp=(0.5, 0.5))).detections) == 0


def test_the_scale_of_the_file_goes_before_the_red_cells():
    source = _Memory(np.zeros((10, 10, 3), np.uint8))
    source.mpp = (0.25, 0.25)
    stated, given = (estimate_scale(source, asked, FakeDetector()) for asked in (None, (0.1, 0.2)))
    assert (stated.mpp, stated.origin) == ((0.25, 0.25), "file")
    assert (given.mpp, given.origin) == ((0.1, 0.2), "given")


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (33, 31)])
def test_tiny_pictures(tmp_path, model, size):
    path = tmp_path / "tiny.png"
    Image.new("RGB", size, (0, 0, 255)).save(path)
    result = model.analyze(path, Options(mpp=(0.3, 0.3)))
    assert (result.detections.label == WBC).all()
    result.save(tmp_path / "out", ["json", "geojson", "overlay"])
    assert json.loads((tmp_path / "out/tiny.json").read_bytes()) == json.loads(json.dumps(result.to_dict()))
    assert len(json.loads((tmp_path / "out/tiny.geojson").read_bytes())["features"]) == len(result.detections)
