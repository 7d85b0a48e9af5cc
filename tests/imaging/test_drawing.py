"""Overlays: boxes and labels at the right positions, at any image size, with square pixels and a caption."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blastdet.core.constants import CELL_TYPES, COLOURS, PALETTE
from blastdet.core.types import CELL_CLASSES, Detections
from blastdet.imaging.drawing import _caption, _font, _ink, _with_tags, _write, draw, draw_cells, legend, tag_text


class _Plain:
    """A `Source` of one colour; enlarging it needs no pixels."""

    def __init__(self, size_wh):
        self.size_wh = size_wh

    def read(self, box_xyxy=None, scale_xy=(1.0, 1.0)):
        width, height = (round(side * factor) for side, factor in zip(self.size_wh, scale_xy, strict=True))
        return np.full((height, width, 3), 200, np.uint8)


def _draw(size_wh, mpp, cells):
    return draw(_Plain(size_wh), cells, mpp, {"wbc": 1, "rbc": 2})


@pytest.mark.parametrize(
    ("size_wh", "mpp", "expected_wh"),
    [
        ((300, 225), (0.4, 0.4), (900, 675)),
        ((1600, 1200), (0.1, 0.1), (1600, 1200)),
        ((4000, 3000), (0.07, 0.07), (4000, 3000)),
        ((100_000, 50_000), (0.25, 0.25), (4200, 2100)),
        ((224, 224), (0.5, 0.375), (900, 675)),
        ((20, 4000), (0.1, 0.1), (20, 4000)),
    ],
)
def test_size_and_square_pixels(size_wh, mpp, expected_wh):
    image = _draw(size_wh, mpp, Detections.empty())
    assert image.shape[1] == pytest.approx(expected_wh[0], abs=1)
    caption = image.shape[0] - expected_wh[1]
    assert caption > 10 if expected_wh[0] >= 60 else caption == 0
    assert (image[: expected_wh[1] - 1] == 200).all()


@pytest.mark.parametrize("size_wh", [(300, 225), (4000, 3000)])
def test_boxes_are_drawn_where_the_cells_are(size_wh):
    unit = np.array([*size_wh, *size_wh])
    cells = Detections(np.array([[0.2, 0.3, 0.4, 0.5], [0.6, 0.6, 0.7, 0.75]]) * unit, [0.9, 0.8], [1, 2])
    image = _draw(size_wh, (0.2, 0.2), cells).astype(int)
    height = round(size_wh[1] * image.shape[1] / size_wh[0])
    for (x1, y1, x2, y2), name in zip([(0.2, 0.3, 0.4, 0.5), (0.6, 0.6, 0.7, 0.75)], ("wbc", "rbc"), strict=True):
        left, right, middle = (round(v * image.shape[1]) for v in (x1, x2, (x1 + x2) / 2))
        bottom = round(y2 * height)
        near = image[bottom - 6 : bottom + 6, middle]
        assert np.abs(near - COLOURS[name]).sum(axis=1).min() < 30, name
        row = image[round((y1 + y2) / 2 * height)]
        for side in (left, right):
            assert np.abs(row[max(side - 6, 0) : side + 6] - COLOURS[name]).sum(axis=1).min() < 30
        assert (row[left + 12 : right - 12] == 200).all()  # the cell itself stays visible


def _label_pixels(corner_xy, size_wh=(300, 200), unit=1.0):
    """Pixels that the label of a box at a corner covers, bool (h, w)."""
    canvas = np.full((size_wh[1], size_wh[0], 3), 200, np.uint8)
    box = np.array([*corner_xy, corner_xy[0] + 40, corner_xy[1] + 40])
    return (_with_tags(canvas, [("erythroblast .02", box, (0, 90, 200))], unit) != 200).any(axis=2)


@given(st.integers(0, 299), st.integers(0, 160), st.sampled_from([0.5, 1.0, 1.2]))
@settings(deadline=None)
def test_labels_lie_completely_within_the_image(x, y, unit):
    whole = _label_pixels((60, 100), unit=unit).sum()
    assert whole > 500
    assert _label_pixels((x, y), unit=unit).sum() == whole


def test_labels_of_cells_at_the_corners_are_drawn():
    corners = np.array([[0, 0, 90, 90], [550, 0, 640, 90], [0, 390, 90, 480], [550, 390, 640, 480]])
    cells = Detections(corners, label=[1, 1, 1, 1])
    image = _draw((640, 480), (0.2, 0.2), cells)[:675]
    text = (image > 210).all(axis=2)  # only text is brighter than the grey image
    for y in (slice(0, 337), slice(337, 675)):
        for x in (slice(0, 450), slice(450, 900)):
            assert text[y, x].sum() > 5


def test_a_cell_unlike_the_training_data_is_told_from_one_between_the_classes():
    """Its probability may be 0: "unsure .00" would explain nothing."""
    cells = Detections(
        [[0, 0, 9, 9]] * 3,
        label=[1, 1, 1],
        blast_probability=[0.0, 0.45, 0.1],
        unsure=[True, True, False],
        unsure_reason=["unlike training", "between classes", ""],
    )
    assert [tag_text(cells, i) for i in range(3)] == ["unlike training", "unsure .45", "wbc .10"]
    assert "Unlike training" in legend(cells) and "Unlike training" not in legend(cells[1:])
    assert tag_text(cells.with_columns(unsure_reason=None), 0) == "unsure .00"


@pytest.mark.parametrize("size", [11, 16, 40])
def test_the_scale_bar_says_micrometres_not_um(size):
    """Below the base line of "10 um" there is nothing; the stem of the µ is all that reaches below it."""
    picture = Image.new("RGB", (8 * size, 3 * size), "white")
    _write(picture, (size, 2 * size), "10 µm", _font(size))
    below = (np.array(picture)[2 * size + 1 :] < 128).all(axis=2)
    columns = np.flatnonzero(below.any(axis=0))
    left = size + _font(size).getlength("10 ")
    assert len(columns) and left <= columns[0] and columns[-1] < left + size / 3


TYPED = Detections(
    [[20, 20, 110, 110], [140, 20, 230, 110], [260, 20, 350, 110], [20, 150, 110, 240], [140, 150, 230, 240]],
    label=[1, 1, 1, 0, 1],
    cell_type=["monocyte", "eosinophil", "", "", "erythroblast"],
    blast_probability=[0.02, 0.01, 0.3, 0.97, 0.05],
    unsure=[False, False, True, False, False],
    type_probability=np.tile(np.linspace(0.9, 0.1, 9, dtype=np.float32), (5, 1)),
)


def test_a_typed_cell_has_the_colour_the_name_and_the_probability_of_its_type():
    assert [tag_text(TYPED, i) for i in range(5)] == [
        "monocyte .70",
        "eosinophil .50",
        "unsure .30",
        "blast .97",
        "erythroblast .20",
    ]
    assert "probability of the type named" in legend(TYPED)
    image = draw(_Plain((900, 675)), TYPED, (0.2, 0.2), {}).astype(int)
    for (x1, y1, x2, _), name in zip(
        TYPED.boxes_xyxy.astype(int), ("monocyte", "eosinophil", "unsure", "blast", "erythroblast"), strict=True
    ):
        line = image[y1 - 3 : y1 + 4, (x1 + x2) // 2 : x2 - 4].reshape(-1, 3)
        assert np.abs(line - PALETTE[name]).sum(axis=1).min() < 30, name


def test_every_count_is_in_the_caption_however_many_there_are():
    counts = {name.replace("_", " "): 123 for name in CELL_TYPES} | {"other wbc": 1, "rbc": 2345, "platelet": 67}
    for width in (300, 900, 1600):
        strip = _caption(counts, ("a.jpg, 0.1 µm/px.", ""), 50, width, unit=width / 1600).astype(int)
        for name in (*CELL_TYPES, "rbc", "platelet"):
            assert (np.abs(strip - PALETTE[name]).sum(axis=2) == 0).sum() > 20, (width, name)
        assert strip.shape[1] == width


def test_the_name_of_the_image_is_in_the_strip_whatever_letters_it_has():
    """Letters that the font lacks are question marks; a longer name is written smaller, not cut off."""
    captions = [
        _caption({"rbc": 1}, (about, ""), 50, 900, unit=0.6).astype(int)
        for about in ("a.jpg, 0.1 µm/px.", "血.jpg, 0.1 µm/px.", f"{'long' * 60}.jpg, 0.1 µm/px.")
    ]
    assert len({strip.shape for strip in captions}) == 1
    assert not np.array_equal(captions[0], captions[1])
    ink = (captions[2] < 128).all(axis=2)
    assert ink.any() and not ink[:, -4:].any()


def test_text_is_legible_on_every_colour():
    def luminance(colour):
        c = np.array(colour) / 255
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    for name, colour in PALETTE.items():
        dark, bright = sorted((luminance(colour), luminance(_ink(colour))))
        assert (bright + 0.05) / (dark + 0.05) >= 3.2, name


def _lab(rgb):
    xyz = np.clip(rgb, 0, 1) @ np.array([[0.4125, 0.2127, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    f = np.cbrt(xyz / (0.9505, 1, 1.089))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Of Machado, Oliveira and Fernandes (2009): what an eye without red cones sees, and one without green cones.
@pytest.mark.parametrize(
    "seen",
    [
        np.eye(3),
        np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
        np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    ],
)
def test_types_are_told_apart_with_colour_blindness(seen):
    names = [*CELL_TYPES, "wbc", "unsure"]
    linear = [((np.array(PALETTE[name]) / 255 + 0.055) / 1.055) ** 2.4 for name in names]
    lab = np.array([_lab(seen @ colour) for colour in linear])
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 99 * np.eye(len(names))
    assert apart.min() > 12, [names[i] for i in np.unravel_index(apart.argmin(), apart.shape)]


def test_the_caption_is_below_the_cells_and_labels_can_be_larger():
    whole = draw(_Plain((900, 675)), TYPED, (0.2, 0.2), {})
    plain, larger = (draw_cells(_Plain((900, 675)), TYPED, (0.2, 0.2), factor) for factor in (1.0, 2.0))
    np.testing.assert_array_equal(whole[: len(plain)], plain)
    ground = plain[-1, -1]
    drawn = [int((image != ground).any(axis=2).sum()) for image in (plain, larger)]
    assert larger.shape == plain.shape and drawn[1] > 1.5 * drawn[0] > 0


def test_what_a_person_typed_has_no_number() -> None:
    origin = np.array(["human", *["model"] * (len(TYPED) - 1)])
    cells = TYPED.with_columns(origin=origin)
    assert not any(letter.isdigit() for letter in tag_text(cells, 0)) and tag_text(cells, 1) == tag_text(TYPED, 1)
    assert "Without a number: typed by a person." in legend(cells)
    assert "person" not in legend(TYPED)


def test_a_label_covers_no_other_cell_and_no_other_label():
    """Of a crowd some cells have a colour and no words; beside types, wbc are the other ones, as in tables."""
    canvas = np.full((300, 400, 3), 200, np.uint8)
    boxes = [np.array([x, y, x + 50, y + 50], np.float64) for y in (60, 112, 164) for x in (60, 112, 164)]
    tags = [("lymphocyte .91", box, (0, 90, 200)) for box in boxes]
    drawn = (_with_tags(canvas, tags, 1.0) != 200).any(axis=2)
    middle = drawn[115:160, 115:160]
    assert drawn[30:60].any() and not middle.any()  # above the first row there is room
    alone = (_with_tags(canvas, tags[4:5], 1.0) != 200).any(axis=2)
    assert alone[90:112].any()
    cells = TYPED.with_columns(cell_type=np.array([""] * len(TYPED)), origin=None, unsure=None)
    i = list(cells.label).index(CELL_CLASSES.index("wbc"))
    assert tag_text(cells, i) == "other wbc"
