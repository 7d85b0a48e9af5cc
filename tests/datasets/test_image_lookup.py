"""Images found by the names that annotation programs write."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from made import image_file

from blastdet.core.errors import FormatError
from blastdet.datasets.annotations.image_lookup import ImageLookup


@pytest.mark.parametrize(
    ("on_disk", "stated"),
    [
        ("images/a.jpg", "a.jpg"),
        ("images/a.jpg", "images/a.jpg"),
        ("images/a.jpg", "images\\a.jpg"),
        ("images/a.jpg", "..\\..\\label-studio\\media\\upload\\4\\a.jpg"),
        ("images/a.jpg", "C:\\Users\\me\\a.jpg"),
        ("images/a.jpg", "A.JPG"),
        ("my smear.jpg", "images/my%20smear.jpg"),
        ("my%20smear.jpg", "images/my%20smear.jpg"),
        ("smear.jpg", "/data/upload/3/1a2b3c4d-smear.jpg"),
        ("1a2b3c4d-smear.jpg", "/data/upload/3/1a2b3c4d-smear.jpg"),
        ("deep/smear.jpg", "/data/local-files/?d=deep%5Csmear.jpg"),
        ("smear.jpg", "s3://bucket/folder/smear.jpg"),
        ("smear.jpg", "https://host/folder/smear.jpg?token=1#x"),
        (unicodedata.normalize("NFD", "Müller.jpg"), unicodedata.normalize("NFC", "Müller.jpg")),
        (unicodedata.normalize("NFC", "Müller.jpg"), unicodedata.normalize("NFD", "Müller.jpg")),
    ],
)
def test_an_image_is_found_by_the_name_that_a_program_writes(tmp_path: Path, on_disk: str, stated: str) -> None:
    image = image_file(tmp_path / on_disk)
    image_file(tmp_path / "other.jpg")
    assert ImageLookup.below(tmp_path).find(stated, tmp_path / "x.json") == image


@pytest.mark.parametrize("stated", ["", "b.jpg", "x" * 5000, "/", "..", "%00", "a.jpg/", "\0"])
def test_another_name_finds_nothing(tmp_path: Path, stated: str) -> None:
    image_file(tmp_path / "aa.jpg")
    assert ImageLookup.below(tmp_path).find(stated, tmp_path / "x.json") is None


def test_the_folders_in_the_name_decide_between_two_images(tmp_path: Path) -> None:
    train, val = image_file(tmp_path / "train" / "1.jpg"), image_file(tmp_path / "val" / "1.jpg")
    lookup = ImageLookup.below(tmp_path)
    assert lookup.find("images/train/1.jpg", tmp_path / "x.json") == train
    assert lookup.find("1.jpg", val.parent / "x.json") == val  # the one next to the file
    with pytest.raises(
        FormatError, match=r"x\.json: 1\.jpg: expected one image of that name, got two: train/1.jpg, val"
    ):
        lookup.find("1.jpg", tmp_path / "x.json")


def test_case_decides_where_it_can(tmp_path: Path) -> None:
    lower, upper = image_file(tmp_path / "a.jpg"), image_file(tmp_path / "A.jpg")
    lookup = ImageLookup.below(tmp_path)
    assert [lookup.find(name, tmp_path / "x.json") for name in ("a.jpg", "A.jpg")] == [lower, upper]


def test_a_stem_finds_its_image(tmp_path: Path) -> None:
    image = image_file(tmp_path / "a.b.png")
    lookup = ImageLookup.below(tmp_path)
    assert lookup.find_stem("a.b", tmp_path / "x.xml") == image
    assert lookup.find_stem("a", tmp_path / "x.xml") is None
    assert ImageLookup.below(tmp_path / "nowhere").find("a.jpg", tmp_path) is None


def test_the_image_in_the_most_similar_folder_belongs_to_an_annotation(tmp_path: Path) -> None:
    for folder in ("train", "val"):
        image_file(tmp_path / folder / "images" / "a.jpg")
    lookup = ImageLookup.below(tmp_path)
    for folder in ("train", "val"):
        assert lookup.nearest("a", tmp_path / folder / "labels" / "a.txt") == tmp_path / folder / "images" / "a.jpg"
    assert lookup.nearest("a", tmp_path / "a.txt") == tmp_path / "train" / "images" / "a.jpg"  # both fit: the first
    assert lookup.nearest("b", tmp_path / "b.txt") is None
    assert ImageLookup.below(tmp_path / "nowhere").nearest("a", tmp_path / "a.txt") is None


@pytest.mark.parametrize(
    ("on_disk", "stated", "moved"),
    [
        ("p2/001.jpg", "p1/001.jpg", True),
        ("p2/001.jpg", "C:\\me\\p1\\001.jpg", True),
        ("p1/001.jpg", "p1/001.jpg", False),
        ("P1/001.jpg", "x/p1/001.jpg", False),
        ("p2/001.jpg", "001.jpg", False),
        ("001.jpg", "p1/001.jpg", False),
        ("images/001.jpg", "p1/001.jpg", False),
        ("p2/001.jpg", "/data/upload/3/1a2b3c4d-001.jpg", False),
    ],
)
def test_an_image_in_another_folder_than_stated_is_noted(
    tmp_path: Path, on_disk: str, stated: str, moved: bool
) -> None:
    image = image_file(tmp_path / on_disk)
    lookup = ImageLookup.below(tmp_path)
    assert lookup.find(stated, tmp_path / "x.json") == image
    assert lookup.moved([(stated, image)]) == ([(stated, on_disk)] if moved else [])


@pytest.mark.parametrize("stated", ["http://[a.jpg", "http://[x/b.jpg", "//[?d=b.jpg"])
def test_what_is_no_address_is_a_name(tmp_path: Path, stated: str) -> None:
    image_file(tmp_path / "a.jpg")
    assert ImageLookup.below(tmp_path).find(stated, tmp_path / "x.json") is None
