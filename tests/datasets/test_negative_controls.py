"""Negative controls: windows of one size that do not show the cell."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from blastdet.cli import cli
from blastdet.cli.data_commands import crops
from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, WBC, Dataset, Detections, Sample
from blastdet.datasets.cropping.crop_table import cut_of, read_table
from blastdet.datasets.cropping.cutting import annotated_cells, detected_cells
from blastdet.datasets.cropping.negative_controls import DISC_UM, NEGATIVE_CONTROLS, WINDOW_UM, crop_of, windows
from blastdet.datasets.formats import registry
from blastdet.imaging.cell_crops import crop, window
from blastdet.imaging.io import image_size, open_smear, read_image

SIZE = (240, 180)
WIDE = (480, 240)


def _box(x: int, y: int, w: int, h: int) -> tuple[int, int, int, int]:
    return x, y, min(x + w, SIZE[0]), min(y + h, SIZE[1])


boxes = st.lists(
    st.builds(_box, st.integers(0, 230), st.integers(0, 170), st.integers(5, 60), st.integers(5, 60)), max_size=4
)
scales = st.sampled_from([(0.2, 0.2), (0.5, 0.375), (0.3, 0.3)])
NONE = np.empty((0, 4), np.float32)


def _array(rows: list[tuple[int, int, int, int]]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


@given(cells=boxes, marks=boxes, mpp=scales)
def test_windows_elsewhere_show_neither_a_cell_nor_a_mark(tmp_path_factory, cells, marks, mpp):
    """Oracle: paint cells and marks, and look at the crops."""
    image = np.zeros((*SIZE[::-1], 3), np.uint8)
    for x1, y1, x2, y2 in cells + marks:
        image[y1:y2, x1:x2] = 255
    path = tmp_path_factory.getbasetemp() / "film.png"
    Image.fromarray(image).save(path)
    found = windows("elsewhere", _array(cells), (SIZE, mpp), _array(cells), _array(marks))
    with open_smear(path) as source:
        for box in found[~np.isnan(found).any(axis=1)].tolist():
            x1, y1, x2, y2 = window(tuple(box), mpp)
            assert min(x1, y1) > -0.01 and x2 < SIZE[0] + 0.01 and y2 < SIZE[1] + 0.01
            rgb = crop_of("elsewhere", source, tuple(box), mpp)
            assert len(rgb) == pytest.approx(WINDOW_UM / min(mpp), abs=1)
            assert rgb[2:-2, 2:-2].max() == 0  # the margin may extend by half a pixel
    again = windows("elsewhere", _array(cells), (SIZE, mpp), _array(cells), _array(marks))
    np.testing.assert_array_equal(found, again)


def test_a_window_is_found_on_empty_background_and_none_if_no_place_is_free():
    cell = _array([(100, 80, 120, 100)])
    assert not np.isnan(windows("elsewhere", cell, (SIZE, (0.3, 0.3)), cell, NONE)).any()
    everywhere = _array([(0, 0, *SIZE)])
    assert np.isnan(windows("elsewhere", cell, (SIZE, (0.3, 0.3)), everywhere, NONE)).all()
    for control in NEGATIVE_CONTROLS:
        assert np.isnan(windows(control, cell, (SIZE, (0.1, 0.1)), cell, NONE)).all()  # an image of 24 x 18 µm


@given(cells=boxes, marks=boxes, mpp=scales)
def test_a_covered_cell_is_centred_and_shows_no_mark(cells, marks, mpp):
    found = windows("covered", _array(cells), (SIZE, mpp), _array(cells), _array(marks))
    for cell, box in zip(_array(cells), found, strict=True):
        middle, half = (cell[:2] + cell[2:]) / 2, WINDOW_UM / 2 / np.array(mpp)
        clear = all((m[:2] >= middle + half).any() or (m[2:] <= middle - half).any() for m in _array(marks))
        assert np.isnan(box).any() == (not clear)
        if clear:
            np.testing.assert_allclose(
                window(tuple(box.tolist()), mpp), [*(middle - half), *(middle + half)], atol=1e-3
            )


@pytest.mark.parametrize("mpp", [(0.2, 0.2), (0.5, 0.375)])
def test_nothing_below_the_disc_is_visible(tmp_path, mpp):
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
    ys, xs = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    covered = ((xs - 120) * mpp[0]) ** 2 + ((ys - 90) * mpp[1]) ** 2 < (DISC_UM / 2 - 2 * max(mpp)) ** 2
    other = np.where(covered[..., None], 255 - noise, noise)
    shown = []
    for name, image in (("a", noise), ("b", other)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        cell = _array([(100, 70, 140, 110)])
        (box,) = windows("covered", cell, (SIZE, mpp), cell, NONE).tolist()
        with open_smear(tmp_path / f"{name}.png") as source:
            shown.append(crop_of("covered", source, tuple(box), mpp))
            np.testing.assert_array_equal(crop_of("", source, tuple(box), mpp), crop(source, tuple(box), mpp))
    np.testing.assert_array_equal(*shown)
    assert 0.4 < (shown[0] != 128).any(axis=2).mean() < 0.5  # 1 - pi/4 (20/24)²


def _film(path, *cells):
    """An image with red cells, and with nuclei in the given boxes."""
    rgb = np.full((*WIDE[::-1], 3), (240, 228, 220), np.uint8)
    for x in range(10, WIDE[0], 45):
        cv2.circle(rgb, (x, 165), 14, (205, 170, 165), cv2.FILLED, cv2.LINE_AA)
    for x1, y1, x2, y2 in cells:
        middle, axes = ((x1 + x2) // 2, (y1 + y2) // 2), ((x2 - x1) // 2, (y2 - y1) // 2)
        cv2.ellipse(rgb, middle, axes, 0, 0, 360, (95, 55, 135), cv2.FILLED, cv2.LINE_AA)
    Image.fromarray(rgb).save(path)


def _run(*words):
    done = CliRunner().invoke(cli, ["crops", *map(str, words)])
    return done.exit_code, done.output


@pytest.fixture
def folder(tmp_path):
    """An image with a blast, a monocyte and an unannotated nucleus."""
    _film(tmp_path / "a.png", (20, 20, 60, 60), (30, 100, 60, 130), (170, 20, 210, 60))
    truth = Detections([[20, 20, 60, 60], [30, 100, 60, 130]], label=[BLAST, WBC], cell_type=["", "monocyte"])
    sample = Sample(tmp_path / "a.png", WIDE, annotated=("blast", "wbc"), truth=truth, mpp=(0.25, 0.25), split="train")
    registry.write(Dataset("made", tmp_path, (sample,)), tmp_path, "coco")
    return tmp_path


def test_the_command_offers_all_negative_controls():
    """The choices are written out in the command, because --help must not import anything heavy."""
    (option,) = (one for one in crops.command.params if one.name == "negative_control")
    assert tuple(option.type.choices) == NEGATIVE_CONTROLS


def test_the_command_cuts_windows_and_records_it(folder):
    for control in NEGATIVE_CONTROLS:
        words = [
            folder,
            folder / control,
            "--images",
            folder,
            "--negative-control",
            control,
            "--mark",
            "470,230,480,240",
        ]
        code, text = _run(*words)
        assert code == 0 and "crops    2: blast 1, wbc 1" in text, text
        rows = read_table(folder / control)
        assert [row.cell_type for row in rows] == ["", "monocyte"]
        assert {image_size(folder / control / row.crop) for row in rows} == {(96, 96)}
        assert json.loads((folder / control / "crops.json").read_text())["negative_control"] == control
    for row in rows:  # those of the last control, elsewhere
        assert read_image(folder / "elsewhere" / row.crop).min() > 140  # not the unannotated nucleus, either
    assert (read_image(folder / "covered" / rows[0].crop)[48, 48] == 128).all()
    code, text = _run(*words[:-1], "90,0,480,240", "--overwrite")
    assert code == 0 and "left out 2 without room for a window" in text, text


@pytest.mark.parametrize("key", ["negative_control", "probe"])
def test_a_record_is_read_under_its_old_key_too(tmp_path, key):
    (tmp_path / "crops.json").write_text(json.dumps({"colour": "canonical", key: "covered"}))
    assert (cut_of(tmp_path).colour, cut_of(tmp_path).negative_control) == ("canonical", "covered")
    (tmp_path / "crops.json").write_text(json.dumps({key: "hidden"}))
    with pytest.raises(FormatError, match="expected negative_control covered, elsewhere or none, got 'hidden'"):
        cut_of(tmp_path)


def test_an_unreadable_image_is_listed_and_leaves_no_crop(folder):
    picture = folder / "images/train/a.png"
    picture.write_bytes(picture.read_bytes()[:-500])
    code, text = _run(folder, folder / "out", "--negative-control", "elsewhere")
    assert code == 1 and "a.png" in text and "crops    0: none" in text and "Traceback" not in text, text


def test_a_cell_with_a_point_only_is_avoided(folder):
    """The third nucleus has a point and no box, so its place is not free."""
    middles = np.array([[np.nan, np.nan], [190, 40]], np.float32)
    truth = Detections([[20, 20, 60, 60], [np.nan] * 4], label=[BLAST, WBC], point_xy=middles)
    sample = Sample(folder / "a.png", WIDE, annotated=("blast", "wbc"), truth=truth, mpp=(0.25, 0.25))
    (cells,) = annotated_cells(Dataset("made", folder, (sample,)))
    np.testing.assert_array_equal(cells.nucleated, [[20, 20, 60, 60], [190 - 48, 40 - 48, 190 + 48, 40 + 48]])
    found = Detections([[20, 20, 60, 60]], score=[0.9])
    (cells,) = detected_cells(Dataset("made", folder, (sample,)), (found,), {"wbc": 0.5})
    assert [190 - 48, 40 - 48, 190 + 48, 40 + 48] in cells.nucleated.tolist()


def test_a_mark_outside_every_image_is_an_error(folder):
    code, text = _run(folder, folder / "out", "--mark", "5000,5000,5100,5100")
    assert code == 2 and "--mark 5000,5000,5100,5100: outside every image" in text
