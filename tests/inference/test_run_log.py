"""The run log in memory; `tests/cli/test_detect.py` has what it does in interrupted and resumed runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blastdet.core.errors import ConfigError
from blastdet.inference.run_log import RUN_LOG, Existing, RunLog


def _entry(name: str) -> dict[str, Any]:
    return {"name": name, "image_sha256": name, "size_wh": [4, 3], "mpp": [0.1, 0.2], "mpp_measured": True}


class _AddingNames(list[str]):
    """Names of images; a look-up adds another image to the log, as another thread may."""

    def __init__(self, log: RunLog) -> None:
        super().__init__(["a", "b"])
        self.log = log

    def __contains__(self, name: object) -> bool:
        self.log.add(_entry(f"after {name}"))
        return super().__contains__(name)


def test_scales_are_read_while_other_images_finish(tmp_path: Path) -> None:
    log = RunLog(tmp_path, {})
    for name in ("a", "b"):
        log.add(_entry(name))
    assert log.measured((4, 3), _AddingNames(log)) == [(0.1, 0.2), (0.1, 0.2)]
    assert log.measured((3, 4), ["a", "b"]) == []


GOOD: dict[str, Any] = {
    **_entry("a"),
    "counts": {"wbc": 2},
    "white_cells": None,
    "area_mm2": 0.5,
    "seconds": 0.1,
    "mpp_source": "given",
    "warnings": [],
    "image": {"file_name": "a"},
    "annotations": [],
}


def _written(folder: Path, *lines: str) -> None:
    RunLog(folder, {"formats": ["coco"]}, "overwrite")
    with (folder / RUN_LOG).open("a", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)


@pytest.mark.parametrize(
    "change",
    [
        {"name": ["a"]},
        {"counts": {"wbc": "2"}},
        {"counts": {"wbc": -2}},
        {"counts": [2]},
        {"size_wh": 4},
        {"size_wh": [4]},
        {"mpp": ["a", "b"]},
        {"mpp_measured": "yes"},
        {"area_mm2": None},
        {"area_mm2": float("nan")},
        {"seconds": "1"},
        {"mpp_source": 1},
        {"warnings": [1]},
        {"white_cells": [1]},
        {"white_cells": [1, 2, 3, 4, 5]},
        {"image": 5},
        {"annotations": None},
        {"annotations": [1]},
    ],
)
def test_an_edited_entry_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    _written(tmp_path, json.dumps(GOOD))
    RunLog(tmp_path, {"formats": ["coco"]}, "resume")
    _written(tmp_path, json.dumps(GOOD | change))
    with pytest.raises(ConfigError, match="line 2 is not an entry of a run log"):
        RunLog(tmp_path, {"formats": ["coco"]}, "resume")


CELLS: dict[str, Any] = {
    "box": [1, 2.5, 3, 4, 5, 6, 7, 8],
    "label": [1, 2],
    "kind": ["monocyte", "rbc"],
    "score": [0.9, 0.8],
    "p": [0.7, None],
    "blast": [0.1, None],
    "unlike": [],
    "likely": {"0": [["monocyte", 0.7], ["blast", 0.1]]},
}


@pytest.mark.parametrize(
    "cells",
    [
        None,
        5,
        *(CELLS | {name: None} for name in CELLS),
        CELLS | {"box": CELLS["box"][:-1]},
        CELLS | {"box": [*CELLS["box"][:-1], "8"]},
        CELLS | {"box": [*CELLS["box"][:-1], float("nan")]},
        CELLS | {"box": [*CELLS["box"][:-1], 10**400]},
        CELLS | {"label": [1, 9]},
        CELLS | {"label": [1]},
        CELLS | {"kind": ["monocyte", "cat"]},
        CELLS | {"score": [0.9, None]},
        CELLS | {"p": [True, None]},
        CELLS | {"unlike": [2]},
        CELLS | {"likely": {"2": []}},
        CELLS | {"likely": {"0": [["monocyte"]]}},
        CELLS | {"likely": {"0": [["cat", 0.7]]}},
        CELLS | {"likely": {"0": 5}},
    ],
)
@pytest.mark.parametrize("kind", ["html", "xlsx"])
def test_edited_cells_are_refused(tmp_path: Path, kind: str, cells: Any) -> None:
    """The page and the workbook are made of them."""
    for some, is_good in ((CELLS, True), (cells, False)):
        RunLog(tmp_path, {"formats": [kind]}, "overwrite").add(GOOD | {"cells": some})
        if is_good:
            RunLog(tmp_path, {"formats": [kind]}, "resume")
            continue
        with pytest.raises(ConfigError, match="line 2 is not an entry of a run log"):
            RunLog(tmp_path, {"formats": [kind]}, "resume")


@pytest.mark.parametrize("lines", [["garbage", json.dumps(GOOD)], ["[" * 100_000]])
def test_a_log_with_an_unreadable_line_is_not_replaced(tmp_path: Path, lines: list[str]) -> None:
    _written(tmp_path, *lines)
    with pytest.raises(ConfigError, match="contains the results of an earlier run"):
        RunLog(tmp_path, {"formats": ["coco"]})
    RunLog(tmp_path, {"formats": ["coco"]}, "resume")


def test_a_log_with_unreadable_settings_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / RUN_LOG).write_text("garbage\n")
    with pytest.raises(ConfigError, match="contains the results of an earlier run"):
        RunLog(tmp_path, {})


@pytest.mark.parametrize("existing", ["refuse", "resume"])
def test_a_file_that_no_log_lists_is_not_replaced(tmp_path: Path, existing: Existing) -> None:
    file = tmp_path / "a.json"
    file.write_text("of another program")
    with pytest.raises(ConfigError, match=r"a\.json: exists already"):
        RunLog(tmp_path, {}, existing, [file])
    RunLog(tmp_path, {}, "overwrite", [file])
    assert file.read_text() == "of another program"


def test_overwrite_removes_what_the_log_lists_and_nothing_else(tmp_path: Path) -> None:
    """Someone may have edited the log: what it lists outside its folder, through a link, or as a folder, stays."""
    out, outside = tmp_path / "out", tmp_path / "outside"
    kept = [outside / "b.json", out / "notes.txt", out / "b/mine.txt", out / "image.png", out / "folder/x"]
    gone = [out / "a.json", out / "b/b.json", out / "c/d/d.json"]
    for file in (*kept, *gone):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
    (out / "link").symlink_to(outside)
    log = RunLog(out, {}, "overwrite")
    listed = [file.relative_to(out).as_posix() for file in gone]
    for files in (
        [*listed, "image.png", "folder", "missing"],
        ["../outside/b.json", str(outside / "b.json"), "link/b.json", "", ".", "a\0b", "\ud800", 5],
        None,
    ):
        log.add({**_entry("a"), "files": files})
    RunLog(out, {}, "overwrite", keep=[out / "image.png"])
    assert all(file.read_text() == file.name for file in kept) and (out / "link").is_symlink()
    assert not any(file.exists() for file in gone) and not (out / "c").exists()


def test_results_of_an_earlier_run_are_no_fields_of_a_smear(tmp_path):
    """An overlay or a crop of a cell, counted as a field, would make a number wrong."""
    from blastdet.inference.outputs.jobs import find_jobs

    for name in ("a.jpg", "results/a.overlay.jpg", "results/page/cells/a.jpg", "results/mine.jpg", "a.overlay.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for folder in (tmp_path, tmp_path / "results"):
        lines = [{"settings": {}}, {"name": "a.jpg", "files": ["a.overlay.jpg"]}]
        (folder / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [job.name for job in find_jobs([tmp_path], tmp_path / "other")] == ["a.jpg", "results/mine.jpg"]
    named = tmp_path / "a.overlay.jpg"
    assert [job.path for job in find_jobs([named], tmp_path / "other")] == [named]
