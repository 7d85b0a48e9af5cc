"""One scale for all images of a run that have one size, because they come from one camera and one objective.

It is the median of a sample. One image with few red cells or a strange field cannot mislead itself then, and a run
takes little longer than one with the scale given. What contradicts it is noticed at no cost: the red cells that are
detected at the common scale must have the width of red cells.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blastdet.core.errors import BlastdetError, counted
from blastdet.core.types import Scale, WidthHeight
from blastdet.imaging.io import Source, image_size, open_smear
from blastdet.inference.scale import ScaleEstimate, estimate_scale, implied_scale

if TYPE_CHECKING:
    from blastdet.inference.model import Model, Options
    from blastdet.inference.result import Result

_ONE_OF = 33  # images of which one is measured: 30 % more time than with a scale given
_FEWEST, _MOST = 3, 9  # images measured
_TRIES = 15  # until as many have enough red cells
_AGREE = 0.2  # by which (log) measurements of one scale differ at most
_MAJORITY = 2 / 3  # of the measured images, else there is no common scale


@dataclass(frozen=True)
class _Common:
    """The scale of a group, and what its sample said by itself."""

    scale: ScaleEstimate | None
    own: dict[Path, ScaleEstimate]
    n_images: int


class FolderScales:
    """The common scales of the images of a run; each is measured when it is first needed.

    Parameters
    ----------
    paths : sequence of Path
        All images of the run. The sample is spread over those of one size, in this order, so that it does not depend on
        which image comes first.
    model : Model
    asked : (float, float), "auto" or None
        As for `estimate_scale`. There is no common scale where one is given or stated by the files.
    """

    def __init__(self, paths: Sequence[Path], model: Model, asked: Scale | str | None) -> None:
        self._paths, self._model, self._asked = list(paths), model, asked
        self._lock = threading.Lock()
        self._sizes: dict[WidthHeight, list[Path]] | None = None
        self._found: dict[WidthHeight, _Common] = {}

    def of(self, path: Path, source: Source) -> ScaleEstimate | None:
        """The common scale of images like this one, or None if it must be measured by itself."""
        stated = self._asked is None and source.mpp is not None
        if isinstance(self._asked, tuple) or stated or getattr(source, "shows_one_cell", False):
            return None
        with self._lock:
            size = source.size_wh
            if size not in self._found:
                self._found[size] = self._measured(self._like(size))
        found = self._found[size]
        own = found.own.get(path)
        if found.scale is None or own is None:
            return found.scale
        mark = () if own.mpp is None or _near(own.mpp, found.scale.mpp) else (_outlier(own.mpp, found.scale.mpp),)
        return replace(found.scale, n_cells=own.n_cells, warnings=mark)

    def notes(self) -> list[str]:
        """One line for each common scale, with the ``--mpp`` that makes the next run faster."""
        lines = []
        for (width, height), found in self._found.items():
            if found.scale is not None and found.scale.mpp is not None:
                x, y = found.scale.mpp
                mpp = f"{x:.4g}" if x == y else f"{x:.4g},{y:.4g}"
                what = f"{counted(found.n_images, 'image')} of {width} x {height} px"
                lines.append(
                    f"scale of {what}: {mpp} µm/px, the median of {found.scale.n_images}. Next time: --mpp {mpp}"
                )
        return lines

    def _like(self, size_wh: WidthHeight) -> list[Path]:
        if self._sizes is None:
            self._sizes = {}
            for path in self._paths:
                try:
                    self._sizes.setdefault(image_size(path), []).append(path)
                except (BlastdetError, OSError):
                    continue
        return self._sizes.get(size_wh, [])

    def _measured(self, paths: list[Path]) -> _Common:
        n = len(paths)
        own: dict[Path, ScaleEstimate] = {}
        scales: list[Scale] = []
        wanted = min(max(n // _ONE_OF, _FEWEST), _MOST)
        for path in _spread(paths)[:_TRIES] if n > 1 else []:
            found = self._own(path)
            if found is None:
                continue
            own[path] = found
            if found.is_measured and found.mpp is not None:
                scales.append(found.mpp)
                if len(scales) >= wanted:
                    middle = _median(scales)
                    if sum(_near(one, middle) for one in scales) > _MAJORITY * len(scales) or wanted == _MOST:
                        break
                    wanted = _MOST
        if not scales:
            return _Common(None, own, n)
        middle = _median(scales)
        agreeing = [one for one in scales if _near(one, middle)]
        if len(agreeing) < _MAJORITY * len(scales):
            return _Common(None, own, n)
        return _Common(ScaleEstimate(_median(agreeing), "run", n_images=len(agreeing)), own, n)

    def _own(self, path: Path) -> ScaleEstimate | None:
        try:
            with open_smear(path) as image:
                source = self._model.normalize_stain(image)
                if self._asked is None and source.mpp is not None:
                    return None
                return estimate_scale(source, "auto", self._model.detector)
        except BlastdetError:  # its own turn reports it
            return None


def analyze_in_run(model: Model, source: Source, options: Options, common: ScaleEstimate) -> Result:
    """One image at the common scale, or at its own where its red cells contradict the common one.

    Parameters
    ----------
    source : Source
        The image, stain normalized.
    common : ScaleEstimate
        From `FolderScales.of`.
    """
    result = model.analyze_source(source, common, options)
    implied = implied_scale(result.detections, source.size_wh)
    if implied is None or common.mpp is None or _near(implied, common.mpp):
        return result
    own = estimate_scale(source, "auto", model.detector)
    if not own.is_measured or own.mpp is None or _near(own.mpp, common.mpp) or common.warnings:
        return result
    line = (
        f"its red cells measure {_number(own.mpp)} µm/px, those of other images of this size {_number(common.mpp)}: "
        "its own scale is used. Is it of another objective?"
    )
    return model.analyze_source(source, replace(own, warnings=(*own.warnings, line)), options)


def _outlier(own: Scale, common: Scale | None) -> str:
    assert common is not None
    return (
        f"measured by itself it has {_number(own)} µm/px; the scale of the other images of this size, "
        f"{_number(common)}, is used. Pass --mpp if it is of another objective"
    )


def _number(mpp: Scale) -> str:
    return f"{float(np.sqrt(mpp[0] * mpp[1])):.3g}"


def _median(scales: Sequence[Scale]) -> Scale:
    x, y = np.median(np.array(scales), axis=0).tolist()
    return x, y


def _near(one: Scale, other: Scale | None) -> bool:
    return other is not None and bool(abs(np.log(np.array(one) / other)).max() <= _AGREE)


def _spread(paths: list[Path]) -> list[Path]:
    """The same paths, so that the first k are spread over all: middle, quarters, eighths, ..."""
    order: dict[int, None] = {}
    step = 2
    while len(order) < len(paths):
        for i in range(1, step, 2):
            order.setdefault(len(paths) * i // step)
        if step > 2 * len(paths):
            order |= dict.fromkeys(range(len(paths)))
        step *= 2
    return [paths[i] for i in order]
