"""Output files and folders: whole or not at all, and one writer at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from blastdet.core.errors import BlastdetError, one_line

LOCK = ".lock"


def not_written(path: Path, said: str) -> BlastdetError:
    """The error for what a library could not write: it may not say that the disk is full."""
    free = shutil.disk_usage(path.parent).free / 2**20
    return BlastdetError(f"{path}: cannot be written ({said[:120]}; {free:.0f} MB free on that disk)")


def write_text(path: Path, text: str | Iterable[str]) -> Path:
    """Write a text file, whole or piece by piece, under a temporary name, then rename it: nobody ever sees half.

    Returns
    -------
    Path
        `path`, its folder made where it was missing.

    Raises
    ------
    OSError
        If it cannot be written; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.writelines([text] if isinstance(text, str) else text)
        temporary.chmod(0o644)  # mkstemp makes it private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name, and its place, once all went well, and vanishes if not.

    Raises
    ------
    BlastdetError
        If it cannot be written. Whether `out` may be replaced is for the caller to say.
    """
    out = out.resolve()  # "." has no name to build another from
    folder = out.with_name(f"{out.name}.tmp-{os.getpid()}")
    try:
        folder.mkdir(parents=True)
        yield folder
        if out.exists():
            old = out.with_name(f"{out.name}.old-{os.getpid()}")
            out.rename(old)
            folder.rename(out)
            shutil.rmtree(old)
        else:
            folder.rename(out)
    except OSError as error:
        raise BlastdetError(f"{out}: cannot be written ({one_line(error)})") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def locked(out: Path) -> IO[bytes]:
    """Make a folder and take its lock, which the system gives back when the program ends, however it ends.

    Raises
    ------
    BlastdetError
        If the folder cannot be written to, or another program holds its lock.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BlastdetError(f"{out}: cannot be made a folder ({error.strerror})") from error
    try:
        lock = (out / LOCK).open("wb")
    except OSError as error:
        raise BlastdetError(f"{out}: cannot be written to ({error.strerror})") from error
    try:
        import fcntl
    except ImportError:  # not a POSIX system: no lock
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise BlastdetError(f"{out}: another run is writing there; wait for it, or choose another --out") from error
    return lock
