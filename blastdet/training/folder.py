"""A run folder: what may lie there before a training starts, and what a start leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from blastdet.cards import DataSource
from blastdet.configs import LoopConfig, to_yaml
from blastdet.errors import ConfigError, differing, one_line
from blastdet.training import checkpoints

CONFIG, SOURCES, EVENTS = "config.yaml", "sources.json", "events"
_OF_A_START = (CONFIG, SOURCES, "samples.png", EVENTS)  # what a run that was cut short before its first epoch leaves


def check_run(config: LoopConfig, run: Path, resume: bool) -> None:
    """Refuse a run folder that is in the way, or that cannot be resumed; nothing is written.

    Raises
    ------
    ConfigError
        If anything lies there that training would replace, or the run to be resumed has another configuration.
    """
    if run.exists() and not run.is_dir():
        raise ConfigError(f"{run}: a file found, a folder for the run expected")
    path = run / CONFIG
    if resume:
        if not path.is_file():
            raise ConfigError(f"{path}: no run to resume")
        try:
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: cannot be read ({one_line(error)})") from None
        if other := differing(before, config.model_dump(mode="json")):
            what = ", ".join(other)
            raise ConfigError(f"{path}: differs from the configuration given in {what}; a run is resumed with its own")
        return
    if (run / checkpoints.LAST).exists():
        raise ConfigError(f"{run}: holds a run already; use --resume, or another --out")
    strange = [one for one in sorted(run.iterdir()) if one.name not in _OF_A_START] if run.is_dir() else []
    if strange:
        raise ConfigError(f"{strange[0]}: in the way of a new run; name another --out")


def start_run(config: LoopConfig, run: Path, sources: Sequence[DataSource]) -> None:
    """Make the run folder with its configuration and the fingerprints of its data; for one that is resumed, compare.

    Raises
    ------
    ConfigError
        If the data of the run to be resumed have changed.
    """
    check_sources(run, sources)
    run.mkdir(parents=True, exist_ok=True)
    (run / CONFIG).write_text(to_yaml(config), encoding="utf-8")
    content = [{"name": source.name, "fingerprint": source.fingerprint} for source in sources]
    (run / SOURCES).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def check_sources(run: Path, sources: Sequence[DataSource]) -> None:
    """Refuse data that are not those that a run was started with, or else its card would tell what is not so.

    Raises
    ------
    ConfigError
    """
    path = run / SOURCES
    if not (path.is_file() and (run / checkpoints.LAST).is_file()):
        return
    try:
        before = {row["fingerprint"] for row in json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    for source in sources:
        if source.fingerprint not in before:
            raise ConfigError(f"{source.name}: its pictures or labels have changed since {run} was started; train anew")
