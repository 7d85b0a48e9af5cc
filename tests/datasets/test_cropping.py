"""Crops: geometry for any box, scale and border; the table; the command."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from blastdet.cli import cli
from blastdet.core.errors import FormatError, ScaleError
from blastdet.core.types import BLAST, RBC, WBC, Dataset, Detections, Sample
from blastdet.datasets.cropping.crop_table import NOT_A_CELL, read_table
from blastdet.datasets.cropping.cutting import Cells, annotated_cells, detected_cells, without_marks, write_crops
from blastdet.datasets.formats import registry
from blastdet.imaging.cell_crops import CONTEXT, crop, window
from blastdet.imaging.io import image_size, open_smear

SIZE = (120, 90)
sides = st.floats(0.5, 60)
scales = st.floats(0.05, 2)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """An image of random pixels."""
    path = tmp_path_factory.mktemp("noise") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), np.uint8)).save(path)
    return path


@given(x=st.floats(0, 119), y=st.floats(0, 89), w=sides, h=sides, mpp=st.tuples(scales, scales))
def test_a_window_is_square_in_um_and_centred(x, y, w, h, mpp):
    x1, y1, x2, y2 = window((x - w / 2, y - h / 2, x + w / 2, y + h / 2), mpp)
    side = CONTEXT * max(w * mpp[0], h * mpp[1])
    np.testing.assert_allclose(((x2 - x1) * mpp[0], (y2 - y1) * mpp[1]), side, rtol=1e-6)
    np.testing.assert_allclose(((x1 + x2) / 2, (y1 + y2) / 2), (x, y), atol=1e-6)


@given(x=st.floats(0, 119), y=st.floats(0, 89), w=sides, h=sides, mpp=st.tuples(scales, scales))
def test_every_box_gives_a_square_of_the_right_size(noise, x, y, w, h, mpp):
    box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    with open_smear(noise) as source:
        rgb = crop(source, box, mpp, max(mpp))
    side = max(round(CONTEXT * max(w * mpp[0], h * mpp[1]) / max(mpp)), 1)
    assert rgb.shape == (side, side, 3) and rgb.dtype == np.uint8


@given(x=st.integers(20, 100), y=st.integers(20, 70), half=st.integers(1, 12))
def test_inside_the_image_a_crop_has_its_pixels(noise, x, y, half):
    n = 2 * half  # a window of whole pixels
    box = (x - half / CONTEXT, y - half / CONTEXT, x + half / CONTEXT, y + half / CONTEXT)
    with open_smear(noise) as source:
        whole, rgb = source.read(), crop(source, box, (0.2, 0.2))
    assert len(rgb) == n
    np.testing.assert_array_equal(rgb, whole[y - half : y + half, x - half : x + half])


def test_beyond_the_border_the_image_is_reflected(noise):
    half = 13 / CONTEXT
    with open_smear(noise) as source:
        whole, rgb = source.read(), crop(source, (5 - half, 85 - half, 5 + half, 85 + half), (0.2, 0.2))
    wanted = cv2.copyMakeBorder(whole, 0, 20, 20, 0, cv2.BORDER_REFLECT)[72:98, 12:38]
    np.testing.assert_array_equal(rgb, wanted)


def test_for_a_person_nothing_is_shown_beyond_the_border(noise):
    with open_smear(noise) as source:
        shown, seen = (crop(source, (-5, -5, 5, 5), (0.2, 0.2), ground=value) for value in (138, None))
    half = len(shown) // 2
    assert (shown[:half] == 138).all() and (shown[:, :half] == 138).all()
    np.testing.assert_array_equal(shown[half:, half:], seen[half:, half:])


def test_a_cell_in_a_squeezed_image_becomes_round(tmp_path):
    image = np.full((200, 200, 3), 240, np.uint8)
    cv2.ellipse(image, (100, 100), (24, 32), 0, 0, 360, (90, 60, 140), -1)  # a circle of 12 µm at 0.5 x 0.375 µm/px
    Image.fromarray(image).save(tmp_path / "squeezed.png")
    with open_smear(tmp_path / "squeezed.png") as source:
        rgb = crop(source, (76, 68, 124, 132), (0.5, 0.375))
    ys, xs = np.nonzero(rgb[..., 0] < 165)
    width, height = np.ptp(xs) + 1, np.ptp(ys) + 1
    assert abs(width - height) <= 1 and abs(width - 64) <= 2


def _set(tmp_path):
    """Two images: one with a blast, a white cell, a red cell and a region to ignore; one without annotation."""
    image = np.full((80, 100, 3), 200, np.uint8)
    for name in ("a", "b"):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    truth = Detections(
        [[10, 10, 30, 30], [50, 10, 70, 30], [10, 50, 20, 60], [60, 50, 80, 70]],
        label=[BLAST, WBC, RBC, WBC],
        ignore=[False, False, False, True],
        cell_type=["", "lymphocyte", "", ""],
    )
    known = {"mpp": (0.25, 0.25), "group": "g", "cluster": "c", "split": "train"}
    one = Sample(tmp_path / "a.png", (100, 80), annotated=("blast", "wbc", "rbc"), truth=truth, **known)
    two = Sample(tmp_path / "b.png", (100, 80), mpp=(0.5, 0.5), label="early", split="train")
    return Dataset("made", tmp_path, (one, two))


def test_annotated_cells_become_crops_and_a_table(tmp_path):
    dataset, out = _set(tmp_path), tmp_path / "out"
    out.mkdir()
    rows, failed = write_crops(dataset, annotated_cells(dataset), out)
    assert not failed
    assert [(row.label, row.cell_type, row.group, row.cluster) for row in rows] == [
        ("blast", "", "g", "c"),
        ("wbc", "lymphocyte", "g", "c"),
    ]
    assert read_table(out) == rows
    assert {image_size(out / row.crop) for row in rows} == {(26, 26)}


def test_detections_take_the_label_of_the_cell_they_match(tmp_path):
    found = Detections(
        [[11, 10, 31, 30], [50, 10, 70, 30], [60, 50, 80, 70], [82, 60, 98, 78], [0, 0, 8, 8]],
        score=[0.9, 0.8, 0.9, 0.9, 0.2],
    )
    anywhere = Detections([[5, 5, 25, 25]], score=[0.7])
    one, two = detected_cells(_set(tmp_path), (found, anywhere), {"wbc": 0.5})
    assert one.labels == ("blast", "wbc", NOT_A_CELL)  # the one on the ignored region and the weak one are left out
    assert one.found.cell_type.tolist() == ["", "lymphocyte", ""] and one.left_out == {"ignored": 1}
    assert two.labels == ("",) and two.mpp == (0.5, 0.5)


@pytest.mark.parametrize("how", ["one cell is a point", "only blasts are annotated"])
def test_not_a_cell_needs_boxes_of_all_white_cells(tmp_path, how):
    dataset = _set(tmp_path)
    sample = dataset.samples[0]
    if how == "one cell is a point":
        xyxy = sample.truth.boxes_xyxy.copy()
        xyxy[1] = np.nan
        points = [[20, 20], [60, 20], [15, 55], [70, 60]]
        sample = replace(sample, truth=sample.truth.with_columns(boxes_xyxy=xyxy, point_xy=points))
    else:
        sample = replace(sample, annotated=("blast",))
    found = Detections([[11, 10, 31, 30], [82, 60, 98, 78]], score=[0.9, 0.9])
    partly = replace(dataset, samples=(sample, dataset.samples[1]))
    one, _ = detected_cells(partly, (found, Detections.empty()), {"wbc": 0.5})
    assert one.labels == ("blast", "")


def _box(x, y, w, h):
    return (x, y, min(x + w, 100), min(y + h, 80))


boxes = st.builds(_box, st.integers(0, 90), st.integers(0, 70), st.integers(5, 40), st.integers(5, 40))


@given(boxes, boxes, st.sampled_from([(0.25, 0.25), (0.5, 0.375)]))
def test_only_cells_whose_crop_shows_a_mark_are_left_out(noise, mark, box, mpp):
    """Oracle: paint a mark and look at the crop. (Resampling may smooth away a row or column.)"""
    image = np.zeros((80, 100, 3), np.uint8)
    image[mark[1] : mark[3], mark[0] : mark[2]] = 255
    path = noise.with_name("marked.png")
    Image.fromarray(image).save(path)
    with open_smear(path) as source:
        paint = crop(source, box, mpp).max()
    kept = without_marks(Cells(Detections([box], score=[0.9]), ("wbc",), mpp, {}, np.empty((0, 4))), [mark])
    assert len(kept.found) == len(kept.labels) == 1 - kept.left_out.get("with a mark in the crop", 0)
    if paint > 128:
        assert not len(kept.found)
    x1, y1, x2, y2 = window(box, mpp)
    if min(x2, mark[2]) - max(x1, mark[0]) > 2 and min(y2, mark[3]) - max(y1, mark[1]) > 2:
        assert paint > 0 and not len(kept.found)
    elif not paint:
        assert len(kept.found) or min(x2, mark[2]) - max(x1, mark[0]) > 0


def test_boxes_are_clipped_to_the_image(tmp_path):
    sample = _set(tmp_path).samples[0]
    truth = Detections([[-1e11, -1e11, 1e11, 1e11], [1e6, 1e6, 1e6 + 50, 1e6 + 50], [90, 70, 130, 90]])
    (cells,) = annotated_cells(Dataset("wild", tmp_path, (replace(sample, truth=truth),)))
    assert cells.found.boxes_xyxy.tolist() == [[0, 0, 100, 80], [90, 70, 100, 80]]
    assert cells.left_out == {"outside the image": 1}


def test_an_unreadable_image_is_listed_and_the_others_are_processed(tmp_path):
    dataset, out = _set(tmp_path), tmp_path / "out"
    out.mkdir()
    broken = replace(dataset.samples[0], path=tmp_path / "broken.png")
    broken.path.write_bytes(dataset.samples[0].path.read_bytes()[:60])
    whole = replace(dataset, samples=(broken, dataset.samples[0]))
    rows, failed = write_crops(whole, annotated_cells(whole), out)
    assert [row.source for row in rows] == ["a.png", "a.png"] and "broken.png" in failed[0]


def test_cells_without_a_scale_are_a_one_line_error(tmp_path):
    sample = _set(tmp_path).samples[0]
    bare = Dataset("bare", tmp_path, (Sample(sample.path, sample.size_wh, truth=sample.truth),))
    with pytest.raises(ScaleError, match=r"a\.png: unknown µm/px"):
        annotated_cells(bare)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("0.25\n", "zero\n", "line 2"),
        ("0.25\n", "-1\n", "line 2: mpp"),
        ("000001.png", "../000001.png", "no such crop"),
        ("smear_label", "kind", "smear_label"),
    ],
)
def test_an_invalid_table_is_a_one_line_error(tmp_path, old, new, line):
    dataset, out = _set(tmp_path), tmp_path / "out"
    out.mkdir()
    write_crops(dataset, annotated_cells(dataset), out)
    path = out / "crops.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(FormatError, match=line) as error:
        read_table(out)
    assert "\n" not in str(error.value)


def _run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["crops", *map(str, words)])
    return result.exit_code, result.output


def test_the_command_with_annotations_with_a_file_and_over_an_old_folder(tmp_path):
    registry.write(_set(tmp_path), tmp_path, "coco")
    code, text = _run(tmp_path, tmp_path / "out", "--images", tmp_path, "--colour", "canonical")
    assert code == 0 and "crops    2: blast 1, wbc 1" in text
    assert json.loads((tmp_path / "out/crops.json").read_text())["colour"] == "canonical"
    results = [{"image_id": 1, "category_id": 2, "bbox": [50, 10, 20, 20], "score": 0.9}]
    document = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    results[0]["image_id"] = document["images"][0]["id"]
    results[0]["category_id"] = next(c["id"] for c in document["categories"] if c["name"] == "wbc")
    (tmp_path / "found.json").write_text(json.dumps(results))
    (tmp_path / "boxed.json").write_text(json.dumps({"images": [{"file_name": document["images"][0]["file_name"]}]}))
    code, text = _run(tmp_path, tmp_path / "none", "--images", tmp_path, "--exclude", tmp_path / "boxed.json")
    assert code == 0 and "1 images left out: listed in boxed.json" in text and "crops    0" in text
    words = (
        tmp_path,
        tmp_path / "out",
        "--images",
        tmp_path,
        "--detections",
        tmp_path / "found.json",
        "--split",
        "all",
    )
    code, text = _run(*words)
    assert code == 2 and "not empty" in text
    for mark, line in (
        ("1,2,3", "expected 4 numbers separated by commas"),
        ("9,9,1,1", "x1 < x2"),
        ("1,2,nan,4", "expected 4"),
    ):
        code, text = _run(tmp_path, tmp_path / "marked", "--images", tmp_path, "--mark", mark)
        assert code == 2 and line in text, text
    code, text = _run(
        tmp_path, tmp_path / "marked", "--images", tmp_path, "--mark", "70,0,99,30", "--mark", "0,70,9,79"
    )
    assert code == 0 and "crops    1: blast 1" in text and "1 with a mark in the crop" in text, text
    code, text = _run(tmp_path / "images", tmp_path, "--overwrite")
    assert code == 2 and "contains the source" in text
    code, text = _run(*words, "--overwrite")
    assert code == 0 and "crops    1: wbc 1" in text
    with (tmp_path / "out/crops.csv").open() as stream:
        assert [row["score"] for row in csv.DictReader(stream)] == ["0.9"]


@pytest.mark.slow
def test_the_command_with_a_model(tmp_path):
    picture = shutil.copy(Path(__file__).parents[2] / "datasets/demo/smear.jpg", tmp_path)
    bare = Dataset("demo", tmp_path, (Sample(Path(picture), image_size(picture)),))
    registry.write(bare, tmp_path, "coco")
    words = (tmp_path, tmp_path / "out", "--images", tmp_path, "--mpp", "auto")
    code, text = _run(*words, "--weights", "default")
    assert code == 0, text
    rows = read_table(tmp_path / "out")
    assert rows and {row.label for row in rows} == {""}
    assert all(image_size(tmp_path / "out" / row.crop)[0] * row.mpp > 6 for row in rows)
    code, text = _run(*words, "--weights", "default", "--detections", "x.json")
    assert code == 2 and "got both" in text


def _demo(folder: Path, *more: str) -> Path:
    """The demo dataset with more images, the first of them truncated; returns its annotation file."""
    shutil.copytree(Path(__file__).parents[2] / "datasets/demo", folder / "demo")
    truth = folder / "demo/truth.json"
    document = json.loads(truth.read_text())
    image = document["images"][0]
    (folder / "demo/cut.jpg").write_bytes((folder / "demo" / image["file_name"]).read_bytes()[:5000])
    document["images"] += [{**image, "id": 90 + i, "file_name": name} for i, name in enumerate(("cut.jpg", *more))]
    truth.write_text(json.dumps(document))
    return truth


def test_an_image_that_the_model_cannot_read_is_listed_and_the_others_are_processed(tmp_path):
    truth = _demo(tmp_path)
    code, text = _run(truth, tmp_path / "out", "--weights", "default")
    assert code == 1, text
    assert "failed " in text and "cut.jpg" in text
    assert len(read_table(tmp_path / "out")) >= 10


@pytest.mark.slow
def test_with_mpp_auto_images_without_an_estimate_are_listed_and_the_others_are_processed(tmp_path):
    truth = _demo(tmp_path, "empty.png")
    Image.fromarray(np.full((1200, 1600, 3), 230, np.uint8)).save(tmp_path / "demo/empty.png")
    code, text = _run(truth, tmp_path / "out", "--mpp", "auto")
    assert code == 1 and "cut.jpg" in text and "empty.png: could not estimate the scale" in text, text
    assert {0.09 < row.mpp < 0.11 for row in read_table(tmp_path / "out")} == {True}
