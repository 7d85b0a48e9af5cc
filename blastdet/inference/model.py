"""The models of a run as one object: load once, call on images."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image, ImageOps

from blastdet.core.errors import ConfigError, ImageError, ScaleError, WeightsError, one_line
from blastdet.core.model_card import Card, find_weights, read_card, sha256_of
from blastdet.core.mpp import parse_mpp
from blastdet.core.parallel import beside, check_device
from blastdet.core.types import RGB, Detections, Scale
from blastdet.imaging.io import Source, open_image, open_smear
from blastdet.imaging.pillow_reader import to_rgb
from blastdet.imaging.stain_normalization import normalize_stain
from blastdet.inference.blast_fraction import count_white_cells
from blastdet.inference.remarks import doubt_in, doubtful, faults_in, warnings_of
from blastdet.inference.result import Result
from blastdet.inference.scale import ScaleEstimate, estimate_scale
from blastdet.inference.second_stage import classify_cells
from blastdet.inference.tiled_detection import find_cells
from blastdet.models.classifier import Classifier, load_classifier
from blastdet.models.detector import SCORE_FLOOR, Detector, load_detector

if TYPE_CHECKING:
    from blastdet.inference.single_cells.classification import ClassifiedCell

Progress = Callable[[int, int], None]
"""Called with tiles done and tiles in all."""


@dataclass(frozen=True)
class Options:
    """What a user may set for a run.

    Parameters
    ----------
    mpp : float, (float, float), str or None
        Micrometres per pixel: a number, a pair (x, y), or ``"auto"`` to measure the red cells. ``None`` takes the
        scale that the file states and measures where it states none. Kept as a pair.
    min_score : float, optional
        Lowest score of `Result.candidates`. Default: they are the cells that are counted, each class from its operating
        threshold on. A value above an operating threshold raises that too.

    Raises
    ------
    ScaleError, ConfigError
        If a value is out of range or of another type.
    """

    mpp: Any = None
    min_score: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mpp", parse_mpp(self.mpp))
        score: Any = self.min_score
        if score is None:
            return
        if isinstance(score, bool) or not (isinstance(score, (int, float, np.number)) and 0 <= score <= 1):
            raise ConfigError(f"min_score: expected a number from 0 to 1, got {score!r:.40}")
        object.__setattr__(self, "min_score", float(score))  # NumPy's numbers cannot be written as JSON


@dataclass(frozen=True)
class Model:
    """A detector, and the classifier of its second stage where the weights name one.

    Call it with an image, or with a list of images.

    Parameters
    ----------
    detector : Detector
    folder : Path
        The weights folder.
    classifier : Classifier, optional

    Examples
    --------
    >>> import blastdet
    >>> model = blastdet.load("default", device="cpu")
    >>> result = model("datasets/demo/smear.jpg", mpp=0.1)
    >>> result.mpp
    (0.1, 0.1)
    """

    detector: Detector
    folder: Path
    classifier: Classifier | None = None

    @overload
    def __call__(
        self,
        image: str | os.PathLike[str] | np.ndarray | Image.Image,
        *,
        mpp: Any = None,
        min_score: float | None = None,
        progress: Progress | None = None,
    ) -> Result: ...

    @overload
    def __call__(
        self,
        image: list[Any] | tuple[Any, ...],
        *,
        mpp: Any = None,
        min_score: float | None = None,
        progress: Progress | None = None,
    ) -> list[Result]: ...

    def __call__(
        self, image: Any, *, mpp: Any = None, min_score: float | None = None, progress: Progress | None = None
    ) -> Result | list[Result]:
        """Detect, classify and count the cells of one image, or of each image of a list.

        Parameters
        ----------
        image : path, uint8 (h, w, 3) RGB, PIL image, or a list of these
            Files are read tile by tile, whatever their size. OpenCV reads BGR: convert such arrays first.
        mpp : float, (float, float), "auto" or None
            Micrometres per pixel of the image; see `Options`.
        min_score : float, optional
            See `Options`.
        progress : callable, optional
            Called with tiles done and tiles in all, for each image.

        Returns
        -------
        Result, or list of Result

        Raises
        ------
        ImageError
            If an image cannot be read, or is no RGB image.
        ScaleError
            If the scale is impossible, or can neither be read nor measured.
        """
        options = Options(mpp, min_score)
        if isinstance(image, (list, tuple)):
            return [self.analyze(one, options, progress) for one in image]
        return self.analyze(image, options, progress)

    @overload
    def classify(
        self, image: str | os.PathLike[str] | np.ndarray | Image.Image, *, mpp: Any = None, cell_um: float | None = None
    ) -> ClassifiedCell: ...

    @overload
    def classify(
        self, image: list[Any] | tuple[Any, ...], *, mpp: Any = None, cell_um: float | None = None
    ) -> list[ClassifiedCell]: ...

    def classify(
        self, image: Any, *, mpp: Any = None, cell_um: float | None = None
    ) -> ClassifiedCell | list[ClassifiedCell]:
        """Classify the one cell that an image shows, or that of each image of a list.

        It is the cell on plain black or white ground, else the detected nucleated cell in the centre, else the middle
        of the image.

        Parameters
        ----------
        image : path, uint8 (h, w, 3) RGB, PIL image, or a list of these
            Images of one size in a list are taken to come from one camera: their red cells give one scale.
        mpp : float, (float, float), "auto" or None
            Micrometres per pixel. Default: as the file states, else measured on red cells.
        cell_um : float, optional
            Usual width of these cells in µm, for cells on plain ground, which show no red cells to measure.

        Returns
        -------
        ClassifiedCell, or list of ClassifiedCell

        Raises
        ------
        ImageError, ScaleError
            As for `__call__`.
        WeightsError
            If the model has no second stage.

        Examples
        --------
        >>> import blastdet
        >>> model = blastdet.load("default", device="cpu")
        >>> model.classify("datasets/demo/blood/monocyte.jpg", mpp=0.1).mpp
        (0.1, 0.1)
        """
        from blastdet.inference.single_cells.cell_scale import CellOptions
        from blastdet.inference.single_cells.classification import CellImage, classify_each

        several = isinstance(image, (list, tuple))
        images = [
            CellImage(str(one) if _is_path(one) else f"image {i}", partial(_opened, one))
            for i, one in enumerate(image if several else [image], start=1)
        ]
        cells = classify_each(self, images, CellOptions(mpp, cell_um))
        return cells if several else cells[0]

    def analyze(self, image: Any, options: Options, progress: Progress | None = None) -> Result:
        """One image with options that are already checked; see `__call__`."""
        with _opened(image) as source:
            normalized = self.normalize_stain(source)
            scale = estimate_scale(normalized, options.mpp, self.detector)
            return self.analyze_source(normalized, scale, options, progress, None if _is_path(image) else source.read())

    def analyze_source(
        self,
        source: Source,
        scale: ScaleEstimate,
        options: Options,
        progress: Progress | None = None,
        image: RGB | None = None,
    ) -> Result:
        """One open image, stain normalized, whose scale is settled; see `__call__`."""
        start = time.perf_counter()
        if scale.mpp is None:
            raise ScaleError(f"{source.path}: could not determine the scale: {scale.reason}. Pass --mpp (µm per pixel)")
        thresholds = self.thresholds(options.min_score or 0.0)
        floor = max(min(thresholds.values()) if options.min_score is None else options.min_score, SCORE_FLOOR)
        candidates, faults = self._candidates(source, scale.mpp, floor, progress)
        detections = candidates[candidates.above_threshold(thresholds)]
        fraction = None if self.classifier is None else count_white_cells(detections, self.classifier.card)
        is_odd = bool(faults) or (fraction is not None and not fraction.is_known_stain)
        doubts = (doubt_in(source, scale, detections, self.detector, is_odd), *faults)
        asked = {"mpp": options.mpp, "min_score": options.min_score}
        return Result(
            name=source.path.name,
            path=None if image is not None else source.path,
            size_wh=source.size_wh,
            scale=scale,
            detections=detections,
            candidates=detections if options.min_score is None else candidates,
            classes=self.classes,
            image_sha256=sha256_of(source.path) if image is None else hashlib.sha256(image.tobytes()).hexdigest(),
            model=self.describe(),
            parameters={**asked, "thresholds": thresholds, "suppression_iou": self.card.suppression_iou},
            blast_fraction=fraction,
            warnings=warnings_of(source, scale, detections, fraction, "rbc" in self.classes, doubts),
            seconds=time.perf_counter() - start + scale.seconds,
            image=image,
        )

    def _candidates(
        self, source: Source, mpp: Scale, floor: float, progress: Progress | None
    ) -> tuple[Detections, tuple[str, ...]]:
        """Cells with scores from `floor` on, classified, and why none of them can be certain."""
        with beside(partial(faults_in, source, mpp)) as judged:
            found = find_cells(source, mpp, self.detector, progress)
            found = found[found.score >= floor]
            if self.classifier is not None:
                found = classify_cells(source, found, mpp, self.classifier).sorted()
            faults = judged()
        return (doubtful(found) if self.classifier is not None and faults else found), faults

    @property
    def card(self) -> Card:
        """Card of the detector."""
        return self.detector.card

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that both stages distinguish, in the order of `CELL_CLASSES`."""
        return self.card.classes if self.classifier is None else ("blast", *self.card.classes)

    def normalize_stain(self, image: Source) -> Source:
        """An image in the colours that the detector was trained on."""
        return normalize_stain(image, self.card.input.colour)

    def thresholds(self, min_score: float = 0.0) -> dict[str, float]:
        """Score from which a box counts as a cell, by class: the card's, or `min_score` where that is higher."""
        found = {name: max(point.value, min_score) for name, point in self.card.thresholds.items()}
        return {name: found["wbc" if name == "blast" and self.classifier else name] for name in self.classes}

    def describe(self) -> dict[str, Any]:
        """Name, µm/px and file hashes of each model, for output files."""
        found = _describe(self.card)
        if self.classifier is None:
            return found
        card = self.classifier.card
        points = {name: point.value for name, point in card.thresholds.items()}
        band = None if card.unsure is None else [card.unsure.low, card.unsure.high]
        return {**found, "second_stage": {**_describe(card), "thresholds": points, "unsure": band}}


def load(weights: str | os.PathLike[str] = "default", device: str = "auto", *, second_stage: bool = True) -> Model:
    """A model from a weights folder or a shipped model's name, both stages; loaded once per process.

    Parameters
    ----------
    weights : str or path
        Name of a shipped model, or a folder with a ``card.json``.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    second_stage : bool
        Whether to load the classifier that the detector's card names. Without it, every nucleated cell is a ``wbc``.

    Returns
    -------
    Model
        The same object for the same arguments, unless files of either stage have changed on disk (name, size or time).

    Raises
    ------
    WeightsError
        If weights are missing or altered, or the two stages do not fit together.

    Examples
    --------
    >>> import blastdet
    >>> blastdet.load("default", device="cpu") is blastdet.load("default", device="cpu")
    True
    """
    check_device(device)
    folder = find_weights(weights).resolve()
    stamp = _stamp(folder)
    name = _second_stage(folder, stamp) if second_stage else None
    beside = folder.parent / name if name is not None else None
    second = beside if beside is not None and beside.is_dir() else name
    return _load(folder, device, second, (stamp, _stamp(second) if isinstance(second, Path) else None))


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, time of change and size of each file of a weights folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files)


@lru_cache(maxsize=8)
def _second_stage(folder: Path, stamp: object) -> str | None:
    """What the card names; to read a card is to hash all files of its folder."""
    return read_card(folder).second_stage


@lru_cache(maxsize=8)
def _load(folder: Path, device: str, second: str | Path | None, stamps: object) -> Model:
    """`stamps` only makes changed weights a different key."""
    detector = load_detector(folder, device)
    if second is None:
        return Model(detector, folder)
    try:
        classifier = load_classifier(second, device)
    except WeightsError as error:
        raise WeightsError(f"{folder}: cannot load the second stage: {error}") from error
    _check_pair(detector.card, classifier.card, folder)
    return Model(detector, folder, classifier)


def detect(image: Any, weights: str | os.PathLike[str] = "default", *, device: str = "auto", **options: Any) -> Any:
    """``load(weights, device)(image, **options)`` in one call; see `load` and `Model`."""
    return load(weights, device)(image, **options)


def _describe(card: Card) -> dict[str, Any]:
    return {"name": card.name, "files": dict(card.files), "mpp": card.mpp}


def _check_pair(detector: Card, classifier: Card, folder: Path) -> None:
    """An error if the classifier cannot be the detector's second stage."""
    what = f"{folder}: second stage {detector.second_stage}"
    if "blast" not in classifier.classes or "blast" not in classifier.thresholds:
        raise WeightsError(f"{what}: expected the class blast with a threshold, got {list(classifier.classes)}")
    if classifier.probe:
        raise WeightsError(f"{what}: trained on the negative control {classifier.probe!r}, which shows no cells")
    if "wbc" not in detector.classes:
        raise WeightsError(f"{what}: expected a detector of wbc, got {list(detector.classes)}")
    if classifier.input.colour != detector.input.colour:
        raise WeightsError(
            f"{what}: expected colours {detector.input.colour!r} as for the detector, got {classifier.input.colour!r}"
        )


def _is_path(image: Any) -> bool:
    return isinstance(image, (str, os.PathLike))


def _opened(image: Any) -> Source:
    """A file, an array or a PIL image as a source."""
    if _is_path(image):
        return open_smear(Path(image))
    if isinstance(image, Image.Image):
        name = Path(str(getattr(image, "filename", "") or "image")).name
        try:
            rgb = to_rgb(ImageOps.exif_transpose(image))
        except (OSError, ValueError, SyntaxError) as error:  # Pillow decodes on first use
            raise ImageError(f"{name}: cannot be decoded ({one_line(error)})") from error
        return open_image(np.ascontiguousarray(rgb), name)
    if isinstance(image, np.ndarray):
        return open_image(image)
    raise ImageError(
        "image: expected a path, a uint8 array (height, width, 3), a PIL image or a list of these, "
        f"got {type(image).__name__}"
    )
