"""The journal of a run: one line for each smear that is done, so that ``--resume`` can go on after a kill.

The first line says what the run was asked; a journal of another model or other settings is refused, not mixed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blastdet.core.atomic_io import write_text
from blastdet.core.errors import ConfigError, differing

RUN_LOG = "run.jsonl"


class RunLog:
    """``run.jsonl`` in the output folder.

    Parameters
    ----------
    folder : Path
    settings : dict
        What a smear's result depends on besides its picture.
    resume : bool
        Keep what an earlier run with the same settings did.

    Raises
    ------
    ConfigError
        If there is a journal of other settings to resume.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], resume: bool) -> None:
        self.path = folder / RUN_LOG
        self._done: dict[str, str] = {}
        head = json.loads(json.dumps({"settings": settings}))
        if resume and self.path.is_file():
            lines = list(_whole_lines(self.path))
            if other := differing(lines[0] if lines else None, head):
                what = ", ".join(key.removeprefix("settings.") for key in other)
                raise ConfigError(f"{self.path}: another model or other settings before ({what}); leave out --resume")
            for number, entry in enumerate(lines[1:], start=2):
                if not isinstance(entry, dict) or not {"name", "image_sha256", "sorted_counts"} <= entry.keys():
                    raise ConfigError(f"{self.path}: line {number} is none of ours; leave out --resume")
                self._done[str(entry["name"])] = str(entry["image_sha256"])
            _keep(self.path, [head, *lines[1:]])
        else:
            _keep(self.path, [head])

    def has(self, name: str, image_sha256: str) -> bool:
        """Whether the very same picture was done under this name."""
        return self._done.get(name) == image_sha256

    def add(self, entry: dict[str, Any]) -> None:
        """Note that a smear is done; its files are written by now.

        Raises
        ------
        OSError
            If it cannot be noted, or somebody took the journal away; what was noted before stays as it is.
        """
        with self.path.open("r+b") as stream:
            end = stream.seek(0, os.SEEK_END)
            try:
                stream.write(json.dumps(entry).encode() + b"\n")
                stream.flush()
            except OSError:
                stream.truncate(end)  # half a line would swallow the next one
                raise
        self._done[entry["name"]] = entry["image_sha256"]

    def entries(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """What was noted of the smears with these names, in the order of the names, the latest note of each."""
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
    """Lines up to one that a kill cut short."""
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
