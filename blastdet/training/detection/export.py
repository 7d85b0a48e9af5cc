"""From the best epoch to a weights folder: ONNX export, parity with torch, thresholds, card."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from blastdet.core import boxes
from blastdet.core.errors import BlastdetError
from blastdet.core.model_card import Card, InputSpec, Metric, Threshold, read_card, sha256_of, write_card
from blastdet.core.types import Dataset, Detections
from blastdet.evaluation.average_precision import APResult, average_precision
from blastdet.evaluation.operating_points import sweep
from blastdet.models.decoding import Raw, decode
from blastdet.models.onnx_detector import OnnxDetector
from blastdet.training.config import TrainConfig
from blastdet.training.detection.example_images import draw_examples
from blastdet.training.detection.samples import TrainingImage, load_image
from blastdet.training.detection.training_data import Data
from blastdet.training.loop import checkpoints, engine
from blastdet.training.loop.run_folder import WEIGHTS, new_weights
from blastdet.training.loop.run_record import training_record, versions_of

_F1_TOLERANCE = 0.005
_TIES = 0.02  # fraction of cells
_CLEAR = 0.1  # minimum score of cells that are compared
PARITY = 32  # images for the comparison
_LIMITS = (
    "Research use only; no diagnosis.",
    "Trained on the datasets listed under training; other stains, microscopes and focus lower its figures.",
)


def finish(
    config: TrainConfig,
    data: Data,
    state: engine.State[engine.Trainable],
    run: Path,
    say: Callable[[str], None],
    second_stage: str | None = None,
) -> Path:
    """Export the best epoch, compare it with torch, choose thresholds, write the card with the given second stage."""
    checkpoints.load_best(state, run)
    draft = draft_card(config, data, state, run)
    images = [load_image(sample, config) for sample in data.val]
    raws = raw_on_cpu(state, images, draft)
    by_torch = cells_of(raws, images, data.val, draft)
    result = average_precision(data.val, by_torch)
    metrics = tuple(
        Metric(data=data.val.name, split="val", n_images=len(data.val), n_cells=n, metric=f"AP50 {name}", value=value)
        for name, n in result.n_truth.items()
        for value in [round(result.figures(name)["AP50"], 4)]
    )
    unseen = Threshold(value=0.5, chosen_on="nothing", criterion="no truth, or no detection, on the validation split")
    took = {"epochs": state.best_epoch, "duration_s": round(state.seconds, 1)}
    card = draft.model_copy(
        update={
            "thresholds": {**dict.fromkeys(config.classes, unseen), **best_thresholds(result)},
            "metrics": metrics,
            "second_stage": second_stage,
            "training": draft.training.model_copy(update=took),
        }
    )
    if state.best_epoch == 0:
        say("no epoch was better than the starting weights on validation: the model is the one it started from")
    with new_weights(run) as folder:
        state.model.export(folder / "model.onnx")
        card = card.model_copy(update={"files": {"model.onnx": sha256_of(folder / "model.onnx")}})
        write_card(card, folder)
        say(check_parity(folder, images[:PARITY], raws[:PARITY]))
    points = {name: point.value for name, point in card.thresholds.items()}
    draw_examples(images, data.val, by_torch, points, run / "examples.jpg")
    return run / WEIGHTS


def raw_on_cpu(state: engine.State[engine.Trainable], images: Sequence[TrainingImage], card: Card) -> list[Raw]:
    """Reference outputs for an export, from the CPU: a GPU rounds float32 convolutions to TF32."""
    cpu = torch.device("cpu")
    state.model.to(cpu)
    state.model.module.eval()
    return raw_outputs(state.model, images, card, cpu)


def draft_card(config: TrainConfig, data: Data, state: engine.State[engine.Trainable], run: Path) -> Card:
    """The card of an unfinished run: no files, no figures, thresholds of 0.5."""
    point = Threshold(value=0.5, chosen_on="", criterion="draft")
    return Card(
        name=config.name,
        task="detect",
        classes=config.classes,
        output=state.model.output,
        files={},
        mpp=config.mpp,
        input=InputSpec(wh=config.tile_wh, colour=config.colour),
        thresholds=dict.fromkeys(config.classes, point),
        training=training_record(config, data.sources, run),
        versions=versions_of(run),
        limits=_LIMITS,
    )


def check_parity(folder: Path, images: Sequence[TrainingImage], by_torch: Sequence[Raw]) -> str:
    """Compare the exported model with torch on validation images; returns a line with the largest difference.

    An ONNX file is run by ONNX Runtime, and by OpenVINO if it is installed. For YOLO the outputs at every anchor are
    compared; for Faster R-CNN, which suppresses proposals internally, the cells with a score above 0.1. Raises
    `BlastdetError` if boxes or scores differ by more than 0.5 px or 0.001, or only one of the two detects a cell. For
    Faster R-CNN 2 % of the cells may differ, where proposals are tied.
    """
    card = read_card(folder)
    by = [OnnxDetector(card, folder, "cpu", openvino) for openvino in (True, False)[: 1 + (card.format == "onnx")]]
    shifts: list[NDArray[np.float64]] = [np.empty((0, 2))]
    for image, expected in zip(images, by_torch, strict=True):
        hw = image.rgb.shape[:2]
        for (found,) in (runtime.raw([image.rgb]) for runtime in by):
            if card.output == "yolo":
                shifts.append(_apart(expected, found))
            else:
                sides = decode(expected, hw, card), decode(found, hw, card)
                shifts += [_shifts(*sides), _shifts(*sides[::-1])]
    each = np.concatenate(shifts)
    off = ~((each[:, 0] <= 0.5) & (each[:, 1] <= 1e-3))  # true for NaN as well
    what = "outputs" if card.output == "yolo" else "cells"
    if off.sum() > (math.ceil(_TIES * len(off)) if card.output == "boxes" else 0):
        box, score = each.max(axis=0)
        line = f"by up to {box:.3f} px and {score:.5f} in score, {off.sum()} of {len(off)} {what} over the limit"
        raise BlastdetError(f"{folder}: export and torch differ {line}; expected at most 0.5 px and 0.001")
    if not len(off):
        return f"export not compared with torch: no cell with a score above {_CLEAR} on {len(images)} images"
    box, score = each[~off].max(axis=0)
    line = f"export equals torch within {box:.3f} px and {score:.5f} in score on {len(images)} images"
    return line + (f" ({off.sum()} of {len(off)} {what} differ, as tied proposals do)" if off.any() else "")


def _apart(expected: Raw, found: Raw) -> NDArray[np.float64]:
    """Largest shift of a side and change of score at each anchor of YOLO, (anchors, 2)."""
    if expected.shape != found.shape:
        return np.full((1, 2), np.inf)
    centre, size = (np.abs(expected[i : i + 2] - found[i : i + 2]).max(axis=0) for i in (0, 2))
    return np.stack([centre + size / 2, np.abs(expected[4:] - found[4:]).max(axis=0)], axis=1).astype(np.float64)


def _shifts(expected: Detections, found: Detections) -> NDArray[np.float64]:
    """Shift of a side and change of score of each clear cell, relative to its best match in the other set, (n, 2)."""
    clear = expected[expected.score > _CLEAR]
    if not len(clear) or not len(found):
        return np.full((len(clear), 2), np.inf)
    partner = boxes.iou_matrix(clear.boxes_xyxy, found.boxes_xyxy).argmax(axis=1)
    shift = np.abs(clear.boxes_xyxy - found.boxes_xyxy[partner]).max(axis=1)
    return np.stack([shift, np.abs(clear.score - found.score[partner])], axis=1).astype(np.float64)


def best_thresholds(result: APResult) -> dict[str, Threshold]:
    """For each class the middle of the range of scores with practically the best F1 on the validation split (IoU 0.5).

    The validation split cannot distinguish these scores. In images of other laboratories cells score lower and other
    objects higher; the middle leaves a margin for both.
    """
    points = {}
    for name, matches in result.table.classes.items():
        curve = sweep(matches)
        if not len(curve.score) or not matches.n_truth.any():
            continue
        good = curve.score[curve.f1 >= curve.f1.max() - _F1_TOLERANCE]
        criterion = f"middle of scores with F1 within {_F1_TOLERANCE} of the highest, {curve.f1.max():.3f} (IoU 0.5)"
        value = round(float(good.min() + good.max()) / 2, 3)
        points[name] = Threshold(value=value, chosen_on="validation split", criterion=criterion)
    return points


def raw_outputs(
    model: engine.Trainable, images: Sequence[TrainingImage], card: Card, device: torch.device
) -> list[Raw]:
    """Raw outputs of a model for images at its µm/px."""
    return [model.raw(image.rgb, card, device) for image in images]


def cells_of(raws: Sequence[Raw], images: Sequence[TrainingImage], dataset: Dataset, card: Card) -> list[Detections]:
    """Cells from raw outputs, in pixels of the full images."""
    results = []
    for raw, image, sample in zip(raws, images, dataset, strict=True):
        height, width = image.rgb.shape[:2]
        cells = decode(raw, (height, width), card)
        factor = (sample.size_wh[0] / width, sample.size_wh[1] / height)
        results.append(cells.with_columns(boxes_xyxy=boxes.scale(cells.boxes_xyxy, factor)))
    return results
