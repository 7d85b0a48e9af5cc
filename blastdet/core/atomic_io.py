"""Atomic writing of files and folders, and a lock that allows one writer at a time."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from blastdet.core.errors import BlastdetError, ConfigError, in_a_line, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOCK = ".lock"

MOST_BYTES = 230
"""Of the name of a file or folder: file systems have room for 255, and temporary names are longer than final ones."""

_MOST_OF_PATH = 3900  # Linux has room for 4096


def write_error(path: Path, said: str) -> BlastdetError:
    """Error for a file that a library could not write. It states the free disk space, which libraries leave out."""
    free = shutil.disk_usage(path.parent).free / 2**20
    return BlastdetError(f"{path}: cannot be written ({said[:120]}; {free:.0f} MB free on that disk)")


def write_text(path: Path, text: str | Iterable[str]) -> Path:
    """Write a text file atomically: under a temporary name, which is then renamed.

    Raises `OSError` if the file cannot be written. An existing file is left unchanged.

    Parameters
    ----------
    path : Path
        Missing parent folders are created.
    text : str or iterable of str
        The content, or pieces of it in order. Written as UTF-8, with line endings unchanged.

    Returns
    -------
    Path
        `path`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(Path(folder, "new", "a.txt"), "hello").read_text()
    'hello'
    """
    pieces = [text] if isinstance(text, str) else text
    return write_bytes(path, (piece.encode() for piece in pieces))


def write_bytes(path: Path, content: bytes | Iterable[bytes]) -> Path:
    """Write a file atomically, as `write_text` does.

    Raises `OSError` with the path in it if the file cannot be written, as on a full disk.

    Parameters
    ----------
    path : Path
        Missing parent folders are created.
    content : bytes or iterable of bytes

    Returns
    -------
    Path
        `path`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bytes(Path(folder, "a.bin"), b"12").stat().st_size
    2
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
        temporary.chmod(0o644)  # mkstemp creates it readable by the owner only
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # writing to an open file names none
            error.filename = str(path)
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def write_figure(path: Path, figure: Figure, dpi: int) -> Path:
    """Write a plot of matplotlib as PNG, atomically: matplotlib leaves half a file on a full disk, unnamed.

    Raises `BlastdetError` if the file cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    try:
        return write_bytes(path, content.getvalue())
    except OSError as error:
        raise write_error(path, one_line(error)) from error


def check_names(path: Path) -> None:
    """Refuse a path that a file system has no room for, before anything is computed for it.

    Folders that exist may have any name. Raises `ConfigError`.

    Examples
    --------
    >>> check_names(Path("out", "report"))
    """
    for part in (path, *path.parents):
        if (size := len(os.fsencode(part.name))) > MOST_BYTES and not os.path.lexists(part):
            line = f"expected a name of at most {MOST_BYTES} bytes, got {size}. Shorten it"
            raise ConfigError(f"{in_a_line(part.name)}: {line}")
    if (size := len(os.fsencode(path.absolute()))) > _MOST_OF_PATH:
        raise ConfigError(f"{in_a_line(str(path))}: expected a path of at most {_MOST_OF_PATH} bytes, got {size}")


def refuse_existing(files: Iterable[Path], overwrite: bool = False, *, from_python: bool = False) -> None:
    """Refuse to replace files: they may be of an earlier run, or of another program.

    Raises `ConfigError` if one of them exists, be it as a folder or as a link that leads nowhere.

    Parameters
    ----------
    files : iterable of Path
        What will be written.
    overwrite : bool
        Whether they may be replaced.
    from_python : bool
        Whether the advice names the argument instead of the option of the command line.
    """
    advice = "Choose another --out, or replace it with --overwrite"
    if from_python:
        advice = "Choose another folder, or pass overwrite=True"
    for file in files:
        if not overwrite and os.path.lexists(file):
            raise ConfigError(f"{file}: exists already. {advice}")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Write a folder atomically: a temporary folder that replaces `out` at the end of the block.

    If the block raises an exception, the temporary folder is deleted, and `out` is left unchanged. The caller must
    check whether `out` may be replaced. Raises `BlastdetError` if the folder cannot be written.

    Yields
    ------
    Path
        The temporary folder, beside `out`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with new_folder(Path(parent, "out")) as folder:
    ...         path = write_text(folder / "a.txt", "hello")
    ...     Path(parent, "out", "a.txt").read_text()
    'hello'
    """
    out = out.resolve()  # "." has no name that a temporary name could be derived from
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


_IN_USE = "another run is writing there. Wait until it ends, or pass another --out."


def locked(out: Path, in_use: str = _IN_USE) -> IO[bytes]:
    """Create a folder and lock it for this process. The system releases the lock when the process ends.

    Raises `BlastdetError` if the folder cannot be created or written to, or another process holds its lock.

    Parameters
    ----------
    out : Path
    in_use : str
        What to say if another process holds the lock.

    Returns
    -------
    binary file
        The open lock file. Closing it releases the lock.
    """
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise BlastdetError(f"{str(out)!a}: expected a folder name in UTF-8, got other bytes") from None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BlastdetError(f"{out}: cannot create the folder ({error.strerror})") from error
    try:
        lock = (out / LOCK).open("ab")  # not "wb": the name may be a link to a file
    except OSError as error:
        raise BlastdetError(f"{out}: cannot be written to ({error.strerror})") from error
    try:
        import fcntl
    except ImportError:  # not a POSIX system: no locks
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise BlastdetError(f"{out}: {in_use}") from error
    return lock


def files_under(folder: Path, hidden: bool = True) -> Iterator[Path]:
    """All files below a folder, in a fixed order. Links to files and folders are followed; no folder is read twice.

    Raises `OSError` if a folder cannot be read.

    Parameters
    ----------
    hidden : bool
        Whether to include files and folders whose names start with a dot.
    """
    seen = {os.path.realpath(folder)}

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        shown = [name for name in sorted(folders) if hidden or not name.startswith(".")]
        shown.sort(key=lambda name: os.path.islink(f"{parent}/{name}"))  # noqa: PTH114  # the folder itself comes first
        folders[:] = []
        for name in shown:
            real = os.path.realpath(f"{parent}/{name}")
            if real not in seen and not os.path.realpath(parent).startswith(f"{real}{os.sep}"):
                seen.add(real)
                folders.append(name)
        yield from (Path(parent, name) for name in sorted(names) if hidden or not name.startswith("."))
