"""``blastdet convert``: what it prints, writes, refuses and cleans up."""

from __future__ import annotations

import json
from pathlib import Path

import lookalike
import numpy as np
import pytest
from made import SIZE_WH, image_file, same_smears, voc, voc_xml
from made import convert as run
from PIL import Image

from blastdet.core.errors import BlastdetError, ConfigError, FormatError, ScaleError
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.datasets.convert import ConvertOptions, convert
from blastdet.datasets.formats import registry


@pytest.fixture
def source(tmp_path: Path) -> Path:
    files = {
        "BloodImage_1": voc_xml([("RBC", 1, 1, 4, 4), ("RBC", 5, 5, 5, 5)]),
        "BloodImage_2": voc_xml([("WBC", 1, 1, 40, 40)]),
        "BloodImage_3": voc_xml([("Platelets", 11, 21, 31, 41)]),
    }
    sets = {"train": ["BloodImage_1"], "val": ["BloodImage_2"], "test": ["BloodImage_3"]}
    root = voc(tmp_path / "src", files, sets)
    (root / "overlap_groups.csv").write_text("image,group\nBloodImage_1.jpg,g\nBloodImage_3.jpg,g\n")
    return root


def test_it_prints_what_was_read_dropped_noted_and_written(source: Path, tmp_path: Path) -> None:
    lines = run(source, tmp_path / "o", "--to", "coco", "--to", "csv").splitlines()
    assert lines[0] == "read     src: 3 images (train 1, val 1, test 1)"
    assert lines[1] == "cells    wbc 1, rbc 1, platelet 1"
    assert lines[2] == "dropped  BloodImage_1.xml: RBC (5, 5, 5, 5): box without area"
    assert lines[3].startswith("note     µm/px 0.0714")
    assert lines[4].startswith(
        "note     leak: 1 groups are in more than one split, first group g: in train (BloodImage"
    )
    assert lines[-1] == f"wrote    {tmp_path / 'o'}: images, coco, csv"
    record = json.loads((tmp_path / "o" / "convert.json").read_text())
    assert record["counts"]["cells"] == {"wbc": 1, "rbc": 1, "platelet": 1}
    assert str(tmp_path) not in (tmp_path / "o" / "convert.json").read_text()


@pytest.mark.parametrize("format_", ["coco", "yolo"])
@pytest.mark.parametrize("how", ["--copy", "--link"])
def test_every_format_round_trips(source: Path, tmp_path: Path, format_: str, how: str) -> None:
    run(source, tmp_path / "o", "--to", format_, how)
    read = registry.read(source)
    same_smears(read, registry.read(tmp_path / "o"), tolerance=1e-3)
    for sample in registry.read(tmp_path / "o"):
        original = source / "JPEGImages" / sample.path.name
        assert sample.path.read_bytes() == original.read_bytes()
        assert sample.path.samefile(original) == (how == "--link")


def test_all_formats_in_one_folder_share_their_images(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "o", *(x for name in registry.WRITERS for x in ("--to", name)))
    assert len(list((tmp_path / "o" / "images").rglob("*.jpg"))) == 3
    for name in ("coco", "yolo"):
        same_smears(registry.read(source), registry.read(tmp_path / "o", name), tolerance=1e-3)


def test_disjoint_split(source: Path, tmp_path: Path) -> None:
    text = run(source, tmp_path / "o", "--split", "official-disjoint", "--to", "yolo")
    assert "1 image removed from train because of groups shared with test: BloodImage_1.jpg" in text
    assert (tmp_path / "o" / "images" / "unsplit" / "BloodImage_1.jpg").is_file()
    assert "leak" not in text


def test_resampling_scales_image_and_boxes_and_makes_pixels_square(tmp_path: Path) -> None:
    root = voc(tmp_path / "src", {"a": voc_xml([("WBC", 17, 13, 32, 24)], (64, 48))})
    pixels = np.full((48, 64, 3), 255, np.uint8)
    pixels[12:24, 16:32] = (90, 40, 120)
    Image.fromarray(pixels).save(root / "JPEGImages" / "a.jpg", quality=95)
    run(root, tmp_path / "o", "--resample", 0.25, "--mpp", "0.5,0.75")
    (sample,) = registry.read(tmp_path / "o")
    assert sample.size_wh == (128, 144) and sample.mpp == pytest.approx((0.25, 0.25))
    assert sample.truth.boxes_xyxy.tolist() == [[32, 36, 64, 72]]
    with Image.open(sample.path) as image:
        assert image.format == "JPEG"
        dark = np.asarray(image.convert("L")) < 150
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    np.testing.assert_allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], [32, 36, 64, 72], atol=1)


def test_the_scale_after_resampling_follows_from_whole_pixels(tmp_path: Path) -> None:
    root = voc(tmp_path / "src", {"a": voc_xml([("WBC", 1, 1, 64, 48)])})
    run(root, tmp_path / "o", "--resample", 0.3, "--mpp", "0.1")
    (sample,) = registry.read(tmp_path / "o")
    assert sample.size_wh == (21, 16)
    assert sample.mpp == pytest.approx((0.1 * 64 / 21, 0.3))
    np.testing.assert_allclose(sample.truth.boxes_xyxy, [[0, 0, 21, 16]], atol=1e-5)


def test_other_formats_become_png(tmp_path: Path) -> None:
    root = voc(tmp_path / "src", {"a": voc_xml([])})
    (root / "JPEGImages" / "a.jpg").unlink()
    image_file(root / "JPEGImages" / "a.bmp")
    run(root, tmp_path / "o", "--resample", 0.5, "--mpp", "0.5")
    assert [s.path.name for s in registry.read(tmp_path / "o")] == ["a.png"]


def test_allidb1_with_fixed_boxes_and_the_other_cells(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path / "src", ["Im034_0", "Im048_1"], {"Im048_1": b"300\t400\n"})
    other = tmp_path / "other"
    other.mkdir()
    (other / "Im034_0.xyc").write_text("500 600\n")
    options = ("--boxes", "fixed", "--size-um", 10, "--other", other, "--origin", 1, "--mpp", 0.1)
    text = run(tmp_path / "src", tmp_path / "o", *options, "--to", "yolo")
    assert "cells    blast 1, wbc 1" in text
    cells = {s.path.stem: s.truth for s in registry.read(tmp_path / "o")}
    assert cells["Im048_1"].boxes_xyxy.tolist() == [[249, 349, 349, 449]]
    assert cells["Im048_1"].origin.tolist() == ["fixed"]
    assert cells["Im034_0"].point_xy.tolist() == [[499, 599]]


def test_points_without_boxes_survive_coco(tmp_path: Path) -> None:
    lookalike.allidb1(tmp_path / "src", ["Im048_1"], {"Im048_1": b"300 400\n"})
    run(tmp_path / "src", tmp_path / "o", "--boxes", "none")
    (sample,) = registry.read(tmp_path / "o")
    assert np.isnan(sample.truth.boxes_xyxy).all() and sample.truth.point_xy.tolist() == [[300, 400]]


def test_an_existing_folder_is_only_replaced_with_overwrite(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    run(source, out)
    (out / "mine.txt").touch()
    with pytest.raises(FormatError, match=r"not empty\. Choose another one, or add --overwrite"):
        run(source, out)
    assert (out / "mine.txt").exists()
    run(source, out, "--overwrite", "--to", "csv")
    assert sorted(p.name for p in out.iterdir()) == ["cells.csv", "convert.json", "images"]
    (out / "convert.json").unlink()
    with pytest.raises(FormatError, match="not written by this command"):
        run(source, out, "--overwrite")
    (tmp_path / "file").touch()
    with pytest.raises(FormatError, match="expected a folder, got a file"):
        run(source, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    run(source, tmp_path / "empty")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "o", "src"]


def test_the_source_is_never_overwritten(source: Path, tmp_path: Path) -> None:
    for out in (source, tmp_path):
        with pytest.raises(FormatError, match="contains the source"):
            run(source, out, "--overwrite")


def test_nothing_is_left_behind_after_an_error(source: Path, tmp_path: Path) -> None:
    bad = source / "JPEGImages" / "BloodImage_3.jpg"
    bad.write_bytes(bad.read_bytes()[:400])  # the header is complete, the pixels are not
    with pytest.raises(BlastdetError, match="BloodImage_3"):
        run(source, tmp_path / "o", "--resample", 0.5)
    assert [p.name for p in tmp_path.iterdir()] == ["src"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (["--to", "xml"], FormatError, "to: expected one of coco, yolo, csv, geojson, cvat, labelstudio, got"),
        (["--map", "RBC"], ConfigError, "expected NAME=CLASS, got RBC"),
        (["--map", "RBC=cat"], ConfigError, "got 'cat'"),
        (["--origin", "1"], ConfigError, "format 'bccd': expected as_published, class_map, mpp, got the option origin"),
        (["--resample", "90"], ScaleError, "leave no pixel"),
        (["--split", "nothing.csv"], FormatError, "expected official"),
        (["--corrections", "nothing.json"], FormatError, "cannot be read"),
    ],
)
def test_bad_input_is_a_one_line_error(
    source: Path, tmp_path: Path, options: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        run(source, tmp_path / "o", *options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()


def test_the_record_names_no_folder_of_this_machine(source: Path, tmp_path: Path) -> None:
    corrections = tmp_path / "c.jsonl"
    corrections.touch()
    convert(source, tmp_path / "o", options=ConvertOptions({"corrections": str(corrections)}))
    text = (tmp_path / "o/convert.json").read_text()
    assert json.loads(text)["options"]["corrections"] == "c.jsonl" and str(tmp_path) not in text


def test_resampling_needs_a_scale(tmp_path: Path) -> None:
    root = voc(tmp_path / "src", {"a": voc_xml([])})
    with pytest.raises(ScaleError, match="Pass --mpp"):
        run(root, tmp_path / "o", "--resample", 0.5)


@pytest.mark.realdata
def test_bccd_through_coco_and_yolo(data_dir: Path, tmp_path: Path) -> None:
    text = run(data_dir / "bccd", tmp_path / "o", "--to", "coco", "--to", "yolo", "--link")
    assert text.count("dropped") == 2
    read = registry.read(data_dir / "bccd")
    same_smears(read, registry.read(tmp_path / "o", "coco"))
    same_smears(read, registry.read(tmp_path / "o", "yolo"), tolerance=1e-3)


def test_a_split_cannot_leave_the_output_folder(tmp_path):
    path = image_file(tmp_path / "in" / "a.jpg")
    sample = Sample(path, SIZE_WH, split="../../elsewhere", truth=Detections([[1, 1, 9, 9]]))
    with pytest.raises(FormatError, match="expected one of train, val, test as split"):
        convert(Dataset("x", path.parent, (sample,)), tmp_path / "out")
    assert not (tmp_path / "elsewhere").exists() and not (tmp_path / "out").exists()


def test_no_output_format_is_refused(tmp_path):
    path = image_file(tmp_path / "in" / "a.jpg")
    with pytest.raises(FormatError, match="to: expected some of coco"):
        convert(Dataset("x", path.parent, (Sample(path, SIZE_WH),)), tmp_path / "out", [])
