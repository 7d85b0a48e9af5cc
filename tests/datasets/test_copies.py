"""Copies of an image are named: their cells are counted once for each."""

from __future__ import annotations

from pathlib import Path

from blastdet.core.types import Sample
from blastdet.datasets.copies import copies_note, copies_of_samples


def test_only_files_of_equal_bytes_are_copies_and_a_missing_one_is_none(tmp_path: Path) -> None:
    for name, content in (("a.png", b"xx"), ("b.png", b"xy"), ("c.png", b"xx"), ("d.png", b"xxx")):
        (tmp_path / name).write_bytes(content)
    samples = [Sample(tmp_path / f"{name}.png", (4, 4)) for name in "abcde"]
    (note,) = copies_of_samples(samples)
    assert note.startswith("1 image is a copy of another one (a.png = c.png): the same cells are counted again")
    assert copies_of_samples(samples[:2]) == ()


def test_many_copies_are_one_bounded_line() -> None:
    (note,) = copies_note((f"{'n' * 300}{i}", str(i % 100)) for i in range(1000))
    assert note.startswith("900 images are copies of others (") and "97 more images with copies" in note
    assert len(note) < 1500
