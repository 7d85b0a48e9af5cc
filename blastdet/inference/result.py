"""What was detected on one image, and everything that can be made of it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blastdet.core.atomic_io import refuse_existing
from blastdet.core.columns import cell_frame, cell_rows, counted_as, html_table, shown_as
from blastdet.core.constants import NOT_WHITE, RESEARCH_USE, WHITE_TYPES
from blastdet.core.errors import BlastdetError, ConfigError, ImageError, one_line
from blastdet.core.model_card import sha256_of
from blastdet.core.types import CELL_CLASSES, NUCLEATED, RGB, Detections, Scale, WidthHeight
from blastdet.imaging import drawing
from blastdet.imaging.cell_crops import crop
from blastdet.imaging.io import Source, open_image, open_smear
from blastdet.inference.blast_fraction import BlastFraction
from blastdet.inference.differential import (
    DifferentialRow,
    beside,
    differential,
    progress,
    spoken_type,
    why_no_percentages,
)
from blastdet.inference.scale import ScaleEstimate

if TYPE_CHECKING:
    from PIL.Image import Image

UNSURE = "unsure"
KINDS: tuple[str, ...] = (*CELL_CLASSES, UNSURE, *NOT_WHITE)
"""What a detected cell can be counted as. ``wbc`` is a white cell that is not a blast."""

_SHOWN_PX = 900  # longer side of the overlay in a notebook


@dataclass(frozen=True, eq=False)
class Result:
    """What was detected on one image. In a notebook, a result shows itself.

    Parameters
    ----------
    name : str
        Name of the image in output files.
    path : Path or None
        The image file; ``None`` for an array.
    size_wh : (int, int)
        Width and height in pixels.
    scale : ScaleEstimate
        The scale that was used, and where it comes from.
    detections : Detections
        Cells at or above the operating threshold, in pixels of the image, in canonical order.
    candidates : Detections
        All boxes down to the lowest score asked for; includes `detections`.
    classes : tuple of str
        Classes that the model distinguishes.
    image_sha256 : str
        Of the file's bytes, or of the array's.
    model : dict
        Name, µm/px and sha256 of the files of every model that took part.
    parameters : dict
        Everything needed to repeat the run.
    blast_fraction : BlastFraction or None
        Blasts among the white cells; ``None`` without a second stage.
    warnings : tuple of str
        What a reader of the counts should know.
    seconds : float
        Wall time for this image.
    image : uint8 (h, w, 3) or None
        The array that was given, if no file was.

    Examples
    --------
    >>> import blastdet
    >>> model = blastdet.load("default", device="cpu")
    >>> result = model("datasets/demo/smear.jpg", mpp=0.1)
    >>> result.counts["wbc"] > 5
    True
    """

    name: str
    path: Path | None
    size_wh: WidthHeight
    scale: ScaleEstimate
    detections: Detections
    candidates: Detections
    classes: tuple[str, ...]
    image_sha256: str
    model: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    blast_fraction: BlastFraction | None = None
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    image: RGB | None = None

    @property
    def mpp(self) -> Scale:
        """Micrometres per pixel along x and y that were used."""
        assert self.scale.mpp is not None  # a result without a scale is not made
        return self.scale.mpp

    @property
    def area_mm2(self) -> float:
        """Area in mm² of the image, or of its region that was analyzed."""
        x1, y1, x2, y2 = self.parameters.get("region") or (0, 0, *self.size_wh)
        return float((x2 - x1) * self.mpp[0] * (y2 - y1) * self.mpp[1] / 1e6)

    @property
    def kinds(self) -> list[str]:
        """What each of `detections` is counted as: one of `KINDS`."""
        return counted_as(self.detections)

    def without(self, hidden: Collection[str]) -> Detections:
        """`detections` less those that are counted as one of `hidden`, some of `KINDS`."""
        return self.detections[~np.isin(self.kinds, list(hidden))]

    @property
    def counts(self) -> dict[str, int]:
        """Number of cells of each kind that the model knows; every cell is counted once.

        With a second stage, white cells are ``blast``, ``wbc`` (no blast) or ``unsure``. Erythroblasts and smudges are
        listed where one was detected; red cells and platelets follow. The same numbers are printed and written to JSON.
        """
        kinds = self.kinds
        known = [name for name in CELL_CLASSES if name in self.classes]
        if self.blast_fraction is not None:
            known = ["blast", "wbc", UNSURE, *(name for name in NOT_WHITE if name in kinds), *known[2:]]
        return {name: kinds.count(name) for name in known}

    @property
    def named_counts(self) -> dict[str, int]:
        """As `counts`, under the names that tables of all cells use."""
        return {class_name(kind, self.counts): number for kind, number in self.counts.items()}

    @property
    def shown_counts(self) -> dict[str, int]:
        """As `counts`, with the other white cells divided into the types that were found; for captions."""
        kinds, counts = shown_as(self.detections), self.counts
        found = [name for name in WHITE_TYPES[1:] if name in kinds]
        names = [kind for name in counts for kind in ((*found, name) if name == "wbc" else (name,))]
        return {spoken(name, counts).replace("_", " "): kinds.count(name) for name in names}

    @property
    def differential(self) -> tuple[DifferentialRow, ...]:
        """White cells by type with their fractions and exact 95 % intervals; empty without a second stage."""
        return () if self.blast_fraction is None else differential(self.blast_fraction)

    def open(self) -> AbstractContextManager[Source]:
        """The image, in its own colours; a context manager.

        Raises
        ------
        ImageError
            If the file is gone, unreadable, or not the one that the cells were detected on.
        """
        if self.image is not None:
            return open_image(self.image, self.name)
        assert self.path is not None
        source = open_smear(self.path)
        if sha256_of(self.path) != self.image_sha256:
            source.close()
            raise ImageError(f"{self.path}: changed since the cells were detected. Detect them again")
        return source

    def plot(self) -> Image:
        """Overlay: the image with boxes, a caption with counts and a scale bar, as a PIL image (RGB)."""
        from PIL import Image

        with self.open() as source:
            return Image.fromarray(drawing.draw(source, self.detections, self.mpp, self.shown_counts, self.name))

    def crops(self, kind: str | None = None) -> list[RGB]:
        """Square crops around cells, in the order of `detections`, with square pixels.

        Parameters
        ----------
        kind : str, optional
            One of `KINDS`. Default: all nucleated cells.

        Returns
        -------
        list of uint8 (s, s, 3)

        Raises
        ------
        ConfigError
            If `kind` does not exist.
        """
        if kind is not None and kind not in KINDS:
            raise ConfigError(f"crops: expected one of {', '.join(KINDS)}, got {kind!r:.40}")
        nucleated = np.isin(self.detections.label, [CELL_CLASSES.index(name) for name in NUCLEATED])
        chosen = nucleated if kind is None else np.array([one == kind for one in self.kinds], bool)
        with self.open() as source:
            return [crop(source, tuple(box), self.mpp) for box in self.detections.boxes_xyxy[chosen].tolist()]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of this image; its fields are in the reference of output files."""
        from blastdet.inference.writers import to_dict

        return to_dict(self)

    def to_pandas(self) -> Any:
        """One row per cell, as a ``pandas.DataFrame``: the columns of the CSV file, unknown numbers as NaN.

        ``class`` follows the operating threshold; ``counted_as`` is what `counts` counts, with uncertain cells apart.

        Raises
        ------
        DependencyError
            If pandas is not installed.
        """
        from blastdet.inference.writers import named

        frame = cell_frame([self.name, "", *row] for row in cell_rows(named(self), self.mpp))
        return frame.drop(columns=["split", "point_x", "point_y", "origin", "ignore"])

    def to_coco(self) -> dict[str, Any]:
        """A COCO document with this image and its detections, scores included."""
        from blastdet.inference.writers import coco_document, coco_entry

        return coco_document([coco_entry(self)], self.classes)

    def to_geojson(self) -> dict[str, Any]:
        """A GeoJSON FeatureCollection that QuPath opens as detections."""
        from blastdet.datasets.formats import geojson
        from blastdet.inference.writers import named

        return geojson.feature_collection(named(self), self.mpp, Path(self.name).stem)

    def to_supervision(self) -> Any:
        """The same boxes as ``supervision.Detections``; see `Detections.to_supervision`."""
        cells: Any = self.detections
        return cells.to_supervision()

    def to_fiftyone(self) -> Any:
        """The same boxes as ``fiftyone.Detections``; see `Detections.to_fiftyone`."""
        cells: Any = self.detections
        return cells.to_fiftyone(self.size_wh)

    def save(
        self, folder: str | Path, formats: Sequence[str] = ("json", "csv", "overlay"), *, overwrite: bool = False
    ) -> list[Path]:
        """Write output files as ``blastdet detect`` does.

        Parameters
        ----------
        folder : str or path
            Made if it does not exist.
        formats : sequence of str, or str
            Some of ``json``, ``csv``, ``geojson``, ``overlay``.
        overwrite : bool
            Replace files of the same name.

        Returns
        -------
        list of Path

        Raises
        ------
        ConfigError
            If a format does not exist, or a file exists already.
        BlastdetError
            If a file cannot be written.
        """
        from blastdet.inference.writers import SUFFIXES, write_result

        formats = (formats,) if isinstance(formats, str) else formats
        if unknown := [kind for kind in formats if kind not in SUFFIXES]:
            raise ConfigError(f"formats: expected some of {', '.join(SUFFIXES)}, got {unknown[0]!r:.40}")
        stem = Path(folder, Path(self.name).stem)
        refuse_existing((stem.with_name(stem.name + SUFFIXES[kind]) for kind in formats), overwrite, from_python=True)
        with self.open() as source:
            try:
                return write_result(self, stem, formats, source)
            except OSError as error:
                raise BlastdetError(f"{folder}: cannot be written ({one_line(error)})") from error

    def summary(self) -> list[str]:
        """The result in plain sentences: the blast paragraph where there is a second stage, then warnings."""
        found = [] if self.blast_fraction is None else self.blast_fraction.summary()
        return [*found, *(f"Note: {warning}." for warning in self.warnings)]

    def __repr__(self) -> str:
        width, height = self.size_wh
        counts = ", ".join(f"{name} {number}" for name, number in self.counts.items())
        return f"<Result {self.name}: {width} x {height} px, {self.mpp[0]:.4g} µm/px, {counts}>"

    def _repr_html_(self) -> str:
        """Overlay, counts, differential and sentences, for a notebook; nothing is fetched."""
        overlay = self.plot()
        overlay.thumbnail((_SHOWN_PX, _SHOWN_PX))
        encoded = io.BytesIO()
        overlay.save(encoded, "JPEG", quality=88)
        source = base64.b64encode(encoded.getvalue()).decode()
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in self.summary())
        tables = html_table(
            ("cell", "n", "per mm²"), [(k, n, f"{n / self.area_mm2:,.0f}") for k, n in self.named_counts.items()]
        )
        if self.blast_fraction is not None and self.blast_fraction.n:
            why = why_no_percentages(self.blast_fraction)
            heading = ("white cell", "n") if why else ("white cell", "n", "fraction", "95 % CI")
            rows = [(spoken_type(row.cell_type), row.n, *row.percentages)[: len(heading)] for row in self.differential]
            words = "; ".join(
                [progress(self.blast_fraction.n), *([why[:-1]] if why else []), *beside(self.blast_fraction)]
            )
            tables += html_table(heading, rows, f"Differential: {words}")
        scale = f"{self.mpp[0]:.4g} µm/px ({html.escape(self.scale.describe())})"
        return (
            f"<div><p><b>{html.escape(self.name)}</b>: {scale}</p>"
            f'<img alt="overlay of the detected cells" style="max-width:100%" src="data:image/jpeg;base64,{source}">'
            f'<div style="display:flex;gap:2em;flex-wrap:wrap;align-items:flex-start">{tables}</div><ul>{lines}</ul>'
            f"<p><small>{RESEARCH_USE}</small></p></div>"
        )


def class_name(kind: str, counts: Mapping[str, int]) -> str:
    """Name of a kind in a table of all cells, beside a differential, whose ``other wbc`` are those of no type."""
    return "non-blast white cells" if kind == "wbc" and "blast" in counts else kind


def spoken(kind: str, counts: Mapping[str, int]) -> str:
    """Name of a kind in captions: beside blasts, ``wbc`` are the other white cells."""
    return "other wbc" if kind == "wbc" and "blast" in counts else kind
