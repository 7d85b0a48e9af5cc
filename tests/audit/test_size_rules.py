"""Sizes: the likely class of an implausible box, and a wrong scale."""

from __future__ import annotations

from pathlib import Path

import pytest
from audited import edit, first

from blastdet.audit.folder_audit import audit, audit_folder
from blastdet.datasets.formats import registry


def test_the_message_names_the_likelier_class(faulty: Path) -> None:
    edit(faulty, "p11", lambda text: text.replace("<name>WBC", "<name>Platelets"))
    edit(faulty, "p12", lambda text: text.replace("<name>Platelets", "<name>WBC"))
    found = {
        Path(f.file).stem: f for f in audit_folder(faulty, overlaps=False).findings if f.rule == "implausible_size"
    }
    assert "looks like wbc" in found["p11"].message
    assert "looks like platelet" in found["p12"].message
    x1, y1, x2, y2 = first(faulty, "p11", "Platelets")
    assert found["p11"].box == (x1 - 1, y1 - 1, x2, y2)


def test_a_wrong_scale_is_found(clean_set: Path) -> None:
    dataset = registry.read(clean_set, "voc", mpp=(0.9, 0.9))
    assert [(f.rule, f.severity) for f in audit(dataset, overlaps=False).findings] == [("scale", "warning")]
    right = audit(registry.read(clean_set, "voc", mpp=(7.5 / 27, 7.5 / 27)), overlaps=False)
    assert right.findings == ()
    assert right.statistics["classes"]["rbc"]["side_um"]["median"] == pytest.approx(7.5, rel=0.05)


def test_boxes_are_compared_with_their_own_class_only(clean_set: Path) -> None:
    """White cells are twice as wide as red cells, platelets less than half: neither is a finding."""
    sizes = audit_folder(clean_set, overlaps=False).statistics["classes"]
    medians = {name: sizes[name]["side_px"]["median"] for name in ("wbc", "rbc", "platelet")}
    assert medians["wbc"] > 1.5 * medians["rbc"] > 3 * medians["platelet"]
