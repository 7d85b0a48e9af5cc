"""A review as a FiftyOne dataset: annotations, detections, cells to review, saved views, embedding, evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blastdet.core.constants import CELL_TYPES, HEX, MATCH_IOU
from blastdet.core.errors import ReviewError
from blastdet.core.model_card import sha256_of
from blastdet.core.types import CELL_CLASSES, NUCLEATED, Detections, Sample
from blastdet.review.cells import VIEWS, Cell, View, in_view, repeated_fields, rows_by_sample
from blastdet.review.embedding import project
from blastdet.review.page import model_sha256
from blastdet.review.review import Review

FIELDS = ("truth", "detected", "cells")
"""Label fields: annotations, detections, and one label for each cell that a view or the embedding shows."""

EVALUATION = "fiftyone"
"""Key of FiftyOne's own evaluation."""

MAP = "second_stage"
"""Key of the visualization in the Embeddings panel."""

IGNORED = "ignored"
"""Label of regions of the truth that are ignored."""

_GREY = "#9a9aa5"
_LAYOUT = 4  # of the fields below; a dataset with another layout cannot be opened
_SHOWN = ("errors", "sample_group", "sample_cluster", "sample_label", "mpp")
_BATCH = 200


def load(
    fiftyone: Any,
    name: str,
    review: Review,
    persistent: bool = True,
    progress: Callable[[], None] = lambda: None,
) -> Any:
    """Load a review into a FiftyOne dataset, or open the dataset of the same review.

    Raises `ReviewError` if a dataset of this name exists that is not of the same images and model.
    """
    hashes = [sha256_of(sample.path) for sample in review.dataset]
    model = {"model_sha256": model_sha256(review.predictions), "model": review.predictions.name}
    info = {**model, "layout": _LAYOUT, "sha256": hashes}
    given = None if review.mpp is None else list(review.mpp)  # another scale is no other review
    if (existing := _existing(fiftyone, name, info)) is not None:
        _follow_moved(existing, review, hashes)
        existing.info["given_mpp"] = given
        existing.save()
        return existing
    created = fiftyone.Dataset(name, persistent=persistent)
    created.info = {**info, "given_mpp": given}
    _declare(fiftyone, created)
    _add_samples(fiftyone, created, review, hashes, progress)
    _appearance(fiftyone, created)
    _allow_drawing(created)
    _save_views(created, review)
    if review.embedding is not None:
        _add_embedding(created, review)
    created.info["loaded"] = True
    created.save()
    return created


def _existing(fiftyone: Any, name: str, info: dict[str, Any]) -> Any:
    """The complete dataset of this name and review; an incomplete one is deleted."""
    if not fiftyone.dataset_exists(name):
        return None
    existing = fiftyone.load_dataset(name)
    if {key: existing.info.get(key) for key in info} != info:
        raise ReviewError(
            f"--name {name}: the database has a review of this name with other images, another model or an older "
            "version of blastdet. Choose another name"
        )
    if existing.info.get("loaded"):
        return existing
    existing.delete()  # a session was killed while it loaded
    return None


def _follow_moved(existing: Any, review: Review, hashes: Sequence[str]) -> None:
    """Give samples the present paths of their images: a stored path may be dead since the images moved."""
    places: dict[str, list[str]] = {}
    for sample, digest in zip(review.dataset, hashes, strict=True):
        places.setdefault(digest, []).append(str(Path(sample.path).resolve()))
    stored = list(existing.values("filepath"))
    # Equal images may have several paths, which keep their order.
    now = [places[digest].pop(0) if places.get(digest) else old for old, digest in zip(stored, hashes, strict=True)]
    if now != stored:
        existing.set_values("filepath", now)


def _add_samples(
    fiftyone: Any, created: Any, review: Review, hashes: Sequence[str], progress: Callable[[], None]
) -> None:
    evaluation, rows = _Evaluation(created), rows_by_sample(review.dataset, review.cells)
    for start in range(0, len(rows), _BATCH):
        documents = []
        for i in range(start, min(start + _BATCH, len(rows))):
            cells = [review.cells[row] for row in rows[i]]
            documents.append(_sample(created, review, i, cells, hashes[i]))
            evaluation.add(fiftyone, documents[-1])
            progress()
        # Documents in FiftyOne's own layout: creating and storing its objects takes many times as long.
        created._sample_collection.insert_many(documents)
    evaluation.finish()


_STRINGS = ("kind", "was", "true_class", "detected_class", "shown_as")
_FLOATS = ("size_um", "iou", "blast_probability", "suspicion", "novelty")
_FLAGS = ("unsure", "annotated")


def _declare(fiftyone: Any, created: Any) -> None:
    """Declare the fields of samples and labels, with their types."""
    created.media_type = "image"
    for name in ("sample_group", "sample_cluster", "sample_label", "sha256"):
        created.add_sample_field(name, fiftyone.StringField)
    created.add_sample_field("errors", fiftyone.IntField)
    created.add_sample_field("mpp", fiftyone.ListField, subfield=fiftyone.FloatField)
    created.add_sample_field("keys_at_start", fiftyone.ListField)
    created.add_sample_field("classes_at_start", fiftyone.ListField)
    for field in FIELDS:
        created.add_sample_field(field, fiftyone.EmbeddedDocumentField, embedded_doc_type=fiftyone.Detections)
        inside = f"{field}.detections"
        kinds = {fiftyone.StringField: _STRINGS, fiftyone.FloatField: _FLOATS, fiftyone.BooleanField: _FLAGS}
        for kind, names in kinds.items():
            for name in names:
                created.add_sample_field(f"{inside}.{name}", kind)
        created.add_sample_field(f"{inside}.key", fiftyone.ListField, subfield=fiftyone.FloatField)
        created.add_sample_field(f"{inside}.views", fiftyone.ListField, subfield=fiftyone.StringField)
    for name in VIEWS:
        created.add_sample_field(f"cells.detections.rank_{name}", fiftyone.FloatField)


class _Evaluation:
    """FiftyOne's own evaluation, for its panels; the saved views show the matches of `blastdet evaluate`.

    FiftyOne matches greedily by score instead of optimally, and does not know ignored regions.
    """

    def __init__(self, created: Any) -> None:
        from fiftyone.utils.eval.coco import COCOEvaluationConfig

        self.created = created
        self.matches: list[Any] = []
        self.method = COCOEvaluationConfig("detected", "truth", iou=MATCH_IOU, classwise=False).build()
        self.method.register_run(created, EVALUATION)
        self.method.register_samples(created, EVALUATION)

    def add(self, fiftyone: Any, document: dict[str, Any]) -> None:
        """Evaluate one sample and store the outcome of each label in its document."""
        light = {field: _light(fiftyone, document[field]["detections"]) for field in ("truth", "detected")}
        matches = self.method.evaluate(light, eval_key=EVALUATION)
        self.matches += matches
        for field, labels in light.items():
            for raw, label in zip(document[field]["detections"], labels.detections, strict=True):
                for key in (EVALUATION, f"{EVALUATION}_id", f"{EVALUATION}_iou"):
                    if (value := label.get_attribute_value(key, None)) is not None:
                        raw[key] = value
        kinds = [label.get_attribute_value(EVALUATION) for labels in light.values() for label in labels.detections]
        detected = kinds[len(light["truth"].detections) :]
        document[f"{EVALUATION}_tp"], document[f"{EVALUATION}_fp"] = detected.count("tp"), detected.count("fp")
        document[f"{EVALUATION}_fn"] = kinds.count("fn")

    def finish(self) -> None:
        """Store the results of the evaluation."""
        results = self.method.generate_results(self.created, self.matches, eval_key=EVALUATION)
        self.method.save_run_results(self.created, EVALUATION, results)
        self.method.add_fields_to_sidebar_group(self.created, EVALUATION, omit_fields=("detected", "truth"))


def _light(fiftyone: Any, labels: Sequence[dict[str, Any]]) -> Any:
    light = []
    for raw in labels:
        words = {key: raw[key] for key in ("label", "bounding_box", "confidence") if key in raw}
        light.append(fiftyone.Detection(id=raw["_id"], **words))
    return fiftyone.Detections(detections=light)


def _sample(created: Any, review: Review, index: int, cells: Sequence[Cell], sha256: str) -> dict[str, Any]:
    """A sample as FiftyOne stores it."""
    from bson import ObjectId

    sample, now = review.dataset.samples[index], datetime.now(UTC)
    truth = sample.truth if sample.truth is not None else Detections.empty()
    candidates = review.predictions.candidates[index]
    paired_truth = {cell.truth: cell for cell in cells if cell.truth >= 0}
    paired_detected = {cell.detection: cell for cell in cells if cell.detection >= 0}
    labels = {
        "truth": _labels(sample, truth, {row: paired_truth.get(row) for row in range(len(truth))}, True),
        "detected": _labels(sample, candidates, dict(sorted(paired_detected.items()))),
        "cells": [_cell_label(sample, cell) for cell in cells if _is_shown(cell)],
    }
    return {
        "_id": ObjectId(),
        "_dataset_id": created._doc.id,
        "_media_type": "image",
        "_rand": int(sha256[:12], 16) / 16**12,
        "created_at": now,
        "last_modified_at": now,
        "filepath": str(Path(sample.path).resolve()),
        "tags": [sample.split] if sample.split else [],
        "metadata": {"_cls": "ImageMetadata", "width": sample.size_wh[0], "height": sample.size_wh[1]},
        **{f"sample_{key}": getattr(sample, key) for key in ("group", "cluster", "label")},
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
    labels = []
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
            about["shown_as"] = name if cell is None else _shown_as(cell, name)
        labels.append(_label(sample, box, name, key=key, **about))
    return labels


def _cell_label(sample: Sample, cell: Cell) -> dict[str, Any]:
    about = _attributes(cell) | {f"rank_{name}": float(view.order(cell)) for name, view in _views_of(cell)}
    about |= {"true_class": cell.true_class, "detected_class": cell.detected_class, "annotated": cell.truth >= 0}
    about["shown_as"] = _shown_as(cell, cell.name)
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


def _shown_as(cell: Cell, name: str) -> str:
    """What the colour of a detected cell says, as `blastdet.core.columns.shown_as`: type, class or unsure."""
    if cell.unsure:
        return "unsure"
    return cell.cell_type if name == "wbc" and cell.cell_type in CELL_TYPES else name


def _views_of(cell: Cell) -> list[tuple[str, View]]:
    return [(name, view) for name, view in VIEWS.items() if view.contains(cell)]


def _attributes(cell: Cell) -> dict[str, Any]:
    numbers = {key: getattr(cell, key) for key in ("iou", "blast_probability", "suspicion", "novelty")}
    known = {key: round(value, 4) for key, value in numbers.items() if value == value}
    return {"kind": cell.kind, "unsure": cell.unsure, "views": [name for name, _ in _views_of(cell)], **known}


def _appearance(fiftyone: Any, created: Any) -> None:
    """Set the colours of classes and types; collapse the sidebar groups that do not matter to a reviewer."""
    fields = []
    for field in FIELDS:
        shown = {name: _paler(colour) if field == "detected" else colour for name, colour in HEX.items()}
        colours = [{"value": name, "color": colour} for name, colour in {**shown, IGNORED: _GREY}.items()]
        by = "label" if field == "truth" else "shown_as"  # a person edits the label of the truth
        fields.append({"path": field, "colorByAttribute": by, "valueColors": colours})
    created.app_config.color_scheme = fiftyone.ColorScheme(color_by="value", fields=fields)
    groups = fiftyone.DatasetAppConfig.default_sidebar_groups(created)
    named = {group.name: group for group in groups}
    plain = named.get("primitives")
    if plain is not None:
        named["other"].paths = [*(path for path in plain.paths if path not in _SHOWN), *named["other"].paths]
        plain.paths = [path for path in plain.paths if path in _SHOWN]
    for name in ("metadata", "other"):
        if name in named:
            named[name].expanded = False
    created.app_config.sidebar_groups = list(groups)
    created.save()


def _paler(colour: str) -> str:
    """The colour of a class for detections: half way to white, to tell them from annotations."""
    return "#" + "".join(f"{(int(colour[i : i + 2], 16) + 255) // 2:02x}" for i in (1, 3, 5))


def _allow_drawing(created: Any) -> None:
    """Let the Annotate tab of the App edit the boxes of the truth, with the cell classes."""
    schema = {"type": "detections", "component": "radio", "classes": list(CELL_CLASSES), "attributes": []}
    created.set_label_schemas({"truth": schema})
    created.activate_label_schemas("truth")


def _save_views(created: Any, review: Review) -> None:
    """Save each view that has cells twice: as samples that show only these cells, and as single cells."""
    from fiftyone import ViewField

    for name, view in VIEWS.items():
        chosen = in_view(review.cells, name)
        if not chosen:
            continue
        in_this = ViewField("views").contains(name)
        samples = created
        for field in ("truth", "detected"):
            samples = samples.filter_labels(field, in_this, only_matches=False)
        samples = samples.match(
            (ViewField("truth.detections").length() + ViewField("detected.detections").length()) > 0
        )
        created.save_view(view.title, samples, description=f"{len(chosen)} cells on their images")
        one_by_one = created.filter_labels("cells", in_this).to_patches("cells").sort_by(f"cells.rank_{name}")
        created.save_view(f"{view.title}: cells", one_by_one, description=f"{len(chosen)} single cells, clearest first")
    created.save_view("images with most errors first", created.sort_by("errors", reverse=True))
    repeated = repeated_fields(review.dataset, created.values("sha256"))
    if repeated:
        ids = created.values("id")
        shown = created.select([ids[i] for i in repeated], ordered=True)
        created.save_view("repeated fields", shown, description="same file, or overlapping fields")


def _add_embedding(created: Any, review: Review) -> None:
    """Add the projected cells for the Embeddings panel."""
    import fiftyone.brain as brain

    embedding = review.embedding
    assert embedding is not None
    if embedding.features.shape[0] < 2 or embedding.features.shape[1] < 2:
        return
    points, method = project(embedding.features)
    cells = [review.cells[row] for row in embedding.rows]
    place = {(cell.sample, cell.box): point for cell, point in zip(cells, points, strict=True)}
    points_by_id = {}
    ids, keys = created.values(["cells.detections.id", "cells.detections.key"])
    for sample, (names, boxes) in enumerate(zip(ids, keys, strict=True)):
        for name, box in zip(names or [], boxes or [], strict=True):
            if (point := place.get((sample, tuple(box)))) is not None:
                points_by_id[name] = point
    created.info["map"] = f"features of the second stage, {method}"
    created.save()
    shown = created.filter_labels("cells", _one_of(list(points_by_id)))
    words = {"patches_field": "cells", "method": "manual", "brain_key": MAP, "progress": False}
    brain.compute_visualization(shown, points=points_by_id, **words)


def _one_of(ids: list[str]) -> Any:
    from bson import ObjectId
    from fiftyone import ViewField

    return ViewField("_id").is_in([ObjectId(name) for name in ids])
