"""Classifiers of scikit-learn on hand-made features, or on those of a trained network.

The result is one ONNX file (skl2onnx, joined with the network if there is one); nothing is pickled.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blastdet.core.atomic_io import write_figure
from blastdet.core.errors import ConfigError, WeightsError, one_line
from blastdet.core.model_card import Card, find_weights, read_card
from blastdet.core.parallel import check_device
from blastdet.core.types import RGB
from blastdet.models.classifier import FEATURES, OUTPUTS, framed, prepare
from blastdet.models.features import FEATURES as HAND_MADE
from blastdet.models.features import features as hand_made
from blastdet.models.onnx_classifier import OnnxClassifier
from blastdet.training.classification import calibration
from blastdet.training.classification.crop_samples import PAD, CropEpoch, load_crops
from blastdet.training.classification.publish import Tail, publish
from blastdet.training.config import ClassifyConfig
from blastdet.training.config_file import expand
from blastdet.training.loop.onnx_export import OPSET, join, write_onnx
from blastdet.training.loop.run_folder import WEIGHTS, check_run, started
from blastdet.training.loop.run_record import training_record
from blastdet.training.loop.session import Progress, pick_device

Features = Callable[[Sequence[RGB]], NDArray[np.float32]]
"""Features (n, f) of crops that are prepared and framed."""

_FLOOR = 1e-6  # lower limit of probabilities; trees give 0
_BATCH = 40


def _svm(seed: int, **options: Any) -> Any:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    return CalibratedClassifierCV(SVC(kernel="rbf", random_state=seed, **options), ensemble=False, cv=3)


def _forest(seed: int, **options: Any) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    settings = {"n_estimators": 200, "min_samples_leaf": 3, "n_jobs": -1, **options}
    return RandomForestClassifier(random_state=seed, **settings)


def _neighbours(seed: int, **options: Any) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(**{"n_neighbors": 25, **options})


def _bayes(seed: int, **options: Any) -> Any:
    from sklearn.naive_bayes import GaussianNB

    return GaussianNB(**options)


def _tree(seed: int, **options: Any) -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(random_state=seed, **{"min_samples_leaf": 20, **options})


def _mlp(seed: int, **options: Any) -> Any:
    from sklearn.neural_network import MLPClassifier

    settings = {"hidden_layer_sizes": (64,), "early_stopping": True, "max_iter": 200, **options}
    return MLPClassifier(random_state=seed, **settings)


def _lda(seed: int, **options: Any) -> Any:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return LinearDiscriminantAnalysis(**options)


def _voting(seed: int, **options: Any) -> Any:
    from sklearn.ensemble import VotingClassifier

    voters = [("svm", _svm(seed)), ("random_forest", _forest(seed)), ("lda", _lda(seed))]
    return VotingClassifier(voters, voting="soft", flatten_transform=False, **options)


MODELS: dict[str, Callable[..., Any]] = {
    "svm": _svm,
    "random_forest": _forest,
    "k_nearest": _neighbours,
    "naive_bayes": _bayes,
    "decision_tree": _tree,
    "mlp": _mlp,
    "lda": _lda,
    "voting": _voting,
}
"""Name in a configuration -> function of a seed and options that makes a classifier of scikit-learn."""


def train_on_features(
    config: ClassifyConfig,
    base: Path,
    run: Path,
    device: str = "auto",
    resume: bool = False,
    progress: Progress = Progress(),  # noqa: B008
) -> Path:
    """Fit a classifier on the CPU, calibrate and export it; parameters and errors as `train_detector`.

    Fitting takes seconds to minutes; a run that was killed starts again.
    """
    if config.model not in MODELS:
        raise ConfigError(f"model: with features, expected one of {list(MODELS)}, got {config.model}")
    check_device(device)
    check_run(config, run, resume)
    begun = time.perf_counter()
    data = load_crops(config, base)
    features, network = _features(config, base, data.cut.colour)
    for line in data.notes:
        progress.say(line)
    with started(config, run, data.fingerprints, pick_device("cpu"), resume):
        features_of, labels = _draws(config, CropEpoch(data.train, config, 0), features, progress)
        if missing := [name for k, name in enumerate(config.classes) if (labels == k).sum() < 2]:
            raise ConfigError(
                f"epoch_samples: too few samples of {missing} drawn, got {config.epoch_samples}; expected more"
            )
        model = _fit(config, features_of, labels)
        held = [framed(prepare(c.rgb, c.mpp, config.mpp, config.low_pass), config.side, PAD) for c in data.val]
        val, truth = features(held), np.array([crop.label for crop in data.val])
        logits = np.log(np.maximum(_predict_probability(config, model, val), _FLOOR)).astype(np.float32)
        calibrated = calibration.calibrate((logits, val), truth, (features_of, labels))
        record = training_record(config, data.sources, run)
        record = record.model_copy(update={"epochs": 1, "duration_s": round(time.perf_counter() - begun, 1)})
        export = partial(_export, config, model, calibrated, network)
        progress.say(publish(config, data, record, calibrated, export, run))
        if network is None:
            draw_importance(model, val, truth, run / "importance.png")
    return run / WEIGHTS


def _features(config: ClassifyConfig, base: Path, colour: str) -> tuple[Features, onnx.ModelProto | None]:
    """The function that computes features, and the network that does, cut after them; ``None`` for hand-made ones."""
    if config.features == "hand-made":
        return lambda crops: np.stack([hand_made(rgb, config.mpp) for rgb in crops]), None
    given = expand(config.features, base)
    folder = find_weights(given if given.is_dir() else config.features)
    card = read_card(folder)
    _check(config, colour, card, folder)
    classifier = OnnxClassifier(card, folder, "cpu")
    whole = onnx.load(folder / next(name for name in card.files if name.endswith(".onnx")))
    if FEATURES not in [output.name for output in whole.graph.output]:
        raise WeightsError(f"{folder}: expected a model with an output of features")
    return classifier.features, onnx.utils.Extractor(whole).extract_model(["images"], [FEATURES])


def _check(config: ClassifyConfig, colour: str, card: Card, folder: Path) -> None:
    if card.task != "classify" or card.sees != "pixels":
        raise ConfigError(f"features: {folder}: expected the weights of a network that classifies crops")
    wanted = (config.mpp, config.side, config.low_pass, colour)
    found = (card.mpp, card.input.wh[0], card.input.low_pass, card.input.colour)
    if wanted != found:
        raise ConfigError(f"mpp, side, low_pass, colour: expected those of {folder}, {found}, got {wanted}")


def _draws(
    config: ClassifyConfig, epoch: CropEpoch, features: Features, progress: Progress
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features and labels of the samples of one epoch, augmented as for a network, with balanced classes."""
    rows, labels = [], []
    for start in range(0, len(epoch), _BATCH):
        samples = [epoch[i] for i in range(start, min(start + _BATCH, len(epoch)))]
        samples = [sample for sample in samples if sample.label >= 0]  # scikit-learn needs one class for each
        if samples:
            rows.append(features([sample.rgb for sample in samples]))
            labels += [sample.label for sample in samples]
        progress.step(min(start + _BATCH, len(epoch)), len(epoch), {})
    return np.concatenate(rows), np.array(labels)


def _fit(config: ClassifyConfig, features: NDArray[np.float32], labels: NDArray[np.int64]) -> Any:
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    try:
        model = MODELS[config.model](config.seed, **config.options)
        steps = [PCA(config.pca, random_state=config.seed)] if config.pca else []
        return make_pipeline(StandardScaler(), *steps, model).fit(features, labels)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _cannot_fit(config, error) from error


def _predict_probability(config: ClassifyConfig, model: Any, val: NDArray[np.float32]) -> NDArray[np.float64]:
    try:
        found: NDArray[np.float64] = model.predict_proba(val)
    except (ValueError, ArithmeticError) as error:  # fewer crops than neighbours, or voters without weight
        raise _cannot_fit(config, error) from error
    return found


def _cannot_fit(config: ClassifyConfig, error: Exception) -> ConfigError:
    return ConfigError(f"model: {config.model} with options {config.options}, pca {config.pca}: {one_line(error)}")


class _FeatureTail(nn.Module):
    """From probabilities of scikit-learn and features to the outputs of an exported model."""

    def __init__(self, calibrated: calibration.CalibrationResult) -> None:
        super().__init__()
        self.tail = Tail(calibrated)

    def forward(self, raw: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (n, classes) and distance (n,)."""
        found: tuple[Tensor, Tensor] = self.tail(torch.log(raw.clamp(min=_FLOOR)), features)
        return found


def _export(
    config: ClassifyConfig,
    model: Any,
    calibrated: calibration.CalibrationResult,
    network: onnx.ModelProto | None,
    path: Path,
) -> None:
    """One ONNX file: the network if there is one, scikit-learn's model, and the calibrated outputs."""
    from skl2onnx import to_onnx

    classes, width = calibrated.probability.shape[1], calibrated.space.axes.shape[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of attributes of scikit-learn that skl2onnx reads
            middle = to_onnx(model, np.zeros((1, width), np.float32), options={"zipmap": False}, target_opset=OPSET)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise _cannot_fit(config, error) from error
    shapes = {"raw": (2, classes), FEATURES: (2, width)}
    write_onnx(_FeatureTail(calibrated), shapes, {name: {0: "batch"} for name in (*shapes, *OUTPUTS)}, path, OUTPUTS)
    renamed = {middle.graph.input[0].name: FEATURES, "probabilities": "raw"}
    parts = [(middle, renamed), (onnx.load(path), {})]
    if network is not None:
        parts.insert(0, (network, {}))
    shared = ("images", FEATURES, "raw", *OUTPUTS)
    onnx.save(join(parts, shared, OUTPUTS), path)


def draw_importance(
    model: Any, val: NDArray[np.float32], truth: NDArray[np.int64], path: Path, shown: int = 20
) -> None:
    """Permutation importance of hand-made features on validation crops, the most important on top."""
    from matplotlib.figure import Figure
    from sklearn.inspection import permutation_importance

    some = np.random.default_rng(0).permutation(len(val))[:1000]
    cost = permutation_importance(model, val[some], truth[some], scoring="balanced_accuracy", random_state=0)
    top = np.argsort(cost.importances_mean)[-shown:]
    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.barh(
        [HAND_MADE[i].name for i in top], cost.importances_mean[top], xerr=cost.importances_std[top], color="#005ac8"
    )
    axes.set_xlabel("loss of balanced accuracy when shuffled (validation)")
    axes.tick_params(labelsize=7)
    write_figure(path, figure, 150)
