"""The files of a folder, a zip or a tar archive, behind one interface that no name in an archive can escape.

An archive from elsewhere may name files ``../../.bashrc``, or hold a link that leads out of the folder: such an
archive is refused as a whole, before anything is written.
"""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from blastdet.core.errors import BlastdetError

MAX_FILE_BYTES = 256 << 20
"""No file of a data set is larger; one that is can only be there to fill the disk."""

_JUNK_FOLDERS = frozenset({"__MACOSX", ".git"})
_JUNK_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression that this Python lacks
)


class FetchError(BlastdetError):
    """Data that cannot be fetched, unpacked or recognised."""


@dataclass(frozen=True)
class Member:
    """One file of a folder or an archive: its name with forward slashes, its size in bytes, and how to read it."""

    name: str
    size: int
    read: Callable[[], bytes]


@contextmanager
def open_source(path: Path) -> Iterator[list[Member]]:
    """All files of a folder or of a zip or tar archive, in the order they lie there.

    Raises
    ------
    FetchError
        Nothing there, no archive, a damaged or encrypted one, or one with a name, a link or a size that is refused.
    """
    with ExitStack() as stack:
        try:
            members = _members(path, stack)
            for member in members:
                _check(member, path)
            yield [member for member in members if not _is_junk(member.name)]
        except _DAMAGE as error:
            raise FetchError(f"{path}: the archive is damaged or of an unknown kind ({error})") from error
        except OSError as error:
            raise FetchError(f"{path}: cannot be read ({error.strerror or error})") from error


def without_common_folder(members: Sequence[Member]) -> list[Member]:
    """The same files without the folder that holds all of them, if there is one."""
    parts = [PurePosixPath(member.name).parts for member in members]
    while parts and all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    return [replace(member, name="/".join(p)) for member, p in zip(members, parts, strict=True)]


def _members(path: Path, stack: ExitStack) -> list[Member]:
    if path.is_dir():
        return [_in_folder(path, file) for file in sorted(path.rglob("*")) if file.is_file()]
    if not path.is_file():
        raise FetchError(f"{path}: no such file or folder")
    if zipfile.is_zipfile(path):
        archive = stack.enter_context(zipfile.ZipFile(path))
        return [_in_zip(archive, info, path) for info in archive.infolist() if not info.is_dir()]
    if tarfile.is_tarfile(path):
        tar = stack.enter_context(tarfile.open(path))  # noqa: SIM115  (the stack closes it)
        return [_in_tar(tar, info, path) for info in tar.getmembers() if not info.isdir()]
    raise FetchError(f"{path}: no archive, or a truncated one; a folder, zip or tar archive expected")


def _in_folder(root: Path, file: Path) -> Member:
    return Member(file.relative_to(root).as_posix(), file.stat().st_size, file.read_bytes)


def _in_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Member:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise FetchError(f"{path}: {info.filename!r} is a link or a device, only files expected")
    if info.flag_bits & 1:
        raise FetchError(f"{path}: the archive is encrypted; unpack it and give the folder")
    return Member(info.filename.replace("\\", "/"), info.file_size, lambda: archive.read(info))


def _in_tar(tar: tarfile.TarFile, info: tarfile.TarInfo, path: Path) -> Member:
    if not info.isreg():
        raise FetchError(f"{path}: {info.name!r} is a link or a device, only files expected")

    def read() -> bytes:
        stream = tar.extractfile(info)
        assert stream is not None  # a regular file always has one
        return stream.read()

    return Member(info.name, info.size, read)


def _check(member: Member, path: Path) -> None:
    name = PurePosixPath(member.name)
    drive = ":" in name.parts[0] if name.parts else True
    if name.is_absolute() or ".." in name.parts or drive or not name.name:
        raise FetchError(f"{path}: {member.name!r} leads out of the folder, a name inside it expected")
    if member.size > MAX_FILE_BYTES:
        raise FetchError(f"{path}: {member.name!r} has {member.size} bytes, at most {MAX_FILE_BYTES} expected")


def _is_junk(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name in _JUNK_FILES or path.name.startswith("._") or not _JUNK_FOLDERS.isdisjoint(path.parts)
