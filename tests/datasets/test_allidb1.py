"""ALL-IDB1: every variant of real copies, on look-alikes, because the images may not be redistributed."""

from __future__ import annotations

from pathlib import Path

import lookalike
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blastdet.core.errors import ConfigError, FormatError, ImageError, ScaleError
from blastdet.core.types import BLAST, WBC, Dataset, Detections
from blastdet.datasets.published import allidb1

POINTS = [(300, 400), (900, 700), (1500, 1200)]


def one(root: Path, content: bytes | list[tuple[int, int]], stem: str = "Im001_1", **options: object) -> Detections:
    lookalike.allidb1(root, [stem], {stem: content})
    (sample,) = allidb1.read(root, **options)  # type: ignore[arg-type]
    assert sample.truth is not None
    return sample.truth


def points(truth: Detections | None) -> list[tuple[float, float]]:
    assert truth is not None and truth.point_xy is not None
    return sorted((float(x), float(y)) for x, y in truth.point_xy)


def by_stem(dataset: Dataset, stem: str) -> object:
    return next(sample for sample in dataset if sample.path.stem == stem)


# Where real copies keep the files


@pytest.mark.parametrize("folders", [("im", "xyc"), ("", ""), ("img", "xyc"), ("ALL_IDB1/ALL_IDB1/im", "labels/xyc")])
def test_files_are_found_in_any_folder(tmp_path: Path, folders: tuple[str, str]) -> None:
    lookalike.allidb1(tmp_path, ["Im001_1", "Im034_0"], {"Im001_1": POINTS}, folders=folders)
    assert allidb1.matches(tmp_path)
    dataset = allidb1.read(tmp_path)
    assert [sample.path.stem for sample in dataset] == ["Im001_1", "Im034_0"]
    assert points(dataset.samples[0].truth) == POINTS
    assert dataset.samples[1].truth is not None and len(dataset.samples[1].truth) == 0


def test_upper_case_names_are_the_same_names(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path, ["Im001_1"], {"Im001_1": POINTS})
    (tmp_path / "im/Im001_1.jpg").rename(tmp_path / "im/IM001_1.JPG")
    (tmp_path / "xyc/Im001_1.xyc").rename(tmp_path / "xyc/im001_1.XYC")
    (sample,) = allidb1.read(tmp_path)
    assert (sample.group, sample.label, points(sample.truth)) == ("Im001_1", "all", POINTS)


def test_sizes_labels_and_what_is_annotated(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path, ["Im001_1", "Im037_0", "Im048_1"], {"Im001_1": POINTS, "Im048_1": POINTS})
    dataset = allidb1.read(tmp_path)
    assert [sample.size_wh for sample in dataset] == [(1712, 1368), (1226, 652), (2592, 1944)]
    assert [sample.label for sample in dataset] == ["all", "healthy", "all"]
    assert {sample.annotated for sample in dataset} == {("blast",)}
    assert {sample.mpp for sample in dataset} == {None}
    assert dataset.classes == ("blast",)
    assert [len(sample.truth) for sample in dataset if sample.truth is not None] == [3, 0, 3]


def test_other_files_and_mac_metadata_are_passed_over(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path, ["Im001_1"], {"Im001_1": POINTS})
    (tmp_path / "im/Thumbs.db").write_bytes(b"x")
    (tmp_path / "im/._Im001_1.jpg").write_bytes(b"x")
    (tmp_path / "im/Im001_1.tif").write_bytes(b"x")
    (tmp_path / "Im002_1.jpg").mkdir()
    assert len(allidb1.read(tmp_path)) == 1


def test_a_folder_without_such_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Im1_1.jpg").write_bytes(b"")
    assert not allidb1.matches(tmp_path)
    assert not allidb1.matches(tmp_path / "Im1_1.jpg")
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FormatError, match=r"expected images with names like Im001_1\.jpg"):
            allidb1.read(path)


def test_a_broken_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path, ["Im001_1"])
    (tmp_path / "im/Im001_1.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"Im001_1\.jpg"):
        allidb1.read(tmp_path)


# What the .xyc files look like


@pytest.mark.parametrize(
    "content",
    [
        b"300\t400\n900\t700\n1500\t1200\n",
        b"300 400\n900 700\n1500 1200",
        b"\xef\xbb\xbf300\t400\r\n900\t700\r\n1500\t1200\r\n",
        b"\n300 400\n\n  \t\n900 700\n1500 1200\n\n\n",
        b"  300   400 \r900\t 700\t\r1500 1200\r",
        b"300.0 400.0\n900. 700\n+1500 1200\n",
    ],
    ids=["tab", "space", "bom-crlf", "blank-lines", "cr-padding", "decimal"],
)
def test_spellings_of_the_same_points(tmp_path: Path, content: bytes) -> None:
    assert points(one(tmp_path, content)) == POINTS


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b" \t\r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_means_no_cell(tmp_path: Path, content: bytes) -> None:
    assert len(one(tmp_path, content, stem="Im034_0")) == 0


@pytest.mark.parametrize(
    "line",
    [b"300", b"300 400 1", b"x y", b"300,400", b"nan 400", b"300 inf", b"WBC_probable_lymphoblasts"],
)
def test_a_malformed_line_is_an_error_with_file_and_line(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(FormatError, match=r"^xyc/Im001_1\.xyc: line 3: expected 'x y' in pixels, got .*") as error:
        one(tmp_path, b"1 1\n\n" + line + b"\n5 5\n")
    assert "\n" not in str(error.value)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"Im001_1\.xyc: expected a UTF-8 text file"):
        one(tmp_path, b"\xff\xfe3\x000\x00")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(st.tuples(st.integers(0, 1711), st.integers(0, 1367)), unique=True, max_size=12),
    separator=st.sampled_from(["\t", " ", "   ", "\t\t"]),
    end=st.sampled_from(["\n", "\r\n", "\n\n", " \n"]),
    bom=st.booleans(),
    origin=st.sampled_from([0, 1]),
)
def test_any_points_in_any_spelling_come_back(
    tmp_path: Path, cells: list[tuple[int, int]], separator: str, end: str, bom: bool, origin: int
) -> None:
    text = "".join(f"{x + origin}{separator}{y + origin}{end}" for x, y in cells)
    content = (b"\xef\xbb\xbf" if bom else b"") + text.encode()
    lookalike.image_file(tmp_path / "Im001_1.jpg", lookalike.SMALL_WH)
    (tmp_path / "Im001_1.xyc").write_bytes(content)
    dataset = allidb1.read(tmp_path, origin=origin)
    (sample,) = dataset
    assert sample.truth is not None and not dataset.dropped
    assert points(sample.truth) == sorted(cells) if cells else len(sample.truth) == 0


def test_points_outside_the_image_are_dropped_by_name(tmp_path: Path) -> None:
    content = b"1711 1367\n1712 5\n5 1368\n-1 5\n0 0\n"
    lookalike.allidb1(tmp_path, ["Im001_1"], {"Im001_1": content})
    dataset = allidb1.read(tmp_path)
    assert points(dataset.samples[0].truth) == [(0, 0), (1711, 1367)]
    assert dataset.dropped == (
        "xyc/Im001_1.xyc: line 2: point (1712, 5) is outside the image of 1712 x 1368 px",
        "xyc/Im001_1.xyc: line 3: point (5, 1368) is outside the image of 1712 x 1368 px",
        "xyc/Im001_1.xyc: line 4: point (-1, 5) is outside the image of 1712 x 1368 px",
    )


def test_doubled_points_are_dropped_by_name(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path, ["Im001_1"], {"Im001_1": b"300 400\n900 700\n300\t400\n"})
    dataset = allidb1.read(tmp_path)
    assert points(dataset.samples[0].truth) == [(300, 400), (900, 700)]
    assert dataset.dropped == ("xyc/Im001_1.xyc: line 3: point (300, 400) is listed twice",)


def test_origin_one_moves_every_point_by_one_pixel(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path, ["Im001_1"], {"Im001_1": b"1 1\n1712 1368\n0 5\n"})
    from_one, from_zero = allidb1.read(tmp_path, origin=1), allidb1.read(tmp_path, origin=0)
    assert points(from_one.samples[0].truth) == [(0, 0), (1711, 1367)]
    assert points(from_zero.samples[0].truth) == [(0, 5), (1, 1)]
    assert "line 3" in from_one.dropped[0] and "line 2" in from_zero.dropped[0]


# What is missing, doubled or contradictory


def test_a_missing_xyc_file_is_not_an_empty_one(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path, ["Im001_1", "Im034_0"], {"Im001_1": POINTS})
    (tmp_path / "xyc/Im034_0.xyc").unlink()
    dataset = allidb1.read(tmp_path)
    sample = dataset.samples[1]
    assert (sample.truth, sample.annotated, sample.label) == (None, (), "healthy")
    assert "Im034_0: no .xyc file, read as not annotated" in dataset.notes


def test_names_that_contradict_the_files_are_noted(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path, ["Im001_1", "Im034_0"], {"Im034_0": [(5, 5)]})
    (tmp_path / "xyc/Im050_1.xyc").write_bytes(b"5 5")
    notes = "\n".join(allidb1.read(tmp_path).notes)
    assert "xyc/Im001_1.xyc: no centroid" in notes
    assert "xyc/Im034_0.xyc: 1 centroids, although the name states a healthy sample" in notes
    assert "1 .xyc files without an image, first xyc/Im050_1.xyc" in notes


def test_byte_identical_images_share_a_group(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path, ["Im092_0", "Im093_0", "Im107_0"])
    (tmp_path / "im/Im108_0.jpg").write_bytes((tmp_path / "im/Im093_0.jpg").read_bytes())
    (tmp_path / "xyc/Im108_0.xyc").write_bytes(b"")
    dataset = allidb1.read(tmp_path)
    assert [sample.group for sample in dataset] == ["Im092_0", "Im093_0", "Im107_0", "Im093_0"]
    assert "im/Im108_0.jpg: identical to Im093_0, same group" in dataset.notes


def test_a_second_copy_is_not_used_and_a_second_version_is_refused(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path, ["Im001_1"], {"Im001_1": POINTS})
    lookalike.allidb1(tmp_path / "backup", ["Im001_1"], {"Im001_1": POINTS})
    dataset = allidb1.read(tmp_path)
    assert dataset.file_name(dataset.samples[0]) == "backup/im/Im001_1.jpg"
    assert "im/Im001_1.jpg: a copy of backup/im/Im001_1.jpg, not used" in dataset.notes
    (tmp_path / "xyc/Im001_1.xyc").write_bytes(b"7 7")
    with pytest.raises(FormatError, match=r"xyc/Im001_1\.xyc: expected a copy of backup/xyc/Im001_1\.xyc"):
        allidb1.read(tmp_path)


# The other white cells


def test_other_cells_make_it_a_two_class_set(tmp_path: Path) -> None:
    root = lookalike.allidb1(tmp_path / "ALL-IDB1", ["Im001_1", "Im034_0", "Im035_0"], {"Im001_1": POINTS})
    other = root / "other"  # where the authors' own repository puts it
    other.mkdir()
    (other / "Im001_1.xyc").write_bytes(b"100 100\n300 400\n")
    (other / "Im034_0.xyc").write_bytes(b"200 200")
    dataset = allidb1.read(root, other=other)
    first, second, third = dataset
    assert first.truth is not None and second.truth is not None
    assert points(first.truth.with_classes("blast")) == POINTS
    assert points(first.truth.with_classes("wbc")) == [(100, 100)]
    assert points(second.truth) == [(200, 200)] and second.truth.label.tolist() == [WBC]
    assert [sample.annotated for sample in dataset] == [("blast", "wbc"), ("blast", "wbc"), ("blast",)]
    assert third.truth is not None and len(third.truth) == 0
    assert dataset.dropped == ("other/Im001_1.xyc: line 2: point (300, 400) is listed twice",)
    assert any("Im035_0: no .xyc file of the other white cells" in note for note in dataset.notes)


def test_without_the_option_the_authors_folders_are_not_blasts(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path, ["Im001_1"], {"Im001_1": POINTS})
    for folder, content in (("other", b"1 1\n"), ("merge", b"WBC_probable_lymphoblasts\n300 400\nOther_cases\n1 1\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "Im001_1.xyc").write_bytes(content)
    (sample,) = allidb1.read(tmp_path)
    assert points(sample.truth) == POINTS and sample.annotated == ("blast",)


def test_other_cells_of_any_folder_name(tmp_path: Path) -> None:
    root = lookalike.allidb1(tmp_path, ["Im001_1"], {"Im001_1": POINTS})
    (root / "extra").mkdir()
    (root / "extra/Im001_1.xyc").write_bytes(b"9 9\n")
    (sample,) = allidb1.read(root, other=root / "extra")
    assert sample.truth is not None and sample.truth.counts() == {"blast": 3, "wbc": 1, "rbc": 0, "platelet": 0}


def test_a_folder_of_other_cells_without_files_is_refused(tmp_path: Path) -> None:
    root = lookalike.allidb1(tmp_path / "a", ["Im001_1"])
    with pytest.raises(FormatError, match=r"nothing: expected \.xyc files"):
        allidb1.read(root, other=tmp_path / "nothing")


# Boxes


def test_fixed_boxes_are_squares_in_micrometres_cut_at_the_edge(tmp_path: Path) -> None:
    truth = one(tmp_path, [(0, 1000), (500, 600)], size_um=15.0, mpp=(0.1, 0.05))
    assert truth.origin is not None and set(truth.origin) == {"fixed"}
    assert truth.boxes_xyxy.tolist() == [[425, 450, 575, 750], [0, 850, 75, 1150]]
    assert truth.label.tolist() == [BLAST, BLAST] and truth.score.tolist() == [1, 1]


def test_fixed_boxes_work_without_a_scale_and_say_so(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path, ["Im001_1"], {"Im001_1": POINTS})
    dataset = allidb1.read(tmp_path)
    (sample,) = dataset
    assert sample.truth is not None and sample.mpp is None
    side = sample.truth.boxes_xyxy[:, 2] - sample.truth.boxes_xyxy[:, 0]
    assert np.allclose(side, 15 / allidb1.NOMINAL_MPP[0], atol=0.01)
    assert any("0.07 µm/px" in note for note in dataset.notes)
    given = allidb1.read(tmp_path, mpp=(0.1, 0.1))
    assert given.samples[0].mpp == (0.1, 0.1) and not given.notes


def test_no_boxes_leaves_points(tmp_path: Path) -> None:
    truth = one(tmp_path, POINTS, boxes="none")
    assert np.isnan(truth.boxes_xyxy).all() and truth.origin is None
    assert points(truth) == POINTS


def test_segmented_boxes_fit_the_cell(tmp_path: Path) -> None:
    lookalike.image_file(tmp_path / "Im001_1.jpg", lookalike.SMALL_WH, POINTS)
    nowhere = (40, 40)  # background: nothing to segment, so it gets a square
    (tmp_path / "Im001_1.xyc").write_text("".join(f"{x} {y}\n" for x, y in [*POINTS, nowhere]))
    (sample,) = allidb1.read(tmp_path, boxes="segment")
    truth = sample.truth
    assert truth is not None and truth.origin is not None and truth.point_xy is not None
    square, cells = truth[truth.origin == "fixed"], truth[truth.origin == "segment"]
    assert points(square) == [nowhere] and points(cells) == POINTS
    assert square.boxes_xyxy.tolist() == [pytest.approx([0, 0, 40 + 7.5 / 0.07, 40 + 7.5 / 0.07], abs=0.01)]
    half = lookalike.CELL_WIDTH / 2
    expected = np.concatenate([truth.point_xy - half, truth.point_xy + half], axis=1)[truth.origin == "segment"]
    assert np.abs(cells.boxes_xyxy - expected).max() < 0.1 * lookalike.CELL_WIDTH


@pytest.mark.parametrize(
    "options",
    [{"boxes": "round"}, {"origin": 2}, {"size_um": 0.0}, {"size_um": float("nan")}, {"mpp": (0.1, 0.0)}],
)
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises((ConfigError, ScaleError), match=f"^{next(iter(options))}: expected .*, got "):
        one(tmp_path, POINTS, **options)


# The authors' real files of the other white cells, with images of the real sizes


@pytest.mark.realdata
def test_the_published_centroids_of_other_cells(tmp_path: Path, data_dir: Path) -> None:
    lookalike.allidb1(tmp_path, lookalike.allidb1_stems())
    dataset = allidb1.read(tmp_path, other=data_dir / "allidb1_other_xyc")
    cells = {
        label: sum(
            len(sample.truth.with_classes("wbc"))
            for sample in dataset
            if sample.label == label and sample.truth is not None
        )
        for label in ("all", "healthy")
    }
    assert (len(dataset), cells, dataset.dropped) == (108, {"all": 429, "healthy": 1001}, ())
    assert [sum(sample.label == label for sample in dataset) for label in ("all", "healthy")] == [49, 59]
    assert {sample.annotated for sample in dataset} == {("blast", "wbc")}
    assert len({sample.group for sample in dataset}) == 108
    sample = next(sample for sample in dataset if sample.path.stem == "Im034_0")
    assert {(529, 536), (1798, 733), (710, 1220)} <= set(points(sample.truth))
