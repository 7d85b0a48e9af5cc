"""Checkpoints, written completely or not at all, and the table of epochs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from blastdet.core.atomic_io import write_error, write_text
from blastdet.core.errors import ConfigError, one_line
from blastdet.core.model_card import sha256_of

if TYPE_CHECKING:
    from blastdet.training.loop.engine import State

LAST, BEST, METRICS = "last.pt", "best.pt", "metrics.csv"


def save_state(path: Path, state: State[Any]) -> None:
    """Write a checkpoint, completely or not at all, and its sha256 beside it."""
    content = {
        "model": state.model.module.state_dict(),
        "ema": state.ema,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "numbers": {
            "epoch": state.epoch,
            "step": state.step,
            "best": state.best,
            "best_epoch": state.best_epoch,
            "seconds": state.seconds,
            "best_sha256": state.best_sha256,
        },
        "history": state.history,
    }
    digest, coming = _digests(path)
    save(path, content, coming)
    coming.replace(digest)


def _digests(path: Path) -> tuple[Path, Path]:
    """The file with the sha256 of a checkpoint, and the one that has it until the checkpoint is renamed."""
    return path.with_name(f"{path.name}.sha256"), path.with_name(f"{path.name}.sha256.tmp")


def save(path: Path, content: dict[str, Any], digest: Path | None = None) -> None:
    """`torch.save`, completely or not at all; the sha256 is written to `digest` before the checkpoint is renamed.

    Raises `BlastdetError` if the disk is full or the folder cannot be written; an earlier file is kept.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        torch.save(content, temporary)
        if digest is not None:
            digest.write_text(sha256_of(temporary) + "\n", encoding="utf-8")
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
        temporary.unlink(missing_ok=True)
        raise write_error(path, one_line(error)) from error


def resume(state: State[Any], run: Path) -> State[Any]:
    """Restore a state from ``last.pt`` of a run folder.

    Raises `ConfigError` if it is missing or damaged.
    """
    path = run / LAST
    digests = _digests(path)  # killed between the two renames: the second one is valid
    known = {one.read_text(encoding="utf-8", errors="replace").strip() for one in digests if one.is_file()}
    if not path.is_file():
        raise ConfigError(f"{path}: no checkpoint found. `blastdet train --resume` trains from the start")
    if not known:
        raise ConfigError(f"{digests[0]}: missing; {path.name} cannot be verified. Train anew with another --out")
    if sha256_of(path) not in known:
        raise ConfigError(f"{path}: damaged (sha256 differs from {digests[0].name}). Train anew with another --out")
    device = next(state.model.module.parameters()).device
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        state.model.module.load_state_dict(content["model"])
        state.ema = content["ema"]
        state.optimizer.load_state_dict(content["optimizer"])
        state.scaler.load_state_dict(content.get("scaler", {}))
        for name, value in content["numbers"].items():
            setattr(state, name, value)
        state.history = content["history"]
    except Exception as error:  # torch raises errors of any kind for such an archive
        raise ConfigError(f"{path}: not a checkpoint of this model ({str(error).splitlines()[0][:120]})") from error
    return state


def load_best(state: State[Any], run: Path) -> State[Any]:
    """Load the moving average of the best epoch into the model.

    Raises `ConfigError` if ``best.pt`` is missing, damaged, or does not belong to ``last.pt``.
    """
    device = next(state.model.module.parameters()).device
    try:
        if state.best_sha256 and sha256_of(run / BEST) != state.best_sha256:
            raise ValueError(f"not the best epoch according to {LAST}; try `blastdet train --resume`")
        content = torch.load(run / BEST, map_location=device, weights_only=True)
        state.model.module.load_state_dict(content["ema"])
    except Exception as error:  # torch raises errors of any kind for such an archive
        raise ConfigError(f"{run / BEST}: missing or damaged ({str(error).splitlines()[0][:120]})") from error
    state.ema = content["ema"]
    return state


def write_history(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Write ``metrics.csv``, one row per epoch."""
    names = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())
