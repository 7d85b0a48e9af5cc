"""Archives are checked before they are unpacked, and unpacked once."""

from __future__ import annotations

import io
import os
import tarfile
import time
import warnings
from pathlib import Path
from zipfile import ZipFile

import pytest

from blastdet.datasets import archives
from blastdet.datasets.archives import FetchError, located, unpacked


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def zipped(file: Path, *members: tuple[str, bytes]) -> Path:
    with warnings.catch_warnings(), ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of a name that occurs twice
        for name, data in members:
            archive.writestr(name, data)
    return file


def test_an_archive_is_unpacked_once_without_its_common_folder(tmp_path: Path) -> None:
    file = zipped(tmp_path / "my.export.zip", ("top/a/1.txt", b"1"), ("top/2.txt", b"2"), ("__MACOSX/._2.txt", b"x"))
    folder = unpacked(file)
    assert folder.name == "my"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.txt")) == ["2.txt", "a/1.txt"]
    (folder / "mark").write_text("x")
    assert unpacked(file) == folder and (folder / "mark").exists()
    zipped(file, ("top/a/1.txt", b"changed"), ("top/2.txt", b"2"))
    assert (unpacked(file) / "a" / "1.txt").read_bytes() == b"changed"


def test_only_archives_are_unpacked(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "data.yaml").write_text("")
    for name in ("folder.zip", "data.yaml", "nothing.zip"):
        assert located(tmp_path / name) == tmp_path / name
    assert not cache.exists()


def test_a_tar_archive(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("x/1.txt")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"1"))
        archive.addfile(tarfile.TarInfo("y.txt"), io.BytesIO())
    assert (located(tmp_path / "a.tar.gz") / "x" / "1.txt").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("../1.txt", b"")], "leads outside"),
        ([("/1.txt", b"")], "leads outside"),
        ([("C:/1.txt", b"")], "leads outside"),
        ([("..\\1.txt", b"")], "leads outside"),
        ([("1.txt", b"a"), ("1.txt", b"b")], "expected each name once, got it twice"),
        ([("x/1.txt", b"a"), ("x/./1.txt", b"b")], "expected each name once, got it twice"),
        ([("x/1.txt", b"a"), ("x//1.txt", b"b")], "expected each name once, got it twice"),
        ([(f"{i}.txt", b"") for i in range(4)], "expected at most 3 files, got 4"),
        ([("1.bin", bytes(600)), ("2.bin", bytes(600))], "expected at most 0 GiB unpacked"),
        ([("1.bin", bytes(1000))], "expected at most 900 bytes, got 1000"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    tmp_path: Path, members: list[tuple[str, bytes]], words: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_FILES", 3)
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 1000)
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 900)
    with pytest.raises(FetchError) as caught:
        unpacked(zipped(tmp_path / "a.zip", *members))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert not [path for path in tmp_path.parent.iterdir() if path.name == "1.txt"]


def test_a_damaged_archive_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\3\4 and nothing else")
    with pytest.raises(FetchError, match=r"a\.zip: expected a folder, a zip archive or a tar archive"):
        unpacked(tmp_path / "a.zip")


def test_a_full_disk_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(FetchError, match="MiB free below"):
        unpacked(zipped(tmp_path / "a.zip", ("1.txt", b"12")))


def _used(folder: Path, days: float) -> None:
    os.utime(folder.parent, (time.time() - days * 86_400,) * 2)


def test_unpacking_removes_archives_that_nobody_used_for_a_month(tmp_path: Path) -> None:
    old, used, third = (zipped(tmp_path / f"{name}.zip", ("1.txt", name.encode())) for name in ("old", "used", "third"))
    folders = [unpacked(old), unpacked(used)]
    for folder in folders:
        _used(folder, archives.CACHE_DAYS + 1)
    assert unpacked(used) == folders[1]  # used now
    assert unpacked(third).is_dir()
    assert [folder.is_dir() for folder in folders] == [False, True]


def test_unpacking_removes_the_longest_unused_archives_beyond_the_total_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "CACHE_BYTES", 2500)
    folders = []
    for name, days in (("a", 3.0), ("b", 2.0), ("c", 0.5), ("d", 0.0)):
        folders.append(unpacked(zipped(tmp_path / f"{name}.zip", ("1.txt", name.encode() * 1000))))
        _used(folders[-1], days)
    # With c there were 3000 bytes: a went, then 2000 were left. With d: b went.
    assert [folder.is_dir() for folder in folders] == [False, False, True, True]
    unpacked(zipped(tmp_path / "e.zip", ("1.txt", b"e" * 1000)))
    assert [folder.is_dir() for folder in folders] == [False, False, True, True]  # used within a day
