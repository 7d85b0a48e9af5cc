"""Results that are kept as records, corrected, and made of a region."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import blastdet
from blastdet.core.errors import FormatError, ImageError
from blastdet.datasets.corrections import Correction
from blastdet.inference.model import Options
from blastdet.inference.outputs.corrected_result import corrected_result
from blastdet.inference.outputs.region_result import RegionSource, analyze_region
from blastdet.inference.outputs.result_record import from_record, to_record

SMEAR = Path(__file__).resolve().parents[2] / "datasets/demo/smear.jpg"


@pytest.fixture(scope="module")
def model():
    return blastdet.load("default", device="cpu")


@pytest.fixture(scope="module")
def result(model):
    return model(SMEAR, mpp=0.1, min_score=0.2)


@pytest.fixture(scope="module")
def record(model, result):
    return json.loads(json.dumps(to_record(result, model.classifier.card.classes), allow_nan=False))


def same(a, b) -> bool:
    return json.dumps(a) == json.dumps(b)


def test_a_record_gives_the_same_result(result, record):
    again = from_record(record, SMEAR)
    assert same(again.to_dict(), result.to_dict())
    assert same(again.to_coco(), result.to_coco())
    assert same(again.to_geojson(), result.to_geojson())
    assert again.blast_fraction == result.blast_fraction
    assert len(again.candidates) > len(again.detections)
    with pytest.raises(FormatError, match="record of version 1"):
        from_record({"record": 2})


def correction(result, row: int | None, op: str, **values) -> Correction:
    box = (5.0, 5.0, 60.0, 60.0) if row is None else tuple(result.detections.boxes_xyxy[row].astype(float).tolist())
    return Correction(image_sha256=result.image_sha256, box_xyxy=box, op=op, **values)


def test_corrections_change_cells_and_counts(result, record):
    white = [row for row, kind in enumerate(result.kinds) if kind == "wbc"]
    unsure, red = result.kinds.index("unsure"), result.kinds.index("rbc")
    made = [
        correction(result, white[0], "class", old_class="wbc", new_class="blast"),
        correction(result, white[1], "delete", old_class="wbc"),
        correction(result, white[2], "ignore", old_class="wbc"),
        correction(result, unsure, "ok"),
        correction(result, red, "class", old_class="rbc", new_class="platelet"),
        correction(result, None, "class", new_class="wbc", new_type="monocyte"),
    ]
    found = corrected_result(result, made, record["classifier_classes"])
    before, after = result.counts, found.counts
    confirmed = "blast" if result.detections.label[unsure] == 0 else "wbc"
    assert after["unsure"] == before["unsure"] - 1
    assert after["blast"] == before["blast"] + 1 + (confirmed == "blast")
    assert after["wbc"] == before["wbc"] - 3 + 1 + (confirmed == "wbc")
    assert (after["rbc"], after["platelet"]) == (before["rbc"] - 1, before["platelet"] + 1)
    assert found.blast_fraction.n == sum(after[name] for name in ("blast", "wbc", "unsure"))
    assert found.blast_fraction.corrected is None
    cells = {cell["id"]: cell for cell in found.to_dict()["cells"]}
    assert cells["a00001"]["cell_type"] == "monocyte"
    assert f"c{white[1] + 1:05d}" not in cells
    assert cells[f"c{white[0] + 1:05d}"]["origin"] == "human"
    assert found.warnings[-1] == ("reviewed by people: 1 added, 1 confirmed, 1 deleted, 1 ignored, 2 relabelled")


def test_reviewed_types_are_counted(result, record):
    """Another type is another label, the same one is confirmed, and what was withdrawn is nothing."""
    types = result.detections.cell_type.tolist()
    typed = [row for row, name in enumerate(types) if name == "neutrophil"][:3]
    other = [correction(result, row, "class", new_class="wbc", new_type="monocyte") for row in typed[:2]]
    same = correction(result, typed[2], "class", new_class="wbc", new_type="neutrophil")
    found = corrected_result(result, [*other, same], record["classifier_classes"])
    assert found.warnings == (*result.warnings, "reviewed by people: 1 confirmed, 2 relabelled")
    added = correction(result, None, "class", new_class="wbc", new_type="monocyte")
    found = corrected_result(result, [*other, added], record["classifier_classes"])
    assert found.warnings[-1] == "reviewed by people: 1 added, 2 relabelled"
    withdrawn = [correction(result, row, "undo") for row in typed[:2]]
    assert corrected_result(result, [*other, *withdrawn], record["classifier_classes"]).warnings == result.warnings


def test_an_uncertain_cell_that_is_called_a_type_is_classified_not_confirmed(result, record):
    """Whatever the model leaned to: it did not decide, a person did."""
    unsure = [row for row, kind in enumerate(result.kinds) if kind == "unsure"][:2]
    names = ["blast" if result.detections.label[row] == 0 else "wbc" for row in unsure]
    as_it_leaned = correction(result, unsure[0], "class", new_class=names[0])
    other = correction(result, unsure[1], "class", new_class="wbc" if names[1] == "blast" else "blast")
    found = corrected_result(result, [as_it_leaned, other], record["classifier_classes"])
    assert found.counts["unsure"] == result.counts["unsure"] - 2
    assert found.warnings == (*result.warnings, "reviewed by people: 2 classified")


def test_the_interval_covers_the_classifier_until_people_looked_at_every_white_cell(model, result, record):
    trials, classes = model.classifier.card.trials, record["classifier_classes"]
    white = [row for row, name in enumerate(result.detections.label) if name in (0, 1)]
    made = [correction(result, row, "ok") for row in white]
    some = corrected_result(result, made[:4], classes, trials).blast_fraction
    assert some.corrected_interval is not None and "the classifier's error rates" in " ".join(some.summary())
    low, high = some.printed_interval
    counted_only = corrected_result(result, made[:4], classes).blast_fraction.printed_interval
    assert high - low > counted_only[1] - counted_only[0]
    every = corrected_result(result, made, classes, trials).blast_fraction
    assert every.corrected_interval is None and "counting only" in " ".join(every.summary())


def test_no_correction_changes_nothing_and_a_wrong_one_is_refused(result):
    assert corrected_result(result, []) is result
    with pytest.raises(FormatError, match="expected image_sha256"):
        corrected_result(result, [Correction(image_sha256="0" * 64, box_xyxy=(0, 0, 5, 5), op="delete")])
    with pytest.raises(FormatError, match="on the image of 1600 x 1200"):
        wide = Correction(image_sha256=result.image_sha256, box_xyxy=(0, 0, 9e5, 5), op="class", new_class="wbc")
        corrected_result(result, [wide])


def test_a_region_is_read_as_it_lies_on_the_image():
    with blastdet.open_smear(SMEAR) as source:
        part = RegionSource(source, (100, 50, 300, 200))
        assert part.size_wh == (200, 150)
        whole = source.read((110, 60, 150, 90), (0.5, 0.5))
        assert (part.read((10, 10, 50, 40), (0.5, 0.5)) == whole).all()
        assert (part.read() == source.read((100, 50, 300, 200))).all()


def test_the_cells_of_a_region_are_where_the_whole_image_has_them(model, result):
    region = (400, 300, 1200, 900)
    found = analyze_region(model, SMEAR, region, Options((0.1, 0.1)))
    assert found.size_wh == result.size_wh
    assert found.area_mm2 == pytest.approx(800 * 600 * 0.01 / 1e6)
    boxes = found.detections.boxes_xyxy
    assert (boxes[:, 0] >= 400).all() and (boxes[:, 3] <= 900).all()
    centres = result.detections.centres_xy
    inside = (centres > (450, 350)).all(axis=1) & (centres < (1150, 850)).all(axis=1)
    assert (
        abs(
            inside.sum()
            - (
                (found.detections.centres_xy > (450, 350)).all(axis=1)
                & (found.detections.centres_xy < (1150, 850)).all(axis=1)
            ).sum()
        )
        <= 3
    )
    with pytest.raises(ImageError, match="region: expected"):
        analyze_region(model, SMEAR, (0, 0, 1601, 10), Options((0.1, 0.1)))
