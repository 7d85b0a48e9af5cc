"""Run folders: what may be there before a training starts, what a start leaves, and one writer at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from blastdet.core.atomic_io import LOCK, locked, new_folder, write_text
from blastdet.core.errors import ConfigError, differing, listed, one_line
from blastdet.core.model_card import CARD
from blastdet.training.config import LoopConfig
from blastdet.training.config_file import read_any, to_yaml
from blastdet.training.loop import checkpoints
from blastdet.training.loop.run_record import RECORD, note_start

CONFIG, SOURCES, EVENTS, WEIGHTS = "config.yaml", "sources.json", "events", "weights"
_OF_A_START = (CONFIG, SOURCES, RECORD, "samples.png", EVENTS, checkpoints.BEST)
_OF_WEIGHTS = (CARD, LOCK, "model.onnx", "model.safetensors", "model.xml", "model.bin")

Fingerprints = Sequence[Mapping[str, str]]
"""``name`` and ``fingerprint`` of each dataset: of everything that training and validation use of it."""


def check_run(config: LoopConfig, run: Path, resume: bool) -> None:
    """Refuse a run folder that would be overwritten, or that cannot be resumed; nothing is written.

    Raises `ConfigError` if the folder holds anything that training would replace, or the run to resume has another
    configuration. Raises `UnicodeEncodeError` if a path is not UTF-8, and so cannot be written to the card.
    """
    json.dumps([str(run), config.model_dump(mode="json")], ensure_ascii=False).encode()
    if run.exists() and not run.is_dir():
        raise ConfigError(f"{run}: expected a folder for the run, got a file")
    path = run / CONFIG
    if resume:
        if not path.is_file():
            raise ConfigError(f"{path}: no run to resume")
        before = read_any(path).model_dump(mode="json")
        if other := differing(before, config.model_dump(mode="json")):
            raise ConfigError(
                f"{path}: differs from the given configuration in {listed(other)}; resume with the original one"
            )
        return
    if (run / checkpoints.LAST).exists():
        raise ConfigError(f"{run}: contains a run already. Pass --resume, or another --out")
    other_files = [entry for entry in sorted(run.iterdir()) if not _of_a_start(entry.name)] if run.is_dir() else []
    if other_files:
        raise ConfigError(f"{other_files[0]}: not part of a run; expected an empty or new folder. Pass another --out")


def _of_a_start(name: str) -> bool:
    """Whether a run that was killed in its first epoch leaves such a file."""
    return name in _OF_A_START or name.startswith(".") or name.endswith((".tmp", ".sha256"))


@contextmanager
def started(
    config: LoopConfig, run: Path, fingerprints: Fingerprints, place: torch.device, resume: bool
) -> Iterator[None]:
    """A run folder that is locked for the block, with its configuration, fingerprints of its data, and record.

    Raises `ConfigError`: as `check_run`; if another program writes there, or the data of the run to resume have
    changed.
    """
    check_sources(run, fingerprints)
    with locked(run):
        check_run(config, run, resume)  # again: another run may have finished since
        write_run(run, config, fingerprints)
        note_start(config, run, place)
        try:
            yield
        except Exception:
            _forget_start(run)
            raise


def write_run(run: Path, config: LoopConfig, fingerprints: Fingerprints) -> None:
    """Write what a run is made from: its configuration, and the fingerprints of its data."""
    write_text(run / CONFIG, to_yaml(config))
    write_text(run / SOURCES, json.dumps([dict(row) for row in fingerprints], indent=1) + "\n")


def _forget_start(run: Path) -> None:
    """Remove what a start leaves, unless an epoch was finished: a run that failed at once is no run."""
    if (run / checkpoints.LAST).exists():
        return
    for entry in list(run.iterdir()):
        if _of_a_start(entry.name) and entry.name != LOCK:
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def check_sources(run: Path, fingerprints: Fingerprints) -> None:
    """Refuse data other than those that a run was started with: its card would be wrong.

    Raises `ConfigError`.
    """
    path = run / SOURCES
    if not (run / checkpoints.LAST).is_file():
        return
    try:
        before = {row["fingerprint"] for row in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: cannot be read ({one_line(error)})") from None
    for row in fingerprints:
        if row["fingerprint"] not in before:
            raise ConfigError(f"{row['name']}: images or labels have changed since {run} was started; train anew")


def check_weights(folder: Path) -> None:
    """Refuse to replace a folder that has anything but weights: a card and the files that it names.

    Raises `ConfigError`.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder for weights, got a file")
    if others := sorted(entry.name for entry in folder.iterdir() if entry.name not in _OF_WEIGHTS):
        raise ConfigError(f"{folder / others[0]}: not part of weights; expected a card and a model only. Move it")


@contextmanager
def new_weights(run: Path, name: str = WEIGHTS) -> Iterator[Path]:
    """A folder that becomes the weights folder `name` of a run if the block succeeds; leftovers of killed runs go.

    Raises `ConfigError` if `name` exists and has files that are not part of weights.
    """
    check_weights(run / name)
    stale = [*run.glob(f"{name}.tmp*"), *(run.glob(f"{name}.old*") if (run / name).is_dir() else ())]
    for folder in stale:
        shutil.rmtree(folder, ignore_errors=True)
    with new_folder(run / name) as folder:
        yield folder
