"""The hand-drawn boxes of 48 ALL fields: complete, plausible, from separate fields, with the documented agreement."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blastdet.core.boxes import iou_matrix
from blastdet.datasets.formats import coco

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
SIDE = 224  # px, of the images as published
STRETCH = 299 / SIDE  # the boxes were drawn on images with square pixels
BORDER = 1.5  # px: largest distance of a cut cell from the border

Document = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Document:
    found: Document = json.loads((DATASETS / "all_fields_boxes.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def protocol() -> str:
    return (DATASETS / "all_fields_boxes.md").read_text(encoding="utf-8")


def _xyxy(rows: list[Document]) -> NDArray[np.float64]:
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def _of(rows: list[Document], image_id: int) -> list[Document]:
    return [row for row in rows if row["image_id"] == image_id]


def test_twelve_fields_for_each_class_from_separate_groups_and_clusters(document: Document) -> None:
    images = document["images"]
    assert Counter(row["label"] for row in images) == {"benign": 12, "early": 12, "pre": 12, "pro": 12}
    for key in ("id", "file_name", "group", "cluster"):
        assert len({row[key] for row in images}) == 48, key
    for row in images:
        assert row["file_name"].startswith(row["label"] + "/")
        assert (row["width"], row["height"], row["annotated"]) == (SIDE, SIDE, ["wbc"])


def test_every_annotation_is_complete(document: Document) -> None:
    assert document["categories"] == [{"id": 2, "name": "wbc", "supercategory": "cell"}]
    ids = {row["id"] for row in document["images"]}
    for name in ("annotations", "second_drawing"):
        rows = document[name]
        assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
        for row in rows:
            assert row["image_id"] in ids
            assert row["category_id"] == 2
            assert row["origin"] == "human"
            assert row["iscrowd"] == int("reason" in row)
            assert row.get("reason", "cut") in {"cut", "smudge", "crushed", "bar"}
            assert row["area"] == pytest.approx(row["bbox"][2] * row["bbox"][3], abs=0.1)
    assert {row["image_id"] for row in document["annotations"] if not row["iscrowd"]} == ids


def test_boxes_are_inside_the_image_and_have_the_size_of_a_cell(document: Document) -> None:
    for name in ("annotations", "second_drawing"):
        boxes = _xyxy(document[name])
        assert boxes.min() >= 0
        assert boxes.max() <= SIDE
        assert np.all(boxes[:, 2:] > boxes[:, :2])
        cells = _xyxy([row for row in document[name] if not row["iscrowd"]])
        sides = cells[:, 2:] - cells[:, :2]
        assert sides.min() >= 8
        assert sides.max() <= 80
        shape = sides[:, 0] * STRETCH / sides[:, 1]  # round cells, once the pixels are square
        assert 0.5 <= shape.min() <= shape.max() <= 2
        assert 0.9 <= np.median(shape) <= 1.1


def test_cut_cells_touch_the_border(document: Document) -> None:
    cut = _xyxy([row for row in document["annotations"] if row.get("reason") == "cut"])
    distance = np.minimum(cut[:, :2].min(axis=1), SIDE - cut[:, 2:].max(axis=1))
    assert distance.max() <= BORDER


def test_no_cell_has_two_boxes(document: Document) -> None:
    for image in document["images"]:
        boxes = _xyxy([row for row in _of(document["annotations"], image["id"]) if not row["iscrowd"]])
        overlap = np.triu(iou_matrix(boxes, boxes), 1)
        assert overlap.max(initial=0) < 0.4, image["file_name"]


def _field_agreement(first: list[Document], second: list[Document]) -> tuple[list[float], list[int]]:
    """IoU of the cells that both drawings count, and [both, only first, only second, ignored in one alone]."""
    overlap = iou_matrix(_xyxy(first), _xyxy(second))
    ious, matched, differs = [], [], 0
    while overlap.size and overlap.max() >= 0.5:
        i, j = np.unravel_index(overlap.argmax(), overlap.shape)
        matched.append((int(i), int(j)))
        ignored = first[i]["iscrowd"], second[j]["iscrowd"]
        differs += ignored[0] != ignored[1]
        if ignored == (0, 0):
            ious.append(float(overlap[i, j]))
        overlap[i], overlap[:, j] = 0, 0
    alone_1 = [row for i, row in enumerate(first) if i not in {pair[0] for pair in matched} and not row["iscrowd"]]
    alone_2 = [row for j, row in enumerate(second) if j not in {pair[1] for pair in matched} and not row["iscrowd"]]
    return ious, [len(ious), len(alone_1), len(alone_2), differs]


def test_the_agreement_of_both_drawings_is_in_the_protocol(document: Document, protocol: str) -> None:
    label = {row["id"]: row["label"] for row in document["images"]}
    redrawn = sorted({row["image_id"] for row in document["second_drawing"]})
    assert Counter(label[image_id] for image_id in redrawn) == {"benign": 3, "early": 3, "pre": 3, "pro": 3}
    drawings = document["annotations"], document["second_drawing"]
    fields = [_field_agreement(*(_of(rows, image_id) for rows in drawings)) for image_id in redrawn]
    both, only_first, only_second, differs = np.sum([counts for _, counts in fields], axis=0)
    ious = [np.array(values) for values, _ in fields]
    rng = np.random.default_rng(0)
    drawn = [np.concatenate([ious[i] for i in rng.integers(0, len(ious), len(ious))]) for _ in range(2000)]
    lines = [f"| cells in both, only first, only second | {both}, {only_first}, {only_second} |"]
    lines += [f"| ignored in one drawing alone | {differs} |"]
    for name, q in (("median IoU", 0.5), ("10th percentile of IoU", 0.1)):
        low, high = np.quantile([np.quantile(values, q) for values in drawn], (0.025, 0.975))
        lines.append(f"| {name} | {np.quantile(np.concatenate(ious), q):.3f} ({low:.3f} to {high:.3f}) |")
    for line in lines:
        assert line in protocol


def test_the_counts_are_in_the_protocol(document: Document, protocol: str) -> None:
    rows = document["annotations"]
    label = {row["id"]: row["label"] for row in document["images"]}
    for name in ("benign", "early", "pre", "pro"):
        mine = Counter(row.get("reason", "cell") for row in rows if label[row["image_id"]] == name)
        cells = " | ".join(str(mine[key]) for key in ("cell", "cut", "smudge", "crushed", "bar"))
        assert f"| {name} | 12 | {cells} |" in protocol
    total = Counter("ignored" if row["iscrowd"] else "cells" for row in rows)
    assert re.search(rf"\b{total['cells']} cells\b", protocol)
    assert re.search(rf"\b{total['ignored']} ignored\b", protocol)


@pytest.mark.realdata
def test_class_cluster_and_group_are_those_of_the_dataset(document: Document, data_dir: Path) -> None:
    with (data_dir / "all_fields" / "clusters.csv").open(encoding="utf-8", newline="") as file:
        known = {row["image"]: row for row in csv.DictReader(file)}
    for row in document["images"]:
        entry = known[row["file_name"]]
        assert (row["label"], row["cluster"], row["group"]) == (entry["class"], entry["cluster"], entry["group"])


@pytest.mark.realdata
def test_no_two_fields_overlap(document: Document, data_dir: Path) -> None:
    names = {row["file_name"] for row in document["images"]}
    together = {frozenset(pair) for pair in combinations(names, 2)}
    for table in ("overlap_pairs.csv", "near_duplicates.csv"):
        with (data_dir / "all_fields" / table).open(encoding="utf-8", newline="") as file:
            listed = {frozenset((row["image_a"], row["image_b"])) for row in csv.DictReader(file)}
        assert not together & listed, table


@pytest.mark.realdata
def test_the_reader_accepts_them(document: Document, data_dir: Path, tmp_path: Path) -> None:
    for row in document["images"]:
        place = tmp_path / row["file_name"]
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(data_dir / "all_fields" / row["file_name"], place)
    shutil.copyfile(DATASETS / "all_fields_boxes.json", tmp_path / "all_fields_boxes.json")
    read = coco.read(tmp_path / "all_fields_boxes.json")
    assert len(read.samples) == 48
    cells = [sample.truth for sample in read if sample.truth is not None]
    assert sum(len(truth) for truth in cells) == len(document["annotations"])
    ignored = sum(int(truth.ignore.sum()) for truth in cells if truth.ignore is not None)
    assert ignored == sum(row["iscrowd"] for row in document["annotations"])
    assert {sample.annotated for sample in read} == {("wbc",)}
