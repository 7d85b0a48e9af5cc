"""One training of a detector, from configuration to weights folder: data, loop, export."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from blastdet.core.errors import ConfigError
from blastdet.core.model_card import read_card, shipped
from blastdet.core.parallel import cpu_count
from blastdet.evaluation.average_precision import APResult, average_precision
from blastdet.training.architectures import MODELS
from blastdet.training.config import TrainConfig
from blastdet.training.detection.epoch import Epoch
from blastdet.training.detection.example_images import draw_samples
from blastdet.training.detection.export import cells_of, draft_card, finish, raw_outputs
from blastdet.training.detection.samples import TrainingImage, load_image
from blastdet.training.detection.training_data import Data, load_data
from blastdet.training.loop import engine
from blastdet.training.loop.initial_weights import (
    has_merged_norms,
    spread_batch_norms,
    starting_file,
    starting_folder,
)
from blastdet.training.loop.run_folder import check_run, started
from blastdet.training.loop.session import Progress, begin, loop, pick_device


def train_detector(
    config: TrainConfig,
    base: Path,
    run: Path,
    device: str = "auto",
    resume: bool = False,
    progress: Progress = Progress(),  # noqa: B008  # frozen
) -> Path:
    """Train a detector, export it and write its card.

    Raises `BlastdetError`: one line: a faulty configuration, missing data, a run folder that exists, a loss that is not
    finite.

    Parameters
    ----------
    base : Path
        Folder that paths in the configuration are relative to.
    run : Path
        Run folder: ``config.yaml``, ``sources.json``, ``samples.png``, ``metrics.csv``, ``curves.png``,
        ``examples.jpg``, ``events/`` for TensorBoard, checkpoints, ``weights/``.
    resume : bool
        Continue after the last finished epoch of `run`.

    Returns
    -------
    Path
        The weights folder.
    """
    check_run(config, run, resume)
    check_model(config.model)
    place = pick_device(device)
    data = load_data(config, base)
    for line in data.notes:
        progress.say(line)
    kept = f" ({data.n_test} kept for testing)" if data.n_test else ""
    progress.say(f"training on {len(data.train)} images, validating on {len(data.val)}{kept}, device {place}")
    with ThreadPoolExecutor(cpu_count()) as pool:
        images = list(pool.map(lambda drawn: load_image(drawn[0], config, drawn[1]), data.train))
    val_images = _val_images(data, config)
    with started(config, run, data.fingerprints, place, resume):
        draw_samples(Epoch(images, config, 0), run / "samples.png")
        torch.manual_seed(config.seed)
        state = begin(build(config), config, (base, run), place, resume, progress)
        if state.epoch == 0 and config.init and has_merged_norms(starting_file(config.init, base)):
            state = _with_batch_norms(state, Epoch(images, config, 0), config)
        draft = draft_card(config, data, state, run)

        def validate(current: engine.State[Any]) -> dict[str, float]:
            with engine.ema_weights(current) as averaged_model:
                raws = raw_outputs(averaged_model, val_images, draft, place)
            found = cells_of(raws, val_images, data.val, draft)
            return _figures(average_precision(data.val, found))

        loop(state, partial(Epoch, images, config), config, run, (validate, progress))
        return finish(config, data, state, run, progress.say, kept_second_stage(config, base))


def kept_second_stage(config: TrainConfig, base: Path) -> str | None:
    """The second stage of the weights that a training starts from, if it is a shipped one; ``None`` otherwise.

    A detector of blasts needs none.
    """
    folder = starting_folder(config.init, base) if config.init else None
    name = read_card(folder).second_stage if folder is not None else None
    return name if name and "blast" not in config.classes and (shipped("weights") / name).is_dir() else None


def _with_batch_norms(state: engine.State[Any], epoch: Epoch, config: TrainConfig) -> engine.State[Any]:
    """The state of a model from an ONNX file, with the batch norms that training needs."""
    place = next(state.model.module.parameters()).device
    batch = state.model.collate([epoch[i] for i in range(min(64, len(epoch)))])
    if "img" in batch:  # not Faster R-CNN, whose batch norms stay as they are
        spread_batch_norms(state.model.module, batch["img"].to(place).float() / 255)
    return engine.start(state.model, config, place)


def _val_images(data: Data, config: TrainConfig) -> list[TrainingImage]:
    images = [load_image(sample, config) for sample in data.val]
    if not any(len(image.label) for image in images):
        wanted = list(config.classes)
        raise ConfigError(f"data: no cell of {wanted} in any val split; epoch and thresholds are chosen on it")
    return images


def build(config: TrainConfig) -> engine.Trainable:
    """The untrained detector that a configuration names."""
    check_model(config.model)
    module, name = MODELS[config.model].split(":")
    model: engine.Trainable = getattr(import_module(module), name)(config.model, len(config.classes), config.mpp)
    return model


def check_model(name: str) -> None:
    """Refuse an unknown detector.

    Raises `ConfigError` if the name is not a key of `blastdet.training.architectures.MODELS`.
    """
    if name not in MODELS:
        raise ConfigError(f"model: expected one of {list(MODELS)}, got {name}")


def _figures(result: APResult) -> dict[str, float]:
    overall = result.figures()
    figures = {"AP": overall["AP"], "AP50": overall["AP50"]}
    figures |= {f"AP50 {name}": result.figures(name)["AP50"] for name in result.classes}
    return {**figures, "fitness": (overall["AP"] + overall["AP50"]) / 2}
