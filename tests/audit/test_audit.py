"""The audit: a clean set has no finding; each fault put in is found, under its rule, and nothing else is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from blastdet.audit.raw_annotations import raw_records
from click.testing import CliRunner
from numpy.typing import NDArray

from blastdet.audit.folder_audit import AuditReport, audit, audit_folder
from blastdet.cli import cli
from blastdet.cli.data_commands.audit import plain_lines
from blastdet.core.errors import FormatError
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.imaging.io import read_image, write_image

SIZE = (320, 240)
N = 24
RADIUS = {"RBC": 13, "WBC": 24, "Platelets": 5}
Cell = tuple[str, int, int, int]  # name, x, y, radius


def place(rng: np.random.Generator) -> list[Cell]:
    """One white cell, a platelet and some red cells that do not touch; none is cut by the border."""
    cells: list[Cell] = []
    for name in ["WBC", "Platelets", *["RBC"] * 30]:
        for _ in range(200):
            r = RADIUS[name] + int(rng.integers(-1, 2))
            x, y = (int(rng.integers(r + 4, side - r - 4)) for side in SIZE)
            if all((x - u) ** 2 + (y - v) ** 2 > (r + s + 2) ** 2 for _, u, v, s in cells):
                cells.append((name, x, y, r))
                break
    return cells


def draw(cells: list[Cell], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The cells, each with a shape of its own: identical ones would register on each other."""
    rgb = np.full((SIZE[1], SIZE[0], 3), (232, 228, 235), np.uint8)
    colours = {"RBC": (205, 150, 160), "WBC": (190, 165, 215), "Platelets": (150, 110, 180)}
    for name, x, y, r in cells:
        own = np.random.default_rng([r, y, len(name)])  # not of x: a shifted photograph shows the same cell
        angle, flat = float(own.uniform(0, 180)), float(own.uniform(0.7, 1))
        cv2.ellipse(rgb, (x, y), (r, int(r * flat)), angle, 0, 360, colours[name], -1, cv2.LINE_AA)
        if name == "RBC":
            off = own.integers(-3, 4, 2)
            cv2.circle(
                rgb, (x + int(off[0]), y + int(off[1])), int(own.integers(3, 7)), (222, 190, 198), -1, cv2.LINE_AA
            )
        if name == "WBC":
            for dx, dy in own.integers(-6, 7, (5, 2)).tolist():
                cv2.circle(rgb, (x + dx, y + dy), int(own.integers(7, 11)), (90, 50, 150), -1, cv2.LINE_AA)
    return np.clip(rgb + rng.normal(0, 3, rgb.shape), 0, 255).astype(np.uint8)


def box_xml(name: str, x1: int, y1: int, x2: int, y2: int) -> str:
    sides = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"


def cell_xml(cell: Cell) -> str:
    name, x, y, r = cell
    return box_xml(name, x - r + 1, y - r + 1, x + r + 1, y + r + 1)


def xml(stem: str, cells: list[Cell]) -> str:
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
    head = f"<folder>JPEGImages</folder><filename>{stem}.png</filename>{size}"
    return f"<annotation>{head}{''.join(map(cell_xml, cells))}</annotation>"


@pytest.fixture(scope="session")
def clean_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("audit") / "set"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(8)
    for k in range(N):
        cells = place(rng)
        write_image(root / "JPEGImages" / f"p{k:02d}.png", draw(cells, rng))
        (root / "Annotations" / f"p{k:02d}.xml").write_text(xml(f"p{k:02d}", cells))
    for name, part in (("train", range(16)), ("val", range(16, 20)), ("test", range(20, 24))):
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"p{k:02d}\n" for k in part))
    return root


@pytest.fixture
def faulty(clean_set: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean_set, tmp_path / "set"))


def edit(root: Path, stem: str, change: Callable[[str], str]) -> None:
    file = root / "Annotations" / f"{stem}.xml"
    text = change(file.read_text())
    assert text != file.read_text()
    file.write_text(text)


def add(root: Path, stem: str, *objects: str) -> None:
    edit(root, stem, lambda text: text.replace("</annotation>", "".join(objects) + "</annotation>"))


def first(root: Path, stem: str, name: str) -> tuple[int, int, int, int]:
    text = (root / "Annotations" / f"{stem}.xml").read_text()
    found = re.search(rf"<name>{name}</name><bndbox>(.*?)</bndbox>", text)
    assert found
    x1, y1, x2, y2 = map(int, re.findall(r">(-?\d+)<", found[1]))
    return x1, y1, x2, y2


def told(report: AuditReport) -> set[tuple[str, str, str]]:
    return {(f.rule, f.severity, Path(f.file).stem) for f in report.findings}


def picture(root: Path, stem: str) -> Path:
    return root / "JPEGImages" / f"{stem}.png"


def test_a_clean_set_has_no_finding(clean_set: Path) -> None:
    report = audit_folder(clean_set)
    assert report.findings == ()
    assert not report.has_faults
    assert report.statistics["pictures"] == N
    assert report.statistics["splits"] == {"test": 4, "train": 16, "val": 4}
    classes = report.statistics["classes"]
    assert {name: c["boxes"] for name, c in classes.items()} == {
        name: sum(r.boxes[k].name == raw for r in raw_records(clean_set) for k in range(len(r.boxes)))
        for name, raw in (("wbc", "WBC"), ("rbc", "RBC"), ("platelet", "Platelets"))
    }
    assert classes["wbc"]["side_px"]["median"] == pytest.approx(2 * RADIUS["WBC"] + 1, abs=2)
    assert classes["rbc"]["side_um"]["median"] == pytest.approx(7.5)
    assert classes["wbc"]["um_from"] == "red cells taken as 7.5 µm"


# Each fault: what is done to the set, and what the audit has to say, no less and no more.
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
    "broken picture": (
        lambda root: picture(root, "p13").write_bytes(picture(root, "p13").read_bytes()[:3000]) and None,
        {("unreadable", "error", "p13")},
    ),
    "no picture": (
        lambda root: picture(root, "p14").unlink(),
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
    assert told(audit_folder(faulty, "voc", overlaps=False)) == expected


def test_the_message_names_the_likelier_class(faulty: Path) -> None:
    FAULTS["white cell called platelet"][0](faulty)
    FAULTS["platelet called white cell"][0](faulty)
    found = {
        Path(f.file).stem: f for f in audit_folder(faulty, overlaps=False).findings if f.rule == "implausible_size"
    }
    assert "looks like wbc" in found["p11"].message
    assert "looks like platelet" in found["p12"].message
    x1, y1, x2, y2 = first(faulty, "p11", "Platelets")
    assert found["p11"].box == (x1 - 1, y1 - 1, x2, y2)


def test_copies_mirrors_and_shared_fields_leak(faulty: Path) -> None:
    """p00 (train) again as p20 (test) byte for byte, p01 as p21 mirrored, p02 shifted as p16 (val)."""
    shutil.copyfile(picture(faulty, "p00"), picture(faulty, "p20"))
    write_image(picture(faulty, "p21"), np.ascontiguousarray(read_image(picture(faulty, "p01"))[:, ::-1]))
    stretch = np.hstack([read_image(picture(faulty, "p02")), read_image(picture(faulty, "p16"))])
    write_image(picture(faulty, "p16"), np.ascontiguousarray(stretch[:, 120 : 120 + SIZE[0]]))
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
    assert ("overlap", "warning", "p02") in told(report)
    assert ("leak", "error", "p03") in told(report)


def test_a_neighbour_that_lacks_a_box_is_told(tmp_path: Path) -> None:
    """Two photographs of one stretch of film; the white cell is boxed in one of them only."""
    rng = np.random.default_rng(3)
    cells = [*place(rng), *((name, x + SIZE[0], y, r) for name, x, y, r in place(rng)), ("WBC", 170, 90, 24)]
    left, right = (draw([(n, x - dx, y, r) for n, x, y, r in cells], rng) for dx in (0, 100))
    paths = [tmp_path / "left.png", tmp_path / "right.png"]
    for path, rgb in zip(paths, (left, right), strict=True):
        write_image(path, rgb)
    _, x, y, r = cells[-1]
    truth = Detections(np.array([[x - r, y - r, x + r, y + r]], np.float32))
    smears = (
        Sample(paths[0], SIZE, annotated=("wbc",), truth=truth),
        Sample(paths[1], SIZE, annotated=("wbc",), truth=Detections.empty()),
    )
    found = [f for f in audit(Dataset("two", tmp_path, smears)).findings if f.rule == "disagreement"]
    assert [(f.severity, f.file, f.other) for f in found] == [("warning", "right.png", "left.png")]
    assert found[0].box == pytest.approx((x - r - 100, y - r, x + r - 100, y + r), abs=1.5)


def test_a_wrong_scale_is_told(clean_set: Path) -> None:
    dataset = audit_dataset(clean_set, mpp=(0.9, 0.9))
    assert [(f.rule, f.severity) for f in audit(dataset, overlaps=False).findings] == [("scale", "warning")]
    right = audit(audit_dataset(clean_set, mpp=(7.5 / 27, 7.5 / 27)), overlaps=False)
    assert right.findings == ()
    assert right.statistics["classes"]["rbc"]["side_um"]["median"] == pytest.approx(7.5, rel=0.05)


def audit_dataset(root: Path, mpp: tuple[float, float]) -> Dataset:
    from blastdet.datasets.formats import registry

    return registry.read(root, "voc", mpp=mpp)


def test_raw_coco_and_yolo_keep_their_faults(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image((tmp_path / name).with_suffix(".png"), np.full((40, 50, 3), 200, np.uint8))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0\n1 1.2 0.5 0.2 0.5\n")
    (tmp_path / "labels" / "b.txt").write_text("0 0.5 0.5\n")
    (tmp_path / "labels" / "c.txt").write_text("")
    (tmp_path / "data.yaml").write_text("names: [RBC, WBC]\n")
    images = [{"id": 1, "file_name": "a.png", "width": 40, "height": 50}, {"id": 2, "file_name": "z.png"}]
    cells = [{"image_id": 1, "category_id": 7, "bbox": [10, 5, -3, 8]}, {"image_id": 1, "category_id": 9, "bbox": []}]
    coco = {"images": images, "annotations": cells, "categories": [{"id": 7, "name": "WBC"}]}
    (tmp_path / "instances_val.json").write_text(json.dumps(coco))
    (tmp_path / "other.json").write_text("[1, 2")
    one, two, a, b, c = raw_records(tmp_path)
    assert (one.split, one.size_wh, one.boxes[0].name, one.boxes[0].extent_wh) == ("val", (40, 50), "WBC", (-3, 8))
    assert (two.image, two.name) == (None, "z.png")
    assert [(box.name, box.extent_wh[1]) for box in a.boxes] == [("RBC", 0), ("WBC", 20)]
    assert a.boxes[1].xyxy == pytest.approx((55, 10, 65, 30))
    assert b.problem is not None
    assert c.image is None


@pytest.mark.parametrize(
    "text",
    ['{"images": [{}], "annotations": []}', '{"images": [3], "annotations": []}', '{"images": [], "annotations": [5]}'],
)
def test_hostile_coco_is_a_problem_and_no_crash(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert [record.problem is not None for record in raw_records(tmp_path)] == [True]


def test_nothing_to_audit_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file or folder"):
        audit_folder(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="no known data set"):
        audit_folder(tmp_path)


def test_command_line(faulty: Path, tmp_path: Path) -> None:
    runner, out = CliRunner(), tmp_path / "audit.json"
    fine = runner.invoke(cli, ["audit", str(faulty), "--strict", "--no-overlaps"])
    assert (fine.exit_code, "findings: none" in fine.output) == (0, True)
    FAULTS["doubled"][0](faulty)
    (faulty / "Annotations" / "p15.xml").unlink()
    loose = runner.invoke(cli, ["audit", str(faulty), "--no-overlaps"])
    assert loose.exit_code == 0
    strict = runner.invoke(cli, ["audit", str(faulty), "--strict", "--no-overlaps", "--json", str(out)])
    assert strict.exit_code == 1
    lines = strict.output.splitlines()
    assert any(line.startswith("warning\tdoubled\tJPEGImages/p06.png\t(") for line in lines)
    assert lines[-1] == "findings: 1 warning, 1 info"
    data = json.loads(out.read_text())
    assert [f["rule"] for f in data["findings"]] == ["doubled", "orphan"]
    assert data["statistics"]["overlaps_looked_for"] is False
    assert "Research Use Only" in data["notice"]
    assert "Not for use in diagnostic procedures" in data["notice"]


def test_command_line_bad_input(tmp_path: Path) -> None:
    for arguments in ([str(tmp_path / "nowhere")], [str(tmp_path)], [str(tmp_path), "--from", "nothing"]):
        answer = CliRunner().invoke(cli, ["audit", *arguments])
        assert answer.exit_code == 2
        assert answer.output.startswith("Error: ")
        assert len(answer.output.splitlines()) == 1


@pytest.mark.realdata
def test_bccd_every_known_fault(data_dir: Path) -> None:
    """Every case that the README of the data set lists, and no other of these rules."""
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
    assert len(plain_lines(report)) > len(report.findings)
