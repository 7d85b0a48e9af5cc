"""The log of a run: one line for each finished image, so that ``--resume`` can continue after an interruption.

The first line holds the settings. A log made with other settings, another model or other program versions is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

from blastdet.core.atomic_io import write_text
from blastdet.core.errors import ConfigError, differing

RUN_LOG = "run.jsonl"

Existing = Literal["refuse", "resume", "overwrite"]
"""What to do where the output folder holds a run already."""

_KEYS = {"name", "image_sha256", "counts", "size_wh", "mpp", "mpp_measured"}


class RunLog:
    """``run.jsonl`` in the output folder.

    Parameters
    ----------
    folder : Path
    settings : dict
        What the results depend on besides the images.
    existing : {"refuse", "resume", "overwrite"}

    Raises
    ------
    ConfigError
        If there is a log that must not be replaced, or one of other settings that cannot be continued.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], existing: Existing = "refuse") -> None:
        self.path = folder / RUN_LOG
        self._done: dict[str, dict[str, Any]] = {}
        head = json.loads(json.dumps({"settings": settings}))
        entries: list[dict[str, Any]] = []
        if self.path.is_file():
            if (
                existing == "refuse" and len(list(_whole_lines(self.path))) > 1
            ):  # a run that finished no image is no loss
                raise ConfigError(
                    f"{folder}: contains the results of an earlier run. Continue it with --resume, replace it with "
                    "--overwrite, or choose another --out"
                )
            if existing == "resume":
                entries = self._read(head)
        for entry in entries:
            self._remember(entry)
        _keep(self.path, [head, *entries])

    def _read(self, head: dict[str, Any]) -> list[dict[str, Any]]:
        lines = list(_whole_lines(self.path))
        if other := differing(lines[0] if lines else None, head):
            what = ", ".join(key.removeprefix("settings.") for key in other)
            raise ConfigError(
                f"{self.path}: cannot resume, the earlier run differs in {what}. Choose another --out, or --overwrite"
            )
        for number, entry in enumerate(lines[1:], start=2):
            if not isinstance(entry, dict) or not entry.keys() >= _KEYS:
                raise ConfigError(f"{self.path}: line {number} is not an entry of a run log. Use --overwrite")
        return lines[1:]

    def _remember(self, entry: dict[str, Any]) -> None:
        self._done[str(entry["name"])] = {key: entry[key] for key in ("image_sha256", "size_wh", "mpp", "mpp_measured")}

    def has(self, name: str, image_sha256: str) -> bool:
        """Whether the very same image was finished under this name."""
        return name in self._done and self._done[name]["image_sha256"] == image_sha256

    def measured(self, size_wh: tuple[int, int], names: Collection[str]) -> list[tuple[float, float]]:
        """Scales measured on enough red cells, of the finished images of this size and with these names."""
        return [
            (float(done["mpp"][0]), float(done["mpp"][1]))
            for name, done in list(self._done.items())  # a copy: another thread may add an image meanwhile
            if name in names and done["mpp_measured"] and list(done["size_wh"]) == list(size_wh)
        ]

    def add(self, entry: dict[str, Any]) -> None:
        """Record that an image is finished; its files are written by now.

        Raises
        ------
        OSError
            If it cannot be recorded, or the log was removed; earlier entries stay as they are.
        """
        with self.path.open("r+b") as stream:
            end = stream.seek(0, os.SEEK_END)
            try:
                stream.write(json.dumps(entry).encode() + b"\n")
                stream.flush()
            except OSError:
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
            except ValueError:  # cut short, or not text
                return


def _keep(path: Path, lines: list[dict[str, Any]]) -> None:
    try:
        write_text(path, (json.dumps(line) + "\n" for line in lines))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
