"""The log of a run: one line for each finished image, so that ``--resume`` can continue after an interruption.

The first line holds the settings. A log made with other settings, another model or other program versions is refused.
Each entry has a checksum of itself and of the files of its image: what was changed since is no result to rely on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from blastdet.core.atomic_io import refuse_existing, write_text
from blastdet.core.errors import ConfigError, differing, listed, one_line
from blastdet.core.model_card import sha256_of
from blastdet.core.types import Scale
from blastdet.inference.differential import WhiteCells
from blastdet.inference.outputs.cell_record import is_cell_record

RUN_LOG = "run.jsonl"
PAGE_IMAGES = "page"
"""Folder of the images of a run's page."""

WITH_CELLS = {"xlsx", "html"}
"""Formats of a run that show single cells, which the log then keeps."""

_CHECKSUM = "sha256"

Existing = Literal["refuse", "resume", "overwrite"]
"""What to do where the output folder holds a run already."""

_KINDS: dict[str, Any] = {
    "name": str,
    "image_sha256": str,
    "counts": dict,
    "size_wh": list,
    "mpp": list,
    "mpp_measured": bool,
    "area_mm2": (int, float),
    "seconds": (int, float),
    "mpp_source": str,
    "warnings": list,
}


class RunLog:
    """``run.jsonl`` in the output folder.

    Parameters
    ----------
    folder : Path
    settings : dict
        What the results depend on besides the images.
    existing : {"refuse", "resume", "overwrite"}
    files : iterable of Path
        Files that the run will write. In a new run, none of them may exist.
    keep : iterable of Path
        Files that the run still needs. ``"overwrite"`` removes all others that the earlier run lists as its own.

    Raises
    ------
    ConfigError
        If there is a log or a file that must not be replaced, or a log of other settings that cannot be continued.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        existing: Existing = "refuse",
        files: Iterable[Path] = (),
        keep: Iterable[Path] = (),
    ) -> None:
        self.path = folder / RUN_LOG
        self._done: dict[str, dict[str, Any]] = {}
        self._changed: set[str] = set()
        head = json.loads(json.dumps({"settings": settings}))
        entries: list[dict[str, Any]] = []
        if existing == "refuse" and self._has_entries():
            raise ConfigError(
                f"{folder}: contains the results of an earlier run. Continue it with --resume, replace it with "
                "--overwrite, or choose another --out"
            )
        if existing == "resume" and self.path.is_file():
            entries = self._read(head)
        elif existing == "overwrite":
            _remove(folder, self._files(), {os.path.realpath(path) for path in keep})
        else:
            refuse_existing(files)  # no run log lists them: another program may have written them
        for entry in entries:
            self._remember(entry)
        _keep(self.path, [head, *entries])

    def _has_entries(self) -> bool:
        """Whether there is more than the settings, readable or not: a run that finished no image is no loss."""
        if not self.path.is_file():
            return False
        with self.path.open("rb") as stream:
            lines = [line for line in islice(stream, 2) if line.strip()]
        return len(lines) > 1 or (len(lines) == 1 and not lines[0].startswith(b'{"settings"'))

    def _files(self) -> list[str]:
        """Files that the entries of the log list, relative to its folder."""
        return _listed(self.path) if self.path.is_file() else []

    def _read(self, head: dict[str, Any]) -> list[dict[str, Any]]:
        lines = list(_whole_lines(self.path))
        if other := differing(lines[0] if lines else None, head):
            what = listed([key.removeprefix("settings.") for key in other])
            raise ConfigError(
                f"{self.path}: cannot resume, the earlier run differs in {what}. Choose another --out, or --overwrite"
            )
        formats = head["settings"].get("formats", ())
        has_coco, has_cells = "coco" in formats, not WITH_CELLS.isdisjoint(formats)
        has_second_stage = "second_stage" in head["settings"].get("model", ())
        for number, entry in enumerate(lines[1:], start=2):
            is_whole = _is_entry(entry, has_coco, has_second_stage)
            if not is_whole or (has_cells and not is_cell_record(entry.get("cells"))):
                raise ConfigError(f"{self.path}: line {number} is not an entry of a run log. Use --overwrite")
        return lines[1:]

    def _remember(self, entry: dict[str, Any]) -> None:
        name = str(entry["name"])
        kept = {key: entry[key] for key in ("image_sha256", "size_wh", "mpp", "mpp_measured")}
        self._done[name] = {**kept, "outputs": entry.get("outputs", {})}
        if entry.get(_CHECKSUM) == _checksum(entry):
            self._changed.discard(name)
        else:
            self._changed.add(name)

    def has(self, name: str, image_sha256: str, mpp: Scale | None = None) -> bool:
        """Whether the very same image was finished under this name, and at this scale if one is passed."""
        done = self._done.get(name)
        if done is None or done["image_sha256"] != image_sha256:
            return False
        return mpp is None or tuple(done["mpp"]) == tuple(mpp)

    def changed(self, name: str) -> str | None:
        """The first file of a finished image that is not as it was written: it was edited, damaged or removed.

        Returns
        -------
        str or None
            Its name in the folder; that of the log itself if the entry was edited. ``None`` if all is whole.
        """
        if name in self._changed:
            return RUN_LOG
        for file, sha256 in self._done[name]["outputs"].items():
            path = self.path.parent / file
            if not path.is_file() or sha256_of(path) != sha256:
                return str(file)
        return None

    def measured(self, size_wh: tuple[int, int], names: Collection[str]) -> list[tuple[float, float]]:
        """Scales measured on enough red cells, of the finished images of this size and with these names."""
        return [
            (float(done["mpp"][0]), float(done["mpp"][1]))
            for name, done in list(self._done.items())  # a copy: another thread may add an image meanwhile
            if name in names and done["mpp_measured"] and list(done["size_wh"]) == list(size_wh)
            if name not in self._changed
        ]

    def add(self, entry: dict[str, Any]) -> None:
        """Record that an image is finished; its files are written by now.

        Raises `OSError` if it cannot be recorded, or the log was removed; earlier entries stay as they are.
        """
        entry = {**entry, _CHECKSUM: _checksum(entry)}
        line = json.dumps(entry).encode() + b"\n"
        with self.path.open("r+b", buffering=0) as stream:  # a buffer would write its rest after the error
            end = stream.seek(0, os.SEEK_END)
            try:
                while line:
                    line = line[stream.write(line) :]
            except OSError as error:
                error.filename = error.filename or str(self.path)
                stream.truncate(end)  # half a line would corrupt the next one
                raise
        self._remember(entry)

    def entries(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """Entries of the images with these names, in the order of the names; the latest of each."""
        if not self.path.is_file():
            return
        offsets: dict[str, int] = {}
        with self.path.open("rb") as stream:
            stream.readline()
            offset = stream.tell()
            for line in stream:
                offsets[json.loads(line)["name"]] = offset
                offset += len(line)
            for name in names:
                if name in offsets:
                    stream.seek(offsets[name])
                    yield json.loads(stream.readline())


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines up to one that an interruption cut short."""
    with path.open("rb") as stream:
        for line in stream:
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):  # cut short, or not text
                return


def results_below(folder: Path) -> frozenset[str]:
    """Real paths of what earlier runs wrote into a folder or folders in it, as their run logs list it.

    Images among them are overlays and crops of cells: counted as fields of a smear, they would make a number wrong.
    """
    found: set[str] = set()
    for log in folder.rglob(RUN_LOG):
        root = os.path.realpath(log.parent)
        found.update(os.path.realpath(Path(root, file)) for file in _listed(log))
        found.update(os.path.realpath(file) for file in Path(root, PAGE_IMAGES).rglob("*"))
    return frozenset(found)


def _listed(log: Path) -> list[str]:
    listed = (entry.get("files") for entry in _whole_lines(log) if isinstance(entry, dict))
    return [file for files in listed if isinstance(files, list) for file in files if isinstance(file, str)]


def _checksum(entry: dict[str, Any]) -> str:
    """SHA-256 of an entry without its checksum."""
    rest = {key: value for key, value in entry.items() if key != _CHECKSUM}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def _is_entry(entry: Any, has_coco: bool, has_second_stage: bool) -> bool:
    """Whether a line is what `Batch` records of an image: someone may have edited the file."""
    if not isinstance(entry, dict) or not all(_is(entry.get(key), kind) for key, kind in _KINDS.items()):
        return False
    white = entry.get("white_cells")
    return (
        all(_is(number, int) and number >= 0 for number in entry["counts"].values())
        and _are(entry["size_wh"], int, 2)
        and _are(entry["mpp"], (int, float), 2)
        and (_is_count(white) if has_second_stage else white is None)
        and all(_is(line, str) for line in entry["warnings"])
        and (not has_coco or (_is(entry.get("image"), dict) and _are(entry.get("annotations"), dict)))
    )


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool) and value == value


def _is_count(white: Any) -> bool:
    try:
        WhiteCells.from_json(white)
    except ValueError:
        return False
    return True


def _are(values: Any, kind: Any, n: int | None = None) -> bool:
    return isinstance(values, list) and len(values) == (n or len(values)) and all(_is(value, kind) for value in values)


def _remove(folder: Path, files: Iterable[str], keep: Collection[str]) -> None:
    """Remove files of an earlier run, and the folders that they leave empty.

    Someone may have edited the log: nothing outside the folder is touched, nor a folder or a link to one.
    """
    root = os.path.realpath(folder)
    for name in files:
        path = Path(root, name)
        if not path.is_file() or os.path.realpath(path) in keep:
            continue
        if not Path(os.path.realpath(path.parent)).is_relative_to(root):
            continue
        try:
            path.unlink()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be removed ({error.strerror})") from error
        for parent in path.relative_to(root).parents[:-1]:
            with suppress(OSError):  # not empty
                Path(root, parent).rmdir()


def _keep(path: Path, lines: list[dict[str, Any]]) -> None:
    try:
        write_text(path, (json.dumps(line) + "\n" for line in lines))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({one_line(error)})") from error
