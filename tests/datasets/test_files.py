"""Files that all formats share: text, names of images, copies and links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import SIZE_WH, image_file

from blastdet.core.constants import CELL_TYPES
from blastdet.core.errors import ConfigError, FormatError, ImageError
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.datasets.annotations import files


def _dataset(root: Path, *names: str, **sample: Any) -> Dataset:
    return Dataset("x", root, tuple(Sample(image_file(root / name), SIZE_WH, **sample) for name in names))


def test_names_never_collide(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, "a/1.jpg", "b/1.jpg", "b/1.png", "B__1.jpg", "2.jpg", "C/2.JPG")
    names = files.unique_names(dataset)
    assert names[0] == "a__1.jpg" and names[4] == "2.jpg"
    assert len({Path(name).stem.casefold() for name in names}) == len(names)
    placed = files.place_images(dataset, tmp_path / "o")
    assert len({s.path for s in placed}) == 6 and all(s.path.is_file() for s in placed)


def test_images_are_copied_unchanged_or_linked(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "in", "a.jpg", truth=Detections.empty(), split="val")
    source = dataset.samples[0].path
    copied = files.place_images(dataset, tmp_path / "copy").samples[0].path
    linked = files.place_images(dataset, tmp_path / "link", "link").samples[0].path
    assert copied == tmp_path / "copy" / "images" / "val" / "a.jpg"
    assert copied.read_bytes() == linked.read_bytes() == source.read_bytes()
    assert not copied.samefile(source) and linked.samefile(source)
    again = files.place_images(files.place_images(dataset, tmp_path / "link"), tmp_path / "link")
    assert again.samples[0].path == linked and source.read_bytes() == copied.read_bytes()
    image_file(tmp_path / "other" / "b.jpg")
    linked.unlink()
    linked.symlink_to(tmp_path / "other" / "b.jpg")
    files.place_images(dataset, tmp_path / "link")  # takes the place of the link, does not write through it
    assert not linked.is_symlink() and linked.read_bytes() == source.read_bytes()
    source.unlink()
    with pytest.raises(FormatError, match="cannot be written"):
        files.place_images(dataset, tmp_path / "again")


def test_unreadable_text(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        files.read_text(tmp_path / "none")
    (tmp_path / "a").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="expected a UTF-8 text file"):
        files.read_text(tmp_path / "a")


def test_a_folder_of_images_has_no_annotations(tmp_path: Path) -> None:
    image_file(tmp_path / "b.png")
    image_file(tmp_path / "deep" / "a.jpg", (10, 20))
    dataset = files.read_image_folder(tmp_path)
    assert [(dataset.file_name(s), s.size_wh, s.truth, s.annotated) for s in dataset] == [
        ("b.png", SIZE_WH, None, ()),
        ("deep/a.jpg", (10, 20), None, ()),
    ]
    with pytest.raises(ImageError):
        files.read_image_folder(tmp_path / "nowhere")


def test_a_column_of_a_table(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("image,group\na.jpg,g1\nb.jpg,g2\n")
    assert files.read_column(table, "group") == {"a.jpg": "g1", "b.jpg": "g2"}
    with pytest.raises(FormatError, match=r"t\.csv: expected columns image and cluster, got image, group"):
        files.read_column(table, "cluster")
    table.write_text("image,group\na.jpg\n")
    with pytest.raises(FormatError, match=r"t\.csv: line 2: expected image and group, got an empty field"):
        files.read_column(table, "group")


def test_only_files_of_the_same_kind_are_overwritten(tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    files.check_replaced(report, "findings", "report")  # nothing there yet
    report.write_text('{"findings": []}')
    files.check_replaced(report, "findings", "report")
    report.write_text("my notes")
    with pytest.raises(ConfigError, match=r"r\.json: expected a new file or a report"):
        files.check_replaced(report, "findings", "report")


@pytest.mark.parametrize("name", files.EXTRA)
def test_the_unknown_value_of_every_column_is_accepted(name: str) -> None:
    column = getattr(Detections([[0, 0, 1, 1]], **{name: [files.unknown(name)]}), name)
    assert column is not None and len(column) == 1
    assert set(files.NUMBERS) | set(files.WORDS) | set(files.FLAGS) | {"point_xy", "type_probability"} == set(
        files.EXTRA
    )


def test_probabilities_of_types_are_stored_by_name() -> None:
    column = np.full((2, len(CELL_TYPES)), np.nan, np.float32)
    column[0, 1] = 0.1
    stored = files.to_json(column, "type_probability")
    assert stored == [{"lymphocyte": 0.1}, None]
    read = np.array([files.from_json("type_probability", value) for value in stored], np.float32)
    np.testing.assert_array_equal(read, column)
    with pytest.raises(ValueError, match=r"expected some of blast, lymphocyte.*got 'smudges'"):
        files.from_json("type_probability", {"smudges": 0.5})
    assert files.from_json("cell_type", "smudges") == "smudges" and files.from_json("unsure", None) is False
