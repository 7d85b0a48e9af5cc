"""Files of a folder, a zip archive or a tar archive, behind one interface that is safe against path traversal.

An untrusted archive may contain names such as ``../../.bashrc``, or links that lead out of the folder. Such an archive
is refused before anything is written.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from blastdet.core.atomic_io import files_under
from blastdet.core.errors import BlastdetError, printable, shown

MAX_FILE_BYTES = 256 << 20
"""Largest file that is accepted. No dataset in the catalog has a larger one, and a zip bomb would."""

MAX_FILES = 200_000
MAX_TOTAL_BYTES = 64 << 30
"""Largest number of files in an archive, and of their bytes together."""

MAX_RATIO = 200
"""Largest ratio of unpacked to packed bytes. Images and annotations are below 50, a zip bomb is far above."""

CACHE_DAYS = 30
CACHE_BYTES = 20 << 30
"""What is kept of unpacked archives: see `unpacked`."""

_IN_USE_S = 86_400  # an archive used within a day may be in use now
_LONGEST_NAME = 1000
_JUNK_FOLDERS = frozenset({"__MACOSX", ".git"})
_JUNK_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression method that this Python does not have
)


class FetchError(BlastdetError):
    """Data that cannot be downloaded, unpacked or recognised."""


@dataclass(frozen=True)
class Member:
    """One file of a folder or an archive: its name with forward slashes, its size in bytes, and how to read it."""

    name: str
    size: int
    read: Callable[[], bytes]


@contextmanager
def open_source(path: Path) -> Iterator[list[Member]]:
    """All files of a folder or of a zip or tar archive, in their order there.

    Raises `FetchError` if there is no archive, it is damaged or encrypted, or it contains an unsafe name, a link or a
    file that is too large.
    """
    with ExitStack() as stack:
        try:
            members = _members(path, stack)
            for member in members:
                _check(member, path)
            _check_whole(members, path)
            yield [member for member in members if not _is_junk(member.name)]
        except _DAMAGE as error:
            raise FetchError(f"{path}: damaged archive, or an unknown kind of archive ({error})") from error
        except OSError as error:
            raise FetchError(f"{path}: cannot be read ({error.strerror or error})") from error


def without_common_folder(members: Sequence[Member]) -> list[Member]:
    """The same files without the top folder, if all of them are in one."""
    parts = [PurePosixPath(member.name).parts for member in members]
    while parts and all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    return [replace(member, name="/".join(p)) for member, p in zip(members, parts, strict=True)]


def _members(path: Path, stack: ExitStack) -> list[Member]:
    if path.is_dir():
        return [_in_folder(path, file) for file in sorted(files_under(path)) if file.is_file()]
    if not path.is_file():
        raise FetchError(f"{path}: no such file or folder")
    if zipfile.is_zipfile(path):
        archive = stack.enter_context(zipfile.ZipFile(path))
        return [_in_zip(archive, info, path) for info in archive.infolist() if not info.is_dir()]
    if tarfile.is_tarfile(path):
        tar = stack.enter_context(tarfile.open(path))  # noqa: SIM115  (the stack closes it)
        return [_in_tar(tar, info, path) for info in tar.getmembers() if not info.isdir()]
    raise FetchError(f"{path}: expected a folder, a zip archive or a tar archive, got another or a truncated file")


def _in_folder(root: Path, file: Path) -> Member:
    return Member(file.relative_to(root).as_posix(), file.stat().st_size, file.read_bytes)


def _in_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Member:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise FetchError(f"{path}: {shown(info.filename, 200)}: expected a regular file, got a link or a device")
    if info.flag_bits & 1:
        raise FetchError(f"{path}: the archive is encrypted. Unpack it, then pass the folder")
    return Member(info.filename.replace("\\", "/"), info.file_size, lambda: archive.read(info))


def _in_tar(tar: tarfile.TarFile, info: tarfile.TarInfo, path: Path) -> Member:
    if not info.isreg():
        raise FetchError(f"{path}: {shown(info.name, 200)}: expected a regular file, got a link or a device")

    def read() -> bytes:
        stream = tar.extractfile(info)
        assert stream is not None  # a regular file always has one
        return stream.read()

    return Member(info.name, info.size, read)


def _check(member: Member, path: Path) -> None:
    name = PurePosixPath(member.name)
    drive = ":" in name.parts[0] if name.parts else True
    what = f"{path}: {shown(member.name, 200)}"
    if member.name != printable(member.name) or "\n" in member.name or len(member.name) > _LONGEST_NAME:
        raise FetchError(f"{what}: expected a printable name of at most {_LONGEST_NAME} characters")
    if name.is_absolute() or ".." in name.parts or drive or not name.name:
        raise FetchError(f"{what}: expected a path inside the archive, got one that leads outside")
    if member.size > MAX_FILE_BYTES:
        raise FetchError(f"{what}: expected at most {MAX_FILE_BYTES} bytes, got {member.size}")


def _check_whole(members: Sequence[Member], path: Path) -> None:
    """Refuse an archive that would unpack to too much, or in which two files have one place."""
    if len(members) > MAX_FILES:
        raise FetchError(f"{path}: expected at most {MAX_FILES:,} files, got {len(members):,}")
    total, packed = sum(member.size for member in members), path.stat().st_size
    if path.is_file() and total > max(MAX_RATIO * packed, MAX_FILE_BYTES):
        raise FetchError(
            f"{path}: expected files of at most {MAX_RATIO} times the size of the archive, {packed:,} bytes, got "
            f"{total:,} bytes"
        )
    if total > MAX_TOTAL_BYTES:
        raise FetchError(f"{path}: expected at most {MAX_TOTAL_BYTES >> 30} GiB unpacked, got {total / 2**30:.0f} GiB")
    seen: set[PurePosixPath] = set()
    for member in members:
        place = PurePosixPath(member.name)  # x/./a.txt is x/a.txt
        if place in seen:
            raise FetchError(f"{path}: {shown(member.name, 200)}: expected each name once, got it twice")
        seen.add(place)


def is_archive(path: Path) -> bool:
    """Whether `path` is a file that is named as a zip or tar archive."""
    return path.name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz")) and path.is_file()


def located(path: Path) -> Path:
    """The folder with the files of `path` if it is an archive, else `path` itself; errors are those of `unpacked`."""
    return unpacked(path) if is_archive(path) else path


def unpacked(path: Path) -> Path:
    """The folder with the files of an archive: unpacked at the first call, and kept for later ones.

    It is in the cache folder of the user (``XDG_CACHE_HOME``, by default ``~/.cache``), named by the archive and the
    sha256 of its content. The common top folder of all files, if there is one, is left out.

    Whenever an archive is unpacked, those unused for `CACHE_DAYS` are removed, then the ones used longest ago
    until `CACHE_BYTES` are left. What was used within a day stays.

    Raises
    ------
    FetchError
        As `open_source`; also if the folder cannot be written, or the disk has not enough space.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "blastdet" / "archives"
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = path.name.split(".")[0] or "archive"
        target = cache / digest[:16] / name
        if target.is_dir():
            os.utime(target.parent)  # used now; see `_clean`
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_source(path) as members, tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as part:
            _check_space(members, target.parent, path)
            stage = Path(part) / name
            stage.mkdir()
            for member in without_common_folder(members):
                file_path = stage / member.name
                file_path.parent.mkdir(parents=True, exist_ok=True)
                file_path.write_bytes(member.read())
            if not target.is_dir():  # another process may have been faster
                stage.replace(target)
        with suppress(OSError):  # another process may remove the same folders
            _clean(cache, time.time())
    except OSError as error:
        raise FetchError(f"{path}: cannot be unpacked below {cache} ({error.strerror or error})") from error
    return target


def _clean(cache: Path, now: float) -> None:
    """Remove archives that were not used for long, or are too large together; a folder's time is when it was used."""
    entries = sorted((entry.stat().st_mtime, entry) for entry in cache.iterdir() if entry.is_dir())
    total = sum(sizes := [_bytes_in(entry) for _, entry in entries])
    for (used, entry), size in zip(entries, sizes, strict=True):
        age = now - used
        if age > CACHE_DAYS * 86_400 or (total > CACHE_BYTES and age > _IN_USE_S):
            shutil.rmtree(entry, ignore_errors=True)
            total -= size


def _bytes_in(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


def _check_space(members: Sequence[Member], folder: Path, path: Path) -> None:
    needed, free = sum(member.size for member in members), shutil.disk_usage(folder).free
    if needed > free:
        raise FetchError(f"{path}: expected {needed >> 20:,} MiB free below {folder}, got {free >> 20:,} MiB")


def _is_junk(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name in _JUNK_FILES or path.name.startswith("._") or not _JUNK_FOLDERS.isdisjoint(path.parts)
