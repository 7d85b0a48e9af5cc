"""A FiftyOne dataset of smears: truth, detections, the cells worth looking at, saved views, a map, its own figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blastdet.core.errors import ReviewError
from blastdet.core.model_card import sha256_of
from blastdet.core.palette import HEX
from blastdet.core.types import CELL_CLASSES, NUCLEATED, Dataset, Detections, Sample
from blastdet.evaluation.confusion import IOU
from blastdet.evaluation.predict import Predictions
from blastdet.review.cells import VIEWS, Cell, View, by_smear, in_view, seen_twice
from blastdet.review.embedding import Embedding, as_map
from blastdet.review.page import model_sha256

FIELDS = ("truth", "found", "cells")
"""Fields of labels: as annotated, as found, and one label for each cell that a view or the map shows."""

EVALUATION = "fiftyone"
"""Key of FiftyOne's own evaluation."""

MAP = "second_stage"
"""Key of the map of cells that the Embeddings panel shows."""

IGNORED = "ignored"
"""How a region of the truth that is not to be counted is labelled."""

_GREY = "#9a9aa5"
_LAYOUT = 2  # of the fields below; a session that was begun with others cannot go on
_SHOWN = ("errors", "smear_group", "smear_cluster", "smear_label", "mpp")
_BATCH = 200


@dataclass(frozen=True)
class Reviewed:
    """What a session shows.

    Parameters
    ----------
    dataset : Dataset
        From `review.cells.cells_of`, as the cells are.
    cells : sequence of Cell
    predictions : Predictions
    embedding : Embedding, optional
        Of `cells`.
    """

    dataset: Dataset
    cells: Sequence[Cell]
    predictions: Predictions
    embedding: Embedding | None = None


def load(
    fiftyone: Any,
    name: str,
    reviewed: Reviewed,
    persistent: bool = True,
    progress: Callable[[], None] = lambda: None,
) -> Any:
    """A FiftyOne dataset of this name: the one that is there, if it is of these smears and this model.

    Parameters
    ----------
    fiftyone : module
    name : str
    reviewed : Reviewed
    persistent : bool
        Whether it outlives the session.
    progress : callable
        Called once for each smear.

    Raises
    ------
    ReviewError
        If another dataset of this name exists.
    """
    about: dict[str, Any] = {"model_sha256": model_sha256(reviewed.predictions), "model": reviewed.predictions.name}
    about["layout"] = _LAYOUT
    about["smears"] = [sha256_of(sample.path) for sample in reviewed.dataset]
    if fiftyone.dataset_exists(name):
        there = fiftyone.load_dataset(name)
        if {key: there.info.get(key) for key in about} != about:
            raise ReviewError(
                f"--name {name}: the database holds a review of other data or of another model, or of an older blastdet"
            )
        if there.info.get("loaded"):
            return there
        there.delete()  # by a session that was killed while it loaded
    made = fiftyone.Dataset(name, persistent=persistent)
    made.info = about
    _declare(fiftyone, made)
    classify_cells, rows = _CellClassifier(made), by_smear(reviewed.dataset, reviewed.cells)
    for start in range(0, len(rows), _BATCH):
        documents = []
        for i in range(start, min(start + _BATCH, len(rows))):
            mine = [reviewed.cells[row] for row in rows[i]]
            documents.append(_sample(made, reviewed, i, mine, about["smears"][i]))
            classify_cells(fiftyone, documents[-1])
            progress()
        # As FiftyOne stores samples: to make and store its own objects takes many times as long.
        made._sample_collection.insert_many(documents)
    classify_cells.finish()
    _appearance(fiftyone, made)
    _allow_drawing(made)
    _save_views(made, reviewed)
    if reviewed.embedding is not None:
        _draw_map(made, reviewed)
    made.info["loaded"] = True
    made.save()
    return made


_STRINGS = ("kind", "was", "true_class", "found_class")
_FLOATS = ("size_um", "iou", "blast_probability", "suspicion", "novelty")
_FLAGS = ("unsure", "annotated")


def _declare(fiftyone: Any, made: Any) -> None:
    """Fields of smears and of labels, with their types."""
    made.media_type = "image"
    for name in ("smear_group", "smear_cluster", "smear_label", "sha256"):
        made.add_sample_field(name, fiftyone.StringField)
    made.add_sample_field("errors", fiftyone.IntField)
    made.add_sample_field("mpp", fiftyone.ListField, subfield=fiftyone.FloatField)
    made.add_sample_field("keys_at_start", fiftyone.ListField)
    made.add_sample_field("classes_at_start", fiftyone.ListField)
    for field in FIELDS:
        made.add_sample_field(field, fiftyone.EmbeddedDocumentField, embedded_doc_type=fiftyone.Detections)
        inside = f"{field}.detections"
        kinds = {fiftyone.StringField: _STRINGS, fiftyone.FloatField: _FLOATS, fiftyone.BooleanField: _FLAGS}
        for kind, names in kinds.items():
            for name in names:
                made.add_sample_field(f"{inside}.{name}", kind)
        made.add_sample_field(f"{inside}.key", fiftyone.ListField, subfield=fiftyone.FloatField)
        made.add_sample_field(f"{inside}.views", fiftyone.ListField, subfield=fiftyone.StringField)
    for name in VIEWS:
        made.add_sample_field(f"cells.detections.rank_{name}", fiftyone.FloatField)


class _CellClassifier:
    """FiftyOne's own evaluation, within IoU alone and blind to classes, for its panels; ours is in the views.

    It pairs greedily by score where ours is optimal, and knows no regions to ignore.
    """

    def __init__(self, made: Any) -> None:
        from fiftyone.utils.eval.coco import COCOEvaluationConfig

        self.made = made
        self.matches: list[Any] = []
        self.method = COCOEvaluationConfig("found", "truth", iou=IOU, classwise=False).build()
        self.method.register_run(made, EVALUATION)
        self.method.register_samples(made, EVALUATION)

    def __call__(self, fiftyone: Any, document: dict[str, Any]) -> None:
        """Evaluate one smear, its document getting what FiftyOne says of each label."""
        light = {field: _light(fiftyone, document[field]["detections"]) for field in ("truth", "found")}
        matches = self.method.evaluate(light, eval_key=EVALUATION)
        self.matches += matches
        for field, labels in light.items():
            for raw, label in zip(document[field]["detections"], labels.detections, strict=True):
                for key in (EVALUATION, f"{EVALUATION}_id", f"{EVALUATION}_iou"):
                    if (value := label.get_attribute_value(key, None)) is not None:
                        raw[key] = value
        kinds = [label.get_attribute_value(EVALUATION) for labels in light.values() for label in labels.detections]
        found = kinds[len(light["truth"].detections) :]
        document[f"{EVALUATION}_tp"], document[f"{EVALUATION}_fp"] = found.count("tp"), found.count("fp")
        document[f"{EVALUATION}_fn"] = kinds.count("fn")

    def finish(self) -> None:
        """Store the figures."""
        results = self.method.generate_results(self.made, self.matches, eval_key=EVALUATION)
        self.method.save_run_results(self.made, EVALUATION, results)
        self.method.add_fields_to_sidebar_group(self.made, EVALUATION, omit_fields=("found", "truth"))


def _light(fiftyone: Any, labels: Sequence[dict[str, Any]]) -> Any:
    made = []
    for raw in labels:
        words = {key: raw[key] for key in ("label", "bounding_box", "confidence") if key in raw}
        made.append(fiftyone.Detection(id=raw["_id"], **words))
    return fiftyone.Detections(detections=made)


def _sample(made: Any, reviewed: Reviewed, index: int, cells: Sequence[Cell], sha256: str) -> dict[str, Any]:
    """A smear as FiftyOne stores it."""
    from bson import ObjectId

    sample, now = reviewed.dataset.samples[index], datetime.now(UTC)
    truth = sample.truth if sample.truth is not None else Detections.empty()
    candidates = reviewed.predictions.candidates[index]
    paired_truth = {cell.truth: cell for cell in cells if cell.truth >= 0}
    paired_found = {cell.found: cell for cell in cells if cell.found >= 0}
    labels = {
        "truth": _labels(sample, truth, {row: paired_truth.get(row) for row in range(len(truth))}, True),
        "found": _labels(sample, candidates, dict(sorted(paired_found.items()))),
        "cells": [_worth_it(sample, cell) for cell in cells if _is_shown(cell)],
    }
    return {
        "_id": ObjectId(),
        "_dataset_id": made._doc.id,
        "_media_type": "image",
        "_rand": int(sha256[:12], 16) / 16**12,
        "created_at": now,
        "last_modified_at": now,
        "filepath": str(Path(sample.path).resolve()),
        "tags": [sample.split] if sample.split else [],
        "metadata": {"_cls": "ImageMetadata", "width": sample.size_wh[0], "height": sample.size_wh[1]},
        **{f"smear_{key}": getattr(sample, key) for key in ("group", "cluster", "label")},
        "mpp": list(sample.mpp) if sample.mpp is not None else None,
        "errors": sum(cell.kind != "hit" for cell in cells),
        "sha256": sha256,
        "keys_at_start": [label["key"] for label in labels["truth"]],
        "classes_at_start": [label["was"] if label["was"] != IGNORED else "" for label in labels["truth"]],
        **{field: {"_cls": "Detections", "detections": some} for field, some in labels.items()},
    }


def _is_shown(cell: Cell) -> bool:
    return cell.name in NUCLEATED or bool(_views_of(cell))


def _labels(
    sample: Sample, cells: Detections, rows: dict[int, Cell | None], annotated: bool = False
) -> list[dict[str, Any]]:
    made = []
    for row, cell in rows.items():
        box = cells.boxes_xyxy[row].astype(float).tolist()
        if any(side != side for side in box):
            continue
        name, key = CELL_CLASSES[cells.label[row]], box if cell is None else list(cell.box)
        if annotated and cells.ignore is not None and cells.ignore[row]:
            name = IGNORED
        about = {} if cell is None else _attributes(cell)
        if not annotated:
            about["confidence"] = float(cells.score[row])
        made.append(_label(sample, box, name, key=key, **about))
    return made


def _worth_it(sample: Sample, cell: Cell) -> dict[str, Any]:
    about = _attributes(cell) | {f"rank_{name}": float(view.order(cell)) for name, view in _views_of(cell)}
    about |= {"true_class": cell.true_class, "found_class": cell.found_class, "annotated": cell.truth >= 0}
    if cell.score == cell.score:
        about["confidence"] = cell.score
    return _label(sample, cell.box, cell.name, key=list(cell.box), **about)


def _label(sample: Sample, box: Sequence[float], name: str, **attributes: Any) -> dict[str, Any]:
    from bson import ObjectId

    (x1, y1, x2, y2), (width, height) = box, sample.size_wh
    if sample.mpp is not None:
        attributes["size_um"] = round(math.sqrt((x2 - x1) * sample.mpp[0] * (y2 - y1) * sample.mpp[1]), 2)
    place = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]
    words = {"attributes": {}, "tags": [], "label": name, "was": name, "bounding_box": place}
    return {"_id": ObjectId(), "_cls": "Detection", **words, **attributes}


def _views_of(cell: Cell) -> list[tuple[str, View]]:
    return [(name, view) for name, view in VIEWS.items() if view.holds(cell)]


def _attributes(cell: Cell) -> dict[str, Any]:
    numbers = {key: getattr(cell, key) for key in ("iou", "blast_probability", "suspicion", "novelty")}
    known = {key: round(value, 4) for key, value in numbers.items() if value == value}
    return {"kind": cell.kind, "unsure": cell.unsure, "views": [name for name, _ in _views_of(cell)], **known}


def _appearance(fiftyone: Any, made: Any) -> None:
    """Our colours; fields that tell a reviewer something are open in the sidebar, the rest is folded away."""
    fields = []
    for field in FIELDS:
        shown = {name: _paler(colour) if field == "found" else colour for name, colour in HEX.items()}
        colours = [{"value": name, "color": colour} for name, colour in {**shown, IGNORED: _GREY}.items()]
        fields.append({"path": field, "colorByAttribute": "label", "valueColors": colours})
    made.app_config.color_scheme = fiftyone.ColorScheme(color_by="value", fields=fields)
    groups = fiftyone.DatasetAppConfig.default_sidebar_groups(made)
    named = {group.name: group for group in groups}
    plain = named.get("primitives")
    if plain is not None:
        named["other"].paths = [*(path for path in plain.paths if path not in _SHOWN), *named["other"].paths]
        plain.paths = [path for path in plain.paths if path in _SHOWN]
    for name in ("metadata", "other"):
        if name in named:
            named[name].expanded = False
    made.app_config.sidebar_groups = list(groups)
    made.save()


def _paler(colour: str) -> str:
    """The colour of a class for boxes of a model, half way to white, so that they can be told from annotated ones."""
    return "#" + "".join(f"{(int(colour[i : i + 2], 16) + 255) // 2:02x}" for i in (1, 3, 5))


def _allow_drawing(made: Any) -> None:
    """The App's Annotate tab draws, moves and relabels boxes of the truth, with our classes."""
    schema = {"type": "detections", "component": "radio", "classes": list(CELL_CLASSES), "attributes": []}
    made.set_label_schemas({"truth": schema})
    made.activate_label_schemas("truth")


def _save_views(made: Any, reviewed: Reviewed) -> None:
    """Two saved views for each of ours that holds a cell: smears with only these cells, and the cells one by one."""
    from fiftyone import ViewField

    for name, view in VIEWS.items():
        chosen = in_view(reviewed.cells, name)
        if not chosen:
            continue
        said = ViewField("views").contains(name)
        smears = made
        for field in ("truth", "found"):
            smears = smears.filter_labels(field, said, only_matches=False)
        smears = smears.match((ViewField("truth.detections").length() + ViewField("found.detections").length()) > 0)
        made.save_view(view.title, smears, description=f"{len(chosen)} cells, on their smears")
        one_by_one = made.filter_labels("cells", said).to_patches("cells").sort_by(f"cells.rank_{name}")
        made.save_view(f"{view.title}: cells", one_by_one, description=f"{len(chosen)} cells, most telling first")
    made.save_view("worst smears first", made.sort_by("errors", reverse=True))
    twice = seen_twice(reviewed.dataset, made.values("sha256"))
    if twice:
        ids = made.values("id")
        shown = made.select([ids[i] for i in twice], ordered=True)
        made.save_view("fields seen twice", shown, description="same file, or same group of overlapping fields")


def _draw_map(made: Any, reviewed: Reviewed) -> None:
    """Points of cells for the Embeddings panel; colour them by ``cells.kind`` there."""
    import fiftyone.brain as brain

    embedding = reviewed.embedding
    assert embedding is not None
    if embedding.features.shape[0] < 2 or embedding.features.shape[1] < 2:
        return
    points, method = as_map(embedding.features)
    cells = [reviewed.cells[row] for row in embedding.rows]
    place = {(cell.sample, cell.box): point for cell, point in zip(cells, points, strict=True)}
    found = {}
    ids, keys = made.values(["cells.detections.id", "cells.detections.key"])
    for sample, (names, boxes) in enumerate(zip(ids, keys, strict=True)):
        for name, box in zip(names or [], boxes or [], strict=True):
            if (point := place.get((sample, tuple(box)))) is not None:
                found[name] = point
    made.info["map"] = f"cells as the second stage sees them, {method}"
    made.save()
    shown = made.filter_labels("cells", _one_of(list(found)))
    words = {"patches_field": "cells", "method": "manual", "brain_key": MAP, "progress": False}
    brain.compute_visualization(shown, points=found, **words)


def _one_of(ids: list[str]) -> Any:
    from bson import ObjectId
    from fiftyone import ViewField

    return ViewField("_id").is_in([ObjectId(name) for name in ids])
