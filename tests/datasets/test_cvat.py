"""CVAT for images: shapes become boxes, what is no cell is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import image_file

from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, RBC, WBC
from blastdet.datasets.formats import registry
from blastdet.datasets.tools import cvat

LABELS = "".join(f"<label><name>{name}</name></label>" for name in ("blast", "WBC", "RBC"))


def export(root: Path, *shapes: str, name: str = "a.jpg", size: str = 'width="64" height="48"') -> Path:
    """An export with one image, as CVAT zips it."""
    image_file(root / "images" / "default" / "a.jpg")
    entry = f'<image id="0" name="{name}" {size}>{"".join(shapes)}</image>'
    text = (
        f"<annotations><version>1.1</version><meta><task><labels>{LABELS}</labels></task></meta>{entry}</annotations>"
    )
    (root / "annotations.xml").write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}', encoding="utf-8")
    return root


def box(label: str, *corners: float, more: str = "") -> str:
    sides = " ".join(f'{side}="{value}"' for side, value in zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True))
    return f'<box label="{label}" source="manual" occluded="0" {sides} z_order="0" {more}></box>'


def test_every_shape_with_an_area_becomes_its_box(tmp_path: Path) -> None:
    shapes = (
        box("WBC", 1.5, 2, 11, 22),
        '<polygon label="RBC" points="5.0,5.0;15.0,7.0;9.0,30.0"></polygon>',
        '<ellipse label="blast" cx="30" cy="20" rx="6" ry="3" rotation="90"></ellipse>',
        '<mask label="RBC" rle="0, 8" left="2" top="3" width="4" height="2"></mask>',
        box("WBC", 20, 20, 30, 24, more='rotation="90"'),
    )
    (sample,) = dataset = registry.read(export(tmp_path, *shapes))
    assert sample.truth is not None
    boxes = [[1.5, 2, 11, 22], [5, 5, 15, 30], [27, 14, 33, 26], [2, 3, 6, 5], [23, 17, 27, 27]]
    np.testing.assert_allclose(sample.truth.boxes_xyxy, boxes, atol=1e-4)
    assert sample.truth.label.tolist() == [WBC, RBC, BLAST, RBC, WBC]
    assert sample.annotated == ("blast", "wbc", "rbc")
    assert dataset.dropped == () and dataset.notes == ()


def test_shapes_that_are_no_regions_are_left_out_by_name(tmp_path: Path) -> None:
    root = export(tmp_path, '<polyline label="RBC" points="1,1;2,2"/>', '<points label="RBC" points="1,1"/>')
    dataset = cvat.read(root)
    assert [len(sample.truth) for sample in dataset] == [0]
    assert dataset.dropped == (
        "annotations.xml: a.jpg: polyline 1: not a region, left out",
        "annotations.xml: a.jpg: points 2: not a region, left out",
    )


def test_images_in_another_folder(tmp_path: Path) -> None:
    root = export(tmp_path / "export", box("WBC", 1, 2, 3, 4))
    (root / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(
        FormatError, match=r"got 0 of 1; first missing: 'a.jpg'. Pass the folder of the images: --images"
    ):
        registry.read(root)
    (sample,) = registry.read(root, images=tmp_path / "elsewhere")
    assert sample.path == tmp_path / "elsewhere" / "default" / "a.jpg"


def test_one_class_of_several_used_is_noted(tmp_path: Path) -> None:
    dataset = registry.read(export(tmp_path, box("blast", 1, 2, 3, 4)))
    assert "only blast of the listed classes blast, wbc, rbc has cells" in dataset.notes[0]
    assert "--annotated blast" in dataset.notes[0]


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ((box("WBC", 1, 2, "x", 4),), "a.jpg: expected a number as xbr, got 'x'"),  # type: ignore[arg-type]
        ((box("WBC", 1, 2, "1e400", 4),), "a.jpg: expected points with finite coordinates"),  # type: ignore[arg-type]
        ((box("WBC", 5, 2, 1, 4),), "expected xtl <= xbr and ytl <= ybr, got 5, 2, 1, 4"),
        (('<polygon label="RBC" points=""/>',), "expected a number as points, got ''"),
        (("</image>",), "expected well-formed XML"),
    ],
)
def test_faults_are_one_line_with_the_file(tmp_path: Path, shapes: tuple[str, ...], words: str) -> None:
    with pytest.raises(FormatError) as caught:
        cvat.read(export(tmp_path, *shapes))
    assert words in str(caught.value) and "annotations.xml" in str(caught.value) and "\n" not in str(caught.value)


def test_other_faults(tmp_path: Path) -> None:
    root = export(tmp_path, box("WBC", 1, 2, 3, 4), size='width="63" height="48"')
    with pytest.raises(FormatError, match=r"a\.jpg: expected the size of the image, 64x48, got 63x48"):
        cvat.read(root)
    (root / "annotations.xml").write_text("<annotations><track/></annotations>")
    with pytest.raises(FormatError, match='got "CVAT for video"'):
        cvat.read(root)
    assert cvat.read_records(root)[0].problem is not None


def test_a_zip_is_read_as_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zipfile import ZipFile

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = export(tmp_path / "export", box("WBC", 1, 2, 3, 4))
    with ZipFile(tmp_path / "job.zip", "w") as archive:
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(root).as_posix())
    from blastdet.datasets.reading import read_dataset

    for _ in range(2):  # the second time from the cache
        dataset = read_dataset(tmp_path / "job.zip")
        assert dataset.name == "job" and dataset.samples[0].truth.boxes_xyxy.tolist() == [[1, 2, 3, 4]]


def test_an_image_without_a_shape_is_noted(tmp_path: Path) -> None:
    (note,) = cvat.read(export(tmp_path)).notes
    assert note.startswith("1 image has no region and counts as an image without cells; first: a.jpg.")
