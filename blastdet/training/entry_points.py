"""Training as functions of the Python API: what ``blastdet train``, ``calibrate`` and ``export`` call."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blastdet.core.atomic_io import locked, new_folder
from blastdet.core.errors import ConfigError
from blastdet.core.model_card import shipped
from blastdet.core.parallel import check_device
from blastdet.training.classification import cross_fitting, out_of_fold
from blastdet.training.config import ClassifyConfig, TrainConfig
from blastdet.training.config_file import read_any
from blastdet.training.loop.initial_weights import write_tensors
from blastdet.training.loop.run_folder import WEIGHTS, new_weights
from blastdet.training.loop.run_record import check_versions
from blastdet.training.loop.session import Progress
from blastdet.training.starting_config import FINE_TUNE

PathLike = str | os.PathLike[str]
CALIBRATED = "weights-calibrated"


@dataclass(frozen=True)
class TrainOptions:
    """How a training runs; it does not change what is learned.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "cuda:N"}
    allow_version_change : bool
        Resume also with another version of blastdet than the one that the run was started with.
    progress : Progress
        Where to report; by default lines are printed.

    Raises
    ------
    ConfigError
        If there is no such kind of device, or no CUDA.
    """

    device: str = "auto"
    allow_version_change: bool = False
    progress: Progress = Progress()  # noqa: RUF009  # frozen

    def __post_init__(self) -> None:
        check_device(self.device)


def train(
    config: PathLike | None = None,
    *,
    out: PathLike | None = None,
    data: PathLike | Sequence[PathLike] = (),
    set: Sequence[str] = (),
    resume: bool = False,
    options: TrainOptions = TrainOptions(),  # frozen
) -> Path:
    """Train a detector, or a classifier of crops, as a configuration says.

    Parameters
    ----------
    config : path, optional
        YAML file: see the reference of the training configuration. Default, with `data`: that of the shipped detector;
        with ``init=…`` in `set` as well, that of a fine-tuning.
    out : path, optional
        Run folder, which must be new or empty. Default: ``runs/NAME``.
    data : path or sequence of paths
        Datasets, or folders of crops, to use instead of those in the configuration.
    set : str or sequence of str
        Single entries to override: ``"epochs=10"``, ``"augment.mosaic=0"``, ``"init=start.safetensors"``.
    resume : bool
        Continue the run in `out` after its last finished epoch; it ends as if it had not been interrupted.
    options : TrainOptions

    Returns
    -------
    Path
        Weights folder, for `blastdet.load` and ``--weights``.

    Raises
    ------
    BlastdetError
        A faulty configuration, missing data, a run folder that exists, a loss that is not finite.

    Examples
    --------
    >>> weights = blastdet.train("tiny.yaml", out="runs/tiny", set=["epochs=1"])  # doctest: +SKIP
    >>> blastdet.load(weights)("smear.jpg").counts  # doctest: +SKIP
    """
    device, progress = options.device, options.progress
    given = [data] if isinstance(data, str | os.PathLike) else list(data)
    settings = _settings(config, [Path(item) for item in given], [set] if isinstance(set, str) else set, progress.say)
    run, base = Path(out) if out is not None else Path("runs") / settings.name, Path.cwd()
    if resume:
        check_versions(run, progress.say, options.allow_version_change)
    if isinstance(settings, TrainConfig):
        from blastdet.training.detection.train import train_detector

        return train_detector(settings, base, run, device, resume, progress)
    weights = out_of_fold.train_classifier(settings, base, run, device, resume, progress)
    if settings.folds:
        folds = out_of_fold.train_folds(settings, base, run, device, progress)
        predicted = out_of_fold.predict_to_calibrate(run, folds, base)
        with locked(run), new_weights(run) as folder:
            _report(cross_fitting.write_calibrated(weights, folder, predicted), progress.say)
    return weights


def _settings(
    config: PathLike | None, data: Sequence[Path], overrides: Sequence[str], say: Callable[[str], None]
) -> TrainConfig | ClassifyConfig:
    """The configuration of a training: that of a file, or a shipped one for the given datasets."""
    if config is None and not data:
        raise ConfigError("expected a configuration, or datasets to train the default one on")
    starts = [one for one in overrides if one.partition("=")[0].strip() == "init"]
    if len(starts) > 1:
        raise ConfigError(f"init: expected one, got {', '.join(f'{one:.60}' for one in starts)}")
    path = Path(config) if config is not None else shipped("configs") / (FINE_TUNE if starts else "default.yaml")
    return read_any(path, overrides, data, say)


def calibrate(
    run: PathLike,
    folds: Sequence[PathLike] = (),
    *,
    out: PathLike | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Calibrate a trained classifier of blasts on clusters or laboratories that were left out of training.

    Parameters
    ----------
    run : path
        Run folder of the classifier, trained on all folds. Where these are laboratories, its validation crops take part
        in the calibration.
    folds : sequence of paths
        Run folders of the same configuration: one for each fold of clusters, trained with ``fold: [k, n]``, or one for
        each laboratory, trained with its folders of crops in ``leave_out``. Default: ``folds/`` below `run`, as a
        training with ``folds: N`` or ``folds: laboratories`` leaves them.
    out : path, optional
        Weights folder to write, which must not exist. Default: ``weights-calibrated`` below `run`.
    say : callable
        Receives the figures, one line of text.

    Returns
    -------
    Path
        Weights folder whose card has the calibration, the threshold, the rejection rule, and counts by cluster.

    Raises
    ------
    BlastdetError
        A run that is missing or not finished, folds that do not belong to it, a folder that exists.

    Examples
    --------
    >>> blastdet.calibrate("runs/blast", out="weights/blast")  # doctest: +SKIP
    """
    whole = Path(run)
    target = Path(out) if out is not None else whole / CALIBRATED
    if target.exists():
        raise ConfigError(f"{target}: exists already. Remove it, or pass another --out")
    if not isinstance(read_any(whole / "config.yaml"), ClassifyConfig):
        raise ConfigError(f"{whole}: expected the run of a classifier, got one of a detector")
    runs = [Path(fold) for fold in folds] or sorted(
        path.parent for path in (whole / out_of_fold.FOLDS).glob("*/config.yaml")
    )
    if not runs:
        raise ConfigError(
            f"{whole / out_of_fold.FOLDS}: no folds found. Train with folds: N or laboratories, or name their runs"
        )
    out_of_fold.check_same_model(whole, runs)
    predicted = out_of_fold.predict_to_calibrate(whole, runs, Path.cwd())
    with locked(whole), new_folder(target) as folder:
        _report(cross_fitting.write_calibrated(whole / WEIGHTS, folder, predicted), say)
    return target


def export(
    run: PathLike,
    *,
    to: str = "onnx",
    precision: str = "f32",
    say: Callable[[str], None] = print,
) -> Path:
    """Export the best epoch of a detector's run to a weights folder.

    Parameters
    ----------
    run : path
        Run folder. The datasets of its configuration must be available: the export is tested on validation images.
        For safetensors: any weights folder with an ONNX model.
    to : {"onnx", "openvino", "safetensors"}
        File format. ``safetensors`` adds ``model.safetensors``, the tensors of the ONNX model, to start trainings from.
    precision : {"f32", "bf16", "int8"}
        Of the arithmetic; bf16 needs OpenVINO.
    say : callable
        Receives lines about parity with torch and about the change in average precision.

    Returns
    -------
    Path
        Weights folder below `run`: ``weights``, or ``weights-FORMAT-PRECISION``. For safetensors, `run`.

    Raises
    ------
    BlastdetError
        If the run, its data or a package is missing, or an f32 export differs from torch.

    Examples
    --------
    >>> blastdet.export("runs/tiny", precision="int8")  # doctest: +SKIP
    """
    if to == "safetensors":
        if precision != "f32":
            raise ConfigError(f"precision: tensors are exported in f32, got {precision}")
        return write_tensors(Path(run)).parent
    from blastdet.training.detection.precision import export_run

    return export_run(Path(run), Path.cwd(), to, precision, say)


def _report(figures: dict[str, Any], say: Callable[[str], None]) -> None:
    shown = []
    for name in ("AUROC", "sensitivity", "specificity"):
        value, low, high = figures[name]
        shown.append(f"{name} {value:.3f} (95 % CI {low:.3f}–{high:.3f})")
    before, after = figures["calibration error before"], figures["calibration error"]
    say(
        f"out of fold, {figures['cells']} cells of {figures['clusters']} clusters: {', '.join(shown)}, "
        f"calibration error {before:.3f} before and {after:.3f} after"
    )
