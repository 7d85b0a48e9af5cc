"""From the best epoch to a weights folder: ONNX, parity with torch, thresholds, card."""

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
from blastdet.training.detection.samples import Picture, load_picture
from blastdet.training.detection.training_data import Data
from blastdet.training.loop import checkpoints, engine
from blastdet.training.loop.run_folder import WEIGHTS, new_weights
from blastdet.training.loop.run_record import training_record, versions_of

_F1_TOLERANCE = 0.005
_TIES = 0.02  # share of cells
_CLEAR = 0.1  # cells that score less are not compared
PARITY = 32  # pictures that are
_LIMITS = (
    "Research use only; no diagnosis.",
    "Trained on the data sets listed under training; other stains, microscopes and focus lower its figures.",
)


def finish(
    config: TrainConfig, data: Data, state: engine.State[engine.Trainable], run: Path, say: Callable[[str], None]
) -> Path:
    """Export the best epoch, check it against torch, choose thresholds, write the card."""
    checkpoints.load_best(state, run)
    draft = draft_card(config, data, state, run)
    pictures = [load_picture(sample, config) for sample in data.val]
    raws = raw_on_cpu(state, pictures, draft)
    by_torch = cells_of(raws, pictures, data.val, draft)
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
            "training": draft.training.model_copy(update=took),
        }
    )
    with new_weights(run) as folder:
        state.model.export(folder / "model.onnx")
        card = card.model_copy(update={"files": {"model.onnx": sha256_of(folder / "model.onnx")}})
        write_card(card, folder)
        say(check_parity(folder, pictures[:PARITY], raws[:PARITY]))
    points = {name: point.value for name, point in card.thresholds.items()}
    draw_examples(pictures, data.val, by_torch, points, run / "examples.jpg")
    return run / WEIGHTS


def raw_on_cpu(state: engine.State[engine.Trainable], pictures: Sequence[Picture], card: Card) -> list[Raw]:
    """What an export is held to: a GPU rounds float32 convolutions to TF32, which would be taken for a faulty one."""
    cpu = torch.device("cpu")
    state.model.to(cpu)
    state.model.module.eval()
    return raw_outputs(state.model, pictures, card, cpu)


def draft_card(config: TrainConfig, data: Data, state: engine.State[engine.Trainable], run: Path) -> Card:
    """The card of a run before it is finished: no files, no figures, thresholds of 0.5."""
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


def check_parity(folder: Path, pictures: Sequence[Picture], by_torch: Sequence[Raw]) -> str:
    """Compare the exported model with torch on real pictures; one line that says how far they are apart.

    An ONNX file is run by all that may run it here: ONNX Runtime, and OpenVINO where that is installed. Of a YOLO the
    answers at every anchor are compared; of Faster R-CNN, which suppresses proposals inside, the cells above 0.1.

    Raises
    ------
    BlastdetError
        If boxes or scores differ by more than 0.5 px or 0.001, or one of the two finds a cell that the other does not.
        Of Faster R-CNN, 2 % of the cells may: the last digit decides ties of proposals.
    """
    card = read_card(folder)
    by = [OnnxDetector(card, folder, "cpu", openvino) for openvino in (True, False)[: 1 + (card.format == "onnx")]]
    shifts: list[NDArray[np.float64]] = [np.empty((0, 2))]
    for picture, expected in zip(pictures, by_torch, strict=True):
        hw = picture.rgb.shape[:2]
        for (found,) in (runtime.raw([picture.rgb]) for runtime in by):
            if card.output == "yolo":
                shifts.append(_apart(expected, found))
            else:
                sides = decode(expected, hw, card), decode(found, hw, card)
                shifts += [_shifts(*sides), _shifts(*sides[::-1])]
    each = np.concatenate(shifts)
    off = ~((each[:, 0] <= 0.5) & (each[:, 1] <= 1e-3))  # what is no number, too
    what = "answers" if card.output == "yolo" else "cells"
    if off.sum() > (math.ceil(_TIES * len(off)) if card.output == "boxes" else 0):
        box, score = each.max(axis=0)
        line = f"differ by {box:.3f} px and {score:.5f} in score, {off.sum()} of {len(off)} {what} too much"
        raise BlastdetError(f"{folder}: export and torch {line}; 0.5 px and 0.001 are allowed")
    if not len(off):
        return f"export not compared with torch: neither finds a cell above {_CLEAR} on {len(pictures)} pictures"
    box, score = each[~off].max(axis=0)
    line = f"export equals torch within {box:.3f} px and {score:.5f} in score on {len(pictures)} pictures"
    return line + (f" ({off.sum()} of {len(off)} {what} apart: ties of proposals)" if off.any() else "")


def _apart(expected: Raw, found: Raw) -> NDArray[np.float64]:
    """Largest shift of a side and change of score at each anchor of a YOLO, (anchors, 2)."""
    if expected.shape != found.shape:
        return np.full((1, 2), np.inf)
    centre, size = (np.abs(expected[i : i + 2] - found[i : i + 2]).max(axis=0) for i in (0, 2))
    return np.stack([centre + size / 2, np.abs(expected[4:] - found[4:]).max(axis=0)], axis=1).astype(np.float64)


def _shifts(expected: Detections, found: Detections) -> NDArray[np.float64]:
    """Largest shift of a side and change of score of each clear cell of one side, as the other finds it, (n, 2)."""
    clear = expected[expected.score > _CLEAR]
    if not len(clear) or not len(found):
        return np.full((len(clear), 2), np.inf)
    partner = boxes.iou_matrix(clear.boxes_xyxy, found.boxes_xyxy).argmax(axis=1)
    shift = np.abs(clear.boxes_xyxy - found.boxes_xyxy[partner]).max(axis=1)
    return np.stack([shift, np.abs(clear.score - found.score[partner])], axis=1).astype(np.float64)


def best_thresholds(result: APResult) -> dict[str, Threshold]:
    """For each class the middle of the scores whose F1 on the validation split is as good as the best (IoU 0.5).

    Validation cannot tell these apart. The middle leaves room both ways for pictures of other laboratories, where cells
    score lower and other things higher.
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


def raw_outputs(model: engine.Trainable, pictures: Sequence[Picture], card: Card, device: torch.device) -> list[Raw]:
    """What a model puts out of pictures at its µm/px, before it is decoded."""
    return [model.raw(picture.rgb, card, device) for picture in pictures]


def cells_of(raws: Sequence[Raw], pictures: Sequence[Picture], dataset: Dataset, card: Card) -> list[Detections]:
    """Cells of raw outputs, moved to the pixels of the smears that the pictures come from."""
    results = []
    for raw, picture, sample in zip(raws, pictures, dataset, strict=True):
        height, width = picture.rgb.shape[:2]
        cells = decode(raw, (height, width), card)
        factor = (sample.size_wh[0] / width, sample.size_wh[1] / height)
        results.append(cells.with_columns(boxes_xyxy=boxes.scale(cells.boxes_xyxy, factor)))
    return results
