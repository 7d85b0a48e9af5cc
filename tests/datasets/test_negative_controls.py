"""Shortcut probes: windows of one size that show no cell, wherever the cells lie."""

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
from blastdet.core.types import BLAST, WBC, Dataset, Detections, Sample
from blastdet.datasets.crop_dataset import found_cells, read_table, true_cells
from blastdet.datasets.formats import registry
from blastdet.datasets.negative_controls import DISC_UM, NEGATIVE_CONTROLS, WINDOW_UM, crop_of, windows
from blastdet.evaluation.predict import Predictions
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
    """Oracle: cells and marks are painted, and the crops looked at."""
    film = np.zeros((*SIZE[::-1], 3), np.uint8)
    for x1, y1, x2, y2 in cells + marks:
        film[y1:y2, x1:x2] = 255
    path = tmp_path_factory.getbasetemp() / "film.png"
    Image.fromarray(film).save(path)
    found = windows("elsewhere", _array(cells), (SIZE, mpp), _array(cells), _array(marks))
    with open_smear(path) as source:
        for box in found[~np.isnan(found).any(axis=1)].tolist():
            x1, y1, x2, y2 = window(tuple(box), mpp)
            assert min(x1, y1) > -0.01 and x2 < SIZE[0] + 0.01 and y2 < SIZE[1] + 0.01
            rgb = crop_of("elsewhere", source, tuple(box), mpp)
            assert len(rgb) == pytest.approx(WINDOW_UM / min(mpp), abs=1)
            assert rgb[2:-2, 2:-2].max() == 0  # half a pixel of the rim may reach out
    again = windows("elsewhere", _array(cells), (SIZE, mpp), _array(cells), _array(marks))
    np.testing.assert_array_equal(found, again)


def test_a_place_is_found_on_empty_film_and_none_where_none_is_free():
    cell = _array([(100, 80, 120, 100)])
    assert not np.isnan(windows("elsewhere", cell, (SIZE, (0.3, 0.3)), cell, NONE)).any()
    everywhere = _array([(0, 0, *SIZE)])
    assert np.isnan(windows("elsewhere", cell, (SIZE, (0.3, 0.3)), everywhere, NONE)).all()
    for probe in NEGATIVE_CONTROLS:
        assert np.isnan(windows(probe, cell, (SIZE, (0.1, 0.1)), cell, NONE)).all()  # a picture of 24 x 18 µm


@given(cells=boxes, marks=boxes, mpp=scales)
def test_a_covered_cell_is_in_the_middle_and_shows_no_mark(cells, marks, mpp):
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
def test_nothing_of_what_the_disc_covers_is_seen(tmp_path, mpp):
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
    ys, xs = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    covered = ((xs - 120) * mpp[0]) ** 2 + ((ys - 90) * mpp[1]) ** 2 < (DISC_UM / 2 - 2 * max(mpp)) ** 2
    other = np.where(covered[..., None], 255 - noise, noise)
    shown = []
    for name, film in (("a", noise), ("b", other)):
        Image.fromarray(film).save(tmp_path / f"{name}.png")
        cell = _array([(100, 70, 140, 110)])
        (box,) = windows("covered", cell, (SIZE, mpp), cell, NONE).tolist()
        with open_smear(tmp_path / f"{name}.png") as source:
            shown.append(crop_of("covered", source, tuple(box), mpp))
            np.testing.assert_array_equal(crop_of("", source, tuple(box), mpp), crop(source, tuple(box), mpp))
    np.testing.assert_array_equal(*shown)
    assert 0.4 < (shown[0] != 128).any(axis=2).mean() < 0.5  # 1 - pi/4 (20/24)²


def _film(path, *cells):
    """A film with red cells, and nuclei in boxes."""
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
    """A smear with a blast, a monocyte and a nucleus that nobody annotated."""
    _film(tmp_path / "a.png", (20, 20, 60, 60), (30, 100, 60, 130), (170, 20, 210, 60))
    truth = Detections([[20, 20, 60, 60], [30, 100, 60, 130]], label=[BLAST, WBC], cell_type=["", "monocyte"])
    sample = Sample(tmp_path / "a.png", WIDE, annotated=("blast", "wbc"), truth=truth, mpp=(0.25, 0.25), split="train")
    registry.write(Dataset("made", tmp_path, (sample,)), tmp_path, "coco")
    return tmp_path


def test_the_command_offers_what_there_is():
    """Its words are spelt out, for --help imports nothing heavy."""
    (option,) = (one for one in crops.command.params if one.name == "probe")
    assert tuple(option.type.choices) == NEGATIVE_CONTROLS


def test_the_command_cuts_windows_and_says_so_in_its_record(folder):
    for probe in NEGATIVE_CONTROLS:
        words = [folder, folder / probe, "--images", folder, "--probe", probe, "--mark", "470,230,480,240"]
        code, text = _run(*words)
        assert code == 0 and "crops    2: blast 1, wbc 1" in text, text
        rows = read_table(folder / probe)
        assert [row.cell_type for row in rows] == ["", "monocyte"]
        assert {image_size(folder / probe / row.crop) for row in rows} == {(96, 96)}
        assert json.loads((folder / probe / "crops.json").read_text())["probe"] == probe
    for row in rows:  # the last probe's: elsewhere
        assert read_image(folder / "elsewhere" / row.crop).min() > 140  # not the nucleus that nobody annotated, either
    assert (read_image(folder / "covered" / rows[0].crop)[48, 48] == 128).all()
    code, text = _run(*words[:-1], "90,0,480,240", "--overwrite")
    assert code == 0 and "left out 2 without a window to cut out" in text, text


def test_a_picture_that_cannot_be_read_is_named_and_leaves_no_half_a_folder(folder):
    picture = folder / "images/train/a.png"
    picture.write_bytes(picture.read_bytes()[:-500])
    code, text = _run(folder, folder / "out", "--probe", "elsewhere")
    assert code == 1 and "a.png" in text and "crops    0: none" in text and "Traceback" not in text, text


def test_cells_that_were_only_pointed_at_are_no_free_place(folder):
    """The third nucleus gets a point and no box, and the picture nothing that its colour tells."""
    middles = np.array([[np.nan, np.nan], [190, 40]], np.float32)
    truth = Detections([[20, 20, 60, 60], [np.nan] * 4], label=[BLAST, WBC], point_xy=middles)
    sample = Sample(folder / "a.png", WIDE, annotated=("blast", "wbc"), truth=truth, mpp=(0.25, 0.25))
    (cells,) = true_cells(Dataset("made", folder, (sample,)))
    np.testing.assert_array_equal(cells.nucleated, [[20, 20, 60, 60], [190 - 48, 40 - 48, 190 + 48, 40 + 48]])
    found = Detections([[20, 20, 60, 60]], score=[0.9])
    (cells,) = found_cells(Dataset("made", folder, (sample,)), Predictions("made", (found,), {"wbc": 0.5}))
    assert [190 - 48, 40 - 48, 190 + 48, 40 + 48] in cells.nucleated.tolist()


def test_a_mark_outside_of_every_picture_is_a_slip(folder):
    code, text = _run(folder, folder / "out", "--mark", "5000,5000,5100,5100")
    assert code == 2 and "--mark 5000,5000,5100,5100: outside of every picture" in text
