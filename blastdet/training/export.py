"""From the best epoch to a weights folder: ONNX, parity with torch, thresholds, card."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blastdet import __version__, boxes
from blastdet.cards import Card, DataSource, InputSpec, Metric, Threshold, Training, sha256_of, write_card
from blastdet.configs import LoopConfig, TrainConfig
from blastdet.detectors import load_detector
from blastdet.errors import BlastdetError
from blastdet.evaluation.coco import APResult, average_precision
from blastdet.evaluation.operating import sweep
from blastdet.training import checkpoints, engine
from blastdet.training.data import Data
from blastdet.training.drawings import draw_examples
from blastdet.training.samples import Picture, load_picture
from blastdet.types import Dataset, Detections

WEIGHTS = "weights"
_F1_TOLERANCE = 0.005
_TIES = 0.02  # share of cells
_LIMITS = (
    "Research use only; no diagnosis.",
    "Trained on the data sets listed under training; other stains, microscopes and focus lower its figures.",
)


def finish(
    config: TrainConfig, data: Data, state: engine.State[engine.Trainable], run: Path, say: Callable[[str], None]
) -> Path:
    """Export the best epoch, check it against torch, choose thresholds, write the card."""
    checkpoints.load_best(state, run)
    device = next(state.model.module.parameters()).device
    draft = draft_card(config, data, state, device)
    pictures = [load_picture(smear, config) for smear in data.val]
    cpu = torch.device("cpu")  # a GPU rounds float32 convolutions to TF32, which would be taken for a faulty export
    state.model.to(cpu)
    state.model.module.eval()
    by_torch = predict_pictures(state.model, pictures, data.val, draft, cpu)
    result = average_precision(data.val, by_torch)
    folder = run / (WEIGHTS + ".tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    state.model.export(folder / "model.onnx")
    metrics = tuple(
        Metric(data=data.val.name, split="val", n_images=len(data.val), n_cells=n, metric=f"AP50 {name}", value=value)
        for name, n in result.n_truth.items()
        for value in [round(result.figures(name)["AP50"], 4)]
    )
    unseen = Threshold(value=0.5, chosen_on="nothing", criterion="no truth, or no detection, on the validation split")
    card = draft.model_copy(
        update={
            "files": {"model.onnx": sha256_of(folder / "model.onnx")},
            "thresholds": {**dict.fromkeys(config.classes, unseen), **best_thresholds(result)},
            "metrics": metrics,
            "training": draft.training.model_copy(
                update={"epochs": state.best_epoch, "duration_s": round(state.seconds, 1)}
            ),
        }
    )
    write_card(card, folder)
    say(check_parity(folder, pictures[:32], data.val, by_torch[:32]))
    points = {name: point.value for name, point in card.thresholds.items()}
    draw_examples(pictures, data.val, by_torch, points, run / "examples.jpg")
    final = run / WEIGHTS
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)
    return final


def draft_card(config: TrainConfig, data: Data, state: engine.State[engine.Trainable], device: torch.device) -> Card:
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
        training=training_record(config, data.sources, device),
        versions=versions(),
        limits=_LIMITS,
    )


def training_record(config: LoopConfig, sources: tuple[DataSource, ...], device: torch.device) -> Training:
    """What a card says of a training before it is finished; no path of the machine goes into it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return Training(
        config=portable(config.model_dump(mode="json"), Path.cwd()),
        seed=config.seed,
        commit=git_commit(),
        data=sources,
        epochs=config.epochs,
        device=f"{name}, precision {engine.precision(config, device)}",
        duration_s=0,
    )


def portable(value: Any, base: Path) -> Any:
    """A configuration without the paths of one machine: relative to `base`, or the last part of what lies elsewhere."""
    if isinstance(value, dict):
        return {key: portable(inner, base) for key, inner in value.items()}
    if isinstance(value, list):
        return [portable(inner, base) for inner in value]
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    path = Path(value)
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name


def check_parity(folder: Path, pictures: Sequence[Picture], dataset: Dataset, by_torch: Sequence[Detections]) -> str:
    """Compare the exported model with torch on real pictures; one line that says how far they are apart.

    Raises
    ------
    BlastdetError
        If the export misses a cell above 0.1, or boxes or scores differ by more than 0.5 px or 0.001. Of a model that
        suppresses proposals inside, 2 % of the cells may differ more: the last digit decides ties there.
    """
    detector = load_detector(folder, "cpu")
    shifts: list[tuple[float, float]] = []
    for picture, smear, cells in zip(pictures, dataset, by_torch, strict=False):
        height, width = picture.rgb.shape[:2]
        factor = (width / smear.size_wh[0], height / smear.size_wh[1])
        expected = cells.with_columns(boxes_xyxy=boxes.scale(cells.boxes_xyxy, factor))[cells.score > 0.1]
        complaint = f"{folder}: the exported model misses cells that torch finds on {picture.name}"
        shifts += _shifts(expected, detector([picture.rgb])[0], complaint)
    allowed = math.ceil(_TIES * len(shifts)) if detector.card.output == "boxes" else 0
    off = [shift for shift in shifts if shift[0] > 0.5 or shift[1] > 1e-3]
    near = shifts if len(off) > allowed else [shift for shift in shifts if shift not in off]
    box, score = np.array(near).reshape(-1, 2).max(axis=0, initial=0)
    line = f"export equals torch within {box:.3f} px and {score:.5f} in score on {len(pictures)} pictures"
    if len(off) > allowed:
        raise BlastdetError(f"{folder}: {line}; 0.5 px and 0.001 are allowed")
    return line + (f" ({len(off)} of {len(shifts)} cells apart: ties of proposals)" if off else "")


def _shifts(expected: Detections, found: Detections, complaint: str) -> list[tuple[float, float]]:
    """Largest shift of a side and change of score of each cell that torch finds, as the export finds it."""
    if not len(expected):
        return []
    overlap = boxes.iou_matrix(expected.boxes_xyxy, found.boxes_xyxy)
    if not len(found) or overlap.max(axis=1).min() < 0.5:
        raise BlastdetError(complaint)
    partner = overlap.argmax(axis=1)
    shift = np.abs(expected.boxes_xyxy - found.boxes_xyxy[partner]).max(axis=1)
    change = np.abs(expected.score - found.score[partner])
    return list(zip(shift.tolist(), change.tolist(), strict=True))


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


def predict_pictures(
    model: engine.Trainable, pictures: Sequence[Picture], dataset: Dataset, card: Card, device: torch.device
) -> list[Detections]:
    """Cells of pictures at the model's µm/px, moved to the pixels of the smears they come from."""
    results = []
    for picture, smear, cells in zip(
        pictures, dataset, model.predict([picture.rgb for picture in pictures], card, device), strict=True
    ):
        height, width = picture.rgb.shape[:2]
        factor = (smear.size_wh[0] / width, smear.size_wh[1] / height)
        results.append(cells.with_columns(boxes_xyxy=boxes.scale(cells.boxes_xyxy, factor)))
    return results


def versions() -> dict[str, str]:
    """Versions of everything that shapes a training."""
    names = ("torch", "torchvision", "ultralytics", "numpy", "opencv-python-headless", "onnx", "onnxruntime")
    return {"blastdet": __version__, **{name: metadata.version(name) for name in names}}


def git_commit() -> str:
    """Commit of the code, with ``+changes`` where it was edited since; empty outside a checkout.

    A machine that has the code without its history is told by ``BLASTDET_COMMIT``.
    """
    folder = Path(__file__).parents[2]

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
        return run.stdout.strip() if run.returncode == 0 else ""

    if not shutil.which("git") or not (folder / ".git").exists():
        return os.environ.get("BLASTDET_COMMIT", "")
    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
