"""Each fault that is put into a clean dataset is found under its rule, and no other rule reports it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from audited import add, box_xml, edit, first, found_in, image

from blastdet.audit.folder_audit import audit_folder

FAULTS: dict[str, tuple[Callable[[Path], None], set[tuple[str, str, str]]]] = {
    "zero area": (
        lambda root: add(root, "p03", box_xml("RBC", 50, 60, 50, 60), box_xml("RBC", 70, 60, 90, 60)),
        {("zero_area", "error", "p03")},
    ),
    "inverted": (
        lambda root: add(root, "p04", box_xml("RBC", 90, 60, 70, 80)),
        {("inverted", "error", "p04")},
    ),
    "outside": (
        lambda root: add(root, "p05", box_xml("RBC", 301, 90, 327, 115)),
        {("outside", "error", "p05")},
    ),
    "wholly outside": (
        lambda root: add(root, "p05", box_xml("RBC", 400, 300, 427, 327)),
        {("outside", "error", "p05")},
    ),
    "doubled": (
        lambda root: add(root, "p06", box_xml("RBC", *(v + 1 for v in first(root, "p06", "RBC")))),
        {("doubled", "warning", "p06")},
    ),
    "one cell of two classes": (
        lambda root: add(root, "p06", box_xml("Blast", *first(root, "p06", "WBC"))),
        {("two_classes", "error", "p06"), ("class_absent", "warning", "val"), ("class_absent", "warning", "test")},
    ),
    "size": (
        lambda root: edit(
            root, "p07", lambda t: t.replace("<width>320", "<width>240").replace("<height>240", "<height>320")
        ),
        {("size_mismatch", "error", "p07"), ("unreadable", "error", "set")},
    ),
    "name": (
        lambda root: edit(root, "p08", lambda t: t.replace("p08.png", "p18.png")),
        {("name_mismatch", "error", "p08")},
    ),
    "folder": (
        lambda root: edit(root, "p09", lambda t: t.replace("JPEGImages", "RBC")),
        {("folder_mismatch", "warning", "p09")},
    ),
    "no white cell": (
        lambda root: edit(root, "p10", lambda t: re.sub(r"<object><name>WBC.*?</object>", "", t)),
        {("missing_class", "warning", "p10")},
    ),
    "white cell called platelet": (
        lambda root: edit(root, "p11", lambda t: t.replace("<name>WBC", "<name>Platelets")),
        {("missing_class", "warning", "p11"), ("implausible_size", "error", "p11")},
    ),
    "platelet called white cell": (
        lambda root: edit(root, "p12", lambda t: t.replace("<name>Platelets", "<name>WBC")),
        {("missing_class", "warning", "p12"), ("implausible_size", "error", "p12")},
    ),
    "broken image": (
        lambda root: image(root, "p13").write_bytes(image(root, "p13").read_bytes()[:3000]) and None,
        {("unreadable", "error", "p13")},
    ),
    "no image": (
        lambda root: image(root, "p14").unlink(),
        {("orphan", "error", "p14"), ("unreadable", "error", "set")},
    ),
    "no annotation": (
        lambda root: (root / "Annotations" / "p15.xml").unlink(),
        {("orphan", "info", "p15")},
    ),
    "malformed XML": (
        lambda root: edit(root, "p16", lambda t: t[:-9]),
        {("unreadable", "error", "p16"), ("unreadable", "error", "set")},
    ),
    "no number": (
        lambda root: add(root, "p16", box_xml("RBC", 10, 10, 30, 30).replace("<ymax>30</ymax>", "<ymax>nan</ymax>")),
        {("unreadable", "error", "p16"), ("unreadable", "error", "set")},
    ),
    "unknown class": (
        lambda root: add(root, "p17", box_xml("Parasite", 40, 40, 60, 60)),
        {("unreadable", "error", "set")},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_nothing_else(faulty: Path, fault: str) -> None:
    inject, expected = FAULTS[fault]
    inject(faulty)
    assert found_in(audit_folder(faulty, "voc", overlaps=False)) == expected
