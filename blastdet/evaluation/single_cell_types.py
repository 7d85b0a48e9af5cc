"""How well single cells are classified: ``cells.csv`` of ``blastdet classify`` against an annotated dataset.

Each image shows one annotated cell, so there is nothing to match. Intervals are over groups (patients, subjects).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.atomic_io import check_names, refuse_existing, write_text
from blastdet.core.constants import CELL_TYPES, RESEARCH_USE
from blastdet.core.errors import FormatError, counted, shown
from blastdet.core.statistics import auroc, weighted_auroc
from blastdet.core.types import NUCLEATED, Dataset, Sample
from blastdet.datasets.annotations.cell_types import possible_types
from blastdet.datasets.annotations.files import read_rows
from blastdet.datasets.copies import copies_of_samples
from blastdet.datasets.formats.csv_table import line
from blastdet.evaluation.confusion import Figure
from blastdet.evaluation.intervals import RESAMPLES, group_weights, ratio_interval, spread_over_groups
from blastdet.evaluation.match_table import Bools, Floats, Ints, groups_of
from blastdet.evaluation.reporting.text import with_interval

OTHER = "other, type unknown"
"""Row of the confusion matrix for cells that are only known not to be blasts."""

_FILES = ("classification.json", "classification_confusion.csv")
_LONGEST_TYPE = 80
_CHUNK = 100  # resamples at once, which bounds memory


@dataclass(frozen=True, eq=False)
class CellTypeEvaluation:
    """Figures of single cells on one dataset.

    Parameters
    ----------
    data : str
    n_cells, n_groups : int
        Cells that were classified and are annotated, and their groups.
    n_blasts : int
    n_missing : int
        Annotated cells that were not classified.
    n_ignored : int
        Images whose cell the dataset leaves out.
    figures : tuple of Figure
        AUROC of the blast probability, sensitivity, specificity, … with 95 % intervals over groups.
    rows, columns : tuple of str
        Annotated and called types of the confusion matrix.
    matrix : int64 (rows, columns)
    copies : tuple of str
        A note on images of which there are copies.
    """

    data: str
    n_cells: int
    n_groups: int
    n_blasts: int
    n_missing: int
    n_ignored: int
    figures: tuple[Figure, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    matrix: Ints
    copies: tuple[str, ...] = ()

    def __repr__(self) -> str:
        others = self.n_cells - self.n_blasts
        cells, groups = counted(self.n_cells, "cell"), counted(self.n_groups, "group")
        kinds = f"{counted(self.n_blasts, 'blast')}, {counted(others, 'other')}"
        lines = [f"{self.data}: {cells} of {groups}, {kinds}"]
        if self.n_groups == self.n_cells:
            lines.append("  note: patients are not named: intervals are over images, and too narrow if patients differ")
        lines += [f"  note: {note}" for note in self.copies]
        if self.n_missing:
            verb = "was not classified and is" if self.n_missing == 1 else "were not classified and are"
            lines.append(f"  note: {counted(self.n_missing, 'annotated cell')} {verb} not counted")
        if self.n_ignored:
            images = counted(self.n_ignored, "image")
            lines.append(f"  note: left out: {images} whose cell is to be ignored, or is no white cell")
        for figure in self.figures:
            text = with_interval(figure.value, figure.interval.low, figure.interval.high)
            lines.append(f"  {figure.name:<44}{text}   (n {figure.n})")
        width = max(map(len, self.rows), default=0) + 2
        lines += ["  rows: annotated, columns: called"]
        heads = [_short(name) for name in self.columns]
        lines.append("  " + " " * width + "".join(f"  {head:>7}" for head in heads))
        for name, counts in zip(self.rows, self.matrix.tolist(), strict=True):
            row = (f"  {n:>{max(7, len(head))}}" for head, n in zip(heads, counts, strict=True))
            lines.append(f"  {name:<{width}}" + "".join(row))
        return "\n".join([*lines, RESEARCH_USE])

    def write(self, folder: Path, *, overwrite: bool = False) -> list[Path]:
        """Write ``classification.json`` and the confusion matrix as CSV. Raises `ConfigError` if they exist."""
        check_classification(folder, overwrite)
        paths = [folder / name for name in _FILES]
        document = {"notice": RESEARCH_USE, **asdict(self), "matrix": self.matrix.tolist()}
        write_text(paths[0], json.dumps(_without_nan(document), indent=1, ensure_ascii=False) + "\n")
        table = [line(["annotated", *self.columns])]
        table += [line([name, *row]) for name, row in zip(self.rows, self.matrix.tolist(), strict=True)]
        write_text(paths[1], table)
        return paths


def check_classification(folder: Path, overwrite: bool) -> None:
    """Raise `ConfigError` if `CellTypeEvaluation.write` would replace files, before anything is computed."""
    check_names(folder)
    refuse_existing([folder / name for name in _FILES], overwrite)


def evaluate_cell_types(dataset: Dataset, table: Path, resamples: int = RESAMPLES) -> CellTypeEvaluation:
    """Compare ``cells.csv`` with the annotated cells of a dataset.

    Parameters
    ----------
    dataset : Dataset
        With one annotated cell an image, such as JHU, C-NMC, ALL-IDB2 and PBC.
    table : Path
        Images are found by their name below the folder of the dataset, else by their file name if that is unique.

    Raises
    ------
    FormatError
        If the table cannot be read, or no image of it is in the dataset.
    """
    called = _called(table)
    groups = groups_of(dataset)
    truths = [_truth(sample) for sample in dataset]
    known = [i for i, types in enumerate(truths) if types]
    names = _names(dataset, called)
    used = [i for i in known if names[i] in called]
    if not used:
        raise FormatError(f"{table}: expected images with one annotated cell of {dataset.name}, got none of them")
    rows = [called[names[i]] for i in used]
    is_blast = np.array([truths[i] == ("blast",) for i in used])
    group = np.unique(groups[used], return_inverse=True)[1].astype(np.int64)
    types = [truths[i][0] if len(truths[i]) == 1 else OTHER for i in used]
    made = [row["cell_type"] for row in rows]
    unsure = np.array([row["unsure"] == "1" for row in rows])
    probability = np.array([float(row["blast_probability"]) for row in rows])
    figures = _figures(is_blast, np.array(made) == "blast", unsure, group, resamples)
    area = _auroc_figure(probability, is_blast, group, resamples)
    order = (*CELL_TYPES, *sorted({*types, *made}.difference(CELL_TYPES)))
    shown_rows = tuple(name for name in order if name in types)
    shown_columns = tuple(name for name in order if name in made)
    matrix = np.zeros((len(shown_rows), len(shown_columns)), np.int64)
    np.add.at(matrix, ([shown_rows.index(t) for t in types], [shown_columns.index(m) for m in made]), 1)
    return CellTypeEvaluation(
        data=dataset.name,
        n_cells=len(used),
        n_groups=len(np.unique(group)),
        n_blasts=int(is_blast.sum()),
        n_missing=len(known) - len(used),
        n_ignored=len(truths) - len(known),
        figures=(*area, *figures, *_types_figures(types, made, group, resamples)),
        rows=shown_rows,
        columns=shown_columns,
        matrix=matrix,
        copies=copies_of_samples([dataset.samples[i] for i in used]),
    )


def _called(table: Path) -> dict[str, dict[str, str]]:
    rows = read_rows(table, "image", "cell_type", "blast_probability", "unsure")
    called: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        where = f"{table}: line {number}"
        _check(where, row)
        if row["image"] in called:
            raise FormatError(f"{where}: expected one line for each image, got another one for {shown(row['image'])}")
        called[row["image"]] = row
    return called


def _check(where: str, row: dict[str, str]) -> None:
    try:
        inside = 0 <= float(row["blast_probability"]) <= 1
    except ValueError:
        inside = False
    if not inside:
        raise FormatError(f"{where}: blast_probability: expected 0 to 1, got {row['blast_probability']!r:.40}")
    if not 0 < len(row["cell_type"]) <= _LONGEST_TYPE:
        raise FormatError(f"{where}: cell_type: expected a type, got {shown(row['cell_type'])}")
    if row["unsure"] not in ("0", "1"):
        raise FormatError(f"{where}: unsure: expected 0 or 1, got {row['unsure']!r:.40}")


def _names(dataset: Dataset, called: dict[str, dict[str, str]]) -> list[str]:
    """Name in the table of each image: the path below the dataset, or the bare file name where that is unique."""
    full = [dataset.file_name(sample) for sample in dataset]
    if any(name in called for name in full):
        return full
    by_file: dict[str, list[str]] = {}
    for name in called:
        by_file.setdefault(Path(name).name, []).append(name)
    own = [Path(name).name for name in full]
    unique = {name for name in own if len(by_file.get(name, ())) == 1}
    return [by_file[name][0] if name in unique and own.count(name) == 1 else "" for name in own]


def _truth(sample: Sample) -> tuple[str, ...]:
    """The types that the one annotated cell may have; empty where that is unknown or the cell is to be ignored."""
    truth = sample.truth
    if truth is None or len(truth) != 1 or (truth.ignore is not None and truth.ignore[0]):
        return ()
    cells = truth.with_classes(*NUCLEATED)
    if not len(cells):
        return ()
    kind = "" if cells.cell_type is None else str(cells.cell_type[0])
    return possible_types(NUCLEATED[int(cells.label[0])], kind, "")


def _figures(is_blast: Bools, called: Bools, unsure: Bools, group: Ints, resamples: int) -> list[Figure]:
    """Sensitivity, specificity and balanced accuracy at the operating threshold, also without unsure cells."""
    made = []
    for which, kept in (("", np.ones(len(unsure), bool)), (", unsure cells apart", ~unsure)):
        parts = {
            f"sensitivity{which}": (called & is_blast & kept, is_blast & kept),
            f"specificity{which}": (~called & ~is_blast & kept, ~is_blast & kept),
        }
        made += [_ratio(name, part, whole, group, resamples) for name, (part, whole) in parts.items()]
    made.append(_ratio("unsure cells", unsure, np.ones(len(unsure), bool), group, resamples))
    return [figure for figure in made if figure.n]


def _ratio(name: str, part: Bools, whole: Bools, group: Ints, resamples: int) -> Figure:
    n = int(whole.sum())
    value = float(part.sum()) / n if n else math.nan
    return Figure(name, value, ratio_interval(part, whole, group, resamples), n)


def _auroc_figure(probability: Floats, is_blast: Bools, group: Ints, resamples: int) -> list[Figure]:
    if is_blast.all() or not is_blast.any():
        return []
    area, weights = weighted_auroc(probability, is_blast), group_weights(group, resamples)
    samples = [area(weights[start : start + _CHUNK]) for start in range(0, len(weights), _CHUNK)]
    interval = spread_over_groups(np.concatenate(samples), len(np.unique(group)), resamples)
    return [Figure("AUROC, blast against other", auroc(probability, is_blast), interval, len(group))]


def _types_figures(types: Sequence[str], made: Sequence[str], group: Ints, resamples: int) -> list[Figure]:
    """Accuracy and macro F1 over the types that the dataset tells apart, if it does."""
    truth, found = np.array(types), np.array(made)
    typed = truth != OTHER
    names = sorted(set(truth[typed].tolist()))
    if len(names) < 3:
        return []
    accuracy = _ratio("correct type", (truth == found) & typed, typed, group, resamples)
    weights = group_weights(group, resamples).astype(np.float64)
    every = np.concatenate([np.ones((1, len(group))), weights])
    scores = np.stack([_f1(every, (truth == name) & typed, (found == name) & typed) for name in names])
    mean = np.nanmean(np.where(np.isnan(scores).all(axis=0), 0.0, scores), axis=0)
    interval = spread_over_groups(mean[1:], len(np.unique(group)), resamples)
    return [accuracy, Figure(f"macro F1 over {len(names)} types", float(mean[0]), interval, int(typed.sum()))]


def _f1(weights: Floats, truth: Bools, found: Bools) -> Floats:
    """F1 in each resample; NaN where the type neither occurs nor is called."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(2 * (weights @ (truth & found)) / (weights @ truth + weights @ found), np.float64)


def _short(name: str) -> str:
    return {"immature_granulocyte": "immature", OTHER: "other"}.get(name, name)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: ``None`` in its place."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
