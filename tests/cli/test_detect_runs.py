"""Runs that stop early, go on, or meet the files of an earlier one: no result is lost, half written or replaced."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from detecting import DEMO_MPP, PROGRAM, SMEAR, run_here, run_program
from made import heed_interrupts
from PIL import Image

from blastdet.cli import cli
from blastdet.imaging.io import read_image


@pytest.fixture(scope="module")
def finished(tmp_path_factory, crops):
    """Words of a run of one image, and its output folder, for tests to copy."""
    folder = tmp_path_factory.mktemp("finished")
    words = ["detect", str(crops / "a.png"), "--mpp", DEMO_MPP, "--format", "json"]
    run_here(*words, cwd=folder)
    return words, folder / "blastdet-out"


def test_resume_skips_what_is_done(tmp_path, crops):
    words = ("detect", crops, "--mpp", DEMO_MPP, "--format", "json,coco")
    run_here(*words, cwd=tmp_path)
    before = (tmp_path / "blastdet-out/detections.coco.json").read_bytes()
    run = run_here(*words, "--resume", cwd=tmp_path)
    assert run.stdout.count("already finished, skipped") == 3
    assert (tmp_path / "blastdet-out/detections.coco.json").read_bytes() == before
    other = run_here(*words[:2], "--mpp", "0.2", "--format", "json,coco", "--resume", cwd=tmp_path, code=2)
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
    run = run_here(*words, "--out", "killed", "--resume", cwd=tmp_path)
    assert 2 <= run.stdout.count("skipped") < 12
    run_here(*words, "--out", "whole", cwd=tmp_path)
    killed, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.name != "run.jsonl"}
        for name in ("killed", "whole")
    )
    assert killed == whole


def test_resume_makes_again_what_was_deleted(tmp_path, finished):
    words, out = finished
    shutil.copytree(out, tmp_path / "blastdet-out")
    (tmp_path / "blastdet-out/a.json").unlink()
    assert "skipped" not in run_here(*words, "--resume", cwd=tmp_path).stdout
    assert (tmp_path / "blastdet-out/a.json").is_file()


@pytest.mark.parametrize("line", ["{}", "[]", "5", "half a li"])
def test_resume_from_a_foreign_run_log(tmp_path, finished, line):
    words, out = finished
    shutil.copytree(out, tmp_path / "out")
    with (tmp_path / "out/run.jsonl").open("a") as stream:
        stream.write(line + "\n")
    done = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "out"), "--resume"])
    assert done.exit_code in (0, 2) and (done.exception is None or isinstance(done.exception, SystemExit))


def test_two_runs_into_one_folder_at_once(tmp_path):
    import fcntl

    (tmp_path / "blastdet-out").mkdir()
    with (tmp_path / "blastdet-out/.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = run_program("detect", SMEAR, "--mpp", DEMO_MPP, cwd=tmp_path, code=2)
    assert "another run is writing there" in run.stderr


def test_a_run_without_success_keeps_the_last_good_coco_file(tmp_path, crops):
    run_here("detect", crops / "a.png", "--mpp", DEMO_MPP, "--format", "coco", cwd=tmp_path)
    before = (tmp_path / "blastdet-out/detections.coco.json").read_bytes()
    (tmp_path / "empty.png").write_bytes(b"")
    run_here("detect", "empty.png", "--format", "coco", "--overwrite", cwd=tmp_path, code=2)
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


def test_results_of_an_earlier_run_are_never_replaced_silently(tmp_path, crops, finished):
    words, earlier = finished
    out = tmp_path / "blastdet-out"
    shutil.copytree(earlier, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = run_here("detect", crops / "b.jpg", "--mpp", DEMO_MPP, "--format", "json", cwd=tmp_path, code=2)
    assert "contains the results of an earlier run" in again.stderr and "--overwrite" in again.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "mine.json").write_text("of another program")
    run_here("detect", crops / "b.jpg", "--mpp", DEMO_MPP, "--format", "json,coco", "--overwrite", cwd=tmp_path)
    assert {path.name for path in out.iterdir()} - {".lock"} == {
        "b.json", "detections.coco.json", "mine.json", "run.jsonl"
    }  # fmt: skip
    run_here("detect", crops / "b.jpg", "--mpp", DEMO_MPP, "--format", "csv", "--overwrite", cwd=tmp_path)
    assert {path.name for path in out.iterdir()} - {".lock"} == {
        "b.csv",
        "mine.json",
        "run.jsonl",
        "summary.csv",
        "cells.csv",
    }
    both = run_here(*words, "--overwrite", "--resume", cwd=tmp_path, code=2)
    assert "expected --resume or --overwrite, got both" in both.stderr


def test_files_of_another_program_are_never_replaced_silently(tmp_path, crops):
    shutil.copy(crops / "a.png", tmp_path)
    (tmp_path / "a.json").write_text("annotations")
    run = run_here("detect", "a.png", "--out", tmp_path, "--mpp", DEMO_MPP, cwd=tmp_path, code=2)
    assert "a.json: exists already" in run.stderr
    assert (tmp_path / "a.json").read_text() == "annotations"


def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path, crops):
    (tmp_path / "out").mkdir()
    shutil.copy(crops / "a.png", tmp_path)
    (tmp_path / "out/.lock").symlink_to(tmp_path / "a.png")
    run_here("detect", "a.png", "--out", "out", "--mpp", DEMO_MPP, "--format", "json", cwd=tmp_path)
    assert (tmp_path / "a.png").read_bytes() == (crops / "a.png").read_bytes()


def test_a_run_that_finished_nothing_does_not_block_the_next(tmp_path):
    Image.new("RGB", (640, 480), (235, 230, 235)).save(tmp_path / "blank.png")
    run_here("detect", "blank.png", cwd=tmp_path, code=2)
    run_here("detect", "blank.png", "--mpp", DEMO_MPP, cwd=tmp_path)


def test_resume_refuses_a_run_of_another_version(tmp_path, finished):
    words, out = finished
    shutil.copytree(out, tmp_path / "blastdet-out")
    log = tmp_path / "blastdet-out/run.jsonl"
    head, *rest = log.read_text().splitlines()
    settings = json.loads(head)
    settings["settings"]["versions"]["blastdet"] = "0.0.1"
    log.write_text("\n".join([json.dumps(settings), *rest]) + "\n")
    assert "differs in versions.blastdet" in run_here(*words, "--resume", cwd=tmp_path, code=2).stderr


def test_an_image_that_fails_on_resume_is_no_longer_counted(tmp_path, crops):
    folder = tmp_path / "three"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        shutil.copy(crops / "a.png", folder / name)
    words = ["detect", folder, "--mpp", DEMO_MPP, "--format", "json,coco", "--out", "out", "--verbose"]
    run_here(*words, cwd=tmp_path)
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[:2000])
    again = run_here(*words, "--resume", cwd=tmp_path, code=1)
    assert "total of 2 images" in again.stdout and "1 of 3 failed" in again.stdout
    listed = json.loads((tmp_path / "out/detections.coco.json").read_bytes())["images"]
    assert [image["file_name"] for image in listed] == ["a.png", "c.png"]


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
    # Coverage could not write its file either, and would print a traceback of its own; Python writes half of a cache.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    plain["PYTHONDONTWRITEBYTECODE"] = "1"
    run = subprocess.run(
        [sys.executable, "-c", limit, *words], cwd=tmp_path, capture_output=True, text=True, check=False, env=plain
    )
    assert run.returncode in (1, 2) and "Traceback" not in run.stderr, run.stderr
    lines = (tmp_path / "out/run.jsonl").read_text().splitlines()
    assert 1 < len(lines) < 9 and all(isinstance(json.loads(line), dict) for line in lines)
    again = run_here(*words, "--resume", cwd=tmp_path)
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


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Three slides of 4000 x 4000 px, which take longer than the test below waits."""
    folder = tmp_path_factory.mktemp("slides")
    rgb = np.tile(read_image(SMEAR), (4, 3, 1))[:4000, :4000]
    tifffile.imwrite(folder / "one.tif", rgb, tile=(256, 256), photometric="rgb")
    for name in ("two.tif", "three.tif"):
        shutil.copy(folder / "one.tif", folder / name)
    return folder


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_terminated_run_leaves_no_partial_file_and_stops_at_once(tmp_path, slides, which):
    """Two slides at a time: both stop between tiles."""
    words = ["detect", str(slides), "--mpp", "0.1", "--format", "json,geojson", "--jobs", "2", "--out", "out"]
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
