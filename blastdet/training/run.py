"""One training from configuration to weights folder: data, loop, export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import torch

from blastdet.configs import TrainConfig, expand, to_yaml
from blastdet.errors import ConfigError
from blastdet.evaluation.coco import APResult, average_precision
from blastdet.images import write_image
from blastdet.overlay import COLOURS
from blastdet.training import MODELS, engine
from blastdet.training.data import load_data
from blastdet.training.export import draft_card, finish, predict_pictures
from blastdet.training.init import take_weights
from blastdet.training.samples import KNOWN_STRIDE, load_picture

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Progress:
    """Where a run tells how far it is: plain callables, so that the loop knows no terminal."""

    say: Callable[[str], None] = print
    step: Callable[[int, int, dict[str, float]], None] = lambda done, total, values: None


def run_training(
    config: TrainConfig,
    base: Path,
    run: Path,
    device: str = "auto",
    resume: bool = False,
    progress: Progress = Progress(),
) -> Path:
    """Train, export and describe a detector; returns its weights folder.

    Parameters
    ----------
    config : TrainConfig
    base : Path
        Folder that paths in the configuration are relative to.
    run : Path
        Run folder: ``config.yaml``, ``samples.png``, ``metrics.csv``, ``curves.png``, checkpoints, ``weights/``.
    device : {"auto", "cpu", "cuda", "cuda:N"}
    resume : bool
        Go on from the last whole epoch of `run`.
    progress : Progress

    Raises
    ------
    BlastdetError
        One line: a faulty configuration, missing data, a run folder in the way, a loss that is not finite.
    """
    _prepare_folder(config, run, resume)
    place = pick_device(device)
    data = load_data(config, base)
    for line in data.notes:
        progress.say(line)
    progress.say(f"training on {len(data.train)} pictures, validating on {len(data.val)}, device {place}")
    pictures = [load_picture(smear, config.mpp, config.classes, weight) for smear, weight in data.train]
    val_pictures = [load_picture(smear, config.mpp, config.classes) for smear in data.val]
    draw_samples(engine.Samples(pictures, config, 0), run / "samples.png")
    torch.manual_seed(config.seed)
    model = build(config)
    if config.init and not resume:
        progress.say(take_weights(model.module, expand(config.init, base)))
    state = engine.start(model, config, place)
    if resume:
        engine.resume(state, run)
        progress.say(f"resuming after epoch {state.epoch}")
    draft = draft_card(config, data, state, place)

    def validate(current: engine.State) -> dict[str, float]:
        with engine.averaged(current) as averaged_model:
            found = predict_pictures(averaged_model, val_pictures, data.val, draft, place)
        figures = _figures(average_precision(data.val, found))
        progress.say(_epoch_line(current, config, figures))
        return figures

    engine.train(state, pictures, config, run, validate, progress.step)
    draw_curves(state.history, run / "curves.png")
    return finish(config, data, state, run, progress.say)


def build(config: TrainConfig) -> engine.Trainable:
    """The untrained detector that a configuration names.

    Raises
    ------
    ConfigError
        If the name is not one of `blastdet.training.MODELS`.
    """
    if config.model not in MODELS:
        raise ConfigError(f"model: {config.model} found, one of {list(MODELS)} expected")
    module, name = MODELS[config.model].split(":")
    model: engine.Trainable = getattr(import_module(module), name)(config.model, len(config.classes), config.mpp)
    return model


def pick_device(device: str) -> torch.device:
    """The torch device that a user's word means.

    Raises
    ------
    ConfigError
        If CUDA is asked for and there is none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device}: no CUDA device found; use --device cpu")
    if device != "cpu" and not device.startswith("cuda"):
        raise ConfigError(f"device: {device} found, auto, cpu, cuda or cuda:N expected")
    return torch.device(device)


def draw_samples(samples: engine.Samples, path: Path, rows: int = 3, columns: int = 6) -> None:
    """A contact sheet of what the model is shown: boxes in the colours of the overlay, unknown regions darkened."""
    names = samples.config.classes
    canvases = []
    for i in range(rows * columns):
        sample = samples[i]
        known = np.kron(sample.known.all(axis=0), np.ones((KNOWN_STRIDE, KNOWN_STRIDE), bool))
        canvas = np.where(known[:, :, None], sample.rgb, sample.rgb // 2)
        for (x1, y1, x2, y2), label in zip(sample.boxes_xyxy.round().astype(int).tolist(), sample.label, strict=True):
            cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), COLOURS[names[label]], 1)
        canvases.append(canvas)
    sheet = [np.concatenate(canvases[i : i + columns], axis=1) for i in range(0, len(canvases), columns)]
    write_image(path, np.concatenate(sheet))


def draw_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Losses and validation figures over epochs, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = list(dict.fromkeys(name for row in history for name in row))
    for name in names:
        points = [(row["epoch"], row[name]) for row in history if name in row]
        if name.endswith("loss"):
            left.plot(*zip(*points, strict=True), label=name.replace("_", " "))
        elif name.startswith("AP"):
            right.plot(*zip(*points, strict=True), label=name)
    left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="average precision (validation)", ylim=(0, 1))
    for axes in (left, right):
        if axes.lines:
            axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _figures(result: APResult) -> dict[str, float]:
    overall = result.figures()
    figures = {"AP": overall["AP"], "AP50": overall["AP50"]}
    figures |= {f"AP50 {name}": result.figures(name)["AP50"] for name in result.classes}
    return {**figures, "fitness": (overall["AP"] + overall["AP50"]) / 2}


def _epoch_line(state: engine.State, config: TrainConfig, figures: dict[str, float]) -> str:
    shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items() if name != "fitness")
    left = state.seconds / max(state.epoch - 1, 1) * (config.epochs - state.epoch) / 60
    return f"epoch {state.epoch}/{config.epochs}  {shown}  about {left:.0f} min left"


def _prepare_folder(config: TrainConfig, run: Path, resume: bool) -> None:
    path = run / CONFIG
    if resume and path.is_file() and path.read_text(encoding="utf-8") != to_yaml(config):
        raise ConfigError(f"{path}: differs from the configuration given; a run is resumed with its own")
    if not resume and (run / engine.LAST).exists():
        raise ConfigError(f"{run}: holds a run already; use --resume, or another --out")
    run.mkdir(parents=True, exist_ok=True)
    path.write_text(to_yaml(config), encoding="utf-8")
