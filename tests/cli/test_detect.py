"""The real program on real files: what a user types, prints and gets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made import heed_interrupts
from PIL import Image

from blastdet.core.boxes import iou_matrix
from blastdet.core.model_card import find_weights, read_card
from blastdet.datasets.formats.coco import read as read_coco
from blastdet.imaging.io import read_image

REPO = Path(__file__).parents[2]
SMEAR = REPO / "datasets/demo/smear.jpg"
PROGRAM = [sys.executable, "-m", "blastdet"]
DEMO_MPP = "0.1"


def _run(*words, cwd, code=0):
    run = subprocess.run([*PROGRAM, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    return run


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """A folder of small images cut from the demo: one in a sub-folder, one with a name that is not ASCII."""
    folder = tmp_path_factory.mktemp("smears")
    rgb = read_image(SMEAR)
    (folder / "unter").mkdir()
    for i, name in enumerate(["a.png", "b.jpg", "unter/größe µ.png"]):
        Image.fromarray(rgb[i * 300 : i * 300 + 500, 200:900]).save(folder / name, quality=95)
    return folder


def test_demo_smear(tmp_path):
    """Every white cell of the demo's truth is found, and hardly anything else is called one."""
    run = _run("detect", SMEAR, "--format", "json,csv,coco,geojson,overlay", cwd=tmp_path)
    out = tmp_path / "blastdet-out"
    names = {path.name for path in out.iterdir()} - {".lock"}
    assert names == {
        "smear.json",
        "smear.csv",
        "smear.geojson",
        "smear.overlay.jpg",
        "detections.coco.json",
        "run.jsonl",
    }
    for path in sorted(names - {"run.jsonl", "detections.coco.json"}):
        assert str(Path("blastdet-out") / path) in run.stdout
    document = json.loads((out / "smear.json").read_text("utf-8"))
    truth = read_coco(REPO / "datasets/demo/truth.json").samples[0].truth
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
    assert f"of {sorted_['n']} white cells, " in run.stdout


def test_two_runs_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        _run(
            "detect", SMEAR, "--mpp", DEMO_MPP, "--format", "json,csv,coco,geojson,overlay", "--out", name, cwd=tmp_path
        )
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.name != "run.jsonl"}
        for name in ("one", "two")
    )
    assert first == second


def test_folder_names_totals_and_coco(tmp_path, crops):
    run = _run("detect", crops, "--mpp", DEMO_MPP, "--format", "json,coco", "--min-score", "0.01", cwd=tmp_path)
    out = tmp_path / "blastdet-out"
    assert (out / "unter/größe µ.json").is_file()
    coco = json.loads((out / "detections.coco.json").read_text("utf-8"))
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "b.jpg", "unter/größe µ.png"]
    assert all(image["width"] == 700 and image["mpp"] == [0.1, 0.1] for image in coco["images"])
    counted = [json.loads((out / f"{stem}.json").read_text("utf-8")) for stem in ("a", "b", "unter/größe µ")]
    blasts, others, unsure = (
        sum(document["white_cells"][name] for document in counted) for name in ("blasts", "others", "unsure")
    )
    assert f"total of 3 images: blast {blasts}, other wbc {others}, unsure {unsure}" in run.stdout
    together = run.stdout[run.stdout.index("all images together") :]
    assert f"Blasts: {blasts} of {blasts + others + unsure} white cells" in together
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
        run = _run("detect", images, "--mpp", "0.1", "--out", out, "--jobs", jobs, cwd=tmp_path, code=int(broken))
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
    run = _run("detect", folder, "--mpp", DEMO_MPP, cwd=tmp_path, code=1)
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
        ([SMEAR, "--format", "xml"], "expected some of json, csv, coco, geojson, overlay, got xml"),
        ([SMEAR, "--min-score", "2"], "2.0 is not in the range"),
        ([SMEAR, "--device", "cuda"], "device cuda: expected onnxruntime-gpu"),
        ([SMEAR, "--device", "abacus"], "device: expected auto, cpu"),
        ([SMEAR, "--out", "taken.txt"], "taken.txt: cannot create the folder"),
        ([], "Missing argument"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, words, line):
    (tmp_path / "taken.txt").write_text("here already")
    run = _run("detect", *words, cwd=tmp_path, code=2)
    assert line in run.stderr
    assert len([text for text in run.stderr.splitlines() if text and not text.startswith(("Usage", "Try"))]) == 1
    assert not (tmp_path / "blastdet-out").exists() or not list((tmp_path / "blastdet-out").glob("smear*"))


def test_a_blank_field_says_so_and_asks_for_the_scale(tmp_path):
    Image.new("RGB", (640, 480), (235, 230, 235)).save(tmp_path / "blank.png")
    run = _run("detect", "blank.png", cwd=tmp_path, code=2)
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
    run = _run("detect", folder, "--format", "json", cwd=tmp_path, code=1)
    blank = json.loads((tmp_path / "blastdet-out/blank.json").read_text("utf-8"))
    assert blank["mpp_source"] == "red cells of 3 other images of this size" and blank["counts"]["wbc"] == 0
    assert blank["mpp"][0] == pytest.approx(0.1, rel=0.15)
    assert "other camera.png: could not determine the scale" in run.stderr


def test_resume_skips_what_is_done(tmp_path, crops):
    words = ("detect", crops, "--mpp", DEMO_MPP, "--format", "json,coco")
    _run(*words, cwd=tmp_path)
    before = (tmp_path / "blastdet-out/detections.coco.json").read_bytes()
    run = _run(*words, "--resume", cwd=tmp_path)
    assert run.stdout.count("already finished, skipped") == 3
    assert (tmp_path / "blastdet-out/detections.coco.json").read_bytes() == before
    other = _run(*words[:2], "--mpp", "0.2", "--format", "json,coco", "--resume", cwd=tmp_path, code=2)
    assert "the earlier run differs in options.mpp" in other.stderr


def test_killed_and_resumed_equals_uninterrupted(tmp_path, crops):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i:02}.png").write_bytes((crops / "a.png").read_bytes())
    words = ["detect", str(folder), "--mpp", DEMO_MPP, "--format", "json,csv,coco"]
    process = subprocess.Popen([*PROGRAM, *words, "--out", "killed"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline, run_log = time.monotonic() + 60, tmp_path / "killed/run.jsonl"
    while not (run_log.exists() and run_log.read_bytes().count(b"\n") > 2) and time.monotonic() < deadline:
        time.sleep(0.01)  # until its head and two images are logged
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for path in (tmp_path / "killed").glob("*.json"):
        json.loads(path.read_text("utf-8"))  # whole, or not there
    run = _run(*words, "--out", "killed", "--resume", cwd=tmp_path)
    assert 2 <= run.stdout.count("skipped") < 12
    _run(*words, "--out", "whole", cwd=tmp_path)
    killed, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.name != "run.jsonl"}
        for name in ("killed", "whole")
    )
    assert killed == whole


def test_results_are_never_read_as_images(tmp_path, crops):
    """The output folder may lie in the input folder: the second run reads the same images as the first."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "a.png").write_bytes((crops / "a.png").read_bytes())
    first = _run("detect", ".", "--mpp", DEMO_MPP, "--out", "results", cwd=folder)
    again = _run("detect", ".", "--mpp", DEMO_MPP, "--out", "results", "--overwrite", cwd=folder)
    assert "total of" not in first.stdout + again.stdout
    before = (folder / "a.png").read_bytes()
    (folder / "a.overlay.jpg").write_bytes((crops / "b.jpg").read_bytes())
    clash = _run("detect", folder, "--mpp", DEMO_MPP, "--out", folder / "x" / "..", cwd=tmp_path, code=2)
    assert "no image" in clash.stderr or "Choose another --out" in clash.stderr
    assert (folder / "a.png").read_bytes() == before
    assert (folder / "a.overlay.jpg").read_bytes() == (crops / "b.jpg").read_bytes()


def test_results_of_different_images_never_share_a_name(tmp_path, crops):
    folder = tmp_path / "names"
    folder.mkdir()
    for name in ("a.jpg", "a.png", "a.png.jpg"):
        Image.open(crops / "a.png").save(folder / name)
    _run("detect", folder, "--mpp", DEMO_MPP, "--format", "json", cwd=tmp_path)
    assert len(list((tmp_path / "blastdet-out").glob("*.json"))) == 3


def test_resume_makes_again_what_was_deleted(tmp_path, crops):
    words = ("detect", crops / "a.png", "--mpp", DEMO_MPP, "--format", "json")
    _run(*words, cwd=tmp_path)
    (tmp_path / "blastdet-out/a.json").unlink()
    assert "skipped" not in _run(*words, "--resume", cwd=tmp_path).stdout
    assert (tmp_path / "blastdet-out/a.json").is_file()


@pytest.mark.parametrize("line", ["{}", "[]", "5", "half a li"])
def test_resume_from_a_foreign_run_log(tmp_path, crops, line):
    words = ("detect", crops / "a.png", "--mpp", DEMO_MPP, "--format", "json")
    _run(*words, cwd=tmp_path)
    with (tmp_path / "blastdet-out/run.jsonl").open("a") as stream:
        stream.write(line + "\n")
    run = subprocess.run([*PROGRAM, *map(str, words), "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert "Traceback" not in run.stderr and run.returncode in (0, 2)


def test_two_runs_into_one_folder_at_once(tmp_path):
    import fcntl

    (tmp_path / "blastdet-out").mkdir()
    with (tmp_path / "blastdet-out/.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = _run("detect", SMEAR, "--mpp", DEMO_MPP, cwd=tmp_path, code=2)
    assert "another run is writing there" in run.stderr


def test_a_run_without_success_keeps_the_last_good_coco_file(tmp_path, crops):
    _run("detect", crops / "a.png", "--mpp", DEMO_MPP, "--format", "coco", cwd=tmp_path)
    before = (tmp_path / "blastdet-out/detections.coco.json").read_bytes()
    (tmp_path / "empty.png").write_bytes(b"")
    _run("detect", "empty.png", "--format", "coco", "--overwrite", cwd=tmp_path, code=2)
    assert (tmp_path / "blastdet-out/detections.coco.json").read_bytes() == before


def test_interrupted_says_how_to_go_on(tmp_path, crops):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i:02}.png").write_bytes((crops / "a.png").read_bytes())
    words = [*PROGRAM, "detect", str(folder), "--mpp", DEMO_MPP]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, cwd=tmp_path, text=True, preexec_fn=heed_interrupts, **pipes)
    deadline = time.monotonic() + 60
    while not (tmp_path / "blastdet-out/00.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in stderr and "Traceback" not in stderr


def test_extreme_shapes_do_not_stop_a_batch(tmp_path, crops):
    folder = tmp_path / "shapes"
    folder.mkdir()
    Image.new("RGB", (1, 3000), (250, 240, 245)).save(folder / "line.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "z.png").write_bytes((crops / "a.png").read_bytes())
    run = _run("detect", folder, "--mpp", DEMO_MPP, cwd=tmp_path, code=1)
    assert (tmp_path / "blastdet-out/z.json").is_file() and (tmp_path / "blastdet-out/line.json").is_file()
    assert "1 of 3 failed" in run.stdout


def test_two_images_of_one_stem_keep_their_own_files(tmp_path, crops):
    folder = tmp_path / "same"
    folder.mkdir()
    Image.open(crops / "a.png").save(folder / "x.png")
    Image.open(crops / "a.png").save(folder / "x.jpg")
    _run("detect", folder, "--mpp", DEMO_MPP, "--format", "json", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "blastdet-out").glob("x*")} == {"x.png.json", "x.jpg.json"}


def test_results_of_an_earlier_run_are_never_replaced_silently(tmp_path, crops):
    words = ("detect", crops / "a.png", "--mpp", DEMO_MPP, "--format", "json")
    _run(*words, cwd=tmp_path)
    out = tmp_path / "blastdet-out"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = _run("detect", crops / "b.jpg", "--mpp", DEMO_MPP, "--format", "json", cwd=tmp_path, code=2)
    assert "contains the results of an earlier run" in again.stderr and "--overwrite" in again.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "mine.json").write_text("of another program")
    _run("detect", crops / "b.jpg", "--mpp", DEMO_MPP, "--format", "json,coco", "--overwrite", cwd=tmp_path)
    assert {path.name for path in out.iterdir()} - {".lock"} == {
        "b.json", "detections.coco.json", "mine.json", "run.jsonl"
    }  # fmt: skip
    _run("detect", crops / "b.jpg", "--mpp", DEMO_MPP, "--format", "csv", "--overwrite", cwd=tmp_path)
    assert {path.name for path in out.iterdir()} - {".lock"} == {"b.csv", "mine.json", "run.jsonl"}
    both = _run(*words, "--overwrite", "--resume", cwd=tmp_path, code=2)
    assert "expected --resume or --overwrite, got both" in both.stderr


def test_files_of_another_program_are_never_replaced_silently(tmp_path, crops):
    shutil.copy(crops / "a.png", tmp_path)
    (tmp_path / "a.json").write_text("annotations")
    run = _run("detect", "a.png", "--out", tmp_path, "--mpp", DEMO_MPP, cwd=tmp_path, code=2)
    assert "a.json: exists already" in run.stderr
    assert (tmp_path / "a.json").read_text() == "annotations"


def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path, crops):
    (tmp_path / "out").mkdir()
    shutil.copy(crops / "a.png", tmp_path)
    (tmp_path / "out/.lock").symlink_to(tmp_path / "a.png")
    _run("detect", "a.png", "--out", "out", "--mpp", DEMO_MPP, "--format", "json", cwd=tmp_path)
    assert (tmp_path / "a.png").read_bytes() == (crops / "a.png").read_bytes()


def test_an_output_folder_that_is_not_utf8_is_refused_first(tmp_path, crops):
    run = _run("detect", crops / "a.png", "--out", os.fsdecode(b"out\xff"), cwd=tmp_path, code=2)
    assert "expected a folder name in UTF-8" in run.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_that_finished_nothing_does_not_block_the_next(tmp_path):
    Image.new("RGB", (640, 480), (235, 230, 235)).save(tmp_path / "blank.png")
    _run("detect", "blank.png", cwd=tmp_path, code=2)
    _run("detect", "blank.png", "--mpp", DEMO_MPP, cwd=tmp_path)


def test_resume_refuses_a_run_of_another_version(tmp_path, crops):
    words = ("detect", crops / "a.png", "--mpp", DEMO_MPP, "--format", "json")
    _run(*words, cwd=tmp_path)
    log = tmp_path / "blastdet-out/run.jsonl"
    head, *rest = log.read_text().splitlines()
    settings = json.loads(head)
    settings["settings"]["versions"]["blastdet"] = "0.0.1"
    log.write_text("\n".join([json.dumps(settings), *rest]) + "\n")
    assert "differs in versions.blastdet" in _run(*words, "--resume", cwd=tmp_path, code=2).stderr


@pytest.mark.parametrize("mpp", ["0.1", "0.1,0.12"])
def test_scale_given_by_hand(tmp_path, mpp):
    _run("detect", SMEAR, "--mpp", mpp, "--format", "json", cwd=tmp_path)
    document = json.loads((tmp_path / "blastdet-out/smear.json").read_text("utf-8"))
    sides = [float(side) for side in mpp.split(",")]
    assert document["mpp"] == [sides[0], sides[-1]] and document["mpp_source"] == "given"


def test_an_image_that_fails_on_resume_is_no_longer_counted(tmp_path, crops):
    folder = tmp_path / "three"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        shutil.copy(crops / "a.png", folder / name)
    words = ["detect", folder, "--mpp", DEMO_MPP, "--format", "json,coco", "--out", "out"]
    _run(*words, cwd=tmp_path)
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[:2000])
    again = _run(*words, "--resume", cwd=tmp_path, code=1)
    assert "total of 2 images" in again.stdout and "1 of 3 failed" in again.stdout
    listed = json.loads((tmp_path / "out/detections.coco.json").read_bytes())["images"]
    assert [image["file_name"] for image in listed] == ["a.png", "c.png"]


def test_a_name_that_is_not_utf8_fails_alone(tmp_path, crops):
    folder = tmp_path / "names"
    folder.mkdir()
    for name in (b"a.png", b"b\xff.png", b"c.png"):
        shutil.copy(crops / "a.png", os.fsdecode(os.fsencode(folder) + b"/" + name))
    for kind in ("overlay", "coco"):
        words = ["detect", "names", "--mpp", DEMO_MPP, "--format", kind, "--out", kind]
        run = _run(*words, cwd=tmp_path, code=1)
        assert "the file name is not valid UTF-8" in run.stderr and "total of 2 images" in run.stdout
    assert {path.name for path in (tmp_path / "overlay").glob("*.jpg")} == {"a.overlay.jpg", "c.overlay.jpg"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a limit on the size of files")
def test_a_full_disk_for_the_run_log_loses_no_finished_image(tmp_path, crops):
    """A limit on file sizes simulates the full disk. The run log, which has all boxes, reaches it first."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(8):
        shutil.copy(crops / "a.png", folder / f"{i}.png")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); import runpy, signal; "
    limit += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); runpy.run_module('blastdet', run_name='__main__')"
    words = ["detect", "many", "--mpp", DEMO_MPP, "--format", "json,coco", "--min-score", "0", "--out", "out"]
    # coverage could not write its file either, and would print a traceback of its own
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    run = subprocess.run(
        [sys.executable, "-c", limit, *words], cwd=tmp_path, capture_output=True, text=True, check=False, env=plain
    )
    assert run.returncode in (1, 2) and "Traceback" not in run.stderr, run.stderr
    lines = (tmp_path / "out/run.jsonl").read_text().splitlines()
    assert 1 < len(lines) < 9 and all(isinstance(json.loads(line), dict) for line in lines)
    again = _run(*words, "--resume", cwd=tmp_path)
    assert again.stdout.count("skipped") == len(lines) - 1
    assert len(json.loads((tmp_path / "out/detections.coco.json").read_bytes())["images"]) == 8


def test_a_deleted_run_log_is_reported(tmp_path, crops):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(12):
        shutil.copy(crops / "a.png", folder / f"{i:02}.png")
    words = ["detect", "many", "--mpp", DEMO_MPP, "--format", "json", "--out", "out", "--jobs", "1"]
    process = subprocess.Popen(
        [*PROGRAM, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "out/02.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "out/run.jsonl").unlink()
    printed, complaints = process.communicate(timeout=60)
    assert process.returncode == 1 and "cannot be written" in complaints and "Traceback" not in complaints
    assert "of 12 failed" in printed


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_terminated_run_leaves_no_partial_file_and_stops_at_once(tmp_path, which):
    """Two slides at a time: both stop between tiles."""
    for name in ("one", "two", "three"):
        draw = ["synth", f"slides/{name}.tif", "--size", "4000x4000", "--mpp", "0.2", "--seed", "1"]
        if name == "one":
            _run(*draw, cwd=tmp_path)
        else:
            shutil.copy(tmp_path / "slides/one.tif", tmp_path / f"slides/{name}.tif")
    words = ["detect", "slides", "--mpp", "0.2", "--format", "json,geojson", "--jobs", "2", "--out", "out"]
    process = subprocess.Popen(
        [*PROGRAM, *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=heed_interrupts,
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},  # it takes SIGTERM
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "out/run.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(1)
    os.kill(process.pid, which)
    assert process.wait(timeout=120) == (143 if which == signal.SIGTERM else 130)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "run.jsonl"}
