"""Hostile files: each one gives a one-line error and exit code 2 (or a finding of the audit), and no output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made import image_file, voc, voc_xml

from blastdet.cli import cli

IMAGE = {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}
CELL = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4]}


def coco(root: Path, **parts: Any) -> None:
    document = {"images": [IMAGE], "annotations": [CELL], "categories": [{"id": 2, "name": "wbc"}], **parts}
    image_file(root / "a.jpg")
    (root / "instances_train.json").write_text(json.dumps(document))


def text_as_json(root: Path, text: str) -> None:
    image_file(root / "a.jpg")
    (root / "instances_train.json").write_text(text)


def xml(root: Path, content: bytes) -> None:
    voc(root, {"a": voc_xml([])})
    (root / "Annotations" / "a.xml").write_bytes(content)


def table(root: Path, text: str) -> None:
    for name in ("benign", "early", "pre", "pro"):
        image_file(root / name / "a.jpg")
    (root / "clusters.csv").write_text(text)


def looped(root: Path) -> None:
    voc(root, {"a": voc_xml([])})
    image = root / "JPEGImages" / "a.jpg"
    image.unlink()
    image.symlink_to(image)


def yolo_without_images(root: Path) -> None:
    root.mkdir()
    (root / "data.yaml").write_text("names: [wbc]\n")


MADE = {
    "NUL in XML": lambda root: xml(root, b"<annotation>\0</annotation>"),
    "unknown encoding": lambda root: xml(root, b"<?xml version='1.0' encoding='klingon'?><annotation/>"),
    "wrong encoding": lambda root: xml(root, b"<annotation><filename>\xe9</filename></annotation>"),
    "deep XML": lambda root: xml(root, b"<annotation>" + b"<a>" * 50_000),
    "huge box": lambda root: coco(root, annotations=[{**CELL, "bbox": [10**400, 1, 1, 1]}]),
    "infinite box": lambda root: coco(root, annotations=[{**CELL, "bbox": [float("inf"), 1, 1, 1]}]),
    "NUL in a name": lambda root: coco(root, images=[{**IMAGE, "file_name": "a\0.jpg"}]),
    "a name outside the folder": lambda root: coco(root, images=[{**IMAGE, "file_name": "../../../etc/passwd"}]),
    "half a character": lambda root: coco(root, info={"description": "\ud800"}),
    "5,000 digits": lambda root: text_as_json(root, '{"images": [{"id": ' + "9" * 5000 + "}]}"),
    "deep JSON": lambda root: text_as_json(root, "[" * 100_000),
    "endless field": lambda root: table(root, "image,group\n" + "a" * 200_000 + ",b\n"),
    "short row": lambda root: table(root, "image,group\nbenign/a.jpg\n"),
    "symlink to itself": looped,
    "no image": yolo_without_images,
}


@pytest.mark.parametrize("name", MADE)
def test_a_hostile_file_is_a_one_line_error(tmp_path: Path, name: str) -> None:
    source = tmp_path / "src"
    MADE[name](source)
    for words in (["convert", source, tmp_path / "out"], ["split", source, tmp_path / "out.csv"]):
        result = CliRunner().invoke(cli, [str(word) for word in words])
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == 2
        assert result.output.startswith("Error: ") and result.output.count("\n") == 1
    result = CliRunner().invoke(cli, ["audit", str(source), "--no-overlaps", "--strict"])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]
