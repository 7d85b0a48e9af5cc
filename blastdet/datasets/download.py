"""Install a dataset of the catalog, from its address or from a local copy.

The result is verified, and nothing is installed if a file is missing. Files with a known sha256 are identified by it,
whatever they are called in the source. Interrupted downloads are resumed if the server supports it.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blastdet import __version__
from blastdet.datasets.archives import FetchError, Member, open_source, without_common_folder
from blastdet.datasets.catalog import CATALOG, CatalogEntry, added, checksums, problems, wrong_counts

Report = Callable[[str, int, int | None], None]
"""Called with the stage ("download" counts bytes, "unpack" counts files), the amount done, and the total or None."""

_CHUNK = 1 << 16
_RETRY_STATUS = frozenset({408, 416, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Patience:
    """Timeouts and retries of a download.

    Parameters
    ----------
    timeout_s : float
        Seconds to wait for the server.
    attempts : int
        Number of attempts in a row that may fail to make progress.
    pause_s : float
        Seconds before the next attempt. Doubles after each attempt without progress.
    """

    timeout_s: float = 30.0
    attempts: int = 5
    pause_s: float = 1.0


class _InterruptedError(Exception):
    """The connection failed in a way that a retry may fix."""


def fetch(
    entry: CatalogEntry,
    to: Path,
    *,
    source: str | None = None,
    patience: Patience | None = None,
    report: Report | None = None,
    folder: Path = CATALOG,
) -> Path:
    """Install a dataset in ``to/NAME``.

    Raises `FetchError` if there is no source, the download fails, the archive is damaged, or files are missing or
    differ.

    Parameters
    ----------
    to : Path
        Folder for datasets. Created if it does not exist.
    source : str, optional
        A folder, an archive or an http(s) address. Default: the address of the entry.
    report : callable, optional
        Progress callback, see `Report`.
    folder : Path
        Folder of the catalog.

    Returns
    -------
    Path
        Folder of the dataset. If it exists and is complete, nothing is done.
    """
    target = to / entry.name
    if target.exists():
        faults = problems(entry, target, folder)
        if not faults:
            return target
        raise FetchError(f"{target}: incomplete copy ({faults[0]}). Delete it, or choose another folder with --to")
    source = source or entry.url
    if source is None:
        raise FetchError(how_to_get(entry))
    say = report or (lambda stage, done, total: None)
    if not re.match(r"[a-z]+://", source, re.IGNORECASE):
        return _install(entry, Path(source).expanduser(), target, say, folder)
    archive = to / f".{entry.name}.archive"
    download(source, archive, patience=patience, report=say)
    try:
        return _install(entry, archive, target, say, folder)
    finally:
        archive.unlink()  # even if damaged: the next call would take it for complete


def how_to_get(entry: CatalogEntry) -> str:
    """How to get a dataset that cannot be downloaded automatically, in one line."""
    reason = f"available on request from {entry.ask}" if entry.ask else "cannot be downloaded automatically"
    return f"{entry.name}: {reason}. {entry.how} Then: blastdet data get {entry.name} --from FILE_OR_FOLDER"


def download(url: str, target: Path, *, patience: Patience | None = None, report: Report | None = None) -> None:
    """Download one file. An incomplete download stays in ``target.part`` and is resumed by the next call.

    Raises `FetchError` if the address is not http(s), the server refuses, or too many attempts in a row make no
    progress.
    """
    wait = patience or Patience()
    if not url.lower().startswith(("http://", "https://")):
        raise FetchError(f"{url}: expected an address that starts with http:// or https://")
    try:
        urllib.parse.urlsplit(url)
    except ValueError as error:
        raise FetchError(f"{url}: not a valid address ({error})") from None
    part = target.with_name(f"{target.name}.part")
    _make_folder(target.parent)
    furthest, failures = _size(part), 0
    while True:
        try:
            _attempt(url, part, wait.timeout_s, report or (lambda stage, done, total: None))
            break
        except _InterruptedError as error:
            failures = 0 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures >= wait.attempts:
                raise FetchError(f"{url}: {error}; gave up after {failures} attempts without progress") from error
            time.sleep(wait.pause_s * 2**failures)
        except OSError as error:
            raise FetchError(f"{part}: cannot be written ({error.strerror or error})") from error
    _mark(part).unlink(missing_ok=True)
    part.replace(target)


def _attempt(url: str, part: Path, timeout_s: float, report: Report) -> None:
    """One request. Resumes at the end of `part`, or starts again if the file changed or cannot be resumed."""
    request = urllib.request.Request(url, headers={"User-Agent": f"blastdet/{__version__}"})
    have, mark = _size(part), _mark(part)
    if have and mark.is_file():
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", mark.read_text(encoding="ascii"))
    with _opened(request, part, timeout_s) as response:
        start, total = _span(response, part)
        _remember(mark, response)
        with part.open("ab" if start else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                report("download", file.tell(), total)
    if total is not None and _size(part) != total:
        raise _InterruptedError(f"expected {total} bytes, got {_size(part)}")


def _opened(request: urllib.request.Request, part: Path, timeout_s: float) -> Any:
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # our part is longer than the file
            part.unlink(missing_ok=True)
        if error.code in _RETRY_STATUS:
            raise _InterruptedError(f"the server answered {error.code} {error.reason}") from error
        raise FetchError(f"{request.full_url}: the server answered {error.code} {error.reason}") from error
    except (ValueError, http.client.InvalidURL) as error:
        raise FetchError(f"{request.full_url}: not a valid address ({error})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(_reason(error)) from error
    return response


def _span(response: Any, part: Path) -> tuple[int, int | None]:
    """Position of the body in the file, and length of the file (None if unknown)."""
    if response.status != 206:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not match or int(match[1]) != _size(part):
        part.unlink(missing_ok=True)  # does not fit: start again, without a range
        raise _InterruptedError(f"requested a part of the file, got {response.headers.get('Content-Range')!r}")
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _chunks(response: Any) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an invalid chunk size
            raise _InterruptedError(_reason(error)) from error
        if not chunk:
            return
        yield chunk


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return "the server stopped responding"
    return f"the connection failed ({reason})"


def _remember(mark: Path, response: Any) -> None:
    """Store what identifies this version of the file. Without it, a download is not resumed."""
    tag = response.headers.get("ETag", "")
    version = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    if version.isascii() and version:
        mark.write_text(version, encoding="ascii")
    else:
        mark.unlink(missing_ok=True)


def _mark(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _install(entry: CatalogEntry, source: Path, target: Path, report: Report, folder: Path) -> Path:
    """Build the dataset in a temporary folder next to `target`, then rename it."""
    listed = checksums(entry.name, folder)
    with _stage(target) as stage:
        with open_source(source) as members:
            if listed:
                _take_known(members, listed, stage, report)
            else:
                _take_all(members, stage, report)
        for name, file in added(entry.name, folder).items():
            _write(stage / name, file.read_bytes())
        _check_complete(entry, stage, source, listed)
    return target


@contextmanager
def _stage(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` at the end, or is deleted on an error."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield stage
            stage.chmod(0o755)  # mkdtemp creates it private
            stage.replace(target)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise FetchError(f"{target}: cannot be written ({error.strerror or error})") from error


def _take_known(members: list[Member], listed: dict[str, str], stage: Path, report: Report) -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path, digest in listed.items():
        places[digest].append(path)
    for n, member in enumerate(members, start=1):
        data = member.read()
        for path in places.pop(hashlib.sha256(data).hexdigest(), ()):
            _write(stage / path, data)
        report("unpack", n, len(members))


def _take_all(members: list[Member], stage: Path, report: Report) -> None:
    for n, member in enumerate(without_common_folder(members), start=1):
        _write(stage / member.name, member.read())
        report("unpack", n, len(members))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FetchError(f"{folder}: cannot be created ({error.strerror or error})") from error


def _write(file: Path, data: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    except OSError as error:
        raise FetchError(f"{file}: cannot be written ({error.strerror or error})") from error


def _check_complete(entry: CatalogEntry, stage: Path, source: Path, listed: dict[str, str]) -> None:
    missing = [path for path in listed if not (stage / path).is_file()]
    if missing:
        raise FetchError(
            f"{source}: expected {len(listed)} files of {entry.name}, {len(missing)} are missing or changed, "
            f"first: {missing[0]}"
        )
    wrong = wrong_counts(entry.expect, stage)
    if wrong:
        raise FetchError(f"{source}: incomplete copy of {entry.name}: {wrong[0]}")
