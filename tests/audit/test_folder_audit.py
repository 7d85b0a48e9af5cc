"""The audit of a folder: a clean dataset has no finding; the report has statistics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from audited import RADIUS, N, add, box_xml, found_in
from made import image_file

from blastdet.audit.folder_audit import audit_folder
from blastdet.audit.subject import SEVERITIES
from blastdet.cli.data_commands.audit import plain_lines
from blastdet.core.errors import FormatError
from blastdet.core.types import RBC, Dataset, Detections, Sample
from blastdet.datasets.formats import registry
from blastdet.imaging.io import write_image


def test_a_clean_set_has_no_finding(clean_set: Path) -> None:
    report = audit_folder(clean_set)
    assert report.findings == ()
    assert not report.has_faults
    assert report.statistics["pictures"] == N
    assert report.statistics["splits"] == {"test": 4, "train": 16, "val": 4}
    classes = report.statistics["classes"]
    assert {name: c["boxes"] for name, c in classes.items()} == {
        name: sum(file.read_text().count(f"<name>{published}<") for file in (clean_set / "Annotations").iterdir())
        for name, published in (("wbc", "WBC"), ("rbc", "RBC"), ("platelet", "Platelets"))
    }
    assert classes["wbc"]["side_px"]["median"] == pytest.approx(2 * RADIUS["WBC"] + 1, abs=2)
    assert classes["rbc"]["side_um"]["median"] == pytest.approx(7.5)
    assert classes["wbc"]["um_from"] == "red cells taken as 7.5 µm"


def test_nothing_to_audit_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file or folder"):
        audit_folder(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="expected a dataset in a known format"):
        audit_folder(tmp_path)


@pytest.mark.realdata
def test_bccd_every_known_fault(data_dir: Path) -> None:
    """Every case that the README of the dataset lists, and no other of these rules."""
    report = audit_folder(data_dir / "bccd", overlaps=False)
    found: dict[str, set[str]] = {}
    for f in report.findings:
        key = f"no {f.message.split()[1]}" if f.rule == "missing_class" else f.rule
        found.setdefault(key, set()).add(Path(f.file).stem.removeprefix("BloodImage_"))
    assert found.pop("leak")
    no_red = [134, 147, 150, 152, 224, 249, 250, 258, 267, 268, 303, 322, 327, 330, 350]
    assert {rule: sorted(int(number) for number in files) for rule, files in found.items()} == {
        "zero_area": [338, 343],
        "no rbc": no_red,
        "no wbc": [133, 135, 171, 178, 228, 327],
        "implausible_size": [113, 133, 135],
        "doubled": [13, 20, 100, 104, 251, 284, 331, 403],
        "folder_mismatch": [171, 178, 228],
        "near_duplicate": [37],
    }
    assert all(f.severity == "error" for f in report.findings if f.rule == "implausible_size")
    lines = [line.split("\t") for line in plain_lines(report)]
    listed = [(line[0], line[1], line[2]) for line in lines if line[0] in SEVERITIES]
    assert listed == [(f.severity, f.rule, f.file) for f in report.findings]


def test_a_dataset_that_its_reader_refuses_is_audited_all_the_same(faulty: Path) -> None:
    add(faulty, "p17", box_xml("Parasite", 40, 40, 60, 60))
    report = audit_folder(faulty, overlaps=False)
    assert found_in(report) == {("unreadable", "error", "set")}
    (finding,) = report.findings
    assert "the reader refuses the dataset: " in finding.message and "'Parasite'" in finding.message
    assert report.statistics["pictures"] == N
    assert any("'Parasite'" in line for line in report.statistics["dropped_by_reader"])


def test_one_file_is_audited_without_the_files_next_to_it(tmp_path: Path) -> None:
    for name in "ab":
        write_image(tmp_path / f"{name}.png", np.full((40, 50, 3), 200, np.uint8))
        images = [{"id": 1, "file_name": f"{name}.png", "width": 50, "height": 40}]
        rows = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 0 if name == "b" else 5, 5]}]
        document = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "rbc"}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    assert audit_folder(tmp_path / "a.json").findings == ()
    assert found_in(audit_folder(tmp_path / "b.json")) == {("zero_area", "error", "b")}


def test_points_are_not_boxes_without_area(tmp_path: Path) -> None:
    image_file(tmp_path / "in" / "a.png", (50, 40))
    truth = Detections(np.full((2, 4), np.nan), label=[RBC, RBC], point_xy=[[5, 5], [20, 20]])
    dataset = Dataset("x", tmp_path / "in", (Sample(tmp_path / "in" / "a.png", (50, 40), truth=truth),))
    for name in ("coco", "yolo", "geojson"):
        registry.write(dataset, tmp_path / "o", name)
    assert audit_folder(tmp_path / "o").findings == ()


@pytest.mark.realdata
def test_points_of_chula_cause_no_finding(data_dir: Path) -> None:
    report = audit_folder(data_dir / "chula_rbc12", overlaps=False)
    assert {finding.rule for finding in report.findings} == {"orphan", "exact_duplicate"}
