"""What a run was started with: the code, the versions and the machine, noted in its folder and told by its card."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from blastdet import __version__
from blastdet.core.atomic_io import write_text
from blastdet.core.errors import ConfigError
from blastdet.core.model_card import DataSource, Training
from blastdet.training.config import LoopConfig
from blastdet.training.loop import engine

RECORD = "record.json"
_PACKAGES = ("torch", "torchvision", "ultralytics", "numpy", "opencv-python-headless", "onnx", "onnxruntime")


def note_start(config: LoopConfig, run: Path, place: torch.device) -> None:
    """Note in the run folder what trains from here on; a run that is resumed elsewhere has more than one such note."""
    now = _now(config, place)
    starts = _starts(run)
    if starts[-1:] != [now]:
        write_text(run / RECORD, json.dumps([*starts, now], indent=1) + "\n")


def training_record(config: LoopConfig, sources: tuple[DataSource, ...], run: Path) -> Training:
    """What a card says of a training, less how long it took; no path of the machine goes into it."""
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
    """Versions of everything that shaped a training."""
    starts = [start["versions"] for start in _starts(run)]
    names = dict.fromkeys(name for versions in starts for name in versions)
    return {name: _joined(versions[name] for versions in starts if name in versions) for name in names}


def _joined(values: Any) -> str:
    return ", then ".join(dict.fromkeys(values))


def _now(config: LoopConfig, place: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    versions = {"blastdet": __version__, **{name: metadata.version(name) for name in _PACKAGES}}
    device = f"{name}, precision {engine.precision(config, place)}"
    return {"commit": git_commit(), "device": device, "versions": versions}


def _starts(run: Path) -> list[dict[str, Any]]:
    path = run / RECORD
    if not path.is_file():
        return []
    try:
        starts: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        whole = all(start.keys() == {"commit", "device", "versions"} for start in starts)
    except (ValueError, AttributeError, TypeError):
        whole = False
    if not whole:
        raise ConfigError(f"{path}: no record of a run found")
    return starts


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


def git_commit() -> str:
    """Commit of the code, with ``+changes`` where it was edited since; empty outside a checkout.

    A machine that has the code without its history is told by ``BLASTDET_COMMIT``.
    """
    folder = Path(__file__).parents[3]

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
        return run.stdout.strip() if run.returncode == 0 else ""

    if not shutil.which("git") or not (folder / ".git").exists():
        return os.environ.get("BLASTDET_COMMIT", "")
    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
