"""Files of the service, below one folder and under names that the service chose. No part of a path comes from a client.

::

    smears/ab/<id>/image                    the upload, as it came
    smears/ab/<id>/tiles/3-0-2.jpg          made again when they are missing, also tiles/overview.tif
    smears/ab/<id>/analyses/<id>/record.json
    smears/ab/<id>/analyses/<id>/v2-overlay.jpg
    uploads/<id>                            of resumable uploads
    temporary/, trash/                      emptied at the start
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from blastdet.core.errors import BlastdetError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of an `OSError` that says that nothing more can be written."""

_ID = re.compile(r"[0-9a-f]{32}")
_BLOCK = 2**20
_ROOM = 16 * 2**20  # bytes of the disk that are left to the database
_STALE_S = 3600.0


class Blobs:
    """The folder of files.

    Parameters
    ----------
    root : Path
        Made if it does not exist.

    Raises
    ------
    BlastdetError
        If it cannot be written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.temporary, self.trash, self.uploads = root / "temporary", root / "trash", root / "uploads"
        try:
            for folder in (root, self.temporary, self.trash, self.uploads, root / "smears"):
                folder.mkdir(parents=True, exist_ok=True)
            root.chmod(0o700)  # images of patients
        except OSError as error:
            raise BlastdetError(f"{root}: cannot be written to ({error.strerror})") from error

    def smear(self, smear_id: str) -> Path:
        """Folder of a smear."""
        return self.root / "smears" / _checked(smear_id)[:2] / smear_id

    def image(self, smear_id: str) -> Path:
        """The image of a smear, as it was uploaded."""
        return self.smear(smear_id) / "image"

    def analysis(self, smear_id: str, analysis_id: str) -> Path:
        """Folder of an analysis."""
        return self.smear(smear_id) / "analyses" / _checked(analysis_id)

    def record(self, smear_id: str, analysis_id: str) -> Path:
        """The result of an analysis, as `blastdet.inference.outputs.result_record` writes it."""
        return self.analysis(smear_id, analysis_id) / "record.json"

    def tile(self, smear_id: str, zoom: int, x: int, y: int) -> Path:
        """A tile of a smear."""
        return self.smear(smear_id) / "tiles" / f"{int(zoom)}-{int(x)}-{int(y)}.jpg"

    def overview(self, smear_id: str) -> Path:
        """A large smear reduced, for tiles that show much of it."""
        return self.smear(smear_id) / "tiles" / "overview.tif"

    def upload(self, upload_id: str) -> Path:
        """What has arrived of a resumable upload."""
        return self.uploads / _checked(upload_id)

    def new_temporary(self) -> Path:
        """A name for a file that is being written."""
        return self.temporary / secrets.token_hex(16)

    def keep(self, path: Path, content: bytes) -> None:
        """Write a file completely or not at all, and durably."""
        leave_room(self.root, len(content))
        temporary = self.new_temporary()
        try:
            with temporary.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            self.move(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def move(self, temporary: Path, path: Path) -> None:
        """Give a file that is written and synced its name."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(path)
        _sync(path.parent)

    def also(self, path: Path, other: Path) -> None:
        """Give a file that is written and synced a second name, so that it is there whatever becomes of the first."""
        other.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, other)
        except OSError:  # a file system without links, such as some network shares
            shutil.copyfile(path, other)
            _sync(other)
        _sync(other.parent)

    def cached(self, path: Path, content: bytes, *, sync: bool = False) -> None:
        """Keep a file that can be made again; nothing happens on a full disk, or if its smear is gone.

        With `sync`, one that is slow to make is whole also after a power cut.
        """
        if not path.parent.parent.is_dir():
            return
        temporary = self.new_temporary()
        with contextlib.suppress(OSError):
            leave_room(self.root, len(content))
            try:
                with temporary.open("xb") as stream:
                    stream.write(content)
                    if sync:
                        stream.flush()
                        os.fsync(stream.fileno())
                path.parent.mkdir(exist_ok=True)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def delete_smear(self, smear_id: str) -> None:
        """Remove everything of a smear: at once from sight, then from the disk."""
        folder = self.smear(smear_id)
        gone = self.trash / secrets.token_hex(16)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def delete_analysis(self, smear_id: str, analysis_id: str) -> None:
        """Remove the files of an analysis."""
        shutil.rmtree(self.analysis(smear_id, analysis_id), ignore_errors=True)

    def smear_ids(self) -> Iterator[str]:
        """Ids of all folders of smears that are older than an hour: a younger one may get its row yet."""
        for folder in (self.root / "smears").glob("??/*"):
            if _ID.fullmatch(folder.name) and is_stale(folder):
                yield folder.name

    def clean(self) -> None:
        """Remove what was written when a process ended; for a start, when none writes."""
        for folder in (self.temporary, self.trash):
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def is_stale(path: Path) -> bool:
    """Whether a file or folder did not change for an hour; no, if it is gone."""
    try:
        return time.time() - path.stat().st_mtime > _STALE_S
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def leave_room(where: Path | int, n_bytes: int) -> None:
    """Raise the `OSError` of a full disk rather than take the last of it: logging in and deleting need room, too.

    Parameters
    ----------
    where : Path or int
        Of the file system: a path, or the handle of an open file.
    n_bytes : int
        That will be written.
    """
    if hasattr(os, "statvfs"):
        disk = os.statvfs(where)
        if disk.f_bavail * disk.f_frsize - n_bytes < _ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Arriving:
    """A file that is being uploaded: written, hashed and counted piece by piece.

    Parameters
    ----------
    path : Path
        A temporary name.
    most : int
        Bytes; more raise `TooLargeError`.
    """

    def __init__(self, path: Path, most: int) -> None:
        self.path, self.n_bytes, self._most = path, 0, most
        self._sha256 = hashlib.sha256()
        self._stream = path.open("xb")

    def write(self, piece: bytes) -> None:
        """Append a piece."""
        self.n_bytes += len(piece)
        if self.n_bytes > self._most:
            raise TooLargeError(self._most)
        leave_room(self._stream.fileno(), len(piece))
        self._sha256.update(piece)
        self._stream.write(piece)

    def finish(self) -> str:
        """Have everything on disk; returns the sha256."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return self._sha256.hexdigest()

    def discard(self) -> None:
        """Remove the file, if it has not been moved."""
        with contextlib.suppress(OSError):  # what is still to be written does not fit on a full disk
            self._stream.close()
        self.path.unlink(missing_ok=True)


class TooLargeError(BlastdetError):
    """An upload over the limit.

    Parameters
    ----------
    most : int
        Bytes that are allowed.
    """

    def __init__(self, most: int) -> None:
        super().__init__(f"upload: expected at most {most / 2**20:,.0f} MB, got more")


class NoRoomError(TooLargeError):
    """An upload over what one user may keep.

    Parameters
    ----------
    most, used : int
        Bytes.
    """

    def __init__(self, most: int, used: int) -> None:
        BlastdetError.__init__(
            self,
            f"upload: expected at most {max(most - used, 0) / 2**20:,.0f} MB more of your {most / 2**30:,.1f} GB, "
            "got more. Delete smears that are done with",
        )


def sha256_and_sync(path: Path) -> str:
    """Hash of a file that arrived in pieces, which is on disk when this returns."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_BLOCK):
            found.update(piece)
        os.fsync(stream.fileno())
    return found.hexdigest()


def display_name(name: str, unnamed: str = "smear") -> str:
    """A file name for people: no folders, no control characters, at most 150 characters; `unnamed` for none.

    Examples
    --------
    >>> display_name("C:\\\\films\\\\a/../smear 1.jpg"), display_name("  ")
    ('smear 1.jpg', 'smear')
    """
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(letter for letter in last if letter.isprintable()).strip().lstrip(".")
    return kept.encode(errors="ignore").decode()[:150] or unnamed


def _checked(name: str) -> str:
    if not _ID.fullmatch(name):
        raise ValueError("expected the id of a row")
    return name
