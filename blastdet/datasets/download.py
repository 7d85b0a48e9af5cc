"""Get a data set by its recipe: from its address, or from a copy one has, checked, and whole or not at all.

Files whose sha256 is known are recognised by it, wherever they lie in the source; names in an archive decide
nothing then. Downloads go on where they stopped, if the server lets them.
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
from blastdet.datasets.catalog import RECIPES, Recipe, added, checksums, problems, wrong_counts

Report = Callable[[str, int, int | None], None]
"""Called with the stage ("download", bytes; "unpack", files), how much is done, and of how much (None: unknown)."""

_CHUNK = 1 << 16
_RETRY_STATUS = frozenset({408, 416, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Patience:
    """How long a download waits.

    Parameters
    ----------
    timeout_s : float
        Longest silence of the server.
    attempts : int
        Attempts in a row that may bring nothing new.
    pause_s : float
        Pause before the next attempt; it doubles with every one that brought nothing.
    """

    timeout_s: float = 30.0
    attempts: int = 5
    pause_s: float = 1.0


class _InterruptedError(Exception):
    """The connection failed in a way that another attempt may mend."""


def fetch(
    recipe: Recipe,
    to: Path,
    *,
    source: str | None = None,
    patience: Patience | None = None,
    report: Report | None = None,
    folder: Path = RECIPES,
) -> Path:
    """Bring a data set to ``to/NAME``.

    Parameters
    ----------
    recipe : Recipe
    to : Path
        Folder for data sets; made where it is missing.
    source : str, optional
        A folder, an archive or an http(s) address; by default the address of the recipe.
    patience : Patience, optional
    report : callable, optional
        Told of progress.
    folder : Path
        Where the recipes lie.

    Returns
    -------
    Path
        The folder of the data set. If it is there already and nothing is wrong with it, nothing is done.

    Raises
    ------
    FetchError
        No source, a download that fails for good, a damaged archive, or files that are missing or others.
    """
    target = to / recipe.name
    if target.exists():
        faults = problems(recipe, target, folder)
        if not faults:
            return target
        raise FetchError(f"{target}: is there but incomplete ({faults[0]}); remove it or choose another --to")
    source = source or recipe.url
    if source is None:
        raise FetchError(how_to_get(recipe))
    say = report or (lambda stage, done, total: None)
    if not re.match(r"[a-z]+://", source, re.IGNORECASE):
        return _install(recipe, Path(source).expanduser(), target, say, folder)
    archive = to / f".{recipe.name}.archive"
    download(source, archive, patience=patience, report=say)
    try:
        return _install(recipe, archive, target, say, folder)
    finally:
        archive.unlink()  # also a damaged one: it would be taken for complete the next time


def how_to_get(recipe: Recipe) -> str:
    """One line that tells how to come by a set that nobody can simply download."""
    whom = f"given on request; ask {recipe.ask}" if recipe.ask else "no address to fetch it from"
    return f"{recipe.name}: {whom}. {recipe.how} Then: blastdet data get {recipe.name} --from FILE_OR_FOLDER"


def download(url: str, target: Path, *, patience: Patience | None = None, report: Report | None = None) -> None:
    """Download one file; what has come so far stays in ``target.part`` and is continued by the next call.

    Raises
    ------
    FetchError
        Not an http(s) address, an answer that will not change, or too many attempts that brought nothing.
    """
    wait = patience or Patience()
    if not url.lower().startswith(("http://", "https://")):
        raise FetchError(f"{url}: an address with http:// or https:// expected")
    try:
        urllib.parse.urlsplit(url)
    except ValueError as error:
        raise FetchError(f"{url}: not an address ({error})") from None
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
                raise FetchError(f"{url}: {error}; {failures} attempts in a row brought nothing new") from error
            time.sleep(wait.pause_s * 2**failures)
        except OSError as error:
            raise FetchError(f"{part}: cannot be written ({error.strerror or error})") from error
    _mark(part).unlink(missing_ok=True)
    part.replace(target)


def _attempt(url: str, part: Path, timeout_s: float, report: Report) -> None:
    """One request that goes on where `part` ends, or starts anew if the file has changed or cannot be continued."""
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
        raise _InterruptedError(f"{_size(part)} bytes came, {total} announced")


def _opened(request: urllib.request.Request, part: Path, timeout_s: float) -> Any:
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # what we have is longer than the file
            part.unlink(missing_ok=True)
        if error.code in _RETRY_STATUS:
            raise _InterruptedError(f"the server answered {error.code} {error.reason}") from error
        raise FetchError(f"{request.full_url}: the server answered {error.code} {error.reason}") from error
    except (ValueError, http.client.InvalidURL) as error:
        raise FetchError(f"{request.full_url}: not an address ({error})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(_reason(error)) from error
    return response


def _span(response: Any, part: Path) -> tuple[int, int | None]:
    """Where the body starts in the file, and how long the file is (None: not told)."""
    if response.status != 206:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not match or int(match[1]) != _size(part):
        part.unlink(missing_ok=True)  # cannot be put together: from the start, without a range
        raise _InterruptedError(f"a part was asked for, {response.headers.get('Content-Range')!r} came")
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _chunks(response: Any) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a chunk size that is no number
            raise _InterruptedError(_reason(error)) from error
        if not chunk:
            return
        yield chunk


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return "the server fell silent"
    return f"the connection failed ({reason})"


def _remember(mark: Path, response: Any) -> None:
    """Keep what tells this version of the file from another; without it nothing is continued."""
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


def _install(recipe: Recipe, source: Path, target: Path, report: Report, folder: Path) -> Path:
    """Build the data set in a temporary folder beside `target`, then rename it."""
    listed = checksums(recipe.name, folder)
    with _stage(target) as stage:
        with open_source(source) as members:
            if listed:
                _take_known(members, listed, stage, report)
            else:
                _take_all(members, stage, report)
        for name, file in added(recipe.name, folder).items():
            _write(stage / name, file.read_bytes())
        _check_complete(recipe, stage, source, listed)
    return target


@contextmanager
def _stage(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` at the end, or vanishes if anything goes wrong."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield stage
            stage.chmod(0o755)  # mkdtemp makes it private
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
        raise FetchError(f"{folder}: cannot be made ({error.strerror or error})") from error


def _write(file: Path, data: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    except OSError as error:
        raise FetchError(f"{file}: cannot be written ({error.strerror or error})") from error


def _check_complete(recipe: Recipe, stage: Path, source: Path, listed: dict[str, str]) -> None:
    missing = [path for path in listed if not (stage / path).is_file()]
    if missing:
        raise FetchError(
            f"{source}: {len(missing)} of {len(listed)} files of {recipe.name} not found there unchanged, "
            f"the first is {missing[0]}"
        )
    wrong = wrong_counts(recipe.expect, stage)
    if wrong:
        raise FetchError(f"{source}: not a whole copy of {recipe.name}: {wrong[0]}")
