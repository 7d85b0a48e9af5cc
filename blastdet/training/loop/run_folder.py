"""A run folder: what may lie there before a training starts, what a start leaves, and who may write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml

from blastdet.core.atomic_io import locked, new_folder, write_text
from blastdet.core.errors import ConfigError, differing, one_line
from blastdet.training.config import LoopConfig, to_yaml
from blastdet.training.loop import checkpoints
from blastdet.training.loop.run_record import RECORD, note_start

CONFIG, SOURCES, EVENTS, WEIGHTS = "config.yaml", "sources.json", "events", "weights"
_OF_A_START = (CONFIG, SOURCES, RECORD, "samples.png", EVENTS, checkpoints.BEST)

Seen = Sequence[Mapping[str, str]]
"""``name`` and ``fingerprint`` of each data set: of all that a training and its validation see of it."""


def check_run(config: LoopConfig, run: Path, resume: bool) -> None:
    """Refuse a run folder that is in the way, or that cannot be resumed; nothing is written.

    Raises
    ------
    ConfigError
        If anything lies there that training would replace, or the run to be resumed has another configuration.
    UnicodeEncodeError
        If a path is not UTF-8: the card at the end could not tell it.
    """
    json.dumps([str(run), config.model_dump(mode="json")], ensure_ascii=False).encode()
    if run.exists() and not run.is_dir():
        raise ConfigError(f"{run}: a file found, a folder for the run expected")
    path = run / CONFIG
    if resume:
        if not path.is_file():
            raise ConfigError(f"{path}: no run to resume")
        try:
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: cannot be read ({one_line(error)})") from None
        if other := differing(before, config.model_dump(mode="json")):
            what = ", ".join(other)
            raise ConfigError(f"{path}: differs from the configuration given in {what}; a run is resumed with its own")
        return
    if (run / checkpoints.LAST).exists():
        raise ConfigError(f"{run}: holds a run already; use --resume, or another --out")
    strange = [one for one in sorted(run.iterdir()) if not _of_a_start(one.name)] if run.is_dir() else []
    if strange:
        raise ConfigError(f"{strange[0]}: in the way of a new run; name another --out")


def _of_a_start(name: str) -> bool:
    """Whether a run that was cut short before the end of its first epoch leaves such a file."""
    return name in _OF_A_START or name.startswith(".") or name.endswith((".tmp", ".sha256"))


@contextmanager
def started(config: LoopConfig, run: Path, seen: Seen, place: torch.device, resume: bool) -> Iterator[None]:
    """A run folder for the block alone, with its configuration, the fingerprints of its data and what trains.

    Raises
    ------
    ConfigError
        As `check_run`; if another program is writing there, or the data of the run to be resumed have changed.
    """
    check_sources(run, seen)
    with locked(run):
        check_run(config, run, resume)  # again: another run may have ended since
        write_text(run / CONFIG, to_yaml(config))
        write_text(run / SOURCES, json.dumps([dict(row) for row in seen], indent=1) + "\n")
        note_start(config, run, place)
        yield


def check_sources(run: Path, seen: Seen) -> None:
    """Refuse data that are not those that a run was started with, or else its card would tell what is not so.

    Raises
    ------
    ConfigError
    """
    path = run / SOURCES
    if not (run / checkpoints.LAST).is_file():
        return
    try:
        before = {row["fingerprint"] for row in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: cannot be read ({one_line(error)})") from None
    for row in seen:
        if row["fingerprint"] not in before:
            raise ConfigError(f"{row['name']}: its pictures or labels have changed since {run} was started; train anew")


@contextmanager
def new_weights(run: Path, name: str = WEIGHTS) -> Iterator[Path]:
    """A folder that becomes the weights folder `name` of a run once all went well; what killed runs left goes."""
    stale = [*run.glob(f"{name}.tmp*"), *(run.glob(f"{name}.old*") if (run / name).is_dir() else ())]
    for left in stale:
        shutil.rmtree(left, ignore_errors=True)
    with new_folder(run / name) as folder:
        yield folder
