"""The real program on real files: what a user types, prints and gets."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from detecting import DEMO_MPP, SMEAR, run_here, run_program
from PIL import Image

from blastdet.core.boxes import iou_matrix
from blastdet.core.model_card import find_weights, read_card
from blastdet.datasets.formats.coco import read as read_coco
from blastdet.imaging.io import read_image


def test_demo_smear(tmp_path):
    """Every white cell of the demo's truth is found, and hardly anything else is called one."""
    run = run_program("detect", SMEAR, "--verbose", "--format", "json,csv,coco,geojson,overlay,xlsx", cwd=tmp_path)
    out = tmp_path / "blastdet-out"
    names = {path.name for path in out.iterdir()} - {".lock"}
    assert names == {
        "smear.json",
        "smear.csv",
        "smear.geojson",
        "smear.overlay.jpg",
        "detections.coco.json",
        "summary.csv",
        "cells.csv",
        "summary.xlsx",
        "run.jsonl",
    }
    for path in sorted(names - {"run.jsonl"}):
        assert str(Path("blastdet-out") / path) in run.stdout
    document = json.loads((out / "smear.json").read_text("utf-8"))
    truth = read_coco(SMEAR.with_name("truth.json")).samples[0].truth
    white = truth[(truth.label <= 1) & (~truth.ignore if truth.ignore is not None else True)]
    found = np.array([cell["box_xyxy"] for cell in document["cells"] if cell["label"] in ("blast", "wbc")])
    overlap = iou_matrix(white.boxes_xyxy, found)
    assert (overlap.max(axis=1) > 0.5).mean() >= 0.9
    assert len(found) <= len(white) + 2
    assert "red cells (n=" in document["mpp_source"]
    assert document["mpp"][0] == pytest.approx(0.1, rel=0.15)
    card = read_card(find_weights("default"))
    assert document["model"]["files"] == card.files
    thresholds = {name: point.value for name, point in card.thresholds.items()}
    assert document["parameters"]["thresholds"] == {"blast": thresholds["wbc"], **thresholds}
    assert document["model"]["second_stage"]["files"] == read_card(find_weights(card.second_stage)).files
    sorted_ = document["white_cells"]
    assert sorted_["n"] == sorted_["blasts"] + sorted_["others"] + sorted_["unsure"]
    assert sorted_["n"] + sorted_["erythroblasts"] == len(found)
    verb = "is called a blast" if sorted_["blasts"] == 1 else "are called blasts"
    assert f"{sorted_['blasts']} of {sorted_['n']} white cells {verb}" in run.stdout


def test_two_runs_give_the_same_bytes(tmp_path):
    """In two processes, so that nothing hangs on the order of a set."""
    words = ("detect", SMEAR, "--mpp", DEMO_MPP, "--format", "json,csv,coco,geojson,overlay,xlsx", "--out")
    run_program(*words, "one", cwd=tmp_path)
    run_here(*words, "two", cwd=tmp_path)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.name != "run.jsonl"}
        for name in ("one", "two")
    )
    assert first == second


def test_folder_names_totals_and_coco(tmp_path, crops):
    run = run_here(
        "detect", crops, "--mpp", DEMO_MPP, "--format", "json,coco", "--min-score", "0.01", "--verbose", cwd=tmp_path
    )
    out = tmp_path / "blastdet-out"
    assert (out / "unter/größe µ.json").is_file()
    coco = json.loads((out / "detections.coco.json").read_text("utf-8"))
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "b.jpg", "unter/größe µ.png"]
    assert all(image["width"] == 700 and image["mpp"] == [0.1, 0.1] for image in coco["images"])
    counted = [json.loads((out / f"{stem}.json").read_text("utf-8")) for stem in ("a", "b", "unter/größe µ")]
    blasts, others, unsure = (
        sum(document["white_cells"][name] for document in counted) for name in ("blasts", "others", "unsure")
    )
    assert f"total of 3 images: blast {blasts}, non-blast white cells {others}, unsure {unsure}" in run.stdout
    together = run.stdout[run.stdout.index("all images together") :]
    n = blasts + others + unsure
    assert f"{n} of 200 counted" in together
    assert re.search(rf"\b{blasts} of {n} white cells|of {n} white cells are unlike", together)
    assert len(coco["annotations"]) > sum(len(document["cells"]) for document in counted)
    assert min(row["score"] for row in coco["annotations"]) < 0.1


@pytest.mark.parametrize("broken", [False, True])
def test_several_at_a_time_give_equal_results_in_equal_order(tmp_path, crops, broken):
    """Files, run log and printed lines, except for the seconds. Also with a broken image among them."""
    images = tmp_path / "images"
    shutil.copytree(crops, images)
    if broken:
        (images / "b0.png").write_bytes(b"no image")
    said = {}
    for jobs in (1, 3):
        out = tmp_path / f"out{jobs}"
        run = run_here(
            "detect", images, "--mpp", "0.1", "--out", out, "--jobs", jobs, "--verbose", cwd=tmp_path, code=int(broken)
        )
        files = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.suffix in (".csv", ".jpg")}
        run_log = [json.loads(line) for line in (out / "run.jsonl").read_text().splitlines()]
        names = [line.get("name") for line in run_log]
        heads = [line.split(",")[0] for line in run.stdout.splitlines() if " px, " in line]
        said[jobs] = (files, names, heads, [line for line in run.stderr.splitlines() if "failed" in line])
    assert said[1] == said[3] and len(said[1][1]) == 4  # the settings, and three images


def test_a_broken_file_does_not_stop_the_others(tmp_path, crops):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "good.png").write_bytes((crops / "a.png").read_bytes())
    (folder / "bad.jpg").write_bytes((crops / "b.jpg").read_bytes()[:900])
    (folder / "text.png").write_text("no image")
    run = run_here("detect", folder, "--mpp", DEMO_MPP, "--verbose", cwd=tmp_path, code=1)
    assert "good.png: 700 x 500 px" in run.stdout
    assert "2 of 3 failed:" in run.stdout and "bad.jpg" in run.stderr and "text.png" in run.stderr
    assert (tmp_path / "blastdet-out/good.json").is_file()
    assert not list((tmp_path / "blastdet-out").glob("bad*"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["missing.jpg"], "missing.jpg: no image found"),
        ([SMEAR, "--weights", "nope"], "nope: expected a folder with card.json or a shipped model"),
        ([SMEAR, "--mpp", "0"], "--mpp: expected µm/px between 0.001 and 100, got"),
        ([SMEAR, "--mpp", "fine"], "--mpp: expected a number, two numbers X,Y, or 'auto' as µm/px, got 'fine'"),
        ([SMEAR, "--mpp", "9"], "expected at most 0.8 µm/px to show cells, got 9"),
        ([SMEAR, "--mpp", "1e-9"], "--mpp: expected µm/px between 0.001 and 100, got"),
        ([""], "got an empty path"),
        ([SMEAR, "--format", "xml"], "expected some of json, csv, coco, geojson, overlay, xlsx, html, pdf, got xml"),
        ([SMEAR, "--min-score", "2"], "2.0 is not in the range"),
        ([SMEAR, "--device", "cuda"], "device cuda: expected onnxruntime-gpu"),
        ([SMEAR, "--device", "abacus"], "device: expected auto, cpu"),
        ([SMEAR, "--out", "taken.txt"], "taken.txt: cannot create the folder"),
        ([], "Missing argument"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, words, line):
    (tmp_path / "taken.txt").write_text("here already")
    run = run_here("detect", *words, cwd=tmp_path, code=2)
    assert line in run.stderr
    assert len([text for text in run.stderr.splitlines() if text and not text.startswith(("Usage", "Try"))]) == 1
    assert not (tmp_path / "blastdet-out").exists() or not list((tmp_path / "blastdet-out").glob("smear*"))


def test_a_blank_field_says_so_and_asks_for_the_scale(tmp_path):
    Image.new("RGB", (640, 480), (235, 230, 235)).save(tmp_path / "blank.png")
    run = run_here("detect", "blank.png", cwd=tmp_path, code=2)
    assert "blank.png: could not determine the scale" in run.stderr and "Pass --mpp" in run.stderr


def test_a_field_without_red_cells_takes_the_scale_of_its_neighbours(tmp_path):
    """One folder, one camera: a blank field among measured ones of its size is not refused."""
    folder = tmp_path / "fields"
    folder.mkdir()
    rgb = read_image(SMEAR)
    for i, x in enumerate((0, 400, 800)):
        Image.fromarray(rgb[:, x : x + 800]).save(folder / f"{i}.png")
    Image.new("RGB", (800, 1200), (250, 235, 215)).save(folder / "blank.png")
    Image.new("RGB", (640, 480), (250, 235, 215)).save(folder / "other camera.png")
    run = run_here("detect", folder, "--format", "json", cwd=tmp_path, code=1)
    blank = json.loads((tmp_path / "blastdet-out/blank.json").read_text("utf-8"))
    assert blank["mpp_source"] == "red cells of 3 images of this size" and blank["counts"]["wbc"] == 0
    assert blank["mpp"][0] == pytest.approx(0.1, rel=0.15)
    assert "scale of 4 images of 800 x 1200 px: 0." in run.stdout and "Next time: --mpp 0." in run.stdout
    assert "other camera.png: could not determine the scale" in run.stderr


def test_results_are_never_read_as_images(tmp_path, crops):
    """The output folder may lie in the input folder: the second run reads the same images as the first."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "a.png").write_bytes((crops / "a.png").read_bytes())
    first = run_here("detect", ".", "--mpp", DEMO_MPP, "--out", "results", cwd=folder)
    again = run_here("detect", ".", "--mpp", DEMO_MPP, "--out", "results", "--overwrite", cwd=folder)
    assert "total of" not in first.stdout + again.stdout
    before = (folder / "a.png").read_bytes()
    (folder / "a.overlay.jpg").write_bytes((crops / "b.jpg").read_bytes())
    clash = run_here("detect", folder, "--mpp", DEMO_MPP, "--out", folder / "x" / "..", cwd=tmp_path, code=2)
    assert "no image" in clash.stderr or "Choose another --out" in clash.stderr
    assert (folder / "a.png").read_bytes() == before
    assert (folder / "a.overlay.jpg").read_bytes() == (crops / "b.jpg").read_bytes()


def test_results_of_different_images_never_share_a_name(tmp_path, crops):
    folder = tmp_path / "names"
    folder.mkdir()
    for name in ("a.jpg", "a.png", "a.png.jpg"):
        Image.open(crops / "a.png").save(folder / name)
    run_here("detect", folder, "--mpp", DEMO_MPP, "--format", "json", cwd=tmp_path)
    assert len(list((tmp_path / "blastdet-out").glob("*.json"))) == 3


def test_extreme_shapes_do_not_stop_a_batch(tmp_path, crops):
    folder = tmp_path / "shapes"
    folder.mkdir()
    Image.new("RGB", (1, 3000), (250, 240, 245)).save(folder / "line.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "z.png").write_bytes((crops / "a.png").read_bytes())
    run = run_here("detect", folder, "--mpp", DEMO_MPP, cwd=tmp_path, code=1)
    assert (tmp_path / "blastdet-out/z.json").is_file() and (tmp_path / "blastdet-out/line.json").is_file()
    assert "1 of 3 failed" in run.stdout


def test_two_images_of_one_stem_keep_their_own_files(tmp_path, crops):
    folder = tmp_path / "same"
    folder.mkdir()
    Image.open(crops / "a.png").save(folder / "x.png")
    Image.open(crops / "a.png").save(folder / "x.jpg")
    run_here("detect", folder, "--mpp", DEMO_MPP, "--format", "json", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "blastdet-out").glob("x*")} == {"x.png.json", "x.jpg.json"}


def test_an_output_folder_that_is_not_utf8_is_refused_first(tmp_path, crops):
    run = run_program("detect", crops / "a.png", "--out", os.fsdecode(b"out\xff"), cwd=tmp_path, code=2)
    assert "expected a folder name in UTF-8" in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mpp", ["0.1", "0.1,0.12"])
def test_scale_given_by_hand(tmp_path, mpp):
    run_here("detect", SMEAR, "--mpp", mpp, "--format", "json", cwd=tmp_path)
    document = json.loads((tmp_path / "blastdet-out/smear.json").read_text("utf-8"))
    sides = [float(side) for side in mpp.split(",")]
    assert document["mpp"] == [sides[0], sides[-1]] and document["mpp_source"] == "given"


def test_a_name_that_is_not_utf8_fails_alone(tmp_path, crops):
    folder = tmp_path / "names"
    folder.mkdir()
    for name in (b"a.png", b"b\xff.png", b"c.png"):
        shutil.copy(crops / "a.png", os.fsdecode(os.fsencode(folder) + b"/" + name))
    for kind in ("overlay", "coco"):
        words = ["detect", "names", "--mpp", DEMO_MPP, "--format", kind, "--out", kind, "--verbose"]
        run = run_program(*words, cwd=tmp_path, code=1)
        assert "the file name is not valid UTF-8" in run.stderr and "total of 2 images" in run.stdout
    assert {path.name for path in (tmp_path / "overlay").glob("*.jpg")} == {"a.overlay.jpg", "c.overlay.jpg"}


def test_a_pdf_without_its_packages_is_refused_once(tmp_path, crops, monkeypatch):
    """Before anything is computed, not for every image."""
    monkeypatch.setattr("blastdet.core.packages.find_spec", lambda name: None)
    run = run_here("detect", crops, "--mpp", DEMO_MPP, "--format", "pdf", cwd=tmp_path, code=2)
    assert run.output == "Error: matplotlib: not installed. Run: pip install 'blastdet[evaluate]'\n"


def test_pdf_reports_are_named(tmp_path, crops):
    run = run_here("detect", crops, "--mpp", DEMO_MPP, "--format", "pdf", "--out", "reports", cwd=tmp_path)
    assert run.output.endswith("wrote a PDF report for each image, in reports\n")
    assert len([*(tmp_path / "reports").rglob("*.pdf")]) == 3
