"""Images that share content: copies, overlapping fields, leaks, missing boxes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from audited import SIZE, draw, found_in, image, place

from blastdet.audit.folder_audit import audit, audit_folder
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.imaging.io import read_image, write_image


@pytest.mark.slow
def test_copies_mirrors_and_shared_fields_leak(faulty: Path) -> None:
    """p00 (train) again as p20 (test) byte for byte, p01 as p21 mirrored, p02 shifted as p16 (val)."""
    shutil.copyfile(image(faulty, "p00"), image(faulty, "p20"))
    write_image(image(faulty, "p21"), np.ascontiguousarray(read_image(image(faulty, "p01"))[:, ::-1]))
    stretch = np.hstack([read_image(image(faulty, "p02")), read_image(image(faulty, "p16"))])
    write_image(image(faulty, "p16"), np.ascontiguousarray(stretch[:, 120 : 120 + SIZE[0]]))
    report = audit_folder(faulty)
    pairs = {(f.rule, f.severity, Path(f.file).stem, Path(f.other).stem) for f in report.findings if f.other}
    assert {p for p in pairs if p[0] != "disagreement"} == {
        ("exact_duplicate", "warning", "p00", "p20"),
        ("near_duplicate", "warning", "p01", "p21"),
        ("overlap", "info", "p02", "p16"),
        ("leak", "error", "p00", "p20"),
        ("leak", "error", "p01", "p21"),
        ("leak", "error", "p02", "p16"),
    }
    assert report.statistics["sharing"] == {"pairs": 3, "groups": 3, "pictures": 6}
    (faulty / "overlap_groups.csv").write_text("image,group\np02,one\np16,two\np03,three\np17,three\n")
    report = audit_folder(faulty)
    assert ("overlap", "warning", "p02") in found_in(report)
    assert ("leak", "error", "p03") in found_in(report)


def test_a_missing_box_in_an_overlapping_image_is_found(tmp_path: Path) -> None:
    """Two overlapping photographs; the white cell has a box in one of them only."""
    rng = np.random.default_rng(3)
    cells = [*place(rng), *((name, x + SIZE[0], y, r) for name, x, y, r in place(rng)), ("WBC", 170, 90, 24)]
    left, right = (draw([(n, x - dx, y, r) for n, x, y, r in cells], rng) for dx in (0, 100))
    paths = [tmp_path / "left.png", tmp_path / "right.png"]
    for path, rgb in zip(paths, (left, right), strict=True):
        write_image(path, rgb)
    _, x, y, r = cells[-1]
    truth = Detections(np.array([[x - r, y - r, x + r, y + r]], np.float32))
    samples = (
        Sample(paths[0], SIZE, annotated=("wbc",), truth=truth),
        Sample(paths[1], SIZE, annotated=("wbc",), truth=Detections.empty()),
    )
    found = [f for f in audit(Dataset("two", tmp_path, samples)).findings if f.rule == "disagreement"]
    assert [(f.severity, f.file, f.other) for f in found] == [("warning", "right.png", "left.png")]
    assert found[0].box == pytest.approx((x - r - 100, y - r, x + r - 100, y + r), abs=1.5)
