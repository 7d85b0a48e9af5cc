"""Atomic writing: either the whole new content, or what was there before."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from blastdet.core.atomic_io import check_names, locked, new_folder, write_text
from blastdet.core.errors import BlastdetError, ConfigError


def test_text_is_written_unchanged(tmp_path: Path) -> None:
    path = write_text(tmp_path / "new/folder/a.txt", ["é\n", "b\r\n"])
    assert path.read_bytes() == "é\nb\r\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_an_error_while_writing_keeps_the_existing_file(tmp_path: Path) -> None:
    def pieces() -> Iterator[str]:
        yield "half"
        raise ZeroDivisionError

    path = write_text(tmp_path / "a.txt", "before")
    with pytest.raises(ZeroDivisionError):
        write_text(path, pieces())
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_text_that_cannot_be_encoded_keeps_the_existing_file(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "before")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "after \ud800")
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_in_place_of_the_file_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "a.txt", "text")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with new_folder(out) as folder:
        write_text(folder / "a.txt", "one")
    with pytest.raises(ZeroDivisionError), new_folder(out) as folder:
        write_text(folder / "a.txt", "two")
        raise ZeroDivisionError
    assert (out / "a.txt").read_text() == "one"
    with new_folder(out) as folder:
        write_text(folder / "b.txt", "three")
    assert [entry.name for entry in out.iterdir()] == ["b.txt"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_second_writer_gets_an_error(tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(BlastdetError, match="another run is writing there"):
        locked(tmp_path / "run")
    locked(tmp_path / "run").close()


def test_a_full_disk_is_said_with_the_path(tmp_path: Path) -> None:
    """Every write to this device fails as on a full disk."""
    path = tmp_path / "a.txt"

    def pieces() -> Iterator[str]:
        yield "x"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as `write` raises it: without a file

    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_text(path, pieces())
    assert list(tmp_path.iterdir()) == []


def test_names_of_folders_that_exist_are_not_judged(tmp_path: Path) -> None:
    """Nothing is written under their names; a new name needs room for endings."""
    long = tmp_path / ("a" * 240)
    long.mkdir()
    check_names(long / "out")
    with pytest.raises(ConfigError, match="expected a name of at most 230 bytes, got 240"):
        check_names(tmp_path / ("b" * 240) / "out")
