"""Images of single cells that paths stand for, with the scale that their dataset states."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from blastdet.core.errors import BlastdetError
from blastdet.core.types import Scale
from blastdet.datasets.formats import registry
from blastdet.datasets.reading import find_dataset
from blastdet.imaging.io import open_smear
from blastdet.inference.outputs.jobs import Job, find_jobs, left_out
from blastdet.inference.single_cells.classification import CellImage

OF_ONE_CELL: tuple[str, ...] = ("pbc", "jhu", "cnmc", "allidb2", "aml_lmu", "bone_marrow", "cell_folders")
"""Formats of datasets whose images show one cell each."""


def find_cell_images(paths: Sequence[Path], out: Path) -> tuple[list[CellImage], dict[str, Path], str]:
    """Images in the order of their paths, the file of each name, and a line on what is left out; see `left_out`.

    Parameters
    ----------
    paths : sequence of Path
        Files, patterns, folders, or names of datasets in the catalog. Of a folder that a reader of `OF_ONE_CELL`
        recognises, the scale is known that the reader states.
    out : Path
        Output folder, whose files are left out.
    """
    places = [find_dataset(path)[0] for path in paths]
    jobs = find_jobs(places, out)
    stated = {}
    for place in places:
        stated.update(stated_scales(place))
    images = [_image(job, stated.get(os.path.realpath(job.path))) for job in jobs]
    return images, {job.name: job.path for job in jobs}, left_out(places, jobs, out)


def _image(job: Job, mpp: Scale | None) -> CellImage:
    return CellImage(job.name, partial(open_smear, job.path), mpp)


def stated_scales(folder: Path) -> dict[str, Scale]:
    """Real path of an image -> µm/px that the reader of its dataset states; empty where there is no such reader."""
    if not folder.is_dir():
        return {}
    try:
        name = registry.detect_format(folder)
        dataset = registry.read(folder, name) if name in OF_ONE_CELL else ()
    except BlastdetError:  # no dataset, or an incomplete one: then it is a folder of images
        return {}
    return {os.path.realpath(sample.path): sample.mpp for sample in dataset if sample.mpp is not None}
