"""One training from configuration to weights folder: data, loop, export."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from blastdet.core.errors import BlastdetError, ConfigError, one_line
from blastdet.core.parallel import check_device, cpu_count
from blastdet.evaluation.average_precision import APResult, average_precision
from blastdet.training.architectures import MODELS
from blastdet.training.config import LoopConfig, TrainConfig, expand
from blastdet.training.detection.epoch import Epoch
from blastdet.training.detection.example_images import draw_curves, draw_samples
from blastdet.training.detection.export import cells_of, draft_card, finish, raw_outputs
from blastdet.training.detection.samples import Picture, load_picture
from blastdet.training.detection.training_data import Data, load_data
from blastdet.training.loop import checkpoints, engine
from blastdet.training.loop.initial_weights import take_weights
from blastdet.training.loop.run_folder import EVENTS, check_run, started


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
        Run folder: ``config.yaml``, ``sources.json``, ``samples.png``, ``metrics.csv``, ``curves.png``,
        ``examples.jpg``, ``events/`` for TensorBoard, checkpoints, ``weights/``.
    device : {"auto", "cpu", "cuda", "cuda:N"}
    resume : bool
        Go on from the last whole epoch of `run`.
    progress : Progress

    Raises
    ------
    BlastdetError
        One line: a faulty configuration, missing data, a run folder in the way, a loss that is not finite.
    """
    check_run(config, run, resume)
    check_model(config.model)
    place = pick_device(device)
    data = load_data(config, base)
    for line in data.notes:
        progress.say(line)
    kept = f" ({data.n_test} kept for testing)" if data.n_test else ""
    progress.say(f"training on {len(data.train)} pictures, validating on {len(data.val)}{kept}, device {place}")
    with ThreadPoolExecutor(cpu_count()) as pool:
        pictures = list(pool.map(lambda drawn: load_picture(drawn[0], config, drawn[1]), data.train))
    val_pictures = _val_pictures(data, config)
    with started(config, run, data.seen, place, resume):
        draw_samples(Epoch(pictures, config, 0), run / "samples.png")
        torch.manual_seed(config.seed)
        state = begin(build(config), config, (base, run), place, resume, progress)
        draft = draft_card(config, data, state, run)

        def validate(current: engine.State[Any]) -> dict[str, float]:
            with engine.ema_weights(current) as averaged_model:
                raws = raw_outputs(averaged_model, val_pictures, draft, place)
            found = cells_of(raws, val_pictures, data.val, draft)
            return _figures(average_precision(data.val, found))

        loop(state, partial(Epoch, pictures, config), config, run, (validate, progress))
        return finish(config, data, state, run, progress.say)


def begin(
    model: engine.L,
    config: LoopConfig,
    folders: tuple[Path, Path],
    place: torch.device,
    resume: bool,
    progress: Progress,
) -> engine.State[engine.L]:
    """A fresh state with the starting weights asked for, or that of the run to be resumed, if an epoch of it is whole.

    Parameters
    ----------
    model, config, place, resume, progress
    folders : (Path, Path)
        What paths of the configuration are relative to, and the run folder.
    """
    base, run = folders
    go_on = resume and (run / checkpoints.LAST).exists()
    if resume and not go_on:
        progress.say("no epoch was whole yet: training from the start")
    if config.init and not go_on:
        progress.say(take_weights(model.module, expand(config.init, base)))
    state = engine.start(model, config, place)
    if go_on:
        checkpoints.resume(state, run)
        progress.say(f"resuming after epoch {state.epoch}")
    return state


def loop(
    state: engine.State[Any],
    samples: Callable[[int], engine.Samples],
    config: LoopConfig,
    run: Path,
    hooks: tuple[Callable[[engine.State[Any]], dict[str, float]], Progress],
) -> None:
    """Train, telling after each validation how it goes, with TensorBoard events and curves in the run folder.

    Parameters
    ----------
    state, samples, config, run
        See `engine.train`.
    hooks : (callable, Progress)
        Figures of the moving average, and where to tell.
    """
    validate, progress = hooks
    with _events(run, state.epoch) as write_events:

        def after_epoch(current: engine.State[Any]) -> None:
            write_events(current.history[-1])
            if "fitness" in current.history[-1]:
                progress.say(_epoch_line(current, config))

        engine.train(state, samples, config, run, engine.Hooks(validate, progress.step, after_epoch))
    draw_curves(state.history, run / "curves.png")


def _val_pictures(data: Data, config: TrainConfig) -> list[Picture]:
    pictures = [load_picture(sample, config) for sample in data.val]
    if not any(len(picture.label) for picture in pictures):
        wanted = list(config.classes)
        raise ConfigError(f"data: no cell of {wanted} in any val split, which chooses epoch and thresholds")
    return pictures


def build(config: TrainConfig) -> engine.Trainable:
    """The untrained detector that a configuration names."""
    check_model(config.model)
    module, name = MODELS[config.model].split(":")
    model: engine.Trainable = getattr(import_module(module), name)(config.model, len(config.classes), config.mpp)
    return model


def check_model(name: str) -> None:
    """Refuse a detector that there is not.

    Raises
    ------
    ConfigError
        If the name is not one of `blastdet.training.MODELS`.
    """
    if name not in MODELS:
        raise ConfigError(f"model: {name} found, one of {list(MODELS)} expected")


def pick_device(device: str) -> torch.device:
    """The torch device that a user's word means.

    Raises
    ------
    ConfigError
        If there is no such kind of device, no CUDA, or no card of that number.
    """
    check_device(device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place, cards = torch.device(device), torch.cuda.device_count()
    if place.type == "cuda" and (place.index or 0) >= cards:
        raise ConfigError(f"device {device}: {cards or 'no'} CUDA device{'s' * (cards > 1)} found; use --device cpu")
    return place


def _figures(result: APResult) -> dict[str, float]:
    overall = result.figures()
    figures = {"AP": overall["AP"], "AP50": overall["AP50"]}
    figures |= {f"AP50 {name}": result.figures(name)["AP50"] for name in result.classes}
    return {**figures, "fitness": (overall["AP"] + overall["AP50"]) / 2}


def _epoch_line(state: engine.State[Any], config: LoopConfig) -> str:
    row = state.history[-1]
    loss = sum(value for name, value in row.items() if name.endswith("loss") and name != "val_loss")
    figures = [name for name in row if name.startswith("AP") or "accuracy" in name]
    shown = "  ".join(f"{name} {row[name]:.3f}" for name in figures)
    left = state.seconds / state.epoch * (config.epochs - state.epoch) / 60
    return f"epoch {state.epoch}/{config.epochs}  loss {loss:.3f}  {shown}  about {left:.0f} min left"


@contextmanager
def _events(run: Path, done: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """A function that writes a row of the history for TensorBoard; what a killed run wrote too much is struck out."""
    from torch.utils.tensorboard import SummaryWriter

    def write(row: dict[str, float]) -> None:
        try:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name.replace(" ", "/"), value, int(row["epoch"]))
            writer.flush()
        except OSError as error:
            raise BlastdetError(f"{run / EVENTS}: cannot be written ({one_line(error)})") from error

    # Its thread meets a full disk first, and hands the error on to whoever writes next.
    loud, threading.excepthook = threading.excepthook, lambda met: None if _is_os_error(met) else loud(met)
    writer = SummaryWriter(str(run / EVENTS), purge_step=done + 1)
    try:
        yield write
    finally:
        with suppress(OSError):  # all that was written is flushed
            writer.close()
        threading.excepthook = loud


def _is_os_error(met: threading.ExceptHookArgs) -> bool:
    return isinstance(met.exc_value, OSError)
