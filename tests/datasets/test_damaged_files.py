"""Files with random damage: each is read, or refused in one line that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import SIZE_WH, damaged, image_file

from blastdet.core.errors import FormatError
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.datasets.formats import coco_results, registry


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset in every format that blastdet writes."""
    root = tmp_path_factory.mktemp("sound")
    nan = float("nan")
    truth = Detections([[1, 1, 9, 9], [nan] * 4], point_xy=[[5, 5], [9, 9]], origin=["human"] * 2, cell_type=["a", ""])
    path = image_file(root / "in" / "a.jpg")
    sample = Sample(path, SIZE_WH, (0.1, 0.1), group="g", split="train", annotated=("wbc",), truth=truth)
    dataset = Dataset("x", path.parent, (sample,))
    for name in registry.WRITERS:
        registry.write(dataset, root / "o", name)
    return root / "o"


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("coco", "annotations/instances_train.json"),
        ("yolo", "blastdet.json"),
        ("yolo", "data.yaml"),
        ("geojson", "geojson/train/a.geojson"),
    ],
)
def test_a_damaged_file_is_read_or_refused_in_one_line(sound: Path, name: str, file: str, data: st.DataObject) -> None:
    path = sound / file
    text = path.read_text()
    try:
        path.write_text(json.dumps(data.draw(damaged(yaml.safe_load(text)))))
        try:
            registry.read(sound, name)
        except FormatError as error:
            assert "\n" not in str(error).replace("\\n", "") and str(sound) in str(error)
        for record in registry.read_records(sound, name):
            assert record.problem is None or "\n" not in record.problem
        try:
            assert all(sample.truth is not None for sample in registry.read(sound, name, strict=False))
        except FormatError as error:
            assert str(error) == f"{sound}: expected a dataset in the format {name}, got no images"
    finally:
        path.write_text(text)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_results_are_read_or_refused_in_one_line(sound: Path, data: st.DataObject) -> None:
    dataset = registry.read(sound, "coco")
    rows = [{"image_id": 1, "category_id": 2, "bbox": [1, 1, 3, 3], "score": 0.5}]
    whole = json.loads((sound / "annotations" / "instances_train.json").read_text())
    whole["annotations"] = [{**row, "score": 0.5} for row in whole["annotations"]]
    path = sound.parent / "results.json"
    path.write_text(json.dumps(data.draw(damaged(data.draw(st.sampled_from([rows, whole]))))))
    try:
        assert len(coco_results.read_results(path, dataset)) == 1
    except FormatError as error:
        assert "\n" not in str(error) and "results.json" in str(error)
