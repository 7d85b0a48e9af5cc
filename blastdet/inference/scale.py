"""The scale of an image: given, stated by the file, or measured on its red cells.

Measuring takes two steps. `estimate_mpp` fits ellipses to red cells and needs no model. Then the detector is run: at a
scale that is about right it boxes red cells, and their median width, 7.5 µm, tells how far off the scale was. The
detector was trained on images enlarged by 0.7 to 1.4, so a start within that range converges to the right scale. Where
`estimate_mpp` detects nothing, or the detector detects too little there, a series of scales is tried.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blastdet.core.constants import RED_CELL_UM
from blastdet.core.errors import ScaleError, counted
from blastdet.core.types import RGB, Detections, Scale, WidthHeight
from blastdet.imaging.io import Source, resize
from blastdet.models.detector import Detector
from blastdet.segmentation.mpp_estimation import estimate_mpp

COARSEST_MPP = 0.8
"""Coarser images show too little detail to detect cells: a red cell is nine pixels wide at this scale."""

FEW_RED_CELLS = 5
"""Fewer red cells than this settle the scale of an image only if no other image of the run can."""

CHECK_THE_SCALE = "Check the scale."
"""How the warning of a stated scale that red cells contradict ends."""

ONE_CELL = "one cell on plain ground, no smear: use blastdet classify"

_WINDOW = 2400  # side, in pixels, of the part of a large image that is used
_LOOK_UM = 128  # side of the part given to the detector: about a hundred red cells
_LADDER = (0.06, 0.085, 0.12, 0.17, 0.24, 0.34, 0.48)
_LEAST_SCORE = 0.3
_FEWEST = 3  # red cells that may correct a scale
_ENOUGH = 8  # red cells that settle it, and that may reveal a squeezed image
_SQUEEZED = 1.1
_SETTLED = 0.04
_ROUNDS = 3
_TOO_FINE, _TOO_COARSE = 1.25, 1.4  # factors by which a given scale is doubted; see `doubt_of`
_STATED = ("given", "dataset", "file")
_ROOM = 0.15  # (log) for an image in which little is found at the stated scale
_TOLERANCE = 0.35  # how far (log) the scale may be off before the detections count less


Origin = Literal["given", "dataset", "file", "red_cells", "other_images", "run", "assumed", "unknown"]


@dataclass(frozen=True)
class ScaleEstimate:
    """The scale of one image and where it comes from.

    Parameters
    ----------
    mpp : (float, float) or None
        Micrometres per pixel along x and y; ``None`` where it could not be determined.
    origin : str
        ``"given"`` by the user, stated by the ``"dataset"`` or the ``"file"``, measured on the ``"red_cells"`` of the
        image, of ``"other_images"`` of the run, or of a sample of the ``"run"``; ``"assumed"``, or ``"unknown"``.
    n_cells : int
        Red cells it was measured on.
    n_images : int
        Images it was measured on, where these are others.
    reason : str
        Why it is unknown, or what is assumed.
    warnings : tuple of str
    seconds : float
        Time that the measurement took.
    """

    mpp: Scale | None
    origin: Origin
    n_cells: int = 0
    n_images: int = 0
    reason: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def is_weak(self) -> bool:
        """Whether it rests on so few red cells that other images of the same run are the better guide."""
        return self.origin == "unknown" or (self.origin == "red_cells" and self.n_cells < FEW_RED_CELLS)

    @property
    def is_measured(self) -> bool:
        """Whether it was measured on enough red cells of the image itself."""
        return self.origin == "red_cells" and not self.is_weak

    def describe(self) -> str:
        """Where the scale comes from, for people: ``given``, ``file``, ``red cells (n=57)``, ..."""
        if self.origin == "red_cells":
            return f"red cells (n={self.n_cells})"
        if self.origin == "other_images":
            return f"red cells of {counted(self.n_images, 'other image')} of this size"
        if self.origin == "run":
            return f"red cells of {counted(self.n_images, 'image')} of this size"
        return self.reason if self.origin in ("unknown", "assumed") else self.origin


@dataclass(frozen=True, eq=False)
class _Look:
    """Red cells detected at a scale: sizes in pixels of the image (n, 2), and how well they fit the scale."""

    mpp: Scale
    sizes: NDArray[np.float64]
    merit: float


def estimate_scale(source: Source, asked: Scale | Literal["auto"] | None, detector: Detector) -> ScaleEstimate:
    """Micrometres per pixel: as given, as stated by the file, or as measured on the red cells.

    Parameters
    ----------
    source : Source
    asked : (float, float), "auto" or None
        ``"auto"`` measures even where the file states a scale.
    detector : Detector
        One that knows red cells refines the measurement.
    """
    if isinstance(asked, tuple):
        return ScaleEstimate(asked, "given")
    if asked is None and source.mpp is not None:
        return ScaleEstimate(source.mpp, "file")
    start = time.perf_counter()
    rgb = _middle(source)
    found = estimate_mpp(rgb)
    n, mpp = found.n_cells, found.mpp
    if "rbc" in detector.card.classes:
        look = _refined(rgb, mpp, detector)
        if look is not None and (mpp is None or len(look.sizes) >= min(n, _FEWEST)):
            n, mpp = len(look.sizes), look.mpp
    seconds = time.perf_counter() - start
    if n < FEW_RED_CELLS and getattr(source, "shows_one_cell", False):  # what looks like a red cell is the cell itself
        return ScaleEstimate(None, "unknown", reason=ONE_CELL, seconds=seconds)
    if mpp is None:
        return ScaleEstimate(None, "unknown", reason=found.reason, seconds=seconds)
    warnings = []
    if max(mpp) > _SQUEEZED * min(mpp):
        warnings.append(f"the image looks squeezed: its red cells are {mpp[0] / mpp[1]:.2f} times as tall as wide")
    if n < FEW_RED_CELLS:
        warnings.append(f"scale measured on {n} red cells only; pass --mpp if it is known")
    return ScaleEstimate(mpp, "red_cells", n, warnings=tuple(warnings), seconds=seconds)


def scaled_size(size_wh: WidthHeight, mpp: Scale, card_mpp: float, path: Path) -> WidthHeight:
    """Size of an image at the card's µm/px.

    Raises
    ------
    ScaleError
        If the image is too coarse to show cells.
    """
    if max(mpp) > COARSEST_MPP:
        raise ScaleError(f"{path}: expected at most {COARSEST_MPP} µm/px to show cells, got {max(mpp):.3g}")
    factor = (mpp[0] / card_mpp, mpp[1] / card_mpp)
    return max(1, round(size_wh[0] * factor[0])), max(1, round(size_wh[1] * factor[1]))


def _middle(source: Source) -> RGB:
    """The image, or the middle of one that is too large to use completely."""
    width, height = source.size_wh
    w, h = min(width, _WINDOW), min(height, _WINDOW)
    x, y = (width - w) // 2, (height - h) // 2
    return source.read((x, y, x + w, y + h))


def _refined(rgb: RGB, start: Scale | None, detector: Detector) -> _Look | None:
    """The scale at which the detector's red cells are 7.5 µm wide; ``None`` where it sees too few."""
    best = None if start is None else _settle(rgb, start, detector)
    if best is None or len(best.sizes) < _ENOUGH:
        looks = [_look(rgb, (mpp, mpp), detector) for mpp in _LADDER]
        step = max((look for look in looks if len(look.sizes)), key=lambda look: look.merit, default=None)
        other = None if step is None else _settle(rgb, step.mpp, detector)
        if other is not None and (best is None or other.merit > best.merit):
            best = other
    return best


def _settle(rgb: RGB, mpp: Scale, detector: Detector) -> _Look | None:
    look = _look(rgb, mpp, detector)
    if len(look.sizes) < _FEWEST:
        return None
    for _ in range(_ROUNDS):
        corrected = _implied(look.sizes)
        off = max(abs(np.log(corrected[0] / mpp[0])), abs(np.log(corrected[1] / mpp[1])))
        mpp, before = corrected, look
        if off < _SETTLED:
            break
        look = _look(rgb, mpp, detector)
        if len(look.sizes) < _FEWEST:
            look = before
            break
    return _Look(mpp, look.sizes, look.merit)


def implied_scale(cells: Detections, size_wh: WidthHeight) -> Scale | None:
    """The scale at which the whole red cells of a result are 7.5 µm wide; ``None`` where they are too few to tell."""
    sizes = _whole_red_cells(cells, size_wh)
    return _implied(sizes) if len(sizes) >= _ENOUGH else None


def _whole_red_cells(cells: Detections, size_wh: WidthHeight) -> NDArray[np.float64]:
    """Widths and heights (n, 2) of red cells that no edge of the image cuts."""
    red = cells.with_classes("rbc").boxes_xyxy.astype(np.float64)
    whole = red[(red[:, :2] > 1).all(axis=1) & (red[:, 2:] < np.array(size_wh) - 1).all(axis=1)]
    return whole[:, 2:] - whole[:, :2]


def doubt_of(scale: ScaleEstimate, cells: Detections, size_wh: WidthHeight) -> str:
    """A warning where the red cells that were found contradict a scale that was not measured on them; else empty.

    It costs nothing, and it is coarse: the detector draws boxes up to 1.14 times as wide as cells, patients' red cells
    differ, and at a wrong scale boxes are drawn towards the size that cells should have. The factors are the largest
    that images of known scale differed by, with some room (docs/results-history.md).
    """
    if scale.mpp is None or scale.origin not in _STATED:
        return ""
    sizes = _whole_red_cells(cells, size_wh)
    if len(sizes) < _ENOUGH:
        return ""
    widths = np.log(sizes).mean(axis=1)
    error = 1.253 * 1.4826 * float(np.median(np.abs(widths - np.median(widths)))) / np.sqrt(len(widths))
    return _doubt(scale, _implied(sizes), len(sizes), 2 * error)


def can_tell(mpp: Scale, cells: Detections, size_wh: WidthHeight) -> bool:
    """Whether the whole red cells of a result tell if a scale is right: many do, and two that agree with it."""
    sizes = _whole_red_cells(cells, size_wh)
    if not 2 <= len(sizes) < _ENOUGH:
        return len(sizes) >= _ENOUGH
    off = float(np.log(np.array(_implied(sizes)) / mpp).mean())
    return bool(-np.log(_TOO_COARSE) < off < np.log(_TOO_FINE))


def doubt_by_measuring(scale: ScaleEstimate, source: Source, detector: Detector) -> str:
    """As `doubt_of`, for an image in which too little was found to tell: its scale is measured as if none were known.

    It takes about a second.
    """
    if scale.mpp is None or scale.origin not in _STATED or getattr(source, "shows_one_cell", False):
        return ""
    measured = estimate_scale(source, "auto", detector)
    if measured.mpp is None or measured.n_cells < _ENOUGH:
        return ""
    return _doubt(scale, measured.mpp, measured.n_cells, _ROOM)


def _doubt(scale: ScaleEstimate, implied: Scale, n: int, room: float) -> str:
    """A warning if the scale that `n` red cells imply differs from the stated one, with some room (log)."""
    assert scale.mpp is not None
    measured, stated = (float(np.sqrt(x * y)) for x, y in (implied, scale.mpp))
    off = float(np.log(measured / stated))
    if abs(off) - room <= np.log(_TOO_FINE if off > 0 else _TOO_COARSE):
        return ""
    by = f"the file states {stated:.3g}" if scale.origin == "file" else f"{stated:.3g} was given"
    return f"red cells suggest {measured:#.2g} µm/px (n={n}); {by}. {CHECK_THE_SCALE}"


def _implied(sizes: NDArray[np.float64]) -> Scale:
    """µm/px from the median red cell; the axes differ only where many cells say so."""
    width, height = np.median(sizes, axis=0)
    if len(sizes) < _ENOUGH or max(width / height, height / width) < _SQUEEZED:
        width = height = np.sqrt(width * height)
    return float(RED_CELL_UM / width), float(RED_CELL_UM / height)


def _look(rgb: RGB, mpp: Scale, detector: Detector) -> _Look:
    """Complete red cells in the middle of an image, in one tile of the detector."""
    card = detector.card
    factor = np.array(mpp) / card.mpp
    size = np.array(rgb.shape[1::-1])
    most = np.minimum(card.input.wh, round(_LOOK_UM / card.mpp))
    window = np.minimum(size, np.ceil(most / factor)).astype(int)
    out = np.minimum(np.round(window * factor), most).astype(int)
    nothing = _Look(mpp, np.empty((0, 2)), 0.0)
    if out.min() < card.input.stride // 2 or max(mpp) > COARSEST_MPP:
        return nothing
    x, y = (size - window) // 2
    image = resize(np.ascontiguousarray(rgb[y : y + window[1], x : x + window[0]]), (int(out[0]), int(out[1])))
    cells = detector([image])[0].with_classes("rbc")
    boxes = cells.boxes_xyxy.astype(np.float64)
    whole = (boxes[:, :2] > 1).all(axis=1) & (boxes[:, 2:] < out - 1).all(axis=1) & (cells.score > _LEAST_SCORE)
    if not whole.any():
        return nothing
    sizes = (boxes[whole, 2:] - boxes[whole, :2]) * window / out
    off = np.log(np.array(_implied(sizes)) / mpp).mean()
    covered = float((sizes.prod(axis=1) * cells.score[whole]).sum() / window.prod())
    return _Look(mpp, sizes, covered * float(np.exp(-((off / _TOLERANCE) ** 2))))
