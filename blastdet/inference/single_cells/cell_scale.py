"""The scale of images that show one cell each.

A wrong scale shows a lymphocyte as large as a blast. Where neither the user nor a file states one and there is no red
cell to measure, the image is refused, unless the user says how wide the cells usually are.

A close-up shows a handful of red cells, which measure a scale within about 10 %. Images of one size in one run usually
come from one camera and objective. If measurements on some of them agree, their median is the scale of all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blastdet.core.constants import LARGEST_CELL_UM
from blastdet.core.errors import ConfigError, counted
from blastdet.core.mpp import parse_mpp
from blastdet.core.types import Scale, WidthHeight
from blastdet.imaging.cell_crops import Box
from blastdet.imaging.io import Source
from blastdet.inference.scale import ScaleEstimate

NO_RED_CELLS = "one cell on plain ground, so there are no red cells to measure"
ADVICE = "Pass --mpp (µm per pixel), or --cell-um, the usual width of these cells"

_SMALLEST_UM = 4.0
_SAMPLE = 48  # images of one size that are measured at first
_FEWEST = 5  # measured images that may settle the scale of the others
_AGREE = 0.15  # middle half of the measurements, relative to their median


@dataclass(frozen=True)
class CellOptions:
    """What a user may set for images of single cells.

    Parameters
    ----------
    mpp : float, (float, float), "auto" or None
        µm per pixel. ``None`` takes what the dataset or the file states, and measures the red cells where neither does.
        ``"auto"`` always measures them.
    cell_um : float, optional
        Width of the median cell in µm. Used only for images on plain ground whose scale is not stated.

    Raises
    ------
    ScaleError, ConfigError
        If a value is out of range or of another type.
    """

    mpp: Any = None
    cell_um: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mpp", parse_mpp(self.mpp))
        width: Any = self.cell_um
        if width is None:
            return
        is_number = isinstance(width, (int, float, np.number)) and not isinstance(width, bool)
        if not is_number or not _SMALLEST_UM <= width <= LARGEST_CELL_UM:
            raise ConfigError(
                f"cell_um: expected a width from {_SMALLEST_UM:g} to {LARGEST_CELL_UM:g} µm, got {width!r:.40}"
            )
        object.__setattr__(self, "cell_um", float(width))


@dataclass(frozen=True)
class FirstLook:
    """What is known of an image before its scale is settled.

    Parameters
    ----------
    size_wh : (int, int)
    isolated : (float, float, float, float) or None
        Box of a cell on plain ground.
    scale : ScaleEstimate or None
        ``None`` where it is yet to be measured on red cells.
    """

    size_wh: WidthHeight
    isolated: Box | None
    scale: ScaleEstimate | None


def stated_scale(
    source: Source, isolated: Box | None, stated: Scale | None, options: CellOptions
) -> ScaleEstimate | None:
    """The scale of one image as far as it need not be measured: given, stated, or unknown for want of red cells.

    Parameters
    ----------
    source : Source
    isolated : box, optional
        That of a cell on plain ground.
    stated : (float, float), optional
        What the dataset says.
    """
    asked = options.mpp
    if isinstance(asked, tuple):
        return ScaleEstimate(asked, "given")
    if asked is None and stated is not None:
        return ScaleEstimate(stated, "dataset")
    if asked is None and source.mpp is not None:
        return ScaleEstimate(source.mpp, "file")
    return None if isolated is None else ScaleEstimate(None, "unknown", reason=NO_RED_CELLS)


def to_measure(looks: Sequence[FirstLook | None]) -> list[list[int]]:
    """Images whose scale is to be measured now: positions, for each size some that are spread over the run.

    Parameters
    ----------
    looks : sequence of FirstLook
        ``None`` for an image that cannot be read. Called again after these are measured, it returns the others where
        the measurements do not agree.
    """
    pending: dict[WidthHeight, list[int]] = defaultdict(list)
    known: dict[WidthHeight, list[int]] = defaultdict(list)
    for i, look in enumerate(looks):
        if look is None or look.isolated is not None:
            continue
        (pending if look.scale is None else known)[look.size_wh].append(i)
    chosen = []
    for size, waiting in pending.items():
        some = [looks[i] for i in known[size]]
        if not some:
            step = max(len(waiting) / _SAMPLE, 1)
            chosen.append([waiting[int(k * step)] for k in range(min(_SAMPLE, len(waiting)))])
        elif _agreed([look.scale for look in some if look is not None]) is None:
            chosen.append(waiting)
    return chosen


def settled(looks: Sequence[FirstLook], options: CellOptions) -> list[ScaleEstimate]:
    """The scale of each image, with the help of the others.

    Cells on plain ground have the median width `CellOptions.cell_um`, if that is set.
    """
    scales, widths = defaultdict(list), defaultdict(list)
    for look in looks:
        if look.isolated is None:
            scales[look.size_wh].append(look.scale)
        elif look.scale is not None and look.scale.origin == "unknown":
            x1, y1, x2, y2 = look.isolated
            widths[look.size_wh].append((x2 - x1 + y2 - y1) / 2)
    agreed = {size: _agreed(some) for size, some in scales.items()}
    return [
        _measured(look, agreed[look.size_wh], scales[look.size_wh])
        if look.isolated is None
        else _assumed(look.scale, widths[look.size_wh], options.cell_um)
        for look in looks
    ]


def _measured(look: FirstLook, agreed: ScaleEstimate | None, others: Sequence[ScaleEstimate | None]) -> ScaleEstimate:
    own = look.scale
    if own is not None and own.origin not in ("red_cells", "unknown"):
        return own
    if agreed is not None:
        return agreed
    if own is None or own.is_weak:
        return _median(others) or own or ScaleEstimate(None, "unknown", reason="it was not measured")
    return own


def _agreed(scales: Sequence[ScaleEstimate | None]) -> ScaleEstimate | None:
    """The median of the scales that enough red cells settle, if they are enough and agree."""
    x = [scale.mpp[0] for scale in scales if scale is not None and scale.is_measured and scale.mpp is not None]
    if len(x) < _FEWEST:
        return None
    low, middle, high = np.percentile(x, [25, 50, 75])
    return _median(scales) if (high - low) / middle <= _AGREE else None


def _median(scales: Sequence[ScaleEstimate | None]) -> ScaleEstimate | None:
    known = [scale.mpp for scale in scales if scale is not None and scale.is_measured and scale.mpp is not None]
    if not known:
        return None
    x, y = np.median(np.array(known), axis=0).tolist()
    return ScaleEstimate((x, y), "other_images", n_images=len(known))


def _assumed(scale: ScaleEstimate | None, widths: Sequence[float], cell_um: float | None) -> ScaleEstimate:
    assert scale is not None
    if scale.origin != "unknown" or cell_um is None:
        return scale
    mpp = cell_um / float(np.median(widths))
    reason = f"assumed: the median of {counted(len(widths), 'cell')} is {cell_um:g} µm wide"
    return replace(scale, mpp=(mpp, mpp), origin="assumed", reason=reason)
