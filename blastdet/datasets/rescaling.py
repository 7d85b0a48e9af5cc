"""Pictures of a data set at another scale, and their cells with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from blastdet.core import boxes
from blastdet.core.errors import ScaleError
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.datasets.formats.files import folder_of, unique_names
from blastdet.imaging.io import open_smear, write_image

JPEG_QUALITY = 95


def resample(dataset: Dataset, out: Path, mpp: float) -> Dataset:
    """Write every picture below ``out/images/<split>/`` with `mpp` µm to a pixel along both axes.

    A squeezed picture becomes square. JPEG stays JPEG (quality 95), everything else becomes PNG. Width and height are
    whole pixels, so the µm/px that a smear gets, and its boxes, follow from the size its picture really has.

    Raises
    ------
    ScaleError
        If a picture's scale is unknown, or it would vanish.
    """
    unknown = [dataset.file_name(smear) for smear in dataset if smear.mpp is None]
    if unknown:
        raise ScaleError(f"{dataset.root}: µm/px of {len(unknown)} pictures unknown ({unknown[0]}); say --source-mpp")
    smears = []
    for smear, name in zip(dataset, unique_names(dataset), strict=True):
        suffix = Path(name).suffix if Path(name).suffix.lower() in (".jpg", ".jpeg") else ".png"
        target = out / "images" / folder_of(smear) / f"{Path(name).stem}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        smears.append(_resampled(smear, target, mpp))
    return replace(dataset, root=out, samples=tuple(smears))


def _resampled(smear: Sample, target: Path, mpp: float) -> Sample:
    assert smear.mpp is not None
    width, height = (round(side * own / mpp) for side, own in zip(smear.size_wh, smear.mpp, strict=True))
    if min(width, height) < 1:
        raise ScaleError(f"{smear.path}: {smear.size_wh} pixels of {smear.mpp} µm vanish at {mpp} µm/px")
    factor = width / smear.size_wh[0], height / smear.size_wh[1]
    with open_smear(smear.path) as source:
        write_image(target, source.read(scale_xy=factor), JPEG_QUALITY)
    return replace(
        smear,
        path=target,
        size_wh=(width, height),
        mpp=(smear.mpp[0] / factor[0], smear.mpp[1] / factor[1]),
        truth=None if smear.truth is None else scaled(smear.truth, factor),
    )


def scaled(cells: Detections, factor_xy: tuple[float, float]) -> Detections:
    """Cells with boxes and points multiplied by a factor along x and along y."""
    points = None if cells.point_xy is None else cells.point_xy * factor_xy
    return cells.with_columns(boxes_xyxy=boxes.scale(cells.boxes_xyxy, factor_xy), point_xy=points)
