"""Supervisely: a folder for each dataset, with img and ann."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from made import image_file
from PIL import Image

from blastdet.core.errors import FormatError
from blastdet.core.types import RBC, WBC
from blastdet.datasets.formats import registry


def one(kind: str, title: str = "WBC", **more: Any) -> dict[str, Any]:
    return {"classTitle": title, "geometryType": kind, "tags": [], **more}


def project(root: Path, *objects: dict[str, Any]) -> Path:
    image_file(root / "train" / "img" / "a.jpg")
    (root / "train" / "ann").mkdir()
    document = {"description": "", "tags": [], "size": {"height": 48, "width": 64}, "objects": list(objects)}
    (root / "train" / "ann" / "a.jpg.json").write_text(json.dumps(document))
    (root / "meta.json").write_text(json.dumps({"classes": [{"title": "WBC"}, {"title": "RBC"}], "tags": []}))
    return root


def test_every_region_becomes_its_box(tmp_path: Path) -> None:
    mask = io.BytesIO()
    Image.new("1", (4, 2), 1).save(mask, "PNG")
    data = base64.b64encode(zlib.compress(mask.getvalue())).decode()
    objects = (
        one("rectangle", points={"exterior": [[1, 2], [10, 21]], "interior": []}),
        one("polygon", "RBC", points={"exterior": [[5, 5], [15, 7], [9, 30]], "interior": []}),
        one("bitmap", bitmap={"data": data, "origin": [2, 3]}),
        one("point", points={"exterior": [[1, 1]], "interior": []}),
    )
    (sample,) = dataset = registry.read(project(tmp_path, *objects))
    assert sample.truth.boxes_xyxy.tolist() == [[1, 2, 11, 22], [5, 5, 15, 30], [2, 3, 6, 5]]
    assert sample.truth.label.tolist() == [WBC, RBC, WBC]
    assert (sample.split, sample.annotated) == ("train", ("wbc", "rbc"))
    assert dataset.dropped == ("a.jpg.json: object 4: a point, left out",)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        one("rectangle"),
        one("rectangle", points={"exterior": [[1, 2]]}),
        one("bitmap", bitmap={"data": "x", "origin": [1, 1]}),
        one("bitmap", bitmap={"data": base64.b64encode(zlib.compress(b"x" * 90)).decode(), "origin": [1, 1]}),
    ],
)
def test_faults_are_one_line(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"a\.jpg\.json: object 1 is faulty") as caught:
        registry.read(project(tmp_path, wrong))
    assert "\n" not in str(caught.value)
