"""Datasets whose classes are cell types, as LeukemiaAttri is published."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from blastdet.core.errors import FormatError
from blastdet.core.types import CELL_CLASSES
from blastdet.datasets.formats.registry import read

# The names of LeukemiaAttri that are types; its categories "None" and "Promonocyte" are neither blast nor another type.
TYPES = {
    1: "Myeloblast", 2: "Lymphoblast", 3: "Neutrophil", 4: "Atypical lymphocyte", 5: "Monoblast", 6: "Lymphocyte",
    7: "Myelocyte", 8: "Abnormal promyelocyte", 9: "Monocyte", 10: "Metamyelocyte", 11: "Eosinophil", 12: "Basophil",
    13: "Artifact",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(np.full((40, 400, 3), 220, np.uint8)).save(tmp_path / "smear.png")
    document = {
        "images": [{"id": 7, "file_name": "smear.png", "width": 400, "height": 40}],
        "categories": [{"id": number, "name": name} for number, name in TYPES.items()],
        "annotations": [
            {"id": number, "image_id": 7, "category_id": number, "bbox": [number * 25, 5, 20, 20]} for number in TYPES
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(document))
    return tmp_path


def test_cell_types_are_read_as_blasts_and_other_white_cells(folder):
    (sample,) = dataset = read(folder / "truth.json")
    labels = dict(zip(sample.truth.cell_type.tolist(), sample.truth.label.tolist(), strict=True))
    assert {name for name, label in labels.items() if label == 0} == {"Myeloblast", "Lymphoblast", "Monoblast"}
    assert {label for name, label in labels.items() if not name.endswith("blast")} == {1}
    assert sample.truth.cell_type[sample.truth.ignore].tolist() == ["Artifact"]
    (note,) = (line for line in dataset.notes if line.startswith("cell types: "))
    assert "1 Myeloblast as blast" in note and "1 Neutrophil as wbc" in note


def test_other_formats_read_the_same(folder):
    """YOLO, with the same cells, by its own names of classes."""
    rows = [f"{i} {(25 * n + 10) / 400} {15 / 40} {20 / 400} {20 / 40}" for i, n in enumerate(TYPES)]
    (folder / "yolo/images").mkdir(parents=True)
    (folder / "yolo/labels").mkdir()
    (folder / "smear.png").rename(folder / "yolo/images/smear.png")
    (folder / "yolo/labels/smear.txt").write_text("\n".join(rows))
    (folder / "yolo/data.yaml").write_text(json.dumps({"train": "images", "names": list(TYPES.values())}))
    (sample,) = read(folder / "yolo")
    assert sample.truth.counts() == {"blast": 3, "wbc": 9, "rbc": 0, "platelet": 0}
    assert sorted(sample.truth.cell_type.tolist()) == sorted(TYPES.values())


def test_a_class_map_comes_first_and_what_is_no_type_is_asked_for(folder):
    (sample,) = read(folder / "truth.json", class_map={"Monoblast": "wbc", "Artifact": ""})
    assert sample.truth.counts()["blast"] == 2 and len(sample.truth) == 12
    text = (folder / "truth.json").read_text().replace("Basophil", "Promonocyte")
    (folder / "truth.json").write_text(text)
    with pytest.raises(FormatError, match="'Promonocyte'"):
        read(folder / "truth.json")


@pytest.mark.parametrize(("name", "label"), [("Artifact", "wbc"), ("Lymphocyte", "platelet")])
@pytest.mark.parametrize("form", ["coco", "yolo", "geojson"])
def test_a_name_in_the_class_map_adds_no_type(folder, name, label, form):
    path = folder / "truth.json"
    if form == "yolo":
        (folder / "smear.txt").write_text("0 0.5 0.5 0.1 0.5\n1 0.2 0.5 0.1 0.5\n")
        (folder / "classes.txt").write_text(f"{name}\nMonocyte\n")
        path.unlink()
        path = folder
    elif form == "geojson":
        square = [[[1, 1], [9, 1], [9, 9], [1, 9], [1, 1]]]
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": square},
                "properties": {"classification": {"name": one}},
            }
            for one in (name, "Monocyte")
        ]
        path = folder / "smear.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    (sample,) = read(path, class_map={name: label})
    types = sample.truth.cell_type.tolist()
    assert name not in types and "Monocyte" in types
    assert sample.truth.label[types.index("")] == CELL_CLASSES.index(label)
    assert not sample.truth.ignore.any() or name == "Lymphocyte"
