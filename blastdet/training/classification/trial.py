"""Short trainings that each leave one laboratory out: what an idea brings where no cell was seen.

Nothing is calibrated or exported. The same setting is tried without each laboratory that has blasts and other cells,
and judged by how well it ranks the cells of that laboratory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from blastdet.core.statistics import auroc
from blastdet.datasets.cropping.crop_table import CropRow, read_table
from blastdet.training.classification.calibration import Floats, softmax
from blastdet.training.classification.cnn import CropClassifier
from blastdet.training.classification.crop_samples import Crop, CropEpoch, load_crops, load_rows
from blastdet.training.classification.distillation import load_teacher
from blastdet.training.classification.networks import check_network
from blastdet.training.classification.out_of_fold import Flags, is_blast
from blastdet.training.config import ClassifyConfig
from blastdet.training.config_file import expand
from blastdet.training.loop import engine
from blastdet.training.loop.run_folder import write_run
from blastdet.training.loop.session import Progress, begin, loop, pick_device

MOST_CELLS = 3000
"""Cells of the laboratory left out, and of the training, that are classified: evenly spaced."""

_NEIGHBOURS = 25


@dataclass(frozen=True, eq=False)
class TrialCells:
    """Cells as a network of a trial sees them.

    Parameters
    ----------
    probability : float (n,)
        Of a blast, not calibrated.
    features : float (n, f)
        The input of its last layer.
    is_blast : bool (n,)
    smear : str (n,)
        Patient, subject or cluster.
    """

    probability: Floats
    features: Floats
    is_blast: Flags
    smear: NDArray[np.str_]

    @property
    def relative(self) -> Floats:
        """Features (n, f) less their median over all cells of the same smear."""
        out = self.features.copy()
        for one in np.unique(self.smear):
            mine = self.smear == one
            out[mine] -= np.median(out[mine], axis=0)
        return out


@dataclass(frozen=True, eq=False)
class Trial:
    """A short training: cells of the laboratory left out, some cells of the training, and its duration in seconds."""

    left_out: TrialCells
    trained_on: TrialCells
    seconds: float

    def aurocs(self) -> dict[str, float]:
        """AUROC of blast on the laboratory left out, by how the network's output is used.

        ``network``: its blast probability; ``bank``: nearest neighbours of the features among cells of the training;
        ``relative``: logistic regression of features relative to the other cells of the smear; ``plain``: of features
        as they are, to compare.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer, StandardScaler

        mine, known = self.left_out, self.trained_on
        found = {"network": auroc(mine.probability, mine.is_blast)}
        bank = make_pipeline(Normalizer(), KNeighborsClassifier(_NEIGHBOURS))
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000))
        for name, model, seen, new in (
            ("bank", bank, known.features, mine.features),
            ("plain", regression, known.features, mine.features),
            ("relative", regression, known.relative, mine.relative),
        ):
            model.fit(seen, known.is_blast)
            found[name] = auroc(model.predict_proba(new)[:, 1], mine.is_blast)
        return found


def run_trial(config: ClassifyConfig, laboratory: str, base: Path, run: Path, progress: Progress) -> Trial:
    """Train without a laboratory, as `config` says but without choosing an epoch, and classify its cells.

    Parameters
    ----------
    config : ClassifyConfig
        Of a network, with ``blast`` among its classes.
    laboratory : str
        See `ClassifyConfig.laboratories`.
    base : Path
        Folder that paths of the configuration are relative to.
    run : Path
        New folder for configuration and checkpoints; another trial may have it as its teacher.
    progress : Progress

    Raises `ConfigError` if the network is unknown, or data are missing.
    """
    out = tuple(name for one, name in config.laboratories if one == laboratory)
    config = ClassifyConfig.model_validate(
        config.model_dump() | {"leave_out": (*config.leave_out, *out), "folds": None, "val_every": config.epochs}
    )
    check_network(config.model)
    data = load_crops(config, base)
    teacher = load_teacher(config, base, data)
    run.mkdir(parents=True)
    write_run(run, config, data.fingerprints)
    torch.manual_seed(config.seed)
    model = CropClassifier(config.model, len(config.classes), config.side, teacher)
    state = begin(model, config, (base, run), pick_device("auto"), False, progress)
    latest = (lambda current: {"fitness": float(current.epoch)}, progress)  # no epoch is chosen: the last one is kept
    loop(state, partial(CropEpoch, data.train, config), config, run, latest)
    with engine.ema_weights(state) as averaged:
        averaged.module.eval()
        inside = [(expand(item.path, base), item.path) for item in config.data]
        left = _cells(averaged, config, [folder for folder, _ in inside if folder.name in out], balanced=False)
        seen = _cells(averaged, config, [folder for folder, _ in inside if folder.name not in out], balanced=True)
    return Trial(left, seen, state.seconds)


def _cells(model: CropClassifier, config: ClassifyConfig, folders: Sequence[Path], balanced: bool) -> TrialCells:
    """Up to `MOST_CELLS` blasts and other white cells of folders, evenly spaced; as many of both if `balanced`."""
    found: list[tuple[Path, CropRow, float]] = [
        (folder, row, 1.0)
        for folder in folders
        for row in read_table(folder)
        if row.split != "test" and is_blast(row) is not None
    ]
    groups = [found]
    if balanced:
        groups = [[one for one in found if is_blast(one[1]) is kind] for kind in (True, False)]
    most = MOST_CELLS // len(groups)
    rows = [row for group in groups for row in group[:: -(-len(group) // most)]]
    crops: tuple[Crop, ...] = load_rows(rows, config)
    logits, features = model.predict(crops, config)
    return TrialCells(
        softmax(logits)[:, config.classes.index("blast")],
        features.astype(np.float64),
        np.array([bool(is_blast(row)) for _, row, _ in rows]),
        np.array([f"{folder.name}/{row.cluster or row.group}" for folder, row, _ in rows]),
    )
