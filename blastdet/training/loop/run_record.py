"""The record of a run: code, versions and machine of every start, kept in the run folder and copied to the card."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from blastdet import __version__
from blastdet.core.atomic_io import write_text
from blastdet.core.errors import ConfigError
from blastdet.core.model_card import DataSource, Training
from blastdet.core.packages import versions
from blastdet.training.config import LoopConfig
from blastdet.training.loop import engine

RECORD = "record.json"
_MODULES = ("torch", "torchvision", "ultralytics", "albumentations", "numpy", "cv2", "onnx", "onnxruntime")


def note_start(config: LoopConfig, run: Path, place: torch.device) -> None:
    """Add a start to the record; a run that is resumed with other versions or on another machine has several."""
    now = _now(config, place)
    starts = _starts(run)
    if starts[-1:] != [now]:
        write_text(run / RECORD, json.dumps([*starts, now], indent=1) + "\n")


def check_versions(run: Path, note: Callable[[str], None], allow_change: bool = False) -> None:
    """Compare the installed versions with those that the run was last started with, before it is resumed.

    Raises `ConfigError` if blastdet has another version, whose samples or loss may be different ones.

    Parameters
    ----------
    run : Path
        Run folder.
    note : callable
        Receives a line if a library has another version: results may differ slightly from an uninterrupted run.
    allow_change : bool
        Only note another version of blastdet, too.
    """
    starts = _starts(run)
    if not starts:
        return
    before, now = starts[-1]["versions"], versions(_MODULES)
    changed = {
        name: f"{name} {before.get(name, 'missing')} -> {now.get(name, 'missing')}"
        for name in dict.fromkeys((*before, *now))
        if before.get(name) != now.get(name)
    }
    if "blastdet" in changed and not allow_change:
        raise ConfigError(
            f"{run}: started with blastdet {before.get('blastdet')}, expected {__version__}. "
            "Install that version, pass --allow-version-change, or train anew with another --out."
        )
    if changed:
        note(f"note: versions changed since {run} was started; results may differ: {', '.join(changed.values())}")


def training_record(config: LoopConfig, sources: tuple[DataSource, ...], run: Path) -> Training:
    """The training section of a card, without epochs and duration; absolute paths are left out."""
    return Training(
        config=portable(config.model_dump(mode="json"), Path.cwd()),
        seed=config.seed,
        commit=_joined(start["commit"] for start in _starts(run)),
        data=sources,
        epochs=config.epochs,
        device=_joined(start["device"] for start in _starts(run)),
        duration_s=0,
    )


def versions_of(run: Path) -> dict[str, str]:
    """Versions of all packages that took part in a training."""
    starts = [start["versions"] for start in _starts(run)]
    names = dict.fromkeys(name for given in starts for name in given)
    return {name: _joined(given[name] for given in starts if name in given) for name in names}


def _joined(values: Iterable[str]) -> str:
    return ", then ".join(dict.fromkeys(values))


def _now(config: LoopConfig, place: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    device = f"{name}, precision {engine.precision(config, place)}"
    return {"commit": git_commit(), "device": device, "versions": dict(versions(_MODULES))}


def _starts(run: Path) -> list[dict[str, Any]]:
    path = run / RECORD
    if not path.is_file():
        return []
    try:
        starts: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        valid = all(start.keys() == {"commit", "device", "versions"} for start in starts)
    except (ValueError, AttributeError, TypeError):
        valid = False
    if not valid:
        raise ConfigError(f"{path}: expected the record of a run, as `blastdet train` writes it")
    return starts


def portable(value: Any, base: Path) -> Any:
    """A configuration without the paths of one machine: relative to `base`, or the last part of paths elsewhere."""
    if isinstance(value, dict):
        return {key: portable(inner, base) for key, inner in value.items()}
    if isinstance(value, list):
        return [portable(inner, base) for inner in value]
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    path = Path(value)
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name


def git_commit() -> str:
    """Commit of the code, with ``+changes`` if it was edited since; empty outside a checkout.

    On a machine that has the code without its history, the variable ``BLASTDET_COMMIT`` gives it.
    """
    folder = Path(__file__).parents[3]

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
        return run.stdout.strip() if run.returncode == 0 else ""

    if not shutil.which("git") or not (folder / ".git").exists():
        return os.environ.get("BLASTDET_COMMIT", "")
    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
