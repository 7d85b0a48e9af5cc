"""What a run keeps on disk: checkpoints, whole or not at all, and the table of its epochs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from blastdet.core.atomic_io import not_written, write_text
from blastdet.core.errors import ConfigError, one_line
from blastdet.core.model_card import sha256_of

if TYPE_CHECKING:
    from blastdet.training.loop.engine import State

LAST, BEST, METRICS = "last.pt", "best.pt", "metrics.csv"


def save_state(path: Path, state: State[Any]) -> None:
    """Write a checkpoint, whole or not at all, and its sha256 beside it."""
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
    """File with the sha256 of a checkpoint, and the one that holds it until the checkpoint is in its place."""
    return path.with_name(f"{path.name}.sha256"), path.with_name(f"{path.name}.sha256.tmp")


def save(path: Path, content: dict[str, Any], digest: Path | None = None) -> None:
    """`torch.save`, whole or not at all; before it takes its place, its sha256 is in the file `digest`.

    Raises
    ------
    BlastdetError
        If the disk is full or the folder cannot be written; what was there stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        torch.save(content, temporary)
        if digest is not None:
            digest.write_text(sha256_of(temporary) + "\n", encoding="utf-8")
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
        temporary.unlink(missing_ok=True)
        raise not_written(path, one_line(error)) from error


def resume(state: State[Any], run: Path) -> State[Any]:
    """Go on from ``last.pt`` of a run folder.

    Raises
    ------
    ConfigError
        If there is none, or its bytes are not the ones that were written.
    """
    path = run / LAST
    digests = _digests(path)  # killed between the two: the second one holds
    known = {one.read_text(encoding="utf-8", errors="replace").strip() for one in digests if one.is_file()}
    if not path.is_file():
        raise ConfigError(f"{path}: no checkpoint found; `blastdet train --resume` trains from the start")
    if not known:
        raise ConfigError(f"{digests[0]}: missing, so that nobody can tell whether {path.name} is whole; train anew")
    if sha256_of(path) not in known:
        raise ConfigError(f"{path}: damaged (sha256 differs from {digests[0].name}); train anew with another --out")
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
    except Exception as error:  # torch raises whatever a strange archive leads to
        raise ConfigError(f"{path}: no checkpoint of this model ({str(error).splitlines()[0][:120]})") from error
    return state


def load_best(state: State[Any], run: Path) -> State[Any]:
    """Put the best epoch's moving average into the model.

    Raises
    ------
    ConfigError
        If ``best.pt`` is missing, damaged, or not the one that belongs to ``last.pt``.
    """
    device = next(state.model.module.parameters()).device
    try:
        if state.best_sha256 and sha256_of(run / BEST) != state.best_sha256:
            raise ValueError(f"not the best epoch that {LAST} knows; `blastdet train --resume` may mend it")
        content = torch.load(run / BEST, map_location=device, weights_only=True)
        state.model.module.load_state_dict(content["ema"])
    except Exception as error:  # torch raises whatever a broken archive leads to
        raise ConfigError(f"{run / BEST}: missing or damaged ({str(error).splitlines()[0][:120]})") from error
    state.ema = content["ema"]
    return state


def write_history(path: Path, history: Sequence[dict[str, float]]) -> None:
    """``metrics.csv``: one row an epoch."""
    names = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())
