"""COCO documents: complete, in pieces, and as pycocotools reads them."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import SIZE_WH, datasets, image_file

from blastdet.core.types import Dataset, Detections, Sample
from blastdet.datasets.formats import coco_writer


@given(data=st.data(), piece=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_document_in_pieces_is_the_document(image_files: Path, data: st.DataObject, piece: int) -> None:
    dataset = data.draw(datasets(image_files).filter(lambda d: all(s.truth is None or _plain(s.truth) for s in d)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_writer, "_PIECE", piece)
        assert json.loads("".join(coco_writer.document_pieces(dataset))) == coco_writer.to_document(dataset)


def _plain(found: Detections) -> bool:
    """Whether a piece of it leaves out the same columns: scores are all 1, or none is."""
    return bool((found.score == 1).all() or (found.score != 1).all())


def test_pycocotools_reads_it_and_counts_neither_points_nor_ignored_cells(tmp_path: Path) -> None:
    api, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    boxes = np.array([[1, 1, 9, 9], [20, 20, 40, 40], [np.nan] * 4], np.float32)
    truth = Detections(boxes, point_xy=[[5, 5], [30, 30], [50, 40]], ignore=[False, True, False])
    path = image_file(tmp_path / "in" / "a.jpg")
    coco_writer.write(Dataset("x", path.parent, (Sample(path, SIZE_WH, split="test", truth=truth),)), tmp_path / "o")
    with redirect_stdout(io.StringIO()):
        oracle = api.COCO(str(tmp_path / "o" / "annotations" / "instances_test.json"))
        rows = [{"image_id": 1, "category_id": 2, "bbox": [1, 1, 8, 8], "score": 0.9}]
        rows += [{"image_id": 1, "category_id": 2, "bbox": [20, 20, 20, 20], "score": 0.95}]  # on the ignored cell
        run = evaluation.COCOeval(oracle, oracle.loadRes(rows), "bbox")
        run.evaluate(), run.accumulate(), run.summarize()
    assert run.stats[1] == pytest.approx(1.0)
    assert oracle.loadCats(oracle.getCatIds())[0]["name"] == "wbc"
