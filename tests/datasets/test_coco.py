"""COCO: lossless for our sets, tolerant to other people's, strict with faults; results of any detector."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import SIZE_WH, cells, datasets, picture, same_cells, same_smears

from blastdet.core.errors import FormatError
from blastdet.core.types import RBC, WBC, Dataset, Detections, Sample
from blastdet.datasets.formats import coco, coco_writer

IMAGE = {"id": 7, "file_name": "a.jpg", "width": 64, "height": 48}
CELL = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}


def document(tmp_path: Path, name: str = "instances_train2017.json", **parts: Any) -> Path:
    picture(tmp_path / "a.jpg")
    whole = {"images": [IMAGE], "annotations": [CELL], "categories": [{"id": 3, "name": "WBC"}], **parts}
    path = tmp_path / name
    path.write_text(json.dumps(whole))
    return path


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_there_and_back_loses_nothing(pictures: Path, data: st.DataObject) -> None:
    dataset = data.draw(datasets(pictures))
    with TemporaryDirectory() as folder:
        coco.write(dataset, Path(folder))
        back = coco.read(Path(folder))
    same_smears(dataset, back)
    assert (back.name, set(back.dropped), set(back.notes)) == (dataset.name, set(dataset.dropped), set(dataset.notes))


@given(data=st.data(), piece=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_document_in_pieces_is_the_document(pictures: Path, data: st.DataObject, piece: int) -> None:
    dataset = data.draw(datasets(pictures).filter(lambda d: all(s.truth is None or _plain(s.truth) for s in d)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_writer, "_PIECE", piece)
        assert json.loads("".join(coco_writer.document_pieces(dataset))) == coco.to_document(dataset)


def _plain(found: Detections) -> bool:
    """Whether a piece of it leaves out the same columns: scores are all 1, or none is."""
    return bool((found.score == 1).all() or (found.score != 1).all())


@given(found=cells())
@settings(max_examples=40, deadline=None)
def test_a_document_of_detections_comes_back(pictures: Path, found: Detections) -> None:
    found = found[~np.isnan(found.boxes_xyxy).any(axis=1)]
    scored = found.with_columns(score=found.score, origin=["model"] * len(found))
    sample = Sample(pictures / "0.png", SIZE_WH, truth=scored)
    whole = coco.to_document(Dataset("run", pictures, (sample,)))
    for annotation in whole["annotations"]:
        annotation.setdefault("score", 1.0)  # left out where all are 1, as in truth
    with TemporaryDirectory() as folder:
        path = Path(folder) / "detections.coco.json"
        path.write_text(json.dumps(whole))
        same_cells(coco.read_results(path, Dataset("set", pictures, (sample,)))[0], scored)


def test_pycocotools_reads_it_and_counts_neither_points_nor_ignored_cells(tmp_path: Path) -> None:
    api, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    boxes = np.array([[1, 1, 9, 9], [20, 20, 40, 40], [np.nan] * 4], np.float32)
    truth = Detections(boxes, point_xy=[[5, 5], [30, 30], [50, 40]], ignore=[False, True, False])
    path = picture(tmp_path / "in" / "a.jpg")
    coco.write(Dataset("x", path.parent, (Sample(path, SIZE_WH, split="test", truth=truth),)), tmp_path / "o")
    with redirect_stdout(io.StringIO()):
        oracle = api.COCO(str(tmp_path / "o" / "annotations" / "instances_test.json"))
        rows = [{"image_id": 1, "category_id": 2, "bbox": [1, 1, 8, 8], "score": 0.9}]
        rows += [{"image_id": 1, "category_id": 2, "bbox": [20, 20, 20, 20], "score": 0.95}]  # on the ignored cell
        run = evaluation.COCOeval(oracle, oracle.loadRes(rows), "bbox")
        run.evaluate(), run.accumulate(), run.summarize()
    assert run.stats[1] == pytest.approx(1.0)
    assert oracle.loadCats(oracle.getCatIds())[0]["name"] == "wbc"


def test_foreign_set(tmp_path: Path) -> None:
    sample = coco.read(document(tmp_path), mpp=(0.5, 0.5)).samples[0]
    assert sample.truth.boxes_xyxy.tolist() == [[1, 2, 4, 6]]
    assert (sample.split, sample.mpp, sample.annotated, sample.truth.label.tolist()) == (
        "train",
        (0.5, 0.5),
        ("wbc",),
        [WBC],
    )
    assert sample.truth.ignore is None


def test_roboflow_folders_and_their_idle_category(tmp_path: Path) -> None:
    kinds = [{"id": 0, "name": "cells-7x3q"}, {"id": 3, "name": "RBC"}]
    for name in ("train", "valid"):
        document(tmp_path / name, "_annotations.coco.json", categories=kinds) if (
            tmp_path / name
        ).mkdir() is None else 0
    dataset = coco.read(tmp_path)
    assert [s.split for s in dataset] == ["train", "val"]
    assert dataset.samples[0].truth.label.tolist() == [RBC]


def test_pictures_in_the_coco_folders(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    file = document(tmp_path / "annotations", "instances_val.json")
    (tmp_path / "annotations" / "a.jpg").unlink()
    picture(tmp_path / "images" / "val" / "a.jpg")
    assert coco.read(tmp_path).samples[0].path == tmp_path / "images" / "val" / "a.jpg"
    assert coco.read(file).root == tmp_path


def test_crowd_is_ignored_and_empty_box_dropped(tmp_path: Path) -> None:
    rows = [CELL, {**CELL, "id": 2, "iscrowd": 1}, {**CELL, "id": 3, "bbox": [5, 5, 0, 9]}]
    dataset = coco.read(document(tmp_path, annotations=rows))
    assert dataset.samples[0].truth.ignore.tolist() == [False, True]
    assert len(dataset.dropped) == 1 and "annotation 3" in dataset.dropped[0]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"images": 3}, "no list 'images'"),
        ({"annotations": [3]}, "no list 'annotations'"),
        ({"categories": [{"id": 3}]}, "id (a whole number) and name expected"),
        ({"categories": [{"id": 3, "name": "Basophil"}]}, "'Basophil' found, blast, wbc, rbc, platelet expected"),
        ({"categories": []}, "category_id 3 found"),
        ({"images": [{**IMAGE, "width": "x"}]}, "image 'a.jpg' is faulty"),
        ({"images": [IMAGE, IMAGE]}, "two images with id 7"),
        ({"images": [{**IMAGE, "width": 65}]}, "stated as 65x48, the picture is 64x48"),
        ({"images": [{**IMAGE, "file_name": "b.jpg"}]}, "picture b.jpg found neither"),
        ({"images": [{**IMAGE, "mpp": 0.5}]}, "mpp 0.5 found"),
        ({"images": [{**IMAGE, "annotated": ["cat"]}]}, "annotated ['cat'] found"),
        ({"annotations": [{**CELL, "image_id": 8}]}, "image_id 8 found"),
        ({"annotations": [{**CELL, "bbox": [1, 2, 3]}]}, "bbox [1, 2, 3] found"),
        ({"annotations": [{**CELL, "bbox": [1, 2, 3, float("nan")]}]}, "four numbers"),
        ({"annotations": [{**CELL, "bbox": [1, 2, -3, 4]}]}, "negative size"),
        ({"annotations": [{**CELL, "bbox": None}]}, "bbox None found"),
        ({"annotations": [{**CELL, "point_xy": [1]}]}, "point_xy"),
    ],
)
def test_faulty_document_is_one_line_with_the_file(tmp_path: Path, parts: dict[str, Any], words: str) -> None:
    path = document(tmp_path, **parts)
    with pytest.raises(FormatError) as caught:
        coco.read(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert "instances" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "not valid JSON"), ("[" * 100_000, "not valid JSON"), ("[]", "a list")]
)
def test_faulty_json(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=words):
        coco.read(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(FormatError, match="not a text file"):
        coco.read(path)
    with pytest.raises(FormatError, match=r"no annotations/"):
        coco.read(picture(tmp_path / "e" / "a.jpg").parent)


def a_set(tmp_path: Path, names: tuple[str, ...] = ("a.jpg", "b.jpg")) -> Dataset:
    paths = [picture(tmp_path / name) for name in names]
    return Dataset("set", tmp_path, tuple(Sample(path, SIZE_WH, truth=Detections.empty()) for path in paths))


def results(tmp_path: Path, rows: Any) -> Path:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    return path


FOUND = {"image_id": "b", "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.25}


def test_results_by_name_stem_number_and_id(tmp_path: Path) -> None:
    dataset = a_set(tmp_path, ("a.jpg", "b.jpg", "0042.jpg"))
    for image_id, place in (("b", 1), ("b.jpg", 1), ("elsewhere/a.jpg", 0), (42, 2)):
        found = coco.read_results(results(tmp_path, [{**FOUND, "image_id": image_id}]), dataset)
        assert [len(f) for f in found] == [int(i == place) for i in range(3)]
        assert found[place].label.tolist() == [RBC]
        assert found[place].origin.tolist() == ["model"]
        assert found[place].score.tolist() == [0.25]


def test_results_by_the_ids_of_our_own_file(tmp_path: Path) -> None:
    smears = tuple(
        Sample(picture(tmp_path / "in" / f"{i}.jpg"), SIZE_WH, split=split, truth=Detections([[1, 1, 5, 5]]))
        for i, split in ((9, "train"), (1, "test"))  # stems that are ids of the other picture
    )
    dataset = coco.write(Dataset("x", tmp_path / "in", smears), tmp_path / "o")
    entry = json.loads((tmp_path / "o" / "annotations" / "instances_test.json").read_text())["images"][0]
    path = results(tmp_path, [{**FOUND, "image_id": entry["id"]}])
    assert [len(found) for found in coco.read_results(path, dataset)] == [0, 1]
    assert [len(found) for found in coco.read_results(path, dataset.with_split("test"))] == [1]
    assert [len(found) for found in coco.read_results(path, dataset.with_split("train"))] == [0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": "z"}, "image_id 'z' found, no such picture"),
        ({"image_id": None}, "image_id None found"),
        ({"score": float("nan")}, "score nan found"),
        ({"score": None}, "score None found"),
        ({"score": 1.5}, "score 1.5 found"),
        ({"category_id": 9}, "category_id 9 found"),
        ({"bbox": [1, 2, float("inf"), 3]}, "bbox"),
        ({"bbox": "1 2 3 4"}, "bbox"),
    ],
)
def test_faulty_results_name_file_and_number(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = results(tmp_path, [FOUND, {**FOUND, **change}])
    with pytest.raises(FormatError) as caught:
        coco.read_results(path, a_set(tmp_path))
    assert words in str(caught.value) and "results.json: detection 2" in str(caught.value)


def run_of(*names: str, **image: Any) -> dict[str, Any]:
    images = [{**IMAGE, "id": i, "file_name": name, **image} for i, name in enumerate(names)]
    rows = [{**FOUND, "image_id": 0, "category_id": 5}]
    return {"images": images, "annotations": rows, "categories": [{"id": 5, "name": "wbc"}]}


def test_document_of_a_whole_run_may_hold_more_than_the_set(tmp_path: Path) -> None:
    dataset = a_set(tmp_path)
    found = coco.read_results(results(tmp_path, run_of("x/b.jpg", "x/a.jpg", "x/c.jpg")), dataset)
    assert [len(f) for f in found] == [0, 1]
    assert found[1].label.tolist() == [WBC]


@pytest.mark.parametrize(
    ("names", "image", "words"),
    [
        (("a.jpg",), {}, "1 of 2 pictures are not listed, first b.jpg"),
        (("a.jpg", "b.jpg", "x/a.jpg"), {}, "x/a.jpg is the second image for a.jpg"),
        (("a.jpg", "b.jpg"), {"width": 32}, "a.jpg has size (32, 48), the picture (64, 48)"),
    ],
)
def test_document_that_does_not_fit_the_set(
    tmp_path: Path, names: tuple[str, ...], image: dict[str, Any], words: str
) -> None:
    with pytest.raises(FormatError) as caught:
        coco.read_results(results(tmp_path, run_of(*names, **image)), a_set(tmp_path))
    assert words in str(caught.value)


def test_results_that_are_neither(tmp_path: Path) -> None:
    for rows in (3, [3], "x"):
        with pytest.raises(FormatError, match="a COCO document or a list of results expected"):
            coco.read_results(results(tmp_path, rows), a_set(tmp_path))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {"categories": [{"id": 3, "name": "WBC"}, {"id": 3, "name": "RBC"}]},
            "two categories with id 3: WBC and RBC",
        ),
        ({"images": [IMAGE, {**IMAGE, "id": 8}]}, "picture a.jpg is listed twice"),
        ({"images": [IMAGE, {**IMAGE, "id": 8, "file_name": "./a.jpg"}]}, "picture a.jpg is listed twice"),
    ],
)
def test_duplicates_are_refused(tmp_path: Path, parts: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError, match=words) as error:
        coco.read(document(tmp_path, **parts))
    assert "\n" not in str(error.value)


def test_a_picture_in_two_files_is_refused(tmp_path: Path) -> None:
    document(tmp_path)
    document(tmp_path, "instances_val2017.json")
    with pytest.raises(FormatError, match=r"a\.jpg is listed twice"):
        coco.read(tmp_path)
