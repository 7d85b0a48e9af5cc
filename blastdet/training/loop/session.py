"""What surrounds the training loop in every run: device, starting weights, progress, TensorBoard events, curves."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blastdet.core.atomic_io import write_figure
from blastdet.core.errors import BlastdetError, ConfigError, one_line
from blastdet.core.parallel import check_device
from blastdet.training.config import LoopConfig
from blastdet.training.loop import checkpoints, engine
from blastdet.training.loop.initial_weights import starting_file, take_weights
from blastdet.training.loop.run_folder import EVENTS


@dataclass(frozen=True)
class Progress:
    """Where a run reports its progress: plain callables, so that training does not depend on a terminal.

    Parameters
    ----------
    say : callable
        Receives lines of text.
    step : callable
        Receives steps done, steps in total, and current values by name.
    """

    say: Callable[[str], None] = print
    step: Callable[[int, int, dict[str, float]], None] = lambda done, total, values: None


def pick_device(device: str) -> torch.device:
    """The torch device of a device name.

    Raises
    ------
    ConfigError
        If there is no such kind of device, no CUDA, or no CUDA device of that number.
    """
    check_device(device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place, cards = torch.device(device), torch.cuda.device_count()
    if place.type == "cuda" and (place.index or 0) >= cards:
        raise ConfigError(f"device {device}: {cards or 'no'} CUDA device{'s' * (cards > 1)} found; use --device cpu")
    return place


def begin(
    model: engine.L,
    config: LoopConfig,
    folders: tuple[Path, Path],
    place: torch.device,
    resume: bool,
    progress: Progress,
) -> engine.State[engine.L]:
    """The state to train from: that of the run to resume, or a new one with the starting weights of `config`.

    Parameters
    ----------
    model, config, place, resume, progress
    folders : (Path, Path)
        The folder that paths of the configuration are relative to, and the run folder.
    """
    base, run = folders
    continues = resume and (run / checkpoints.LAST).exists()
    if resume and not continues:
        progress.say("no epoch was finished yet: training from the start")
    if config.init and not continues:
        progress.say(take_weights(model.module, starting_file(config.init, base)))
    freeze(model.module, config.freeze)
    state = engine.start(model, config, place)
    if continues:
        checkpoints.resume(state, run)
        progress.say(f"resuming after epoch {state.epoch}")
    return state


def freeze(module: Any, names: Sequence[str]) -> None:
    """Exclude the parameters from training whose names start with one of `names`.

    Raises `ConfigError` if a start matches no parameter, or nothing is left to train.
    """
    parameters = dict(module.named_parameters())
    for start in names:
        mine = [value for name, value in parameters.items() if name.startswith(start)]
        if not mine:
            raise ConfigError(
                f"freeze: expected the start of a layer's name, such as {next(iter(parameters))}, got {start}"
            )
        for value in mine:
            value.requires_grad = False
    if not any(value.requires_grad for value in parameters.values()):
        raise ConfigError("freeze: every layer is named; expected at least one to train")


def loop(
    state: engine.State[Any],
    samples: Callable[[int], engine.Samples],
    config: LoopConfig,
    run: Path,
    hooks: tuple[Callable[[engine.State[Any]], dict[str, float]], Progress],
) -> None:
    """Train; after each validation report the figures, and leave TensorBoard events and curves in the run folder.

    Parameters
    ----------
    state, samples, config, run
        See `engine.train`.
    hooks : (callable, Progress)
        Validation figures of the moving average, and where to report.
    """
    validate, progress = hooks
    with event_file(run, state.epoch) as write_events:

        def after_epoch(current: engine.State[Any]) -> None:
            if current.epoch == 0:
                progress.say(f"starting weights: {_figures_of(current.history[-1])}")
                return
            write_events(current.history[-1])
            if "fitness" in current.history[-1]:
                progress.say(_epoch_line(current, config))

        engine.train(state, samples, config, run, engine.Hooks(validate, progress.step, after_epoch))
    draw_curves(state.history, run / "curves.png")


def _epoch_line(state: engine.State[Any], config: LoopConfig) -> str:
    row = state.history[-1]
    loss = sum(value for name, value in row.items() if name.endswith("loss") and name != "val_loss")
    shown = _figures_of(row)
    left = state.seconds / state.epoch * (config.epochs - state.epoch) / 60
    return f"epoch {state.epoch}/{config.epochs}  loss {loss:.3f}  {shown}  about {left:.0f} min left"


def _figures_of(row: dict[str, float]) -> str:
    return "  ".join(f"{name} {row[name]:.3f}" for name in row if name.startswith("AP") or "accuracy" in name)


@contextmanager
def event_file(run: Path, done: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """A function that writes one row of the history for TensorBoard, at once.

    Parameters
    ----------
    run : Path
        Run folder; the file is written to ``events/``.
    done : int
        Finished epochs; TensorBoard discards events of later ones, which a killed run may have left.

    Raises
    ------
    BlastdetError
        If it cannot be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder = run / EVENTS

    def write(row: dict[str, float]) -> None:
        values = [Summary.Value(tag=n.replace(" ", "/"), simple_value=v) for n, v in row.items() if n != "epoch"]
        put(Event(step=int(row["epoch"]), summary=Summary(value=values)))

    def put(event: Any) -> None:
        event.wall_time = time.time()
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        left = memoryview(record.getvalue())
        try:
            while left:
                left = left[stream.write(left) :]
        except OSError as error:
            raise BlastdetError(f"{folder}: cannot be written ({one_line(error)})") from error

    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{time.time_ns()}"
    with (folder / name).open("wb", buffering=0) as stream:
        put(Event(file_version="brain.Event:2"))
        put(Event(step=done + 1, session_log=SessionLog(status=SessionLog.START)))
        yield write


def draw_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Losses and validation figures over epochs, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
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
    write_figure(path, figure, 120)
