"""Trainings that each leave out a fold of clusters or a laboratory, and their predictions for what they left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastdet.core.constants import NOT_WHITE
from blastdet.core.errors import ConfigError, differing, listed
from blastdet.core.model_card import read_card
from blastdet.datasets.annotations.cell_types import type_of
from blastdet.datasets.cropping.crop_table import CropRow, read_table
from blastdet.imaging.io import read_image
from blastdet.models.classifier import load_classifier, uncalibrated
from blastdet.training.classification.calibration import Floats
from blastdet.training.classification.crop_samples import folds, label_of, split
from blastdet.training.config import ClassifyConfig
from blastdet.training.config_file import expand, read_any
from blastdet.training.loop.run_folder import CONFIG, WEIGHTS, check_run
from blastdet.training.loop.session import Progress

FOLDS = "folds"
TRAINED_ON = ", groups held out"
"""End of the name of a laboratory that the training saw, but not these groups of it."""

_BATCH = 500
_CROPS = "crops of "
_OWN = (
    "name",
    "fold",
    "folds",
    "features",
    "init",
    "limits",
    "leave_out",
    "epochs",
    "val_every",
)  # where a model and its folds may differ

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """White cells, each classified by a model whose training has not seen its cluster or patient.

    Parameters
    ----------
    probability : float64 (n,)
        Blast probability as the model gives it.
    is_blast : bool (n,)
    cluster : str (n,)
    fold : int64 (n,)
    is_far : bool (n,)
        Whether the cell is farther from the training data than the rejection rule of its model allows.
    data : str
        What the cells are, for the card.
    laboratory : str (n,)
        Empty where folds are not laboratories.
    cell_type : str (n,)
        Of `CELL_TYPES`, as the dataset says; empty where it does not.
    other_type : str (n,)
        The most probable class but blast.
    crop : str (n,)
        Path of the crop.
    """

    probability: Floats
    is_blast: Flags
    cluster: NDArray[np.str_]
    fold: NDArray[np.int64]
    is_far: Flags
    data: str
    laboratory: NDArray[np.str_]
    cell_type: NDArray[np.str_]
    other_type: NDArray[np.str_]
    crop: NDArray[np.str_]

    @property
    def by_laboratory(self) -> bool:
        """Whether each fold is a laboratory."""
        return bool((self.laboratory != "").all())

    def only(self, keep: Flags) -> OutOfFold:
        """Some of the cells."""
        columns = {one.name: getattr(self, one.name) for one in fields(self)}
        return OutOfFold(**{name: value if name == "data" else value[keep] for name, value in columns.items()})

    @property
    def is_left_out(self) -> Flags:
        """Cells (n,) whose laboratory the training has not seen at all, or, with folds of clusters, every cell."""
        return ~np.char.endswith(self.laboratory.astype(str), TRAINED_ON)

    @property
    def weight(self) -> Floats:
        """Weight of each cell (n,): blasts and others have the same, and so have the laboratories within each."""
        weight = np.zeros(len(self.fold))
        for blast in (False, True):
            labs, index, n = np.unique(self.laboratory[self.is_blast == blast], return_inverse=True, return_counts=True)
            weight[self.is_blast == blast] = 0.5 / len(labs) / n[index] if len(labs) else 0
        return weight


def train_classifier(
    config: ClassifyConfig, base: Path, run: Path, device: str, resume: bool, progress: Progress
) -> Path:
    """Train one classifier of crops, of pixels or of features; parameters and errors as `train_network`."""
    if config.features:
        from blastdet.training.classification.sklearn_models import train_on_features

        return train_on_features(config, base, run, device, resume, progress)
    from blastdet.training.classification.cnn import train_network

    return train_network(config, base, run, device, resume, progress)


def train_folds(config: ClassifyConfig, base: Path, run: Path, device: str, progress: Progress) -> tuple[Path, ...]:
    """Train the models of a configuration's ``folds``; finished ones are kept, started ones are resumed.

    Returns
    -------
    tuple of Path
        Their run folders below `run`: ``folds/fold-K``, or ``folds/LABORATORY``.
    """
    planned = list(_without_each(config, base))
    for number, mine in enumerate(planned, start=1):
        folder = run / FOLDS / mine.name
        progress.say(f"fold {number} of {len(planned)}: {folder}")
        started = (folder / CONFIG).is_file()
        if started:
            check_run(mine, folder, resume=True)
        if not (folder / WEIGHTS / "card.json").is_file():
            train_classifier(mine, base, folder, device, started, progress)
    return tuple(run / FOLDS / mine.name for mine in planned)


def _without_each(config: ClassifyConfig, base: Path) -> Iterator[ClassifyConfig]:
    """The configuration without each fold, or without each laboratory; its name is that of the run folder."""
    if config.folds == "laboratories":
        for one in dict.fromkeys(laboratory for laboratory, _ in config.laboratories):
            out = tuple(name for laboratory, name in config.laboratories if laboratory == one)
            changes = {"leave_out": (*config.leave_out, *out), "folds": None, "name": f"without-{one}"}
            yield ClassifyConfig.model_validate(config.model_dump() | changes)
    else:
        assert config.folds is not None
        yield from (_without_fold(config, base, k, config.folds) for k in range(config.folds))


def _without_fold(config: ClassifyConfig, base: Path, k: int, n: int) -> ClassifyConfig:
    features = config.features
    if features and features != "hand-made":
        path = Path(features).parent / FOLDS / f"fold-{k}" / WEIGHTS
        if not (expand(str(path), base) / "card.json").is_file():
            raise ConfigError(
                f"features: {features}: its network has seen all folds; expected one without fold {k} at {path}. "
                f"Train it with folds: {n} first"
            )
        features = str(path)
    changes = {"fold": [k, n], "folds": None, "name": f"fold-{k}", "features": features}
    return ClassifyConfig.model_validate(config.model_dump() | changes)


def predict_out_of_fold(runs: Sequence[Path], base: Path) -> OutOfFold:
    """Classify the crops of each fold by the model that was trained without it.

    Parameters
    ----------
    base : Path
        Folder that paths of their configurations are relative to.

    Raises `ConfigError` if a run was not trained without a fold, a fold is missing, or the crops show no blast or no
    other white cell.
    """
    configs = {run: _config_of(run) for run in sorted(runs, key=lambda run: run.name)}
    configs = dict(sorted(configs.items(), key=lambda item: item[1].fold or (0, 0)))
    by_laboratory = all(config.fold is None for config in configs.values())
    if not by_laboratory:
        _check_folds(configs)
    never = _left_out_by_all(configs) if by_laboratory else set()
    parts = []
    for number, (run, config) in enumerate(configs.items()):
        card = read_card(run / WEIGHTS)
        if card.calibration is not None or card.adaptation is not None:
            raise ConfigError(
                f"{run / WEIGHTS}: expected weights as `blastdet train` leaves them, not calibrated again"
            )
        for item in config.data:
            folder = expand(item.path, base)
            fold = number if config.fold is None else config.fold[0]
            laboratory = (item.laboratory or folder.name) if by_laboratory else ""
            rows = [] if folder.name in never else _left_out(folder, config)
            parts.append(_cells(run / WEIGHTS, folder, rows, fold, laboratory))
    return _joined(parts, runs[0].parent)


def _left_out_by_all(configs: dict[Path, ClassifyConfig]) -> set[str]:
    """Folders that no run of several has used: they belong to no fold."""
    each = [set(config.leave_out) for config in configs.values()]
    return set.intersection(*each) if len(each) > 1 else set()


def predict_to_calibrate(run: Path, folds_of_it: Sequence[Path], base: Path) -> OutOfFold:
    """What the calibration of a run is fitted to: its folds, and with laboratories also its own validation crops.

    A user's laboratory may be like those of the training or unlike all of them, so both kinds take part: laboratories
    that were left out, and groups held out of laboratories that were not, as strata of their own.
    """
    predicted = predict_out_of_fold(folds_of_it, base)
    if not predicted.by_laboratory:
        return predicted
    held = predict_validation(run / CONFIG, base, run / WEIGHTS, calibrated=False)
    fold_of = dict(zip(predicted.laboratory, predicted.fold, strict=True))
    fold = np.array([fold_of.get(name.removesuffix(TRAINED_ON), -1) for name in held.laboratory])
    return _joined([predicted, replace(held, fold=fold)], run)


def predict_validation(config_file: Path, base: Path, weights: Path, *, calibrated: bool = True) -> OutOfFold:
    """Classify the validation crops of a training by laboratory; nothing of their groups was trained on.

    They are not untouched: the best epoch was chosen on them. `laboratory` ends with `TRAINED_ON`.

    Parameters
    ----------
    config_file : Path
        Of the training.
    base : Path
        Folder that paths of the configuration are relative to.
    weights : Path
        That came of it.
    calibrated : bool
        Whether the calibration of the card, if it has one, is applied.

    Raises `ConfigError` if the crops show no blast or no other white cell.
    """
    config = read_any(config_file)
    if not isinstance(config, ClassifyConfig) or "blast" not in config.classes:
        raise ConfigError(f"{config_file}: expected a classifier of blasts")
    parts = []
    for item in config.data:
        folder = expand(item.path, base)
        if folder.name in config.leave_out:
            continue
        _, held = split(read_table(folder), config.val_fraction, config.seed)
        rows = [row for row in held if is_blast(row) is not None]
        laboratory = (item.laboratory or folder.name) + TRAINED_ON
        parts.append(_cells(weights, folder, rows, 0, laboratory, calibrated=calibrated))
    return _joined(parts, config_file)


def _cells(
    weights: Path, folder: Path, rows: list[CropRow], fold: int, laboratory: str, *, calibrated: bool = True
) -> OutOfFold | None:
    """Crops of one folder as a model classifies them; ``None`` without crops."""
    if not rows:
        return None
    card = read_card(weights)
    if card.unsure is None:
        raise ConfigError(f"{weights}: expected a classifier of blasts with a rejection rule")
    model = load_classifier(weights, "cpu") if calibrated else uncalibrated(weights, "cpu")
    outputs = [
        model([read_image(folder / row.crop) for row in some], [row.mpp for row in some])
        for some in (rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH))
    ]
    probability = np.concatenate([output.probability for output in outputs])
    blast = card.classes.index("blast")
    others = np.delete(probability, blast, axis=1).argmax(axis=1)
    return OutOfFold(
        probability=probability[:, blast].astype(np.float64),
        is_blast=np.array([bool(is_blast(row)) for row in rows]),
        cluster=np.array([f"{folder.name}/{row.cluster or row.group}" for row in rows]),
        fold=np.full(len(rows), fold),
        is_far=np.concatenate([output.distance for output in outputs]) > card.unsure.distance,
        data=folder.name,
        laboratory=np.full(len(rows), laboratory, dtype=object),
        cell_type=np.array([type_of(row.cell_type) or "" for row in rows]),
        other_type=np.delete(np.array(card.classes), blast)[others],
        crop=np.array([str(folder / row.crop) for row in rows]),
    )


def _joined(folders: Sequence[OutOfFold | None], where: Path) -> OutOfFold:
    parts = [part for part in folders if part is not None]
    names = [one.name for one in fields(OutOfFold) if one.name != "data"]
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names if parts}
    if not columns or not 0 < columns["is_blast"].sum() < len(columns["is_blast"]):
        raise ConfigError(f"{where}: expected blasts and other white cells in the folds")
    names = [name for part in parts for name in part.data.removeprefix(_CROPS).split(", ")]
    data = _CROPS + ", ".join(dict.fromkeys(names))
    return OutOfFold(**{**columns, "laboratory": columns["laboratory"].astype(str)}, data=data)


def _config_of(run: Path) -> ClassifyConfig:
    config = read_any(run / CONFIG)
    known = isinstance(config, ClassifyConfig) and "blast" in config.classes and (config.fold or config.leave_out)
    if not known:
        raise ConfigError(f"{run / CONFIG}: expected a classifier of blasts with an entry fold: [k, n], or leave_out")
    assert isinstance(config, ClassifyConfig)
    return config


def _check_folds(configs: dict[Path, ClassifyConfig]) -> None:
    found = sorted(config.fold or (0, 0) for config in configs.values())
    n = found[0][1]
    if found != [(k, n) for k in range(n)]:
        given = ", ".join(f"{k} of {of}" for k, of in found)
        raise ConfigError(f"{next(iter(configs))}: expected runs for folds 0 to {n - 1} of {n}, got {given}")


def _left_out(folder: Path, config: ClassifyConfig) -> list[CropRow]:
    """Blasts and other white cells of a folder that a training has not seen; erythroblasts are neither."""
    if (config.fold is None) != (folder.name in config.leave_out):
        return []
    table = read_table(folder)
    if config.fold is not None:
        k, n = config.fold
        dealt = folds(table, n)
        table = [row for row in table if dealt.get(row.cluster) == k]
    return [row for row in table if row.split != "test" and is_blast(row) is not None]


def is_blast(row: CropRow) -> bool | None:
    """Whether a white cell is a blast; ``None`` for erythroblasts, smudges, and cells without a label."""
    if type_of(row.cell_type) in NOT_WHITE:
        return None
    return {"blast": True, "wbc": False}.get(label_of(row, "blast"))


def check_same_model(run: Path, folds_of_it: Sequence[Path]) -> None:
    """Refuse folds that were trained with other settings than the model that they calibrate.

    Raises `ConfigError`.
    """
    whole = _comparable(run)
    for fold in folds_of_it:
        if other := differing(whole, _comparable(fold)):
            raise ConfigError(f"{fold / CONFIG}: expected the configuration of {run}, differs in {listed(other)}")


def _comparable(run: Path) -> dict[str, Any]:
    config = read_any(run / CONFIG).model_dump(mode="json")
    return {key: value for key, value in config.items() if key not in _OWN}
