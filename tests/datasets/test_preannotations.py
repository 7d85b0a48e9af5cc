"""Export to CVAT and Label Studio, and back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from made import SIZE_WH, cells, image_file

from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, RBC, WBC, Dataset, Detections, Sample
from blastdet.datasets.formats import registry
from blastdet.datasets.tools import cvat, label_studio


def dataset(root: Path, *truths: Detections | None) -> Dataset:
    names = ("a", "b ü")
    samples = [
        Sample(image_file(root / f"{name}.png"), SIZE_WH, split="train", annotated=("blast", "wbc", "rbc"), truth=truth)
        for name, truth in zip(names, truths, strict=False)
    ]
    return Dataset("mine", root, tuple(samples))


def visible(truth: Detections) -> Detections:
    """The cells that a box can show: not ignored, with a box."""
    keep = ~np.isnan(truth.boxes_xyxy).any(axis=1)
    return truth[keep if truth.ignore is None else keep & ~truth.ignore]


@given(found=cells())
@settings(max_examples=40, deadline=None)
def test_boxes_and_classes_survive_a_round_trip(found: Detections) -> None:
    human = found.with_columns(origin=["human"] * len(found))
    with TemporaryDirectory() as folder:
        mine = dataset(Path(folder) / "mine", human)
        for name, back in (("cvat", cvat.read), ("labelstudio", label_studio.read)):
            out = Path(folder) / name
            registry.write(mine, out, name)
            (sample,) = back(out / name, images=out / "images")
            expected = visible(human)
            np.testing.assert_allclose(sample.truth.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
            assert sample.truth.label.tolist() == expected.label.tolist()
            assert sample.size_wh == SIZE_WH and sample.path.parent == out / "images" / "train"


def test_cvat_gets_labels_boxes_and_their_source(tmp_path: Path) -> None:
    found = Detections([[1, 2, 11.5, 22], [3, 4, 5, 6]], label=[BLAST, RBC], origin=["model", "human"])
    registry.write(dataset(tmp_path / "mine", found, None), tmp_path / "out", "cvat")
    text = (tmp_path / "out" / "cvat" / "annotations.xml").read_text("utf-8")
    assert text.startswith('<?xml version="1.0" encoding="utf-8"?>\n<annotations>')
    assert '<image id="0" name="a.png" width="64" height="48" subset="train">' in text
    assert '<box label="blast" source="auto"' in text and '<box label="rbc" source="manual"' in text
    assert 'xtl="1.0000" ytl="2.0000" xbr="11.5000" ybr="22.0000"' in text
    document = json.loads((tmp_path / "out" / "cvat" / "instances_default.json").read_text("utf-8"))
    assert [image["file_name"] for image in document["images"]] == ["a.png", "b ü.png"]
    assert document["annotations"][0]["bbox"] == [1, 2, 10.5, 20]
    assert [one["name"] for one in document["categories"]] == ["blast", "wbc", "rbc"]
    back = registry.read(tmp_path / "out" / "cvat" / "instances_default.json", images=tmp_path / "out" / "images")
    np.testing.assert_allclose(back.samples[0].truth.boxes_xyxy, found.boxes_xyxy)


@pytest.mark.parametrize("origin", [["model", "model"], None])
def test_detections_become_predictions_in_label_studio(tmp_path: Path, origin: list[str] | None) -> None:
    found = Detections([[16, 12, 32, 36], [0, 0, 8, 8]], score=[0.75, 0.25], label=[WBC, RBC], origin=origin)
    registry.write(dataset(tmp_path / "mine", found, None), tmp_path / "out", "labelstudio")
    tasks: list[dict[str, Any]] = json.loads((tmp_path / "out" / "labelstudio" / "tasks.json").read_text("utf-8"))
    assert [task["data"]["image"] for task in tasks] == [
        "/data/local-files/?d=images/train/a.png",
        "/data/local-files/?d=images/unlabelled/b%20%C3%BC.png",
    ]
    assert "annotations" not in tasks[0] and tasks[1].keys() == {"data"}
    (prediction,) = tasks[0]["predictions"]
    assert prediction["score"] == 0.5 and prediction["model_version"].startswith("blastdet ")
    first = prediction["result"][0]
    assert first["value"] == {
        "x": 25, "y": 25, "width": 25, "height": 50, "rotation": 0, "rectanglelabels": ["wbc"],
    }  # fmt: skip
    assert first["score"] == 0.75 and (first["original_width"], first["original_height"]) == SIZE_WH
    config = (tmp_path / "out" / "labelstudio" / "config.xml").read_text("utf-8")
    assert f'<RectangleLabels name="{first["from_name"]}" toName="{first["to_name"]}">' in config
    assert '<Label value="blast"' in config and 'value="$image"' in config

    tasks[0]["annotations"] = [{"result": prediction["result"], "was_cancelled": False}]  # a person accepts them
    (tmp_path / "done.json").write_text(json.dumps(tasks))
    a, b = registry.read(tmp_path / "done.json", images=tmp_path / "out" / "images")
    np.testing.assert_allclose(a.truth.boxes_xyxy, found.boxes_xyxy, atol=1e-4)
    assert set(a.truth.origin) == {"human"} and b.truth is None


@pytest.mark.parametrize("name", ["cvat", "labelstudio"])
def test_what_these_programs_cannot_show_is_noted(tmp_path: Path, name: str) -> None:
    found = Detections([[1, 2, 3, 4], [np.nan] * 4], point_xy=[[np.nan] * 2, [5, 6]], ignore=[True, False])
    written = registry.write(dataset(tmp_path / "mine", found), tmp_path / "out", name)
    assert written.notes[-1].startswith("2 cells are ignored or without a box, and not in the files for")


def test_two_images_of_one_name_are_refused_for_cvat(tmp_path: Path) -> None:
    samples = tuple(
        Sample(
            image_file(tmp_path / "images" / split / "001.png"), SIZE_WH, split=split, truth=Detections([[1, 2, 3, 4]])
        )
        for split in ("train", "val")
    )
    mine = Dataset("mine", tmp_path, samples)
    with pytest.raises(FormatError, match=r"got images/train/001\.png and images/val/001\.png\. Write to a new folder"):
        registry.write(mine, tmp_path, "cvat")
    registry.write(mine, tmp_path / "new", "cvat")
    text = (tmp_path / "new" / "cvat" / "annotations.xml").read_text("utf-8")
    assert len(set(re.findall(r'<image id="." name="([^"]+)"', text))) == 2
