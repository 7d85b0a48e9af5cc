"""What a run over a folder does not process is named."""

from __future__ import annotations

from pathlib import Path

from made import image_file

from blastdet.inference.outputs.jobs import find_jobs, left_out


def found(folder: Path, *paths: Path) -> str:
    out = folder / "results"
    return left_out(paths, find_jobs(paths, out), out)


def test_files_that_are_no_images_and_second_names_are_named(tmp_path: Path) -> None:
    image = image_file(tmp_path / "a" / "1.jpg")
    for name in ("slide.czi", "b.czi", "notes.txt", "LICENSE", ".hidden"):
        (tmp_path / "a" / name).write_text("x")
    image_file(tmp_path / "results" / "1_overlay.jpg")
    (tmp_path / "results" / "run.jsonl").write_text("x")
    (tmp_path / "a" / "again.jpg").symlink_to(image)
    line = found(tmp_path, tmp_path)
    assert line.startswith("left out: 5 files (2 .czi, ") and line.endswith(", first: 'LICENSE'")
    kinds = line.partition("(")[2].partition(")")[0].split(", ")
    assert sorted(kinds) == ["1 .txt", "1 images again", "1 no suffix", "2 .czi"]


def test_nothing_is_said_where_all_is_processed(tmp_path: Path) -> None:
    image_file(tmp_path / "a" / "1.jpg")
    (tmp_path / "note.txt").write_text("x")
    assert found(tmp_path, tmp_path / "a") == found(tmp_path, tmp_path / "a" / "1.jpg") == ""
