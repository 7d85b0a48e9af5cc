"""Conversions between `Detections` and other libraries, which are imported on use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from blastdet.core.columns import shown_as
from blastdet.core.constants import CELL_CLASSES
from blastdet.core.errors import FormatError
from blastdet.core.packages import needed

if TYPE_CHECKING:
    from blastdet.core.types import WidthHeight

_EXTRA = ("cell_type", "blast_probability", "unsure", "unsure_reason", "type_probability", "ignore", "origin", "id")
"""Optional columns that are stored in ``supervision.Detections.data``."""


_ATTRIBUTES = ("cell_type", "blast_probability", "unsure", "unsure_reason")
"""Optional columns that are attributes of FiftyOne's labels."""


class Conversions:
    """Base class of `Detections` with its conversions."""

    if TYPE_CHECKING:
        boxes_xyxy: NDArray[np.float32]
        score: NDArray[np.float32]
        label: NDArray[np.int64]
        ignore: NDArray[np.bool_] | None

        def __init__(self, boxes_xyxy: Any, **columns: Any) -> None: ...

        def __len__(self) -> int: ...

    @classmethod
    def _made(cls, source: str, boxes_xyxy: Any, **columns: Any) -> Self:
        """From columns of another library; faulty values are its user's, not ours."""
        try:
            return cls(boxes_xyxy, **columns)
        except ValueError as error:
            raise FormatError(f"{source}: {error}") from None

    @classmethod
    def from_supervision(cls, detections: Any, class_map: Mapping[str, str] | None = None) -> Self:
        """Convert ``supervision.Detections``.

        Parameters
        ----------
        detections : supervision.Detections
            Classes are read from ``data["class_name"]``. Without it, ``class_id`` is used as a name (``"0"``).
        class_map : mapping, optional
            Maps other class names to `CELL_CLASSES`.

        Raises
        ------
        FormatError
            If classes are unknown; the message lists them.

        Examples
        --------
        >>> import supervision
        >>> from blastdet import Detections
        >>> found = supervision.Detections.empty()
        >>> len(Detections.from_supervision(found, class_map={"Leukocyte": "wbc"}))
        0
        """
        _check(detections, "supervision.Detections", "xyxy", "confidence", "class_id", "data")
        n = len(detections)
        names = detections.data.get("class_name")
        if names is None and n:
            ids = detections.class_id
            if ids is None:
                raise FormatError("supervision: expected data['class_name'] or class_id, got neither")
            names = [str(int(index)) for index in ids]
        columns = {key: detections.data[key] for key in _EXTRA if key in detections.data}
        label = labels_of(() if names is None else names, class_map)
        return cls._made("supervision", detections.xyxy, score=detections.confidence, label=label, **columns)

    def to_supervision(self) -> Any:
        """Convert to ``supervision.Detections``. ``data`` holds the class names and the optional columns.

        Examples
        --------
        >>> from blastdet import Detections
        >>> Detections([[0, 0, 9, 9]], score=[0.5]).to_supervision().data["class_name"].tolist()
        ['wbc']
        """
        supervision = needed("supervision", "notebook")
        data = {"class_name": np.array([CELL_CLASSES[label] for label in self.label], dtype=np.str_)}
        data |= {key: np.array(getattr(self, key)) for key in _EXTRA if getattr(self, key) is not None}
        boxes, score, label = (np.array(column) for column in (self.boxes_xyxy, self.score, self.label))
        return supervision.Detections(xyxy=boxes, confidence=score, class_id=label.astype(int), data=data)

    @classmethod
    def from_ultralytics(cls, result: Any, class_map: Mapping[str, str] | None = None) -> Self:
        """Convert one Ultralytics result, such as ``model(image)[0]``.

        Boxes without area are left out: Ultralytics clips boxes to the image, some to nothing.

        Parameters
        ----------
        result : ultralytics.engine.results.Results
        class_map : mapping, optional
            Maps other class names to `CELL_CLASSES`.

        Raises
        ------
        FormatError
            If the result has no boxes, or classes are unknown; the message lists them.

        Examples
        --------
        >>> from blastdet import Detections
        >>> result = model("smear.jpg")[0]  # doctest: +SKIP
        >>> Detections.from_ultralytics(result, class_map={"Leukocyte": "wbc"})  # doctest: +SKIP
        """
        _check(result, "one ultralytics Results", "boxes", "names")
        if result.boxes is None:
            raise FormatError("ultralytics: expected detection results with boxes, got none")
        boxes = result.boxes.cpu().numpy()
        label = labels_of([result.names[int(index)] for index in boxes.cls], class_map)
        xyxy = np.reshape(boxes.xyxy, (-1, 4))
        kept = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
        return cls._made("ultralytics", xyxy[kept], score=np.asarray(boxes.conf)[kept], label=label[kept])

    @classmethod
    def from_coco(
        cls,
        annotations: Sequence[Mapping[str, Any]],
        categories: Sequence[Mapping[str, Any]],
        class_map: Mapping[str, str] | None = None,
    ) -> Self:
        """Convert the COCO annotations, or results, of one image.

        Parameters
        ----------
        annotations : sequence of dict
            With ``bbox`` ``[x, y, width, height]`` in pixels and ``category_id``; optionally ``score`` and
            ``iscrowd``, which becomes `ignore`.
        categories : sequence of dict
            With ``id`` and ``name``.
        class_map : mapping, optional
            Maps other category names to `CELL_CLASSES`.

        Raises
        ------
        FormatError
            If an annotation is invalid, or categories are unknown; the message lists them.

        Examples
        --------
        >>> from blastdet import Detections
        >>> rows = [{"bbox": [1, 2, 10, 20], "category_id": 7}]
        >>> Detections.from_coco(rows, [{"id": 7, "name": "RBC"}]).boxes_xyxy.tolist()
        [[1.0, 2.0, 11.0, 22.0]]
        """
        try:
            names = {row["id"]: str(row["name"]) for row in categories}
            label = labels_of(
                [names.get(row["category_id"], f"id {row['category_id']}") for row in annotations], class_map
            )
            corner = np.array([row["bbox"] for row in annotations], np.float64).reshape(-1, 4)
            score = np.array([row.get("score", 1.0) for row in annotations], np.float64)
            ignore = np.array([bool(row.get("iscrowd", 0)) for row in annotations], bool)
            if len(corner) != len(annotations) or not (np.isfinite(corner).all() and (corner[:, 2:] > 0).all()):
                raise ValueError("a bbox is not four finite numbers, or has no area")
            if not ((score >= 0) & (score <= 1)).all():
                raise ValueError("a score is not a number from 0 to 1")
            if len(names) != len(categories):
                raise ValueError("two categories have one id")
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise FormatError(
                "COCO: expected annotations with category_id and bbox [x, y, width, height], and categories with id "
                f"and name ({type(error).__name__}: {error})"
            ) from None
        boxes = np.concatenate([corner[:, :2], corner[:, :2] + corner[:, 2:]], axis=1)
        return cls._made("COCO", boxes, score=score, label=label, ignore=ignore if ignore.any() else None)

    def to_coco(self, image_id: int = 1) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Convert to COCO annotations and categories.

        Parameters
        ----------
        image_id : int

        Returns
        -------
        annotations, categories : list of dict
            Category ids are indices into `CELL_CLASSES` plus 1.

        Examples
        --------
        >>> from blastdet import Detections
        >>> annotations, categories = Detections([[0, 0, 9, 9]]).to_coco()
        >>> annotations[0]["bbox"], categories[annotations[0]["category_id"] - 1]["name"]
        ([0.0, 0.0, 9.0, 9.0], 'wbc')
        """
        categories = [
            {"id": index + 1, "name": name, "supercategory": "cell"} for index, name in enumerate(CELL_CLASSES)
        ]
        corner = self.boxes_xyxy.astype(np.float64)
        size = corner[:, 2:] - corner[:, :2]
        ignore = np.zeros(len(self), bool) if self.ignore is None else self.ignore
        annotations = [
            {
                "id": row + 1,
                "image_id": image_id,
                "category_id": int(self.label[row]) + 1,
                "bbox": [*corner[row, :2].tolist(), *size[row].tolist()],
                "area": float(size[row].prod()),
                "iscrowd": int(ignore[row]),
                "score": float(self.score[row]),
            }
            for row in range(len(self))
        ]
        return annotations, categories

    @classmethod
    def from_fiftyone(
        cls,
        detections: Any,
        size_wh: WidthHeight | None = None,
        class_map: Mapping[str, str] | None = None,
        field: str | None = None,
    ) -> Self:
        """Convert ``fiftyone.Detections``, or the detections of a FiftyOne sample.

        Parameters
        ----------
        detections : fiftyone.Detections or fiftyone.Sample
        size_wh : (int, int), optional
            Size of the image in pixels; not needed for a sample with metadata.
        class_map : mapping, optional
            Maps other labels to `CELL_CLASSES`.
        field : str, optional
            Field of the sample. Required if it has several fields of detections.

        Raises
        ------
        FormatError
            If the size or the field is missing, or labels are unknown; the message lists them.

        Examples
        --------
        >>> from blastdet import Detections
        >>> Detections.from_fiftyone(sample, field="ground_truth")  # doctest: +SKIP
        """
        if hasattr(detections, "filepath"):
            detections, size_wh = _of_sample(detections, field, size_wh)
        _check(detections, "fiftyone.Detections or a fiftyone.Sample", "detections")
        if size_wh is None:
            raise FormatError(
                "FiftyOne: expected size_wh, because boxes are stored as fractions of the image, got None"
            )
        rows = list(detections.detections)
        label = labels_of([row.label for row in rows], class_map)
        relative = np.array([row.bounding_box for row in rows], np.float64).reshape(-1, 4)
        boxes = np.concatenate([relative[:, :2], relative[:, :2] + relative[:, 2:]], axis=1) * np.tile(size_wh, 2)
        score = [1.0 if row.confidence is None else row.confidence for row in rows]
        return cls._made("FiftyOne", boxes, score=score, label=label)

    def to_fiftyone(self, size_wh: WidthHeight) -> Any:
        """Convert to ``fiftyone.Detections``, with the columns of the second stage as attributes.

        ``shown_as`` is the type of a cell where it is known, else its class, or ``unsure``.

        Parameters
        ----------
        size_wh : (int, int)
            Size of the image in pixels.

        Examples
        --------
        >>> from blastdet import Detections
        >>> Detections([[0, 0, 9, 9]]).to_fiftyone((18, 18))  # doctest: +SKIP
        """
        fiftyone = needed("fiftyone", "review")
        size = np.asarray(size_wh, np.float64)
        corner = self.boxes_xyxy.astype(np.float64) / np.tile(size, 2)
        cells: Any = self
        rows, shown = [], shown_as(cells)
        for row, box in enumerate(corner):
            bounding_box = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
            name, score = CELL_CLASSES[self.label[row]], float(self.score[row])
            about = {key: getattr(self, key)[row].item() for key in _ATTRIBUTES if getattr(self, key) is not None}
            about = {key: value for key, value in about.items() if value == value}  # NaN is unknown
            about["shown_as"] = shown[row]
            rows.append(fiftyone.Detection(label=name, bounding_box=bounding_box, confidence=score, **about))
        return fiftyone.Detections(detections=rows)


def _check(given: Any, expected: str, *attributes: str) -> None:
    """Refuse an object that lacks what is read of it."""
    if not all(hasattr(given, name) for name in attributes):
        kind = type(given).__name__
        raise FormatError(f"expected {expected}, got {'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}")


def labels_of(names: Iterable[str], class_map: Mapping[str, str] | None = None) -> NDArray[np.int64]:
    """Convert class names to labels.

    Parameters
    ----------
    names : iterable of str
        Keys of `class_map`, or names of `CELL_CLASSES` in upper or lower case, singular or plural (``"WBC"``,
        ``"Platelets"``).
    class_map : mapping, optional
        Maps other names to `CELL_CLASSES`.

    Returns
    -------
    int64 (n,)
        Indices into `CELL_CLASSES`.

    Raises
    ------
    FormatError
        If names are unknown; the message lists all of them with their counts.

    Examples
    --------
    >>> labels_of(["WBC", "Platelets", "Leukocyte"], {"Leukocyte": "wbc"}).tolist()
    [1, 3, 1]
    """
    given = dict(class_map or {})
    if wrong := sorted({name for name in given.values() if name not in CELL_CLASSES}):
        raise FormatError(f"class_map: expected classes {', '.join(CELL_CLASSES)}, got {', '.join(map(repr, wrong))}")
    known = {form: name for name in CELL_CLASSES for form in (name, f"{name}s")}
    listed_names = [str(name) for name in names]
    found = [given.get(name) or known.get(name.strip().casefold()) for name in listed_names]
    if unknown := Counter(name for name, own in zip(listed_names, found, strict=True) if own is None):
        listed = ", ".join(f"{name} ({number})" for name, number in unknown.most_common())
        example = ", ".join(f"{name!r}: 'wbc'" for name, _ in unknown.most_common(1))
        raise FormatError(f"Unknown classes: {listed}. Map them: class_map={{{example}, ...}}")
    return np.array([CELL_CLASSES.index(name) for name in found if name is not None], np.int64)


def _of_sample(sample: Any, field: str | None, size_wh: WidthHeight | None) -> tuple[Any, WidthHeight | None]:
    """Detections of a FiftyOne sample, and the size of its image."""
    names = [name for name in sample.field_names if type(sample[name]).__name__ == "Detections"]
    if field is None and len(names) != 1:
        raise FormatError(f"FiftyOne: expected one field of detections, got {', '.join(names) or 'none'}. Pass field")
    name = field or names[0]
    if name not in names:
        raise FormatError(f"FiftyOne: expected a field of detections, got {name!r}. Fields: {', '.join(names)}")
    if size_wh is None and sample.metadata is not None:
        size_wh = sample.metadata.width, sample.metadata.height
    return sample[name], size_wh
