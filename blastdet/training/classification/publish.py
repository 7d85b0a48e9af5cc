"""From a trained classifier of crops to its weights folder: card, export, and a comparison of both models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from blastdet.core.errors import BlastdetError
from blastdet.core.model_card import Card, InputSpec, Metric, RejectionRule, Threshold, Training, sha256_of, write_card
from blastdet.core.statistics import auroc
from blastdet.core.types import ERYTHROBLAST
from blastdet.datasets.cropping.crop_table import Cut
from blastdet.models.classifier import erythroblast_given_not_blast, load_classifier
from blastdet.training.classification import calibration
from blastdet.training.classification.calibration import CalibrationResult
from blastdet.training.classification.crop_samples import PAD, CropData
from blastdet.training.config import ClassifyConfig
from blastdet.training.loop.run_folder import new_weights
from blastdet.training.loop.run_record import versions_of

LIGHT = InputSpec(wh=(64, 64), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
"""Normalisation of pixels; size, padding and low-pass filter are those of the configuration."""

RELIABILITY = "reliability.png"
_PARITY = 1e-4
_PARITY_OF_DISTANCE = 5e-3  # transformers differ by 0.002; the limit that it is compared with is no finer
_LIMITS = (
    "Research use only; no diagnosis.",
    "Trained on the crops listed under training. Less accurate with other stains, microscopes and focus.",
)
_PROBE = "Trained on a negative control ({}): its crops do not show the cell, so it does not recognise blasts."


class Tail(nn.Module):
    """From logits and features to the outputs of an exported model: see `models.classifier.ClassifierOutput`."""

    def __init__(self, calibrated: CalibrationResult) -> None:
        super().__init__()
        self.temperature = calibrated.temperature
        space = calibrated.space
        self.centre, self.axes, self.means = map(torch.from_numpy, (space.centre, space.axes, space.means))

    def forward(self, logits: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (n, classes) and distance (n,)."""
        apart = ((features - self.centre) @ self.axes)[:, None] - self.means
        distance = (apart**2).sum(dim=2).sqrt().min(dim=1).values
        return functional.softmax(logits / self.temperature, dim=1), distance


def publish(
    config: ClassifyConfig,
    data: CropData,
    training: Training,
    calibrated: CalibrationResult,
    export: Callable[[Path], None],
    run: Path,
) -> str:
    """Write the weights folder of a run, and a reliability diagram for classifiers of blasts.

    Raises `BlastdetError` if they differ too much.

    Parameters
    ----------
    config, data
        The configuration and the crops of the training.
    training : Training
        The record for the card.
    export : callable
        Writes the model as ONNX.

    Returns
    -------
    str
        A line with the largest difference of export and model.
    """
    card = _card(config, training, data.cut, calibrated).model_copy(update={"versions": versions_of(run)})
    rows = slice(None, None, max(len(data.val) // 64, 1))
    with new_weights(run) as folder:
        export(folder / "model.onnx")
        write_card(card.model_copy(update={"files": {"model.onnx": sha256_of(folder / "model.onnx")}}), folder)
        line = _compared(folder, calibrated, data, rows)
    if "blast" in config.classes:
        blast = config.classes.index("blast")
        curve = calibration.blast_reliability(calibrated.probability[:, blast], calibrated.truth == blast)
        calibration.draw_reliability(curve, run / RELIABILITY)
    return line


def _compared(folder: Path, calibrated: CalibrationResult, data: CropData, rows: slice) -> str:
    some = data.val[rows]
    exported = load_classifier(folder, "cpu")([crop.rgb for crop in some], [crop.mpp for crop in some])
    apart = float(np.abs(exported.probability - calibrated.probability[rows]).max())
    distance = calibrated.distance[rows]
    farther = float((np.abs(exported.distance - distance) / np.maximum(distance, 1)).max())  # 1 is typical of cells
    if apart > _PARITY or farther > _PARITY_OF_DISTANCE:
        raise BlastdetError(
            f"{folder}: export and model differ by {apart:.5f} in probability and {farther:.5f} in relative distance; "
            f"expected at most {_PARITY} and {_PARITY_OF_DISTANCE}"
        )
    return f"export equals the model within {apart:.6f} in probability on {len(some)} crops"


def _card(config: ClassifyConfig, training: Training, cut: Cut, calibrated: CalibrationResult) -> Card:
    size = {"wh": (config.side, config.side), "pad_value": PAD, "low_pass": config.low_pass, "stride": 1}
    thresholds: dict[str, Threshold] = {}
    unsure: RejectionRule | None = None
    if "blast" in config.classes:
        blast = config.classes.index("blast")
        score, is_blast = calibrated.probability[:, blast], calibrated.truth == blast
        thresholds = {"blast": calibration.operating_threshold(score, is_blast)}
        unsure = calibration.unsure_of(score, is_blast, calibrated.distance)
        if {"wbc", ERYTHROBLAST} <= set(config.classes):
            red = erythroblast_given_not_blast(calibrated.probability, config.classes)
            is_other = calibrated.truth == config.classes.index("wbc")
            thresholds[ERYTHROBLAST] = calibration.erythroblast_threshold(red, is_other)
    return Card(
        name=config.name,
        task="classify",
        classes=config.classes,
        output="probabilities",
        sees=config.sees,
        files={},
        mpp=config.mpp,
        input=LIGHT.model_copy(update={**size, "colour": cut.colour}),
        thresholds=thresholds,
        unsure=unsure,
        training=training,
        metrics=_metrics(config, calibrated),
        probe=cut.negative_control,
        limits=(*_LIMITS, *config.limits, *([_PROBE.format(cut.negative_control)] if cut.negative_control else [])),
    )


def _metrics(config: ClassifyConfig, calibrated: CalibrationResult) -> tuple[Metric, ...]:
    found = calibration.figures(np.log(np.maximum(calibrated.probability, 1e-12)), calibrated.truth)
    found["Brier score"] = calibration.brier(calibrated.probability, calibrated.truth)
    if "blast" in config.classes:
        blast = config.classes.index("blast")
        curve = calibration.blast_reliability(calibrated.probability[:, blast], calibrated.truth == blast)
        found["expected calibration error of blast"] = curve.error
        if len(config.classes) > 1:
            found["AUROC of blast"] = auroc(calibrated.probability[:, blast], calibrated.truth == blast)
    n = len(calibrated.truth)
    return tuple(
        Metric(data="crops", split="val", n_images=n, n_cells=n, metric=name, value=round(value, 4))
        for name, value in found.items()
        if name != "fitness"
    )
