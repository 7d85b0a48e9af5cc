"""The differential: counts by type, their intervals, and how they travel through a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from blastdet.core.columns import counted_as
from blastdet.core.constants import CELL_TYPES, WHITE_TYPES
from blastdet.core.errors import ConfigError
from blastdet.core.types import BLAST, RBC, WBC, Detections
from blastdet.imaging.io import write_image
from blastdet.inference.batch import Batch, Output
from blastdet.inference.blast_fraction import combine, count_white_cells
from blastdet.inference.differential import WhiteCells, count_types, differential, differential_table
from blastdet.inference.model import Model, Options
from blastdet.inference.outputs.jobs import Job
from blastdet.inference.outputs.printed import verbose_totals
from blastdet.inference.result import Result
from blastdet.inference.run_log import RUN_LOG
from blastdet.models.fake_classifier import FakeClassifier, fake_types_card, type_blue
from blastdet.models.fake_detector import FakeDetector, fake_card

CARD = fake_types_card()
OTHERS = WHITE_TYPES[1:]


@st.composite
def counts(draw: st.DrawFn) -> WhiteCells:
    number = st.integers(0, 40)
    types = {name: draw(number) for name in OTHERS if draw(st.booleans())}
    others, blasts = sum(types.values()) + draw(number), draw(number)
    return WhiteCells(blasts, others, draw(number), blasts + draw(number), draw(number), draw(number), types=types)


@given(counts(), counts())
def test_rows_add_up_and_counts_add(one: WhiteCells, other: WhiteCells) -> None:
    both = one + other
    assert both.n == one.n + other.n and sum(row.n for row in differential(both)) == both.n
    assert set(both.types) == {*one.types, *other.types} and both == other + one
    assert WhiteCells.from_json(json.loads(json.dumps(both.to_json()))) == both
    for row in differential(both):
        if both.n:
            exact = binomtest(row.n, both.n).proportion_ci(method="exact")
            assert (row.interval.low, row.interval.high) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_logs_of_runs_without_types_are_read() -> None:
    assert WhiteCells.from_json([3, 10, 1, 4, 2]) == WhiteCells(3, 10, 1, 4, erythroblasts=2)


GOOD = WhiteCells(3, 10, 1, 4, 1, 2, types={"lymphocyte": 4}).to_json()


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1, 2, 3, 4],
        [1, 2, 3, 4, -5],
        GOOD | {"blasts": True},
        GOOD | {"more": 1},
        GOOD | {"types": [4]},
        GOOD | {"types": {"lymphocyte": 11}},
        GOOD | {"types": {"smudge": 1}},
        {key: value for key, value in GOOD.items() if key != "smudges"},
    ],
)
def test_an_edited_count_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        WhiteCells.from_json(value)


def _cells(*kinds: tuple[int, str, bool]) -> Detections:
    label, cell_type, unsure = zip(*kinds, strict=True)
    boxes = np.tile([0.0, 0, 9, 9], (len(kinds), 1))
    return Detections(boxes, label=label, cell_type=cell_type, unsure=unsure)


def test_every_nucleated_cell_counts_once() -> None:
    cells = _cells(
        (BLAST, "", False),
        (BLAST, "", True),
        (WBC, "", True),
        (WBC, "", False),
        (WBC, "monocyte", False),
        (WBC, "monocyte", False),
        (WBC, "smudge", False),
        (WBC, "erythroblast", False),
        (RBC, "", False),
    )
    found = count_types(cells, CELL_TYPES)
    assert found == WhiteCells(1, 3, 2, 2, 1, 1, types={name: 2 * (name == "monocyte") for name in OTHERS})
    assert found.n == cells.is_white.sum() == 6
    assert [(row.cell_type, row.n) for row in differential(found) if row.n] == [
        ("blast", 1),
        ("monocyte", 2),
        ("wbc", 1),
        ("unsure", 2),
    ]
    assert found.per_100 == pytest.approx({"erythroblast": 100 / 6, "smudge": 100 / 6})
    assert count_types(cells, ("blast", "wbc", "erythroblast")).types == {}


def test_the_table_is_read_at_a_glance() -> None:
    types = {"lymphocyte": 40, "immature_granulocyte": 3}
    lines = differential_table(WhiteCells(12, 120, 5, 14, 3, 1, types=types))
    assert lines == [
        "differential          cells         %        95 % CI   137 of 200 counted",
        "blast                    12       8.8     4.6–14.8 %",
        "lymphocyte               40      29.2    21.7–37.6 %",
        "immature granulocyte      3       2.2      0.5–6.3 %",
        "other wbc                77      56.2    47.5–64.7 %",
        "unsure                    5       3.6      1.2–8.3 %",
        "erythroblasts: 3, 2.2 per 100 white cells",
        "smudges: 1, 0.7 per 100 white cells",
    ]
    assert differential_table(WhiteCells(0, 250, 0, 0))[0].endswith("   250 counted")
    assert differential_table(WhiteCells(0, 0, 0, 0, 5)) == []


FIELD = ("monocyte", "monocyte", "smudge")


def _field(folder: Path, name: str) -> Job:
    """Marks that the fake detector finds as white cells, in colours that the fake classifier reads as types."""
    rgb = np.full((100, 300, 3), 255, np.uint8)
    for i, kind in enumerate(FIELD):
        cv2.circle(rgb, (50 + 100 * i, 50), 12, (0, 0, type_blue(kind)), cv2.FILLED)
    write_image(folder / name, rgb)
    return Job(folder / name, name)


def _model(folder: Path) -> Model:
    return Model(FakeDetector(fake_card(0.5, (256, 256))), folder, FakeClassifier(CARD))


@pytest.fixture
def found(tmp_path: Path) -> Result:
    job = _field(tmp_path, "a.png")
    result = _model(tmp_path).analyze(job.path, Options(mpp=(0.5, 0.5)))
    cells = _cells(*((WBC, kind, False) for kind in FIELD), (BLAST, "", False))
    boxes = [[38 + 100 * i, 38, 62 + 100 * i, 62] for i in range(3)] + [[100, 10, 120, 30]]
    cells = cells.with_columns(boxes_xyxy=boxes)
    return replace(result, detections=cells, candidates=cells, blast_fraction=count_white_cells(cells, CARD))


def test_smudges_are_counted_apart_everywhere(found: Result) -> None:
    assert found.counts == {"blast": 1, "wbc": 2, "unsure": 0, "smudge": 1, "rbc": 0, "platelet": 0}
    assert found.kinds == found.to_pandas()["counted_as"].tolist() == ["wbc", "wbc", "smudge", "blast"]
    document = found.to_dict()
    assert document["counts"] == found.counts and document["white_cells"]["n"] == 3
    assert (document["white_cells"]["smudges"], document["white_cells"]["smudges_per_100"]) == (1, 33.3)
    assert [(row["cell_type"], row["n"]) for row in document["differential"]] == [
        (row.cell_type, row.n) for row in found.differential
    ]
    monocytes = document["differential"][2]
    assert monocytes == {"cell_type": "monocyte", "n": 2, "fraction": 0.6667, "ci95": [0.0943, 0.9916]}
    page = found._repr_html_()
    assert '<td style="text-align:left">monocyte</td>' in page
    assert (
        "Differential: 3 of 200 counted; Fewer than 50 white cells: numbers only, no percentages; smudges: 1<" in page
    )
    assert " %" not in page.partition("Differential:")[2].partition("</table>")[0]
    assert len(found.crops("smudge")) == 1


def test_what_is_hidden_goes_by_the_names_of_the_table(found: Result) -> None:
    """Types of other white cells go with ``wbc``; blasts and smudges have names of their own."""
    assert [counted_as(found.without(names)) for names in (("wbc",), ("blast", "rbc"), ("smudge", "wbc"))] == [
        ["smudge", "blast"],
        ["wbc", "wbc", "smudge"],
        ["blast"],
    ]


def test_no_white_cell_has_no_fractions(found: Result) -> None:
    nothing = Detections.empty()
    empty = replace(found, detections=nothing, candidates=nothing, blast_fraction=count_white_cells(nothing, CARD))
    document = empty.to_dict()
    assert {row["fraction"] for row in document["differential"]} == {None}
    json.dumps(document, allow_nan=False)


def _run(folder: Path, names: list[str], existing: Any = "refuse") -> str:
    jobs = [_field(folder, name) for name in names]
    batch = Batch(jobs, _model(folder), Options(mpp=0.5), Output(folder / "out", ("json",), existing))
    said = [outcome.text for outcome in batch]
    assert not batch.failed
    totals, _ = batch.finish()
    said += verbose_totals(totals)
    batch.close()
    return "\n".join(said)


def test_a_run_of_one_image_prints_its_differential_and_a_run_of_several_their_sum(tmp_path: Path) -> None:
    said = _run(tmp_path, ["a.png"])
    assert said.count("differential  ") == 1 and "monocyte                  2\n" in said
    said = _run(tmp_path, ["a.png", "b.png"], "resume")
    assert "a.png: already finished" in said and said.count("differential  ") == 1
    assert "4 of 200 counted" in said and "monocyte                  4\n" in said
    assert "smudges: 2\n" in said and "Fewer than 50 white cells: numbers only, no percentages." in said


def test_a_log_with_edited_counts_is_refused_with_one_line(tmp_path: Path) -> None:
    _run(tmp_path, ["a.png"])
    log = tmp_path / "out" / RUN_LOG
    log.write_text(log.read_text().replace('"smudges"', '"smears"'))
    with pytest.raises(ConfigError, match="line 2 is not an entry of a run log"):
        _run(tmp_path, ["a.png"], "resume")


def test_fields_of_one_smear_are_combined_by_type() -> None:
    one = WhiteCells(1, 2, 0, 1, types={"lymphocyte": 2})
    found = combine([one, one], CARD)
    assert found.types == {"lymphocyte": 4} and found.parts == one + one


def test_an_unknown_stain_has_no_fraction_anywhere() -> None:
    """Issue I: "0.0 % (0.0–0.4 %)" on a stain that the classifier does not know must be impossible."""
    found = combine([WhiteCells(0, 400, 472, 0, unlike=470)], FakeClassifier().card)
    assert found.is_known_stain is False and np.isnan([found.value, *found.interval]).all()
    text = "\n".join([*found.summary(), *differential_table(found)])
    assert "%" not in text.replace("95 % CI", "").replace("         %", "")
    assert "470 of 872 white cells are unlike the training data" in text
    assert found.warning() == found.summary()[0][:-1] and found.corrected is None
    assert all(np.isnan(row.fraction) for row in differential(found)) and differential(found)[0].percentages == (
        "–",
        "–",
    )
    known = combine([WhiteCells(0, 400, 472, 0, unlike=436)], FakeClassifier().card)
    assert known.is_known_stain and "0.0 %" in known.summary()[0]


def test_of_few_cells_the_differential_shows_numbers_and_of_fifty_percentages() -> None:
    """49 cells: no percentage beside a summary that says that they are too few; the fractions are kept for sums."""
    few, enough = (WhiteCells(5, n - 9, 4, 7, 2, types={"lymphocyte": n - 9}) for n in (49, 50))
    assert differential_table(few) == [
        "differential          cells   49 of 200 counted",
        "blast                     5",
        "lymphocyte               40",
        "other wbc                 0",
        "unsure                    4",
        "Fewer than 50 white cells: numbers only, no percentages.",
        "erythroblasts: 2",
    ]
    assert differential_table(enough)[1] == "blast                     5      10.0     3.3–21.8 %"
    assert [row.percentages for row in differential(few)] == [("–", "–")] * 4
    assert round(differential(few)[0].fraction, 4) == 0.102
